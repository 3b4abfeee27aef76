# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Which slot a box is in, and how it moves with it.

Boxes are float64 of shape (n, 4), (x1, y1, x2, y2) in pixels of the encrypted
image; a grid is (rows, cols), and slots are numbered row-major.
"""

from typing import Any

import numpy as np

#: Pixels of the encrypted image: a centre that lies less than this before the
#: border of two patches belongs to the patch behind it, so that rounding does
#: not decide whose a border is that is hit exactly.
BORDER = 1e-3


def centres_of(boxes: np.ndarray) -> np.ndarray:
    """Shape (n, 2), (x, y)."""
    with np.errstate(invalid='ignore'):  # of infinite boxes
        return (boxes[:, :2] + boxes[:, 2:]) / 2


def cells_of(boxes: np.ndarray, size: int, grid: tuple[int, int]) -> np.ndarray:
    """Slots that hold the centres: int64 of shape (n, ), the nearest for one outside."""
    col, row = np.floor((centres_of(boxes) + BORDER) / size).T
    row, col = row.clip(0, grid[0] - 1), col.clip(0, grid[1] - 1)
    return row.astype(np.int64) * grid[1] + col.astype(np.int64)


def way_in(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """From each centre to the image, (n, 2): zeros within BORDER of it.

    It is NaN for one that is not finite.
    """
    centres = centres_of(boxes)
    with np.errstate(invalid='ignore'):
        way = np.where(np.isfinite(centres), centres.clip(0, shape[::-1]) - centres, np.nan)
    way[np.abs(way) <= BORDER] = 0
    return way


def travel(
    boxes: np.ndarray,
    targets: np.ndarray,
    size: int,
    grid: tuple[int, int],
    dtype: Any = np.float64,
) -> np.ndarray:
    """Boxes moved from each slot k to the slot ``targets[k]``.

    A centre ends in its target, also after the box was rounded to ``dtype``,
    or written as (x, y, w, h) and read again.

    The last slots of rows and columns own the last BORDER of the image as
    well, and are longer by it than the others. So the end of a slot, from
    three times BORDER before its last pixel's end on, is stretched or squeezed
    to what its target has there: every centre has one place, and back.
    """
    cells, last = cells_of(boxes, size, grid), np.array(grid[::-1]) - 1
    old, new = (np.stack([k % grid[1], k // grid[1]], axis=1) for k in (cells, targets[cells]))
    moved = boxes + np.tile((new - old) * size, 2)
    offsets = centres_of(boxes) - old * size
    ratios = np.where(new == last, 3, 2) / np.where(old == last, 3, 2)
    shifts = np.maximum(offsets - (size - 3 * BORDER), 0) * (ratios - 1)
    # What rounding makes of corners, sizes and centres keeps off the ends.
    margin = 3 * np.finfo(dtype).eps * np.abs(moved).max(axis=1, keepdims=True, initial=0)
    margin = np.minimum(margin, size / 2)
    offsets += shifts
    ends = np.where(new == last, size, size - BORDER) - margin
    shifts += offsets.clip(margin - BORDER, ends) - offsets
    return moved + np.tile(shifts, 2)
