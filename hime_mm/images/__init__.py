# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""One picture: reading and writing, sizing, and how it is sealed."""

from .recipe import Recipe
from .seal import Sealed, seal

__all__ = ['Recipe', 'Sealed', 'seal']
