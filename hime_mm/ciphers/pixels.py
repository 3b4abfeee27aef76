# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The range of pixel values, and sums that may leave it."""

from typing import Any

import numpy as np

from hime_mm.errors import PictureError


def peak_value(dtype: np.dtype) -> int:
    """The white of a pixel type: 65535 for uint16, 255 for all others.

    Floating-point images are taken on the 0–255 scale, as OpenMMLab's
    pipelines hold them.
    """
    return 65535 if dtype == np.uint16 else 255


def mid_grey(dtype: np.dtype) -> int:
    """The value that stands for zero in signed results: half of the range."""
    return (peak_value(dtype) + 1) // 2


def check_8_bits(low: float, high: float, dtype: Any) -> None:
    """Refuse a picture of whole numbers that 8 bits do not hold.

    Args:
        low (float): Its least value.
        high (float): Its largest value.
        dtype: What they come in, for the message.

    Raises:
        PictureError: If a value is below 0 or above 255.
    """
    if low < 0 or high > 255:
        raise PictureError(
            f'pixels of dtype {dtype}, here from {low} to {high}, are taken as 8-bit ones if all '
            'are from 0 to 255: convert the image to uint8, or to uint16 or float32 where '
            'these are taken'
        )


def as_8_bits(img: np.ndarray) -> np.ndarray:
    """An integer image in the type that its values are of.

    Transforms that compute with pixels (MMDetection's ``CopyPaste``) leave 8-bit
    pictures in wider types.

    Args:
        img (np.ndarray): Of any shape and dtype.

    Returns:
        np.ndarray: uint8 in place of another integer type; uint16 and all that
        holds no integers as it came.

    Raises:
        PictureError: If it is of another integer type, and a value is below 0 or
            above 255.
    """
    # In whatever byte order: 16-bit pixels stay 16-bit ones, also where all are dark.
    if img.dtype.kind not in 'iu' or img.dtype.str[1:] in ('u1', 'u2') or not img.size:
        return img
    check_8_bits(img.min(), img.max(), img.dtype)
    return img.astype(np.uint8)


def add_clipped(img: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, int]:
    """Integer pixels plus ``shift``, clipped to their range; how many were."""
    wide = np.int16 if img.dtype == np.uint8 else np.int32
    total = np.add(img, shift.astype(wide, copy=False), dtype=wide)
    peak = peak_value(img.dtype)
    if total.min() >= 0 and total.max() <= peak:
        return total.astype(img.dtype), 0
    clipped = np.clip(total, 0, peak)
    return clipped.astype(img.dtype), int(np.count_nonzero(clipped != total))
