# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the pixels were, where patches stay in place or have been put back."""

from .lmmse import Lmmse
from .means import Seams
from .mosaic import Mosaic
from .tv import TotalVariation

__all__ = ['Lmmse', 'Mosaic', 'Seams', 'TotalVariation']
