# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Mean and standard deviation of pictures, counted in whole numbers."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

#: Number of pixels, sums of red, green and blue, and of their squares.
NO_LEVELS: Sequence[int] = (0,) * 7


def count_levels(img: np.ndarray) -> list[int]:
    """Count what the statistics of a picture and of many follow from.

    Args:
        img (np.ndarray): uint8 or uint16, shape (H, W) or (H, W, C) in
            OpenCV's order of channels. Grey ones count as red, green and
            blue, alpha does not count, and of 16 bits the upper 8, as OpenCV
            reads colour pictures by default.

    Returns:
        list[int]: Pixels, three sums and three sums of squares.
    """
    if img.dtype == np.uint16:
        img = (img >> 8).astype(np.uint8)
    if img.ndim == 2 or img.shape[2] < 3:
        planes = [img.reshape(img.shape[:2])] * 3
    else:
        planes = [cv2.extractChannel(img, channel) for channel in (2, 1, 0)]
    sums = [np.ravel(cv2.sumElems(plane))[0] for plane in planes]
    squares = [cv2.norm(plane, cv2.NORM_L2SQR) for plane in planes]
    # Whole numbers, but for the root that the norm goes through.
    return [planes[0].size, *(round(number) for number in sums + squares)]


def add_levels(*counted: Sequence[int]) -> list[int]:
    """Count several together."""
    return [sum(numbers) for numbers in zip(NO_LEVELS, *counted, strict=True)]


def statistics_of(levels: Sequence[int]) -> dict:
    """What a manifest says of them.

    Returns:
        dict: ``pixels``, and ``mean`` and ``std`` of red, green and blue on
        the 0–255 scale; empty of no pixel.
    """
    pixels = levels[0]
    if not pixels:
        return {}
    means = [total / pixels for total in levels[1:4]]
    # In whole numbers: squares of large data sets and their mean are nearly equal.
    variances = [
        (pixels * squares - total**2) / pixels**2
        for total, squares in zip(levels[1:4], levels[4:], strict=True)
    ]
    return dict(
        pixels=pixels,
        mean=[round(mean, 6) for mean in means],
        std=[round(math.sqrt(variance), 6) for variance in variances],
    )


def levels_of(statistics: dict) -> list[int]:
    """What :func:`statistics_of` was made of, up to its rounding."""
    pixels = statistics['pixels']
    sums = [round(pixels * mean) for mean in statistics['mean']]
    squares = [
        round(pixels * (std**2 + mean**2))
        for mean, std in zip(statistics['mean'], statistics['std'], strict=True)
    ]
    return [pixels, *sums, *squares]
