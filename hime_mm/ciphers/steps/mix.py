# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Mixing-up (MI)."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hime_mm.errors import CipherError

from ..grid import patch_view, resized_shape
from ..layout import PatchLayout
from .base import ClipStats, Step, check_form, check_integer, register_step

FORMS = ('compact', 'tiled')

#: Bytes of sums that `mix_patches` holds at a time.
_MIX_BLOCK = 1 << 19


def mix_patches(
    img: np.ndarray, patch_size: int, num_splits: int = 2, form: str = 'compact'
) -> np.ndarray:
    """Mixing-up (MI): every patch becomes the average of its sub-patches.

    A patch is cut into g x g sub-patches of side P/g, y = (1/g²) Σ_m s_m.
    Integer pixels are rounded to the nearest value, halves upwards.

    Reference: Hao et al., "Human-imperceptible, Machine-recognizable Images",
    IJCAI 2025, mixing-up.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C); uint8,
            uint16, float32 or float64.
        patch_size (int): Side P of a patch in pixels, dividing H and W.
        num_splits (int): g, dividing P. Defaults to 2.
        form (str): ``'compact'`` shrinks the image by g, each patch being
            (P/g) x (P/g) pixels; ``'tiled'`` repeats the mixed sub-patch g x g
            times, so that the image keeps its size. Defaults to 'compact'.

    Returns:
        np.ndarray: Same dtype as ``img``, (H/g, W/g) or (H, W) in size.

    Raises:
        TypeError: If the dtype is not supported.
        PictureError: If the patch size does not divide the sides.
        CipherError: If g does not divide the patch size, or ``form`` is
            unknown.
    """
    view = patch_view(img, patch_size)
    g = num_splits
    _check_splits(g, patch_size)
    check_form('mix', form, FORMS)
    if g == 1:
        return img.copy()
    batch, rows, _, cols, _, depth = view.shape
    p, n_rows = patch_size // g, batch * rows
    integer = np.issubdtype(img.dtype, np.integer)
    wide = img.dtype.type
    if integer:
        # Wide enough for the sum of g² values and the rounding term.
        peak = np.iinfo(img.dtype).max * g * g + g * g // 2
        wide = next(t for t in (np.uint16, np.uint32, np.uint64) if peak <= np.iinfo(t).max)

    # A few patch rows at a time, so that the sums stay in the cache.
    tall = view.reshape(n_rows, g, p, cols * patch_size * depth)
    block = max(_MIX_BLOCK // (tall[0, 0].size * np.dtype(wide).itemsize), 1)
    run = p * depth
    item = np.dtype((np.void, run * np.dtype(wide).itemsize))
    mixed = np.empty((n_rows, p * cols * run), img.dtype)
    for start in range(0, n_rows, block):
        rows_here = tall[start : start + block]
        # First down the columns ...
        total = np.add(rows_here[:, 0], rows_here[:, 1], dtype=wide)
        for k in range(2, g):
            np.add(total, rows_here[:, k], out=total)
        # ... then along the rows: all sums of g neighbouring runs, since a
        # long addition is cheap, of which every g-th one is a sub-patch row.
        total = total.reshape(-1)
        stop = total.size - (g - 1) * run
        across = total[:stop] + total[run : stop + run]
        for k in range(2, g):
            across += total[k * run : stop + k * run]
        average = np.ascontiguousarray(across.view(item)[::g]).view(wide)
        if integer:
            average += wide(g * g // 2)
            average //= wide(g * g)
        else:
            average *= wide(1 / (g * g))
        mixed[start : start + block] = average.reshape(len(rows_here), -1)

    if form == 'compact':
        return mixed.reshape(resized_shape(img, rows * p, cols * p))
    tile = np.broadcast_to(mixed.reshape(n_rows, 1, p, cols, 1, run), (n_rows, g, p, cols, g, run))
    # Copied first: a reshape of a single patch may still be a read-only view
    # of one sub-patch.
    return tile.copy().reshape(img.shape)


def _check_splits(g: int, patch_size: int) -> None:
    if g < 1 or patch_size % g:
        raise CipherError(
            f"'mix{g}' cannot cut patches of side {patch_size} "
            f'into {g}x{g}: choose a divisor of {patch_size}'
        )


@register_step
@dataclass(frozen=True)
class Mix(Step):
    """Mixing-up (MI): every patch becomes the average of its sub-patches.

    See :func:`mix_patches`. Needs no key and cannot be undone exactly:
    (g² − 1)/g² of the numbers are gone. Patch order is kept.

    Args:
        num_splits (int): g, each patch is cut into g x g sub-patches.
            Defaults to 2.
        form (str): ``'compact'`` or ``'tiled'``. Defaults to 'compact'.
    """

    num_splits: int = 2
    form: str = 'compact'

    name = 'mix'
    forms = FORMS
    invertible = False
    averages = True
    leaves = (
        'the mean colour of every patch in its place, which is a mosaic of the '
        'image: at 640x480 faces are recognisable; a reconstruction reached '
        '{mix2 psnr in large} at that size, {mix2 psnr} at 224x224 (16-pixel '
        'patches, g = 2)'
    )

    def __post_init__(self) -> None:
        check_integer(self, 'num_splits', 2, 1 << 12)
        check_form(self.name, self.form, self.forms)

    @property
    def repeats(self) -> bool:
        return self.form == 'tiled'

    @property
    def shrink(self) -> int:
        """int: By how much the image gets smaller."""
        return self.num_splits if self.form == 'compact' else 1

    def leaves_means_only(self, patch_size: int) -> bool:
        return self.num_splits == patch_size

    def check(self, patch_size: int) -> None:
        _check_splits(self.num_splits, patch_size)

    def next_layout(self, layout: PatchLayout) -> PatchLayout:
        x, y = layout.scale
        return replace(
            layout,
            patch_size=layout.patch_size // self.shrink,
            scale=(x / self.shrink, y / self.shrink),
        )

    def apply(
        self, img: np.ndarray, layout: PatchLayout, drawn: Any, stats: ClipStats | None = None
    ) -> np.ndarray:
        return mix_patches(img, layout.patch_size, self.num_splits, self.form)
