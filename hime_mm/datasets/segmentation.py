# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""COCO's segmentations: run lengths and polygons, without pycocotools."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from hime_mm.errors import CocoError

#: No mask has more pixels than this.
_LONGEST = 2**40


def decode_rle(counts: Any, shape: tuple[int, int]) -> np.ndarray:
    """Decode COCO's run-length encoding of a mask.

    Args:
        counts (list[int] | str): Run lengths down the columns, zeros first,
            as numbers or as COCO's compressed string.
        shape (tuple[int, int]): Height and width, which the caller vouches
            for: so much memory is asked for.

    Returns:
        np.ndarray: uint8 of this shape, 0 or 1.

    Raises:
        CocoError: If they are no run lengths of a mask of this shape.
    """
    runs = run_lengths(counts)
    if sum(runs) != shape[0] * shape[1]:
        raise CocoError(
            f'the run lengths of a mask sum up to {sum(runs)}, '
            f'not to {shape[0]} x {shape[1]} pixels'
        )
    flat = np.repeat(np.arange(len(runs), dtype=np.uint8) & 1, runs)
    return np.ascontiguousarray(flat.reshape(shape[1], shape[0]).T)


def run_lengths(counts: Any) -> list[int]:
    """Run lengths as numbers, from numbers or from COCO's compressed string.

    Raises:
        CocoError: If they are neither, negative, or longer than any mask.
    """
    runs = decompress_rle(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(
        isinstance(run, int) and not isinstance(run, bool) and 0 <= run <= _LONGEST for run in runs
    ):
        raise CocoError('the run lengths of a mask are no whole numbers of pixels')
    return runs


def decompress_rle(text: str) -> list[int]:
    """Run lengths of COCO's compressed string.

    Numbers in groups of five bits, the lowest first; a sixth bit says that
    more follow; from the third run on, differences to the run before the last.

    Raises:
        CocoError: If it holds other characters, a number of more than 65
            bits, or ends within one.
    """
    runs: list[int] = []
    value = shift = 0
    for char in text:
        code = ord(char) - 48
        if not 0 <= code < 64 or shift > 60:
            raise CocoError('the compressed run lengths of a mask are damaged')
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        value = shift = 0
    if shift:
        raise CocoError('the compressed run lengths of a mask are cut off')
    return runs


def compress_rle(runs: Sequence[int]) -> str:
    """Run lengths as COCO's compressed string, the inverse of :func:`decompress_rle`."""
    text = []
    for i, value in enumerate(runs):
        if i > 2:
            value -= runs[i - 2]
        more = True
        while more:
            code = value & 31
            value >>= 5
            # All that is left is the sign, and bit 4 tells it.
            more = value != (-1 if code & 16 else 0)
            text.append(chr((code | 32 if more else code) + 48))
    return ''.join(text)


def encode_rle(mask: np.ndarray) -> dict:
    """The inverse of :func:`decode_rle`.

    Gives the keys ``counts``, as numbers, and ``size`` of a uint8 mask of shape (H, W).
    """
    flat = np.concatenate([[0], mask.T.ravel(), [1 - mask[-1, -1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], ends]))
    return dict(counts=counts.tolist(), size=list(mask.shape))


def scale_segmentation(
    segmentation: Any, scale: tuple[float, float], shape: tuple[int, int]
) -> Any:
    """Polygons or run lengths in the coordinates of a scaled (and padded) image.

    ``scale`` is new pixels per old pixel, (x, y); ``shape`` the new height and width.
    """
    if isinstance(segmentation, dict):
        mask = decode_rle(segmentation['counts'], tuple(segmentation['size']))
        size = (
            min(round(mask.shape[1] * scale[0]), shape[1]),
            min(round(mask.shape[0] * scale[1]), shape[0]),
        )
        scaled = np.zeros(shape, np.uint8)
        scaled[: size[1], : size[0]] = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        return encode_rle(scaled)
    return [[value * scale[i % 2] for i, value in enumerate(polygon)] for polygon in segmentation]
