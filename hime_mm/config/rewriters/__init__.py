# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Changes of configs, made on the nodes of their plans."""
