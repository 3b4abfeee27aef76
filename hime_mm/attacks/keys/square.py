# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The pixels of a square, put in order by how they correlate.

Matrices are of shape (n, n) with n = p². What is looked for is a permutation
that makes one like another: for each of the first one's rows the cell, as
int64 of shape (n, ), numbered row-major.
"""

from collections.abc import Iterator
from itertools import product
from math import isqrt

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import shortest_path

#: Neighbours in the graph of nearest pixels.
NEAREST = 6
#: Starts, turned against each other by equal parts of a right angle; fewer of large squares.
TURNS, LARGE = 12, 256
#: Of assignments that follow from each other.
STEPS = 20
#: Solutions that go on, and how often at most.
KEPT, ROUNDS = 3, 8
#: How often what is expected is taken from what was found.
OWN = 4
#: How far a pixel looks around while the square grows.
REACH = 2
#: Weights of partial correlations beside correlations.
WEIGHTS = (0.0, 0.3)
#: Added to the diagonal before a matrix is inverted.
RIDGE = 0.05


def arrange(seen: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Find the cells that make correlations most like the expected ones.

    Distances along a graph of nearest pixels are drawn in the plane, turned,
    and laid on the grid; assignments are then repeated, each by how well a
    pixel correlates with where the others are. What comes out is often right
    in the middle and dislocated at the edges: the best square within it is
    kept and grown again, pixel by pixel, wherever the grid may have to lie.
    At last the same is done with what the found order itself says of pixels
    so far apart, which fits the pictures better than what was expected.

    Args:
        seen (np.ndarray): Correlations of encrypted pixels.
        expected (np.ndarray): Those of pixels in their order.

    Returns:
        np.ndarray: Up to one of the eight symmetries of the square.
    """
    side = isqrt(len(seen))
    ways = symmetries(side)
    # Pictures differ in which way they are smoother.
    even = np.mean([expected[np.ix_(way, way)] for way in ways], axis=0)
    starts = [
        _refined(seen, even, cells)
        # Pixels are near, too, if they correlate with others alike.
        for matrix in (seen, np.corrcoef(seen))
        for cells in _starts(_embedded(matrix), side)
    ]
    # Where the pictures are unlike what is expected, a start may be the better solution.
    judged = min((_judged(seen, cells) for _, cells in starts), key=lambda one: one[0])
    expected_best = _judged(seen, _improved(seen, even, starts))
    found = [_settled(seen, *one) for one in (expected_best, judged)]
    cells = min(found, key=lambda one: one[0])[1]
    return min((way[cells] for way in ways), key=lambda one: _error(seen, expected, one))


def _judged(seen: np.ndarray, cells: np.ndarray) -> tuple[float, np.ndarray]:
    return _error(seen, _stationary(seen, cells), cells), cells


def _settled(seen: np.ndarray, error: float, cells: np.ndarray) -> tuple[float, np.ndarray]:
    """Improve a solution by what it says itself, until that does not help."""
    for _ in range(OWN):
        own = _stationary(seen, cells)
        better = _judged(seen, _improved(seen, own, [_refined(seen, own, cells)]))
        if better[0] >= error:
            break
        error, cells = better
    return error, cells


