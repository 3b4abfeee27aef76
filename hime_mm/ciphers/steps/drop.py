# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Leave out a share of the patches."""

from dataclasses import dataclass

import numpy as np

from ..grid import check_image, patch_view, per_patch
from ..layout import PatchLayout
from ..pixels import mid_grey
from ..randomness import RNG, draw_permutation
from .base import Step, check_integer, register_step


def drop_patches(
    img: np.ndarray,
    dropped: np.ndarray,
    patch_size: int,
    value: None | float | np.ndarray = None,
) -> np.ndarray:
    """Leave out patches by bool flags of shape (N, ) or (B, N).

    The grid stays: they are painted in ``value``, one number or one for each
    channel in the range of the pixels, or else in mid-grey.
    """
    out = check_image(img).copy(order='C')
    patches = patch_view(out, patch_size).swapaxes(2, 3)
    mask = per_patch(dropped, patches, 'whether it is dropped').astype(bool)
    patches[mask] = mid_grey(img.dtype) if value is None else value
    return out


@register_step
@dataclass(frozen=True)
class Drop(Step):
    """Leave out a share of the patches, chosen anew for every image.

    They are painted in mid-grey, so that the grid, boxes and batches stay as
    they are. Cannot be undone.

    Args:
        percent (int): Share of the patches in percent, rounded down to whole
            patches. Defaults to 50.
    """

    percent: int = 50

    name = 'drop'
    kernel = staticmethod(drop_patches)
    invertible = False
    drops_patches = True
    keeps_grey = True
    leaves = (
        'everything of the other patches; after shuffling with half of the '
        'patches left out, a jigsaw solver found {drop50+shuffle nc_component} '
        'of the neighbours that remained (16-pixel patches, 224x224)'
    )

    def __post_init__(self) -> None:
        check_integer(self, 'percent', 1, 99)

    def draw(self, layout: PatchLayout, channels: tuple[int, ...], rng: RNG) -> np.ndarray:
        num = layout.num_patches
        dropped = np.zeros(num, bool)
        order = draw_permutation(num, rng)
        dropped[order[: num * self.percent // 100]] = True
        return dropped
