# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Which slot a box is in, and how it moves with it.

Boxes are float64 of shape (n, 4), (x1, y1, x2, y2) in pixels of the encrypted
image; a grid is (rows, cols), and slots are numbered row-major.
"""

from typing import Any

import numpy as np

#: Pixels of the encrypted image: a centre that lies less than this before the
#: border of two patches belongs to the patch behind it, so that the rounding
#: of scaled coordinates does not decide whose a border is that is hit exactly.
BORDER = 1e-8
# Pixels by which rounding may put the centre of a predicted box outside of the
# image, and by which at most a centre gives way to rounding.
_EDGE = 1e-3
#: Pixels to which moved boxes are handed over.
GRAIN = 2.0**-26


def centres_of(boxes: np.ndarray) -> np.ndarray:
    """Shape (n, 2), (x, y)."""
    with np.errstate(invalid='ignore'):  # of infinite boxes
        return (boxes[:, :2] + boxes[:, 2:]) / 2


def cells_of(boxes: np.ndarray, size: int, grid: tuple[int, int]) -> np.ndarray:
    """Slots that hold the centres: int64 of shape (n, ), the nearest for one outside."""
    col, row = np.floor((centres_of(boxes) + BORDER) / size).T
    row, col = row.clip(0, grid[0] - 1), col.clip(0, grid[1] - 1)
    return row.astype(np.int64) * grid[1] + col.astype(np.int64)


def strays_of(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Whether centres are in no slot, bool of shape (n, ): outside of the image, or not finite."""
    centres = centres_of(boxes)
    inside = (centres >= -_EDGE) & (centres <= np.array(shape[::-1]) + _EDGE)
    return np.logical_not(inside.all(axis=1))


def travel(
    boxes: np.ndarray,
    targets: np.ndarray,
    size: int,
    grid: tuple[int, int],
    precision: Any = np.float64,
) -> np.ndarray:
    """Boxes moved from each slot k to the slot ``targets[k]``.

    A centre keeps off the ends of its slot by what rounding to ``precision``
    may make of corners, sizes and centres, so that it is found there again.
    One outside of the image comes in at the nearest point of its slot.
    """
    cells = cells_of(boxes, size, grid)
    old, new = (np.stack([k % grid[1], k // grid[1]], axis=1) for k in (cells, targets[cells]))
    moved = boxes + np.tile((new - old) * size, 2)
    offsets = centres_of(boxes) - old * size
    # As far as from one end of the image to the other: boxes have come from there, and may be
    # mirrored. What is computed here rounds as well.
    reach = np.abs(moved).max(axis=1, keepdims=True, initial=max(grid) * size)
    eps = max(2 * np.finfo(precision).eps, 8 * np.finfo(np.float64).eps)
    # So that what a border takes beside it, and rounding to the grain, stay within the edge.
    margin = np.minimum(eps * reach, _EDGE - 2 * BORDER)
    return moved + np.tile(offsets.clip(margin - BORDER, size - BORDER - margin) - offsets, 2)


def blunted(values: np.ndarray) -> np.ndarray:
    """Coordinates, sizes or areas of moved boxes without the digits that tell where they were.

    Beyond these, numbers show how coarsely those that they were computed from
    were rounded, and so how large those were. What is below 1 stays below 1,
    the size of which readers leave boxes out.
    """
    blunt = np.round(values / GRAIN) * GRAIN
    return np.where(values < 1, np.minimum(blunt, 1 - GRAIN), blunt)


def rounded(boxes: np.ndarray, grain: np.ndarray, size: int, grid: tuple[int, int]) -> np.ndarray:
    """Boxes on multiples of grains that divide patches, their centres in the slots they are in.

    Grains have shape (n, 1). A side that is no shorter than its grain stays so.
    """
    cells = cells_of(boxes, size, grid)
    new = np.floor(boxes / grain + 0.5) * grain
    offsets = centres_of(new) - np.stack([cells % grid[1], cells // grid[1]], axis=1) * size
    return new + np.tile(grain * ((offsets < 0).astype(int) - (offsets >= size)), 2)