def _improved(
    seen: np.ndarray, expected: np.ndarray, solutions: list[tuple[float, np.ndarray]]
) -> np.ndarray:
    """The best solution, grown again from the best squares of the best as long as that helps."""
    side = isqrt(len(seen))
    near, expected_near = partial(seen), partial(expected)
    kernels = _by_offset(expected, side), _by_offset(expected_near, side)
    pool = _best(solutions)
    for _ in range(ROUNDS if side > 3 else 0):
        grown = [
            _refined(seen, expected, _grown((seen, near), kernels, weight, block, side))
            for (_, cells), size in product(pool, sorted({side // 4 + 1, side // 2}))
            for block in [_best_block(seen, expected, cells, size)]
            for weight in WEIGHTS
        ]
        before, pool = pool[0][0], _best(pool + grown)
        if pool[0][0] >= before:
            break
    return pool[0][1]


def _stationary(seen: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """What is expected if pixels so far apart correlate as they do on average in this order."""
    side = isqrt(len(seen))
    pixels = np.argsort(cells)
    four = seen[np.ix_(pixels, pixels)].reshape((side,) * 4)
    out = np.empty_like(four)
    for down, right in product(range(1 - side, side), repeat=2):
        rows = np.arange(max(0, -down), min(side, side - down))[:, None]
        cols = np.arange(max(0, -right), min(side, side - right))
        pairs = rows, cols, rows + down, cols + right
        out[pairs] = four[pairs].mean()
    return out.reshape(seen.shape)


def symmetries(side: int) -> list[np.ndarray]:
    """The eight ways to turn and mirror a square, as what becomes of each cell."""
    square = np.arange(side * side).reshape(side, side)
    return [np.rot90(one, turn).ravel() for one in (square, square.T) for turn in range(4)]


def partial(correlations: np.ndarray) -> np.ndarray:
    """Correlations that are left once all others are taken into account: those of neighbours."""
    inverse = np.linalg.inv(correlations + RIDGE * np.eye(len(correlations)))
    scale = np.sqrt(np.abs(inverse.diagonal()))
    return np.where(np.eye(len(inverse), dtype=bool), 0, -inverse / scale / scale[:, None])


def _embedded(correlations: np.ndarray) -> np.ndarray:
    """Of shape (n, 2): where the pixels are in the plane, by the shortest ways to each other."""
    n = len(correlations)
    apart = np.sqrt(np.maximum(1 - correlations, 1e-6))
    np.fill_diagonal(apart, np.inf)
    graph = np.zeros((n, n))
    nearest = np.argsort(apart, axis=1, kind='stable')[:, : min(NEAREST, n - 1)]
    np.put_along_axis(graph, nearest, np.take_along_axis(apart, nearest, 1), 1)
    ways = shortest_path(np.maximum(graph, graph.T), directed=False)
    ways[~np.isfinite(ways)] = 1.5 * ways[np.isfinite(ways)].max()
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centre @ ways**2 @ centre)
    return vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))


def _starts(points: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Points laid on the grid, turned by parts of a right angle."""
    grid = np.stack(np.divmod(np.arange(side * side), side), axis=1) - (side - 1) / 2
    points = points - points.mean(axis=0)
    points *= np.sqrt((grid**2).sum() / max((points**2).sum(), 1e-12))
    turns = max(3, min(TURNS, TURNS * LARGE // len(points)))
    for angle in np.arange(turns) * np.pi / 2 / turns:
        cos, sin = np.cos(angle), np.sin(angle)
        yield linear_sum_assignment(-points @ np.array([[cos, sin], [-sin, cos]]) @ grid.T)[1]


def _error(seen: np.ndarray, expected: np.ndarray, cells: np.ndarray) -> float:
    return float(((seen - expected[np.ix_(cells, cells)]) ** 2).mean())


def _refined(seen: np.ndarray, expected: np.ndarray, cells: np.ndarray) -> tuple[float, np.ndarray]:
    """Assign each pixel a cell by where the others are, until nothing changes."""
    for _ in range(STEPS):
        there = expected[:, cells]
        # Squared differences, less what does not depend on the pair.
        better = linear_sum_assignment((there**2).sum(axis=1) - 2 * seen @ there.T)[1]
        if (better == cells).all():
            break
        cells = better
    return _error(seen, expected, cells), cells


def _best(solutions: list[tuple[float, np.ndarray]]) -> list[tuple[float, np.ndarray]]:
    """The best that differ."""
    distinct = {round(error, 9): (error, cells) for error, cells in reversed(solutions)}
    return [distinct[error] for error in sorted(distinct)[:KEPT]]


def _best_block(seen: np.ndarray, expected: np.ndarray, cells: np.ndarray, size: int) -> np.ndarray:
    """The pixels of the square of this side that fit each other best."""
    side = isqrt(len(seen))
    pixels = np.argsort(cells)
    errors = ((seen[np.ix_(pixels, pixels)] - expected) ** 2).reshape((side,) * 4)
    corners = [*product(range(side - size + 1), repeat=2)]
    y, x = min(
        corners,
        key=lambda at: errors[
            at[0] : at[0] + size,
            at[1] : at[1] + size,
            at[0] : at[0] + size,
            at[1] : at[1] + size,
        ].mean(),
    )
    return pixels.reshape(side, side)[y : y + size, x : x + size]


def _by_offset(expected: np.ndarray, side: int) -> np.ndarray:
    """The mean of what is expected of two pixels so many rows and columns apart."""
    four = expected.reshape((side,) * 4)
    out = np.zeros((2 * REACH + 1,) * 2)
    for (y, x), _ in np.ndenumerate(out):
        down, right = y - REACH, x - REACH
        rows = np.arange(max(0, -down), min(side, side - down))[:, None]
        cols = np.arange(max(0, -right), min(side, side - right))
        if rows.size and cols.size:
            out[y, x] = four[rows, cols, rows + down, cols + right].mean()
    return out


def _grown(
    matrices: tuple[np.ndarray, np.ndarray],
    kernels: tuple[np.ndarray, np.ndarray],
    weight: float,
    block: np.ndarray,
    side: int,
) -> np.ndarray:
    """Grow a block to the whole square, the best fitting pixel beside it first."""
    n, size = side * side, 2 * side + len(block) + 2 * REACH
    filled = np.zeros((size, size), bool)
    costs, counts = np.zeros((size, size, n), np.float32), np.zeros((size, size), int)
    free, cells = np.ones(n, bool), np.zeros((n, 2), np.int64)
    shares = (1.0, weight)

    def place(pixel: int, y: int, x: int) -> None:
        filled[y, x], free[pixel], cells[pixel] = True, False, (y, x)
        around = np.s_[y - REACH : y + REACH + 1, x - REACH : x + REACH + 1]
        counts[around] += 1
        for matrix, kernel, share in zip(matrices, kernels, shares, strict=True):
            if share:
                costs[around] += share * (matrix[pixel] - kernel[:, :, None]) ** 2

    for (y, x), pixel in np.ndenumerate(block):
        place(pixel, y + side + REACH, x + side + REACH)
    while free.any():
        placed = cells[~free]
        low = np.maximum(placed.max(axis=0) - side + 1, REACH)
        high = np.minimum(placed.min(axis=0) + side, size - REACH)
        window = np.s_[low[0] : high[0], low[1] : high[1]]
        ys, xs = np.nonzero(~filled[window] & (counts[window] > 2))
        ys, xs, left = ys + low[0], xs + low[1], np.flatnonzero(free)
        fit = costs[ys, xs][:, left] / counts[ys, xs][:, None]
        cell, pixel = divmod(int(fit.argmin()), len(left))
        place(left[pixel], ys[cell], xs[cell])
    cells -= cells.min(axis=0)
    return cells[:, 0] * side + cells[:, 1]
