# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The greedy solver of Paikin and Tal, which grows one part from its surest piece."""

import heapq
from collections.abc import Callable

import cv2
import numpy as np

from ..base import Arrangement, Evidence, register_attack
from .assembly import Grid, borders, cap
from .solver import Jigsaw, as_they_are, shown, spread

#: Where the neighbours of a cell are: row, column, and which pairs, seen from which side.
SIDES = ((0, 1, 0, False), (0, -1, 0, True), (1, 0, 1, False), (-1, 0, 1, True))


@register_attack
class PaikinTal(Jigsaw):
    """Grows a picture piece by piece, and copes with pieces that are missing.

    What a border lets expect beyond it is compared with what is there, one
    side at a time; pieces that are each other's best are placed first. Left
    out of the paper: several puzzles at a time, unknown orientations, and new
    costs after each part.
    """

    name = 'paikin-tal'
    title = 'grows a picture from its surest patch, where patches may be missing'
    source = (
        'Paikin and Tal, "Solving multiple square jigsaw puzzles with missing pieces", CVPR 2015'
    )

    def prepare(self, evidence: Evidence) -> None:
        self.evidence = evidence

    def guess(self, index: int) -> Arrangement:
        grid = self.evidence.layouts[index].grid
        pieces, there = shown(self.evidence.pieces(index), self.evidence.cipher)
        found = (
            grow(mutual_fit(pieces), grid) if len(pieces) > 2 else as_they_are(len(pieces), grid)
        )
        return spread(found, there, grid)


def mutual_fit(pieces: np.ndarray) -> np.ndarray:
    """How well each pair fits, seen from both of its pieces.

    Args:
        pieces (np.ndarray): uint8 of shape (n, p, p, C).

    Returns:
        np.ndarray: float32 of shape (2, n, n), at most 1; −∞ on diagonals.
    """
    n, p = pieces.shape[:2]
    if pieces.shape[3] == 3:
        lab = cv2.cvtColor(pieces.reshape(-1, p, 3).astype(np.float32) / 255, cv2.COLOR_BGR2LAB)
        pieces = lab.reshape(pieces.shape)
    pieces = pieces.astype(np.float32)
    fits = []
    for one in (pieces, pieces.swapaxes(1, 2)):
        first, last = one[:, :, 0], one[:, :, -1]
        after = 2 * last - one[:, :, -2:][:, :, 0]
        before = 2 * first - one[:, :, :2][:, :, -1]
        fits.append((_fit(after, first) + _fit(before, last).T) / 2)
    return np.stack(fits)


def _fit(expected: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """One minus the distance over the second best of the row, of shape (n, n)."""
    n = len(expected)
    flat = expected.reshape(n, -1), borders.reshape(n, -1)
    distance = np.stack([np.abs(row - flat[1]).sum(axis=1) for row in flat[0]])
    np.fill_diagonal(distance, np.inf)
    second = np.partition(distance, 1, axis=1)[:, 1:2]
    return 1 - distance / np.maximum(second, 1e-6)


def grow(fit: np.ndarray, grid: Grid) -> Arrangement:
    """Place pieces beside those that are placed, buddies first.

    Args:
        fit (np.ndarray): From :func:`mutual_fit`, of three pieces or more.
        grid (tuple[int, int]): Rows and columns, of n cells or more.

    Returns:
        Arrangement: All of it one part.
    """
    n = fit.shape[1]
    best = [[one.argmax(axis=1), one.argmax(axis=0)] for one in fit]
    sure = [_buddies(best[which], back) for *_, which, back in SIDES]
    placed: dict[tuple[int, int], int] = {}
    free = np.ones(n, bool)
    low, high = [0, 0], [0, 0]
    heap: list[tuple[float, int, int, int]] = []

    def fits_grid(y: int, x: int) -> bool:
        return all(
            max(top, at) - min(bottom, at) < side
            for bottom, top, at, side in zip(low, high, (y, x), grid, strict=True)
        )

    def place(piece: int, y: int, x: int) -> None:
        placed[y, x], free[piece] = piece, False
        for axis, at in enumerate((y, x)):
            low[axis], high[axis] = min(low[axis], at), max(high[axis], at)
        for (dy, dx, which, back), buddies in zip(SIDES, sure, strict=True):
            other = int(buddies[piece])
            if other >= 0 and free[other] and (y + dy, x + dx) not in placed:
                value = fit[which, other, piece] if back else fit[which, piece, other]
                heapq.heappush(heap, (-float(value), other, y + dy, x + dx))

    place(_seed(sure, fit), 0, 0)
    while free.any():
        if heap:
            _, piece, y, x = heapq.heappop(heap)
            if not free[piece] or (y, x) in placed or not fits_grid(y, x):
                continue
        else:
            piece, y, x = _best_of_rest(fit, placed, free, fits_grid)
        place(piece, y, x)
    cells = np.zeros((n, 2), np.int64)
    for cell, piece in placed.items():
        cells[piece] = np.subtract(cell, low)
    mutual = [
        [buddies[a] == b for a, b in zip(first, second, strict=True)]
        for buddies, first, second in zip(sure[::2], *borders(cells), strict=True)
    ]
    found = float(np.mean(mutual[0] + mutual[1]))
    return Arrangement(found, cells, np.zeros(n, np.int64), cells, cap(1 - fit))


def _buddies(best: list[np.ndarray], back: bool) -> np.ndarray:
    """Of each piece the one on this side if each is the other's best, else −1."""
    forth, home = best[::-1] if back else best
    return np.where(home[forth] == np.arange(len(forth)), forth, -1)


def _seed(sure: list[np.ndarray], fit: np.ndarray) -> int:
    """A piece whose neighbours, and theirs, are sure; of several the one that fits best."""
    known = np.stack([side >= 0 for side in sure])
    around = np.stack([np.where(side >= 0, known.sum(axis=0)[side], 0) for side in sure]).sum(
        axis=0
    )
    value = np.zeros(len(around))
    for (*_, which, back), side in zip(SIDES, sure, strict=True):
        each = np.arange(len(side))
        pairs = fit[which].T if back else fit[which]
        value += np.where(side >= 0, pairs[each, side], 0)
    return int(np.lexsort((value, around, known.sum(axis=0)))[-1])


def _best_of_rest(
    fit: np.ndarray,
    placed: dict[tuple[int, int], int],
    free: np.ndarray,
    fits_grid: Callable[[int, int], bool],
) -> tuple[int, int, int]:
    """The free piece and the cell beside placed ones that fit best on average."""
    cells = {
        (y + dy, x + dx) for y, x in placed for dy, dx, *_ in SIDES if fits_grid(y + dy, x + dx)
    } - placed.keys()
    best = (-np.inf, -1, 0, 0)
    rest = np.flatnonzero(free)
    for y, x in sorted(cells):
        rows = []
        for dy, dx, which, back in SIDES:
            other = placed.get((y + dy, x + dx))
            if other is not None:
                # The cell is on the opposite side of its neighbour.
                rows.append(fit[which, other, rest] if back else fit[which, rest, other])
        mean = np.mean(rows, axis=0)
        if mean.max() > best[0]:
            best = (mean.max(), int(rest[mean.argmax()]), y, x)
    return best[1:]
