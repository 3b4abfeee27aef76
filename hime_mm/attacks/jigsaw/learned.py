# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A cost that was learnt from public pictures: Gaussian scale mixtures of facing strips."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .assembly import borders

#: Degrees of freedom of the scale: the smaller, the heavier the tails.
FREEDOM = 3.0


@dataclass(frozen=True, eq=False)
class StripModel:
    """What facing strips of neighbours have in common.

    Both strips of a pair are multivariate t: Gaussian, with a scale that they
    share if they are neighbours and do not if they are none. The cost is the
    negative logarithm of the ratio of the two densities.
    """

    depth: int
    mean: np.ndarray
    axes: np.ndarray  #: From a strip to its whitened canonical coordinates.
    correlations: np.ndarray

    @classmethod
    def fit(cls, solved: Iterable[tuple[np.ndarray, np.ndarray]], depth: int) -> 'StripModel':
        """Learn from solved puzzles.

        Args:
            solved (Iterable): Of each its pieces, of shape (n, p, p, C), and
                the row and column of each, of shape (n, 2).
            depth (int): Columns of a border that take part.

        Returns:
            StripModel: Of both directions together, and of pictures and their
            mirror images.
        """
        front, behind = [], []
        for pieces, cells in solved:
            pairs = zip(*borders(cells), strips(pieces, depth), strict=True)
            for first, second, (one, other) in pairs:
                front.append(one[first])
                behind.append(other[second])
        one, other = np.concatenate(front), np.concatenate(behind)
        both = np.concatenate([one, other])
        mean = both.mean(axis=0)
        one, other = one - mean, other - mean
        cov = (one.T @ one + other.T @ other) / len(both) + np.eye(len(mean))
        cross = one.T @ other / len(one)
        values, vectors = np.linalg.eigh(cov)
        white = vectors * values**-0.5 @ vectors.T
        correlations, axes = np.linalg.eigh(white @ (cross + cross.T) / 2 @ white)
        return cls(depth, mean, white @ axes, np.clip(correlations, -0.999, 0.999))

    def costs(self, pieces: np.ndarray) -> np.ndarray:
        """Of all pairs as neighbours, float64 of shape (2, n, n)."""
        return np.stack([self._costs(*pair) for pair in strips(pieces, self.depth)])

    def _costs(self, front: np.ndarray, behind: np.ndarray) -> np.ndarray:
        u, v = ((strip - self.mean) @ self.axes for strip in (front, behind))
        rho, dim = self.correlations, len(self.mean)
        inverse = 1 / (1 - rho**2)
        joint = (u**2 @ inverse)[:, None] + (v**2 @ inverse) - 2 * (u * (rho * inverse)) @ v.T
        alone = [np.log1p((one**2).sum(axis=1) / FREEDOM) for one in (u, v)]
        together = np.log1p(np.maximum(joint, 0) / FREEDOM)
        return (FREEDOM / 2 + dim) * together - (FREEDOM + dim) / 2 * (alone[0][:, None] + alone[1])


def strips(pieces: np.ndarray, depth: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The columns at either side of a border, the nearest first, float64 of shape (n, d).

    Of borders between pieces side by side, and of those one below the other.
    """

    def nearest(one: np.ndarray) -> np.ndarray:
        return one[:, :, :depth].astype(np.float64).reshape(len(one), -1)

    return [(nearest(one[:, :, ::-1]), nearest(one)) for one in (pieces, pieces.swapaxes(1, 2))]
