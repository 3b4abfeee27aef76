# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Pairs of pieces that close loops of four: right and down is down and right.

The idea is that of Son, Hays and Cooper ("Solving square jigsaw puzzles with
loop constraints", ECCV 2014); here it is a fixed point of matrix products.
"""

import numpy as np
from scipy import sparse

from .compatibility import alternatives

#: The best partners of each piece on each side take part. More cost time only.
PARTNERS = 12
#: What a pair weighs less than this share of its row's best, a loop does not go through.
SHARE = 0.05
ROUNDS = 6
EPSILON = 0.005
POWER, LIMIT = 1.5, 3.0


def loop_costs(
    costs: np.ndarray, partners: int = PARTNERS, share: float = SHARE, rounds: int = ROUNDS
) -> np.ndarray:
    """Costs after pairs that agree with their neighbours' have been favoured.

    Each of two relations S, right and down, is weighed with what going round
    the other way says: S0 by S1 S0 S1ᵀ + S1ᵀ S0 S1, and the other way round,
    with rows and columns brought to equal sums in between.

    Args:
        costs (np.ndarray): Shape (2, n, n), positive, diagonals infinite.
        partners (int): So many of each row and of each column take part.
            With n, and ``share`` 0, all do: slower, and no better. Defaults
            to 12.
        share (float): Of its row's largest weight what a pair has to weigh to
            be part of others' loops. Defaults to 0.05.
        rounds (int): Defaults to 6.

    Returns:
        np.ndarray: float32 of shape (2, n, n), −log S; infinite where a pair
        takes no part.
    """
    first = [_weights(*pair, partners) for pair in zip(costs, alternatives(costs), strict=True)]
    patterns = [sparse.csr_array((np.ones_like(m.data), m.indices, m.indptr)) for m in first]
    now = first
    for _ in range(rounds):
        # Both from the old ones.
        right, down = (_strong(one, share) for one in now)
        through = (
            down @ right @ down.T + down.T @ right @ down,
            right @ down @ right.T + right.T @ down @ right,
        )
        now = [
            _balanced((one * (around * pattern + EPSILON * pattern)).tocsr())
            for one, around, pattern in zip(first, through, patterns, strict=True)
        ]
    out = np.full(costs.shape, np.inf, np.float32)
    for dense, one in zip(out, now, strict=True):
        rows, cols = one.nonzero()
        dense[rows, cols] = -np.log(one.data[one.data > 0])
    return out


def _weights(costs: np.ndarray, least: np.ndarray, partners: int) -> sparse.csr_array:
    """How much better than the next best the best pairs of each row and column are."""
    n = len(costs)
    # Logarithms of quotients, since costs may differ by many orders.
    log = np.minimum(np.log(least) - np.log(costs), LIMIT)
    count = min(partners, n - 1)
    # Partitions run along contiguous rows, columns are far slower.
    rows = np.argpartition(-log, count - 1, axis=1)[:, :count]
    cols = np.argpartition(-np.ascontiguousarray(log.T), count - 1, axis=1)[:, :count]
    each = np.repeat(np.arange(n), count)
    chosen = np.concatenate([each * n + rows.ravel(), cols.ravel() * n + each])
    rows, cols = np.divmod(np.unique(chosen), n)
    kept = np.isfinite(log[rows, cols])
    rows, cols = rows[kept], cols[kept]
    values = np.exp(POWER * log[rows, cols])
    return _balanced(sparse.csr_array((values, (rows, cols)), (n, n)))


def _balanced(matrix: sparse.csr_array) -> sparse.csr_array:
    """Each entry over the geometric mean of the sums of its row and its column."""
    rows, cols = (np.maximum(matrix.sum(axis=axis), 1e-30) ** -0.5 for axis in (1, 0))
    each = np.repeat(rows, np.diff(matrix.indptr))
    data = matrix.data * each * cols[matrix.indices]
    return sparse.csr_array((data, matrix.indices, matrix.indptr), matrix.shape)


def _strong(matrix: sparse.csr_array, share: float) -> sparse.csr_array:
    """Without entries below this share of the largest of their row."""
    most = matrix.max(axis=1).toarray().ravel()
    strong = matrix.copy()
    strong.data[strong.data < share * np.repeat(most, np.diff(strong.indptr))] = 0
    strong.eliminate_zeros()
    return strong
