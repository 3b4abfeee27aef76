# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""From costs of pairs to a picture: constrained merging, trimming, filling."""

import heapq
from collections.abc import Sequence

import numpy as np

from .compatibility import alternatives

#: Candidate pairs per piece, the best first.
CANDIDATES = 40


Grid = tuple[int, int]


def grids_of(pieces: int) -> list[Grid]:
    """All shapes that a picture of so many pieces may have, (rows, columns)."""
    return [(rows, pieces // rows) for rows in range(1, pieces + 1) if pieces % rows == 0]


def merge(costs: np.ndarray, grids: Sequence[Grid]) -> tuple[np.ndarray, np.ndarray]:
    """Join pairs, the surest first, as long as parts do not collide and fit the grid.

    Kruskal's algorithm with Gallagher's constraint (CVPR 2012, section 4).

    Args:
        costs (np.ndarray): Shape (2, n, n).
        grids (Sequence[tuple[int, int]]): Rows and columns that the picture
            may have: parts have to fit one of them.

    Returns:
        tuple[np.ndarray, np.ndarray]: The part of each piece, int64 of shape
        (n, ), and its row and column there, of shape (n, 2).
    """
    n = costs.shape[1]
    part = list(range(n))
    members: list[list[int]] = [[i] for i in range(n)]
    spots = [(0, 0)] * n
    taken: list[set] = [{(0, 0)} for _ in range(n)]
    boxes = [(0, 0, 0, 0)] * n
    left = n
    for direction, i, j in zip(*_candidates(costs), strict=True):
        a, b = part[i], part[j]
        if a == b:
            continue
        # What brings the second part beside the first.
        dy = spots[i][0] + direction - spots[j][0]
        dx = spots[i][1] + 1 - direction - spots[j][1]
        if len(members[a]) < len(members[b]):
            a, b, dy, dx = b, a, -dy, -dx
        box, other = boxes[a], boxes[b]
        joined = (
            min(box[0], other[0] + dy),
            min(box[1], other[1] + dx),
            max(box[2], other[2] + dy),
            max(box[3], other[3] + dx),
        )
        height, width = joined[2] - joined[0], joined[3] - joined[1]
        if not any(height < rows and width < cols for rows, cols in grids):
            continue
        moved = [(y + dy, x + dx) for y, x in taken[b]]
        if not taken[a].isdisjoint(moved):
            continue
        for piece in members[b]:
            y, x = spots[piece]
            part[piece], spots[piece] = a, (y + dy, x + dx)
        members[a] += members[b]
        taken[a].update(moved)
        members[b], taken[b] = [], set()
        boxes[a] = joined
        left -= 1
        if left == 1:
            break
    return np.array(part), np.array(spots)


def _candidates(costs: np.ndarray) -> tuple[list[int], list[int], list[int]]:
    """Direction, first and second piece of the pairs, by cost against the next best."""
    n = costs.shape[1]
    with np.errstate(invalid='ignore'):
        margin = (costs - alternatives(costs)).ravel()
    margin[~np.isfinite(costs).ravel()] = np.inf
    count = min(CANDIDATES * n, np.isfinite(margin).sum())
    best = np.argpartition(margin, count - 1)[:count]
    best = best[np.argsort(margin[best], kind='stable')]
    direction, i, j = np.unravel_index(best, costs.shape)
    return direction.tolist(), i.tolist(), j.tolist()


def fill(
    costs: np.ndarray,
    part: np.ndarray,
    spots: np.ndarray,
    grids: Sequence[Grid],
    forms_of: np.ndarray | None = None,
) -> np.ndarray:
    """Place the largest part, and single pieces around it, the surest cells first.

    The part is tried at the edges and in the middle of each grid that holds
    it; what has the least energy is taken.

    Args:
        costs (np.ndarray): Shape (2, n, n), capped (:func:`cap`).
        part (np.ndarray): From :func:`merge`.
        spots (np.ndarray): From :func:`merge`.
        grids (Sequence[tuple[int, int]]): As there, each of n cells or more.
        forms_of (np.ndarray, optional): Shape (n, ); those with the same number are forms of
            one piece, of which one is placed. Defaults to None, n pieces.

    Returns:
        np.ndarray: int64 of shape (n, 2), row and column of each piece; −1
        for forms that are not taken.
    """
    forms_of = np.arange(len(part)) if forms_of is None else forms_of
    largest = np.flatnonzero(part == np.bincount(part).argmax())
    placed = spots[largest] - spots[largest].min(axis=0)
    options = []
    for grid in grids:
        room = np.array(grid) - placed.max(axis=0) - 1
        if (room >= 0).all():
            options += [
                _filled(costs, largest, placed + (dy, dx), grid, forms_of)
                for dy in sorted({0, room[0] // 2, room[0]})
                for dx in sorted({0, room[1] // 2, room[1]})
            ]
    return min(options, key=lambda cells: energy(costs, cells))


def cap(costs: np.ndarray) -> np.ndarray:
    """Costs of at most their median: worse than chance is no worse than chance."""
    return np.minimum(costs, np.median(costs[np.isfinite(costs)]))


def energy(costs: np.ndarray, cells: np.ndarray) -> float:
    """The mean cost of the borders of an assembled picture; 0 without any."""
    there = np.flatnonzero(cells[:, 0] >= 0)
    first, second = ([there[one] for one in side] for side in borders(cells[there]))
    seams = [one[a, b] for one, a, b in zip(costs, first, second, strict=True)]
    return float(np.concatenate(seams).mean()) if len(np.concatenate(seams)) else 0.0


def borders(cells: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """First and second pieces of the borders of a picture, side by side and one below the other."""
    board = np.full(cells.max(axis=0) + 1, -1)
    board[tuple(cells.T)] = np.arange(len(cells))
    pairs = ((board[:, :-1], board[:, 1:]), (board[:-1], board[1:]))
    there = [(a >= 0) & (b >= 0) for a, b in pairs]
    first, second = (
        [pair[side][both] for pair, both in zip(pairs, there, strict=True)] for side in (0, 1)
    )
    return first, second


def _filled(
    costs: np.ndarray, pieces: np.ndarray, cells: np.ndarray, grid: Grid, forms_of: np.ndarray
) -> np.ndarray:
    n = costs.shape[1]
    board = np.full((grid[0] + 2, grid[1] + 2), -1)
    board[tuple((cells + 1).T)] = pieces
    free = ~np.isin(forms_of, forms_of[pieces])
    out = np.full((n, 2), -1)
    out[pieces] = cells
    sides = (
        (0, -1, costs[0], False),
        (0, 1, costs[0], True),
        (-1, 0, costs[1], False),
        (1, 0, costs[1], True),
    )

    def best(y: int, x: int) -> tuple[int, float, int]:
        rows = []
        for dy, dx, one, second in sides:
            other = board[y + 1 + dy, x + 1 + dx]
            if other >= 0:
                rows.append(one[:, other] if second else one[other])
        if not rows:
            return 0, np.inf, -1
        mean = np.where(free, np.sum(rows, axis=0) / len(rows), np.inf)
        return -len(rows), float(mean.min()), int(mean.argmin())

    heap: list = []
    stamp: dict = {}

    def push(y: int, x: int) -> None:
        if 0 <= y < grid[0] and 0 <= x < grid[1] and board[y + 1, x + 1] < 0:
            filled, cost, piece = best(y, x)
            stamp[y, x] = (filled, cost, piece)
            heapq.heappush(heap, (filled, cost, piece, y, x))

    for y in range(grid[0]):
        for x in range(grid[1]):
            if (board[y : y + 3 : 2, x + 1] >= 0).any() or (board[y + 1, x : x + 3 : 2] >= 0).any():
                push(y, x)
    while free.any():
        filled, cost, piece, y, x = heapq.heappop(heap)
        if board[y + 1, x + 1] >= 0 or stamp[y, x] != (filled, cost, piece):
            continue
        if not free[piece]:
            push(y, x)
            continue
        board[y + 1, x + 1], out[piece] = piece, (y, x)
        free[forms_of == forms_of[piece]] = False
        for dy, dx, *_ in sides:
            push(y + dy, x + dx)
    return out
