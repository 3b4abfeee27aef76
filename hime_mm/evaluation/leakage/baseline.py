# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a guess without any attack gets right of a puzzle."""

from functools import lru_cache

import numpy as np

from hime_mm.ciphers.grid import cells_of

from .puzzle import PuzzleScores, find_borders, largest_part

_DRAWS = 500


def random_arrangement(
    grid: tuple[int, int], rng: np.random.Generator, pieces: int | None = None
) -> np.ndarray:
    """A guess without any attack: cells of a grid, int64 of shape (n, 2), none of them twice.

    Args:
        grid (tuple[int, int]): Rows and columns.
        rng (np.random.Generator): Of the draw.
        pieces (int, optional): How many, where patches were dropped. None is
            one for each cell. Defaults to None.
    """
    order = rng.permutation(grid[0] * grid[1])[:pieces]
    return cells_of(order, grid)


def chance(grid: tuple[int, int], truth: np.ndarray | None = None) -> PuzzleScores:
    """What a random arrangement gets, on average.

    Dc and Nc are exact, Lc is the mean of 500 arrangements, always the same.
    Where pieces were turned, or symmetries are allowed for, it is another: judge
    a few of :func:`random_arrangement` alike.

    Args:
        grid (tuple[int, int]): Rows and columns.
        truth (np.ndarray, optional): int64 of shape (n, 2), cells of the pieces
            that are there, where patches were dropped. Defaults to None, all.
    """
    full = cells_of(np.arange(grid[0] * grid[1]), grid)
    cells = (full if truth is None else truth).tolist()
    return _chance(grid, tuple(sorted(map(tuple, cells))))


@lru_cache(maxsize=256)
def _chance(grid: tuple[int, int], cells: tuple[tuple[int, int], ...]) -> PuzzleScores:
    rows, cols = grid
    n, truth = rows * cols, np.array(cells)
    first, second, below = find_borders(truth)
    # For a border the pieces at its sides are equally likely in each ordered pair of cells.
    places = np.array([rows * (cols - 1), (rows - 1) * cols])
    rng = np.random.default_rng(0)
    steps = truth[second] - truth[first]
    largest = []
    for _ in range(_DRAWS):
        guess = random_arrangement(grid, rng, len(truth))
        right = (guess[second] - guess[first] == steps).all(axis=1)
        largest.append(largest_part(len(truth), first[right], second[right]))
    neighbor = float(places[below].mean() / (n * (n - 1))) if len(below) else None
    return PuzzleScores(1 / n, neighbor, float(np.mean(largest)))
