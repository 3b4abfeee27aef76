# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Remove each patch's mean per channel."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..grid import patch_view
from ..layout import PatchLayout
from ..pixels import add_clipped, mid_grey
from .base import ClipStats, Step, register_step


def center_patches(img: np.ndarray, patch_size: int) -> tuple[np.ndarray, int]:
    """Remove each patch's mean per channel: y = x − mean + mid-grey.

    For integer pixels the mean is rounded to the nearest value, halves
    upwards, and what leaves the range is clipped. Returns the image, and how
    many values were clipped.
    """
    view = patch_view(img, patch_size)
    grey, num = mid_grey(img.dtype), patch_size * patch_size
    if not np.issubdtype(img.dtype, np.integer):
        mean = view.mean(axis=(2, 4), keepdims=True, dtype=np.float64)
        return (view - (mean - grey).astype(img.dtype)).reshape(img.shape), 0
    # One row of patches at a time, so that it stays in the cache, and whole
    # image rows at once, since long additions are cheap.
    bands = view.reshape(-1, patch_size, view[0, 0, 0].size)
    cols, depth = view.shape[3], view.shape[5]
    out, clipped = np.empty_like(bands), 0
    for band, centred in zip(bands, out, strict=True):
        total = band.sum(axis=0, dtype=np.uint32)
        total = total.reshape(cols, patch_size, depth).sum(axis=1)
        shift = grey - ((total + num // 2) // num).astype(np.int32)
        shift = np.repeat(shift[:, None], patch_size, axis=1).reshape(-1)
        centred[...], num_clipped = add_clipped(band, shift)
        clipped += num_clipped
    return out.reshape(img.shape), clipped


@register_step
@dataclass(frozen=True)
class Center(Step):
    """Remove each patch's mean per channel, and put mid-grey in its place.

    Needs no key and cannot be undone: the means are gone. Values that leave
    the range of integer pixels are clipped and counted.
    """

    name = 'center'
    invertible = False
    removes_means = True
    keeps_grey = True
    on_one_pixel = 'on patches of one pixel leaves plain grey'
    leaves = (
        'edges and textures of every patch; where patches stay, their borders '
        'tell the means again, and a reconstruction reached {center psnr}; '
        'after shuffling, a jigsaw solver put {center+shuffle nc_component} of '
        'the neighbouring patches back, {mix2+center+shuffle nc_component} '
        'after mixing with g = 2 too (16-pixel patches, 224x224)'
    )

    def apply(
        self, img: np.ndarray, layout: PatchLayout, drawn: Any, stats: ClipStats | None = None
    ) -> np.ndarray:
        return self._count_clipped(center_patches(img, layout.patch_size), stats)
