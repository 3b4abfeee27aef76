# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Random shuffling (RS)."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hime_mm.errors import PictureError

from ..grid import grid_shape, spatial_shape
from ..layout import PatchLayout
from ..permutation import check_permutation, invert_permutation, one_per_image
from ..randomness import RNG, draw_permutation
from .base import Step, register_step


def shuffle_patches(
    img: np.ndarray, perm: np.ndarray, patch_size: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Random shuffling (RS): slot k of the result holds patch ``perm[k]``.

    This is a gather: with ``perm = [1, 2, 0]`` the first slot shows patch 1,
    the second patch 2 and the third patch 0.  Slots and patches are numbered
    row-major.  Whole patch rows (P·C values) are moved in one gather.

    Reference: Hao et al., "Human-imperceptible, Machine-recognizable Images",
    IJCAI 2025, random shuffling.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C); uint8,
            uint16, float32 or float64.
        perm (np.ndarray): Integers of shape (N, ), or (B, N) for a batch with
            one permutation per image, N = HW/P².
        patch_size (int): Side of a patch in pixels, dividing H and W.
        out (np.ndarray, optional): C-contiguous array of ``img``'s shape and
            dtype to write to, not overlapping ``img``. Defaults to None.

    Returns:
        np.ndarray: Same shape and dtype as ``img``.

    Raises:
        TypeError: If the dtype is not supported.
        PictureError: If the patch size does not divide the sides, or ``out``
            does not fit.
        CipherError: If ``perm`` is no permutation of the patches.
    """
    rows, cols = grid_shape(spatial_shape(img), patch_size)
    if out is None:
        out = np.empty(img.shape, img.dtype)
    elif (
        out.shape != img.shape
        or out.dtype != img.dtype
        or not out.flags.c_contiguous
        or np.may_share_memory(out, img)
    ):
        raise PictureError(
            '`out` must be a C-contiguous array of the shape '
            'and dtype of the image that does not overlap it'
        )
    if img.ndim == 4:
        for image, image_perm, image_out in zip(
            img, one_per_image(perm, len(img)), out, strict=True
        ):
            shuffle_patches(image, image_perm, patch_size, out=image_out)
        return out

    perm = check_permutation(perm, rows * cols)
    # Row y of patch p is patch row (p // cols · P + y) · cols + p % cols, and
    # p % cols = p - p // cols · cols.
    first = (perm + perm // cols * ((patch_size - 1) * cols)).reshape(rows, 1, cols)
    steps = np.arange(0, patch_size * cols, cols).reshape(1, patch_size, 1)
    index = (first + steps).ravel()
    img = np.ascontiguousarray(img)
    # One opaque item per patch row, so that one index moves P·C values.
    item = np.dtype((np.void, img.nbytes // index.size))
    # The index is in range by construction; 'clip' spares numpy a buffer.
    np.take(img.reshape(-1).view(item), index, mode='clip', out=out.reshape(-1).view(item))
    return out


def unshuffle_patches(img: np.ndarray, perm: np.ndarray, patch_size: int) -> np.ndarray:
    """Undo :func:`shuffle_patches` with the same ``perm``.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C).
        perm (np.ndarray): Integers of shape (N, ) or (B, N).
        patch_size (int): Side of a patch in pixels, dividing H and W.

    Returns:
        np.ndarray: Same shape and dtype as ``img``, patch ``perm[k]`` taken
        from slot k.
    """
    rows, cols = grid_shape(spatial_shape(img), patch_size)
    inverse = np.stack(
        [invert_permutation(check_permutation(row, rows * cols)) for row in np.atleast_2d(perm)]
    )
    return shuffle_patches(img, inverse[0] if len(inverse) == 1 else inverse, patch_size)


@register_step
@dataclass(frozen=True)
class Shuffle(Step):
    """Random shuffling (RS): every patch moves to a random slot.

    See :func:`shuffle_patches`. The permutation is drawn anew for every image, and undoes it.
    """

    name = 'shuffle'
    kernel = staticmethod(shuffle_patches)
    invertible = True
    moves_pixels = True
    moves_patches = True
    leaves = (
        'every pixel of every patch, colour histograms, text and objects '
        'smaller than a patch; a jigsaw solver without the key put {shuffle '
        'nc_component} of the neighbouring patches back (16-pixel patches, '
        '224x224)'
    )

    def next_layout(self, layout: PatchLayout) -> PatchLayout:
        return replace(layout, shuffled=True)

    def draw(self, layout: PatchLayout, channels: tuple[int, ...], rng: RNG) -> np.ndarray:
        return draw_permutation(layout.num_patches, rng)

    def add_drawn(self, layout: PatchLayout, drawn: Any) -> PatchLayout:
        return replace(layout, permutation=drawn)

    def undo(self, img: np.ndarray, layout: PatchLayout, drawn: Any) -> np.ndarray:
        return unshuffle_patches(img, drawn, layout.patch_size)
