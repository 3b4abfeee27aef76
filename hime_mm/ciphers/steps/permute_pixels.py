# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from dataclasses import dataclass
from typing import ClassVar, Tuple

import numpy as np

from hime_mm.errors import CipherError
from ..grid import new_patches
from ..layout import PatchLayout
from ..permutation import check_permutation, invert_permutation
from ..randomness import RandomSource, draw_permutation
from .base import Step, register_step


def permute_patch_pixels(img: np.ndarray, perm: np.ndarray, patch_size: int,
                         inverse: bool = False) -> np.ndarray:
    """Permute the pixels of every patch alike: pixel k shows ``perm[k]``,
    shape (P², ) or, with one permutation per image of a batch, (B, P²).

    Pixels of a patch are numbered row-major; their channels stay together.
    """
    out, patches, permuted = new_patches(img, patch_size)
    num = patch_size * patch_size
    perms = np.atleast_2d(perm)
    if len(perms) == 1:
        perms = np.repeat(perms, len(patches), axis=0)
    if len(perms) != len(patches):
        raise CipherError(f'{len(perms)} permutations for a batch of '
                          f'{len(patches)} images')
    for some, one, target in zip(patches, perms, permuted):
        one = check_permutation(one, num, 'pixels')
        if inverse:
            one = invert_permutation(one)
        flat = some.reshape(*some.shape[:2], num, -1)
        target[...] = flat[:, :, one].reshape(some.shape)
    return out


@register_step
@dataclass(frozen=True)
class PermutePixels(Step):
    """Permute the pixels of all patches alike, one permutation for all images.

    A linear patch embedding absorbs it exactly. For comparison with pixel
    shuffling in the literature; never part of a recommended preset. Undone
    with the permutation.
    """

    name: ClassVar[str] = 'permute_pixels'
    kernel = staticmethod(permute_patch_pixels)
    invertible: ClassVar[bool] = True
    scope: ClassVar[str] = 'dataset'
    moves_pixels: ClassVar[bool] = True
    scatters: ClassVar[bool] = True
    leaves: ClassVar[str] = (
        'the mean colour of every patch, and the permutation itself: it was '
        'found exactly from a single 224x224 image in 2.5 s (16-pixel '
        'patches)')

    def check(self, patch_size: int) -> None:
        if patch_size == 1:
            raise CipherError(
                "'permute_pixels' does nothing to patches of one pixel")

    def draw(self, layout: PatchLayout, channels: Tuple[int, ...],
             source: RandomSource) -> np.ndarray:
        return draw_permutation(layout.patch_size**2, source)
