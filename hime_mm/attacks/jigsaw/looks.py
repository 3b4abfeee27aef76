# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What pictures look like as a whole: which colours they have at the top, and which below."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .assembly import Grid

#: Levels of each channel that are told apart, and bands from top to bottom.
LEVELS, BANDS = 6, 3


@dataclass(frozen=True, eq=False)
class Looks:
    """How often a colour is in which band of a picture.

    Attributes:
        log (np.ndarray): Logarithms of the shares, float64 of shape (bands, k).
            With no pictures to learn from all are alike.
    """

    log: np.ndarray

    @classmethod
    def fit(cls, solved: Iterable[tuple[np.ndarray, np.ndarray, Grid]]) -> 'Looks':
        """Learn from solved puzzles: pieces, uint8 of shape (n, p, p, C), their cells, and grid."""
        # One of each: what was never seen is not impossible.
        counts = np.ones((BANDS, LEVELS**3))
        for pieces, cells, grid in solved:
            where = bands(cells, grid) * counts.shape[1] + colors(pieces)
            counts += np.bincount(where.ravel(), minlength=counts.size).reshape(counts.shape)
        return cls(np.log(counts / counts.sum()))

    def likelihood(self, pieces: np.ndarray, cells: np.ndarray, grid: Grid) -> float:
        """The logarithm of how likely a picture of these pieces in these cells is."""
        return float(self.log[bands(cells, grid), colors(pieces)].sum())


def bands(cells: np.ndarray, grid: Grid) -> np.ndarray:
    """The band of each piece, int64 of shape (n, 1, 1)."""
    return (cells[:, 0] * BANDS // grid[0])[:, None, None]


def colors(pieces: np.ndarray) -> np.ndarray:
    """The number of the colour of each pixel, int64 of shape (n, p, p)."""
    levels = pieces.astype(np.int64) * LEVELS // 256
    return levels @ LEVELS ** np.arange(pieces.shape[-1])
