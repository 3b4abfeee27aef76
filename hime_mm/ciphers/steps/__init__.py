# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The steps a cipher is made of, one file a step: kernel, parameters, traits.

Each has a kernel, which gives the same output for the same arguments, and a
:class:`Step` under :func:`register_step`. What else belongs to one is in
docs/architecture.md.
"""

from importlib import import_module
from pkgutil import iter_modules

from .base import STEPS, ClipStats, Step, register_step
from .center import Center, center_patches
from .drop import Drop, drop_patches
from .erode import Erode, erode_patches
from .mix import Mix, mix_patches
from .negate import Negate, negate_patches
from .noise import Noise, add_noise
from .orient import Orient, orient_patches
from .permute_channels import PermuteChannels, permute_patch_channels
from .permute_pixels import PermutePixels, permute_patch_pixels
from .shuffle import Shuffle, shuffle_patches, unshuffle_patches

for _module in iter_modules(__path__):
    import_module(f'{__name__}.{_module.name}')

__all__ = [
    'STEPS',
    'Center',
    'ClipStats',
    'Drop',
    'Erode',
    'Mix',
    'Negate',
    'Noise',
    'Orient',
    'PermuteChannels',
    'PermutePixels',
    'Shuffle',
    'Step',
    'add_noise',
    'center_patches',
    'drop_patches',
    'erode_patches',
    'mix_patches',
    'negate_patches',
    'orient_patches',
    'permute_patch_channels',
    'permute_patch_pixels',
    'register_step',
    'shuffle_patches',
    'unshuffle_patches',
]
