# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Permute the pixels of all patches alike."""

from dataclasses import dataclass

import numpy as np

from ..grid import new_patches
from ..layout import PatchLayout
from ..permutation import check_permutation, invert_permutation, one_per_image
from ..randomness import RNG, draw_permutation
from .base import Step, register_step


def permute_patch_pixels(
    img: np.ndarray, perm: np.ndarray, patch_size: int, inverse: bool = False
) -> np.ndarray:
    """Permute the pixels of every patch alike: pixel k shows ``perm[k]``.

    ``perm`` has the shape (P², ) or, with one permutation per image of a
    batch, (B, P²). Pixels of a patch are numbered row-major; their channels
    stay together.
    """
    out, patches, permuted = new_patches(img, patch_size)
    num = patch_size * patch_size
    perms = one_per_image(perm, len(patches))
    for plain, order, target in zip(patches, perms, permuted, strict=True):
        order = check_permutation(order, num, 'pixels')
        if inverse:
            order = invert_permutation(order)
        flat = plain.reshape(*plain.shape[:2], num, -1)
        target[...] = flat[:, :, order].reshape(plain.shape)
    return out


@register_step
@dataclass(frozen=True)
class PermutePixels(Step):
    """Permute the pixels of all patches alike, one permutation for all images.

    A linear patch embedding absorbs it exactly. For comparison with pixel
    shuffling in the literature; never part of a recommended preset. Undone
    with the permutation.
    """

    name = 'permute_pixels'
    kernel = staticmethod(permute_patch_pixels)
    invertible = True
    scope = 'dataset'
    moves_pixels = True
    scatters = True
    on_one_pixel = 'does nothing to patches of one pixel'
    leaves = (
        'the mean colour of every patch, and the permutation itself, of which '
        '{permute_pixels+shuffle pixel_order} was found from 40 images of '
        '224x224 alone, up to a symmetry (16-pixel patches)'
    )

    def draw(self, layout: PatchLayout, channels: tuple[int, ...], rng: RNG) -> np.ndarray:
        return draw_permutation(layout.patch_size**2, rng)
