# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Masks of one encrypted image in pixels of its original."""

from typing import Any

import cv2
import numpy as np

from hime_mm.ciphers import PatchLayout
from hime_mm.datasets.segmentation import compress_rle, decode_rle, encode_rle, scale_segmentation
from hime_mm.errors import BoxError

#: Sides that OpenCV can map.
_LONGEST = 32766


def unmap_masks(layout: PatchLayout, masks: np.ndarray) -> np.ndarray:
    """Masks of an encrypted image whose pixels stayed in place, as bool masks of its original.

    They are bool or uint8, of shape (n, H, W).
    """
    _check_size(layout, masks.shape[1:])
    h, w = layout.ori_shape
    # From the centres of the original's pixels; padding is left behind.
    affine = np.array([[s, 0, (s - 1) / 2] for s in layout.scale])
    affine[1, :2] = affine[1, 1::-1]
    found = np.empty((len(masks), h, w), bool)
    for new, old in zip(found, masks, strict=True):
        new[:] = (
            cv2.warpAffine(
                np.where(old, np.uint8(255), np.uint8(0)),
                affine,
                (w, h),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            > 127
        )
    return found


def _check_size(layout: PatchLayout, shape: tuple) -> None:
    """Refuse masks of another size, before memory is asked for on the word of a manifest."""
    if shape != layout.shape:
        raise BoxError(
            f'masks of the size {shape} are not those of an encrypted image of '
            f'{layout.shape[0]}x{layout.shape[1]} (height x width)'
        )
    longest = max(*layout.shape, *layout.ori_shape)
    if longest > _LONGEST:
        raise BoxError(f'masks with a side of {longest} pixels are larger than OpenCV maps them')


def unmap_rle(layout: PatchLayout, rle: dict) -> dict:
    """:func:`unmap_masks` for a mask in COCO's run-length encoding.

    Its ``counts``, compressed or not, come back as a compressed string, the
    only form that is read in results.
    """
    counts = rle['counts']
    if isinstance(counts, bytes):
        counts = counts.decode('ascii')
    _check_size(layout, tuple(rle['size']))
    mask = unmap_masks(layout, decode_rle(counts, layout.shape)[None])[0]
    new = encode_rle(mask.astype(np.uint8))
    return dict(size=new['size'], counts=compress_rle(new['counts']))


def unmap_segmentation(layout: PatchLayout, segmentation: Any) -> Any:
    """Run lengths or polygons of COCO in pixels of the original."""
    if isinstance(segmentation, dict):
        return unmap_rle(layout, segmentation)
    back = (1 / layout.scale[0], 1 / layout.scale[1])
    return scale_segmentation(segmentation, back, layout.ori_shape)
