# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The version, alone in a file so that ``setup.py`` can read it."""

__version__ = '0.1.0'
