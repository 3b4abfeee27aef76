# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A run over a data set: encrypt, decrypt, verify and describe it."""
