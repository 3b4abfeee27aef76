# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the encryption is: NumPy, the standard library, keys by cryptography."""

from .cipher import Cipher
from .grid import grid_shape, join_patches, split_patches
from .keys import KEY_ENV, ImageRNG, InvalidKey, Key
from .layout import PatchLayout
from .permutation import invert_permutation
from .randomness import draw_permutation
from .steps import (
    STEPS,
    Center,
    Drop,
    Erode,
    Mix,
    Negate,
    Noise,
    Orient,
    PermuteChannels,
    PermutePixels,
    Shuffle,
    Step,
    mix_patches,
    register_step,
    shuffle_patches,
    unshuffle_patches,
)
from .written import CIPHER_VERSION, PRESETS, Preset

__all__ = [
    'CIPHER_VERSION',
    'KEY_ENV',
    'PRESETS',
    'STEPS',
    'Center',
    'Cipher',
    'Drop',
    'Erode',
    'ImageRNG',
    'InvalidKey',
    'Key',
    'Mix',
    'Negate',
    'Noise',
    'Orient',
    'PatchLayout',
    'PermuteChannels',
    'PermutePixels',
    'Preset',
    'Shuffle',
    'Step',
    'draw_permutation',
    'grid_shape',
    'invert_permutation',
    'join_patches',
    'mix_patches',
    'register_step',
    'shuffle_patches',
    'split_patches',
    'unshuffle_patches',
]
