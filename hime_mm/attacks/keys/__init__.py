# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Draws that several pictures, or all patches of one, have in common."""

from .chosen_plaintext import ChosenPlaintext, ChosenPlaintextPixels
from .fixed_permutation import FixedPermutation
from .known_plaintext import KnownPlaintext, KnownPlaintextPixels
from .pixel_permutation import PixelPermutation

__all__ = [
    'ChosenPlaintext',
    'ChosenPlaintextPixels',
    'FixedPermutation',
    'KnownPlaintext',
    'KnownPlaintextPixels',
    'PixelPermutation',
]
