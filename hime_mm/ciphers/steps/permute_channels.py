# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Permute the channels of every patch."""

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from hime_mm.errors import CipherError, PictureError

from ..grid import new_patches, per_patch
from ..layout import PatchLayout
from ..randomness import RNG, draw_permutations
from .base import Step, register_step


def permute_patch_channels(
    img: np.ndarray, perms: np.ndarray, patch_size: int, inverse: bool = False
) -> np.ndarray:
    """Permute the channels of every patch, of which there are at least two.

    Channel k of a patch shows the one that its permutation has at k; ``perms`` have the shape
    (N, C) or (B, N, C).
    """
    out, patches, permuted = new_patches(img, patch_size)
    channels = patches.shape[-1]
    PermuteChannels.check_channels(img.shape[-1:] if img.ndim > 2 else ())
    perms = per_patch(perms, patches, 'a permutation of channels', 1)
    if perms.shape[-1] != channels or (np.sort(perms) != np.arange(channels)).any():
        raise CipherError(f'the permutations do not hold each of {channels} channels exactly once')
    if inverse:
        perms = np.argsort(perms)
    permuted[...] = np.take_along_axis(patches, perms[..., None, None, :].astype(np.int64), axis=-1)
    return out


@register_step
@dataclass(frozen=True)
class PermuteChannels(Step):
    """Permute the channels of every patch, drawn anew.

    For comparison with block encryption (Kiya et al.); never part of a
    recommended preset. Undone with what was drawn.
    """

    name = 'permute_channels'
    kernel = staticmethod(permute_patch_channels)
    invertible = True
    leaves = (
        'nearly what there was: with negatives too, a jigsaw solver that tries '
        'all variants put {negate+permute_channels+shuffle nc_component} of the '
        'neighbouring patches back (16-pixel patches, 224x224)'
    )

    @classmethod
    def check_channels(cls, channels: tuple[int, ...]) -> None:
        """Refuse grayscale images, by the shape of their pixels."""
        if not channels or channels[0] < 2:
            raise PictureError(
                f'{cls.name!r} needs an image with at least two channels: '
                'leave it out of the cipher for grayscale images'
            )

    def choices(self, channels: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [*permutations(range(*channels))]

    def draw(self, layout: PatchLayout, channels: tuple[int, ...], rng: RNG) -> np.ndarray:
        self.check_channels(channels)
        return draw_permutations(layout.num_patches, channels[0], rng)
