# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the encryption is: NumPy and the standard library, nothing else."""

from .cipher import Cipher
from .functional import (invert_permutation, mix_patches, shuffle_patches,
                         unshuffle_patches)
from .grid import grid_shape, join_patches, split_patches
from .layout import PatchLayout
from .randomness import draw_permutation
from .steps import STEPS, Mix, Shuffle, Step, register_step

__all__ = [
    'STEPS', 'Cipher', 'Mix', 'PatchLayout', 'Shuffle', 'Step',
    'draw_permutation', 'grid_shape', 'invert_permutation', 'join_patches',
    'mix_patches', 'register_step', 'shuffle_patches', 'split_patches',
    'unshuffle_patches'
]
