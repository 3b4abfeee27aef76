# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Mirror and rotate patches."""

from dataclasses import dataclass

import numpy as np

from hime_mm.errors import CipherError

from ..grid import new_patches, per_patch
from ..layout import PatchLayout
from ..randomness import RNG, draw_codes
from .base import Step, register_step


def orient_patches(
    img: np.ndarray, codes: np.ndarray, patch_size: int, inverse: bool = False
) -> np.ndarray:
    """Mirror and rotate patches by their codes, shape (N, ) or (B, N).

    A patch with code c is mirrored left to right where c & 4, then rotated
    counter-clockwise by (c & 3) · 90 degrees.
    """
    out, patches, turned = new_patches(img, patch_size)
    codes = per_patch(codes, patches, 'an orientation')
    if not np.isin(codes, range(8)).all():
        raise CipherError('an orientation must be a whole number from 0 to 7')
    for code in range(8):
        mask = codes == code
        selected, turns = patches[mask], code & 3
        if inverse:
            selected = np.rot90(selected, -turns, axes=(1, 2))
        if code & 4:
            selected = selected[:, :, ::-1]
        if not inverse:
            selected = np.rot90(selected, turns, axes=(1, 2))
        turned[mask] = selected
    return out


@register_step
@dataclass(frozen=True)
class Orient(Step):
    """Mirror and rotate every patch by one of eight ways, drawn anew.

    For comparison with block encryption (Kiya et al.); never part of a
    recommended preset. Undone with what was drawn.
    """

    name = 'orient'
    kernel = staticmethod(orient_patches)
    invertible = True
    moves_pixels = True
    on_one_pixel = 'does nothing to patches of one pixel'
    leaves = (
        'nearly what there was: a jigsaw solver that tries all orientations put '
        '{orient+shuffle nc_component} of the neighbouring patches back '
        '(16-pixel patches, 224x224)'
    )

    def choices(self, channels: tuple[int, ...]) -> range:
        return range(8)

    def draw(self, layout: PatchLayout, channels: tuple[int, ...], rng: RNG) -> np.ndarray:
        return draw_codes(layout.num_patches, 3, rng)
