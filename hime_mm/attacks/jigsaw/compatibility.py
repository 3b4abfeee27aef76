# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How badly two pieces fit beside each other: Mahalanobis gradient compatibility.

Costs are float64 of shape (2, n, n): ``costs[0, i, j]`` that j is right of i,
``costs[1, i, j]`` that j is below i. Sums over the pixels of a border are
matrix products, so that all pairs of 4,150 pieces take seconds.
"""

import numpy as np

#: Added to costs: flat pieces fit each other perfectly, and would come first.
FLOOR = 1e-3


def mgc(pieces: np.ndarray) -> np.ndarray:
    """The cost of each pair of pieces as neighbours, after Gallagher.

    Beyond a border the gradient is taken to go on as it varies at it: the
    difference across two borders is measured by the mean and covariance of
    the gradients within either piece (Gallagher, "Jigsaw puzzles with pieces
    of unknown orientation", CVPR 2012, equations 1 to 5, with the dummy
    gradients that keep the covariance invertible).

    Args:
        pieces (np.ndarray): Shape (n, P, P, C).

    Returns:
        np.ndarray: float64 of shape (2, n, n); the diagonals are infinite.
    """
    pieces = pieces.astype(np.float64)
    # What is below a piece is right of it once both are transposed.
    turned = pieces.swapaxes(1, 2)
    costs = np.stack([beside(pieces, pieces), beside(turned, turned)])
    costs[:, np.arange(len(pieces)), np.arange(len(pieces))] = np.inf
    return costs


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """What it costs that a piece of ``right`` is right of one of ``left``, of shape (n, m).

    Both are float64 of shape (n, P, P, C) and (m, P, P, C).
    """
    # Of a piece of one pixel the border is all there is.
    inner, outer = left[:, :, -2:][:, :, 0], left[:, :, -1]
    second, first = right[:, :, :2][:, :, -1], right[:, :, 0]
    return FLOOR + _across(outer, outer - inner, first) + _across(first, first - second, outer).T


def _across(border: np.ndarray, gradients: np.ndarray, facing: np.ndarray) -> np.ndarray:
    """The sum of r S⁻¹ rᵀ over the pixels of a border, of all pairs.

    Shapes are (n, P, C); r is the difference of the facing border to what
    ``border`` and the mean gradient expect, S the gradients' covariance.
    """
    n, _, channels = border.shape
    eye = np.eye(channels)
    ones = np.ones((1, channels))
    dummies = np.concatenate([0 * ones, ones, -ones, eye, -eye])
    padded = np.concatenate([gradients, np.broadcast_to(dummies, (n, *dummies.shape))], axis=1)
    padded = padded - padded.mean(axis=1, keepdims=True)
    inverse = np.linalg.inv(padded.swapaxes(1, 2) @ padded / (padded.shape[1] - 1))
    expected = border + gradients.mean(axis=1, keepdims=True)
    weighted = expected @ inverse
    # r S⁻¹ rᵀ multiplied out: what depends on either piece alone, and a product.
    own = np.concatenate(
        [
            inverse.reshape(n, -1),
            -2 * weighted.reshape(n, -1),
            (weighted * expected).sum(axis=(1, 2))[:, None],
        ],
        axis=1,
    )
    other = np.concatenate(
        [(facing.swapaxes(1, 2) @ facing).reshape(n, -1), facing.reshape(n, -1), np.ones((n, 1))],
        axis=1,
    )
    # Rounding of the differences of large numbers may go below zero.
    return np.maximum(own @ other.T, 0)


def alternatives(costs: np.ndarray) -> np.ndarray:
    """Of each pair the least cost of another partner for either side, of shape (2, n, n)."""
    least = np.full_like(costs, np.inf)
    for one, out in zip(costs, least, strict=True):
        for view, target in ((one, out), (one.T, out.T)):
            # Partitions run along contiguous rows, columns are far slower.
            two = np.partition(np.ascontiguousarray(view), 1, axis=1)[:, :2]
            best, second = two[:, :1], two[:, 1:]
            np.minimum(target, np.where(view == best, second, best), out=target)
    return least


def buddies(costs: np.ndarray) -> np.ndarray:
    """Pairs that are each other's best, bool of shape (2, n, n) (Pomeranz et al., CVPR 2011)."""
    rows, cols = (costs == costs.min(axis=axis, keepdims=True) for axis in (2, 1))
    return rows & cols & np.isfinite(costs)
