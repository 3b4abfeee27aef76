# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The range of pixel values, and sums that may leave it."""

import numpy as np


def peak_value(dtype: np.dtype) -> int:
    """The white of a pixel type: 65535 for uint16, 255 for all others.

    Floating-point images are taken on the 0–255 scale, as OpenMMLab's
    pipelines hold them.
    """
    return 65535 if dtype == np.uint16 else 255


def mid_grey(dtype: np.dtype) -> int:
    """The value that stands for zero in signed results: half of the range."""
    return (peak_value(dtype) + 1) // 2


def add_clipped(img: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, int]:
    """Integer pixels plus ``shift``, clipped to their range; how many were."""
    wide = np.int16 if img.dtype == np.uint8 else np.int32
    total = np.add(img, shift.astype(wide, copy=False), dtype=wide)
    peak = peak_value(img.dtype)
    if total.min() >= 0 and total.max() <= peak:
        return total.astype(img.dtype), 0
    clipped = np.clip(total, 0, peak)
    return clipped.astype(img.dtype), int(np.count_nonzero(clipped != total))
