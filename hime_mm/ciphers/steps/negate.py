# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Turn patches into their negative."""

from dataclasses import dataclass

import numpy as np

from ..grid import check_image, patch_view, per_patch
from ..layout import PatchLayout
from ..pixels import peak_value
from ..randomness import RNG, draw_codes
from .base import Step, register_step


def negate_patches(
    img: np.ndarray, flags: np.ndarray, patch_size: int, inverse: bool = False
) -> np.ndarray:
    """Turn patches into their negative, y = white − x; its own inverse.

    Which ones, bool flags of shape (N, ) or (B, N) say.
    """
    out = check_image(img).copy(order='C')
    patches = patch_view(out, patch_size).swapaxes(2, 3)
    mask = per_patch(flags, patches, 'whether it is negated').astype(bool)
    patches[mask] = peak_value(img.dtype) - patches[mask]
    return out


@register_step
@dataclass(frozen=True)
class Negate(Step):
    """Turn about half of the patches into their negative, drawn anew.

    For comparison with block encryption (Kiya et al.); never part of a
    recommended preset. Undone with what was drawn.
    """

    name = 'negate'
    kernel = staticmethod(negate_patches)
    invertible = True
    leaves = (
        'nearly what there was: with permuted channels too, a jigsaw solver '
        'that tries all variants put {negate+permute_channels+shuffle '
        'nc_component} of the neighbouring patches back (16-pixel patches, '
        '224x224)'
    )

    def choices(self, channels: tuple[int, ...]) -> tuple[bool, bool]:
        return False, True

    def draw(self, layout: PatchLayout, channels: tuple[int, ...], rng: RNG) -> np.ndarray:
        return draw_codes(layout.num_patches, 1, rng).astype(bool)
