# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Drop a border of every patch."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hime_mm.errors import CipherError

from ..grid import patch_view, resized_shape
from ..layout import PatchLayout
from ..pixels import mid_grey
from .base import ClipStats, Step, check_form, check_integer, register_step

FORMS = ('compact', 'filled')


def erode_patches(
    img: np.ndarray, patch_size: int, border: int, form: str = 'compact'
) -> np.ndarray:
    """Drop ``border`` pixels, k, at each side of every patch, 2k < P.

    In the compact form (P-2k) x (P-2k) pixels are left of each patch, and the
    image shrinks; in the filled one the border is painted in mid-grey.
    """
    view = patch_view(img, patch_size)
    if not 0 < 2 * border < patch_size:
        raise CipherError(
            f'cannot drop {border} pixels at each side of patches of side {patch_size}'
        )
    check_form('erode', form, FORMS)
    inner = slice(border, patch_size - border)
    kept = view[:, :, inner, :, inner]
    if form == 'filled':
        out = np.full(img.shape, mid_grey(img.dtype), img.dtype)
        patch_view(out, patch_size)[:, :, inner, :, inner] = kept
        return out
    _, rows, side, cols, _, _ = kept.shape
    return kept.copy().reshape(resized_shape(img, rows * side, cols * side))


@register_step
@dataclass(frozen=True)
class Erode(Step):
    """Drop a border of every patch, which is what a jigsaw solver looks at.

    Needs no key and cannot be undone. Boxes scale with the grid: a point
    keeps its relative place in its patch.

    Args:
        border (int): Pixels dropped at each side. Defaults to 1.
        form (str): ``'compact'`` shrinks the patches, and the image with
            them; ``'filled'`` paints the border in mid-grey. Defaults to
            'compact'.
    """

    border: int = 1
    form: str = 'compact'

    name = 'erode'
    forms = FORMS
    invertible = False
    drops_border = True
    leaves = (
        'the image itself, but for a grid of lines; after shuffling, a jigsaw '
        'solver put {erode1+shuffle nc_component}, {erode2+shuffle '
        'nc_component}, {erode3+shuffle nc_component} and {erode4+shuffle '
        'nc_component} of the neighbouring patches back with 1, 2, 3 and 4 '
        'pixels dropped per side (16-pixel patches, 224x224), lower bounds, '
        'since learned solvers do better'
    )

    def __post_init__(self) -> None:
        check_integer(self, 'border', 1, 1 << 12)
        check_form(self.name, self.form, self.forms)

    @property
    def paints_border(self) -> bool:
        return self.form == 'filled'

    keeps_grey = paints_border

    def check(self, patch_size: int) -> None:
        if 2 * self.border >= patch_size:
            raise CipherError(
                f'{str(self)!r} leaves nothing of patches of side {patch_size}: drop less'
            )

    def next_layout(self, layout: PatchLayout) -> PatchLayout:
        layout = replace(layout, erosion=layout.erosion + self.border)
        if self.form == 'filled':
            return layout
        before, after = layout.patch_size, layout.patch_size - 2 * self.border
        x, y = layout.scale
        return replace(layout, patch_size=after, scale=(x * after / before, y * after / before))

    def apply(
        self, img: np.ndarray, layout: PatchLayout, drawn: Any, stats: ClipStats | None = None
    ) -> np.ndarray:
        return erode_patches(img, layout.patch_size, self.border, self.form)
