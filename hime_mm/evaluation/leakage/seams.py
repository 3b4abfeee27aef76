# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Whether an attack on a puzzle was kept from the truth by its costs or by its search."""

from dataclasses import dataclass

import numpy as np

from hime_mm.errors import HimeError

from .puzzle import check_cells, check_pieces, find_borders, pieces_there


@dataclass(frozen=True)
class SeamEnergy:
    """How well the edges match that meet, in what an attack assembled and in the truth.

    Attributes:
        found (float): Mean cost of the borders of the arrangement found.
        true (float): Of the true one.
    """

    found: float
    true: float

    @property
    def ratio(self) -> float | None:
        """float | None: E(found)/E(true); None if the true borders cost nothing."""
        return self.found / self.true if self.true else None

    @property
    def limited_by(self) -> str:
        """str: What kept the attack from the truth, where it did not get there.

        'compatibility' if the costs like what was found no less than the truth:
        only better costs could tell them apart. 'search' if they like the truth
        better: a better search could still win with the same costs, and the
        failure is no evidence of protection.
        """
        return 'compatibility' if self.found <= self.true * (1 + 1e-9) else 'search'

    def to_dict(self) -> dict:
        """As plain JSON."""
        return {
            'found': self.found,
            'true': self.true,
            'ratio': self.ratio,
            'limited_by': self.limited_by,
        }


def seam_energy(
    costs: np.ndarray, found: np.ndarray, truth: np.ndarray, empty: np.ndarray | None = None
) -> SeamEnergy | None:
    """Compare an arrangement with the truth by what the attack minimised.

    Args:
        costs (np.ndarray): Shape (2, n, n), that the second piece is right of
            the first, or below it, capped.
        found (np.ndarray): int64 of shape (n, 2), row and column of each piece.
        truth (np.ndarray): int64 of shape (n, 2), likewise.
        empty (np.ndarray, optional): bool of shape (n, ), slots that hold
            nothing. Defaults to None.

    Returns:
        SeamEnergy | None: None where no two pieces adjoin in one of the two,
        or all costs are 0, since the attack has none.

    Raises:
        HimeError: If shapes do not go together, two pieces are in one cell, or
            the cost of a border is no number.
    """
    found, truth = check_cells(found, 'found'), check_cells(truth, 'truth')
    n = len(truth)
    if len(found) != n or np.shape(costs) != (2, n, n):
        raise HimeError(
            f'costs of shape {np.shape(costs)} do not go with {len(found)} pieces that were found '
            f'and {n} true ones'
        )
    (there,) = np.nonzero(pieces_there(empty, n))
    check_pieces(found[there], truth[there], np.zeros(len(there)))
    both = [find_borders(cells[there]) for cells in (found, truth)]
    energies = [costs[one.below, there[one.first], there[one.second]] for one in both]
    if not all(map(len, energies)) or not any(one.any() for one in energies):
        return None
    if not all(np.isfinite(one).all() for one in energies):
        raise HimeError('the cost of a border is not finite: cap the costs')
    return SeamEnergy(*(float(np.mean(one, dtype=np.float64)) for one in energies))
