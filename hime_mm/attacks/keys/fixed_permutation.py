# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""One permutation of patches that several pictures share, from these pictures alone."""

from collections.abc import Iterable
from functools import reduce

import numpy as np

from hime_mm.ciphers.grid import cells_of

from ..base import Arrangement, Evidence, LayoutAttack, register_attack, scattered
from ..jigsaw.assembly import Grid, cap, fill, merge
from ..jigsaw.compatibility import alternatives, buddies
from ..jigsaw.loops import loop_costs
from ..jigsaw.solver import POWERS, Cost, choose_cost, pair_costs, shown
from .orders import seam_fit

#: Two halves of the pictures agree by so many standard deviations of chance.
SURE = 4.0
#: Pictures that tell which cost is best in sums, at most.
JUDGED = 16
#: Logarithms are kept below this, so that no cost is too large or small a number.
LARGEST = 300.0


@register_attack
class FixedPermutation(LayoutAttack):
    """Adds up over all pictures how badly each pair of slots fits, and solves one puzzle.

    A cipher that draws anew for each picture is attacked all the same: the
    key may have been used wrongly. The pictures of a grid are taken to share
    a permutation if those pairs that half of them say are neighbours fit in
    the other half. Where they do not, each half is given what the other half
    says, so that no picture is solved by itself and all of them are at
    chance. The confidence is near 1 where the permutation is shared, and near
    0 where not; pictures that are alone in their grid have 0.
    """

    name = 'fixed-permutation'
    title = 'finds a permutation of patches that pictures share, from these alone'
    source = (
        'sums of log-likelihood ratios over pictures, on the jigsaw solver of Gallagher, CVPR 2012'
    )

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        if reason := super().why_not(evidence) or scattered(evidence):
            return reason
        if all(len(indices) < 2 for indices in by_grid(evidence).values()):
            return 'no two pictures have as many rows and columns of patches'
        return ''

    def prepare(self, evidence: Evidence) -> None:
        super().prepare(evidence)
        # Gradients alone, and with them what was learnt: which is best of one picture need not
        # be best in sums.
        costs: list[Cost] = [(None, (1.0, 0.0))]
        model, _ = choose_cost(evidence)
        if model is not None:
            costs += [(model, powers) for powers in POWERS]
        self.found: dict[int, tuple[Arrangement, Cost]] = {}
        for grid, indices in by_grid(evidence).items():
            if len(indices) < 2 or grid[0] * grid[1] < 3:
                continue
            few = indices[:JUDGED]
            cost = max(costs, key=lambda cost: self._halves((few[::2], few[1::2]), cost)[0])
            halves = indices[::2], indices[1::2]
            sure, sums = self._halves(halves, cost)
            if sure > SURE:
                shared = solve_sum(sums[0] + sums[1], grid)
                self.found.update(dict.fromkeys(indices, (shared, cost)))
            else:
                for half, other in zip(halves, sums[::-1], strict=True):
                    self.found.update(dict.fromkeys(half, (solve_sum(other, grid), cost)))

    def guess(self, index: int) -> Arrangement:
        layout = self.evidence.layouts[index]
        if index not in self.found:
            n = layout.num_patches
            cells = cells_of(np.arange(n), layout.grid)
            return Arrangement(0.0, cells, np.arange(n), np.zeros_like(cells), np.zeros((2, n, n)))
        found, cost = self.found[index]
        ratios, there = self._ratios(index, cost)
        confidence = seam_fit(ratios[np.ix_(np.arange(2), there, there)], found.cells[there])
        return Arrangement(confidence, found.cells, found.parts, found.spots, found.costs)

    def _halves(
        self, halves: tuple[list[int], list[int]], cost: Cost
    ) -> tuple[float, list[np.ndarray]]:
        """How surely two halves agree by a cost, and the sums of either."""
        sums = [_total(self._ratios(index, cost)[0] for index in half) for half in halves]
        return agreement(*sums), sums

    def _ratios(self, index: int, cost: Cost) -> tuple[np.ndarray, np.ndarray]:
        pieces, there = shown(self.evidence.pieces(index), self.evidence.cipher)
        if len(pieces) < 3:
            return log_ratios(np.zeros((2, 0, 0)), np.zeros_like(there)), there
        costs = pair_costs(pieces, *cost)
        return log_ratios(costs, there), there


def _total(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Their sum, with one of them in memory at a time."""
    return reduce(np.add, arrays)


def by_grid(evidence: Evidence) -> dict[Grid, list[int]]:
    """The pictures of each grid, in an order that does not depend on how they are handed over."""
    out: dict[Grid, list[int]] = {}
    contents = [np.ascontiguousarray(img).tobytes() for img in evidence.images]
    for index in sorted(range(len(contents)), key=contents.__getitem__):
        out.setdefault(evidence.layouts[index].grid, []).append(index)
    return out


def log_ratios(costs: np.ndarray, there: np.ndarray) -> np.ndarray:
    """How badly slots fit as neighbours, against the best of others.

    Args:
        costs (np.ndarray): Shape (2, m, m), of the patches that there are.
        there (np.ndarray): bool of shape (n, ), which of the slots they are in.

    Returns:
        np.ndarray: float32 of shape (2, n, n): the logarithm of the quotient,
        such that 0 is the median, and stands for what is not known. Infinite
        on the diagonals.
    """
    n, m = len(there), costs.shape[1]  # m is 0 or at least 3.
    out = np.zeros((2, n, n), np.float32)
    if m:
        others = ~np.eye(m, dtype=bool)
        ratios = np.zeros_like(costs)
        ratios[:, others] = np.log(costs[:, others]) - np.log(alternatives(costs)[:, others])
        ratios[:, others] -= np.median(ratios[:, others])
        out[np.ix_(np.arange(2), there, there)] = ratios
    out[:, np.arange(n), np.arange(n)] = np.inf
    return out


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """How surely the best pairs of either sum of ratios are good ones in the other.

    Both are of shape (2, n, n), good is below 0. The result is in standard
    deviations of what chance gives.
    """
    signs = np.concatenate(
        [
            -np.sign(values[pairs])
            for first, second in ((one, other), (other, one))
            for pairs, values in zip(buddies(first), second, strict=True)
        ]
    )
    # A pair that is told by both counts twice: at most half of them are independent.
    return float(signs.sum() / np.sqrt(max(2 * np.abs(signs).sum(), 1)))


def solve_sum(ratios: np.ndarray, grid: Grid) -> Arrangement:
    """Solve one puzzle by summed ratios, float of shape (2, n, n)."""
    logs = ratios.astype(np.float64)
    most = np.abs(logs[np.isfinite(logs)]).max()
    costs = np.exp(logs * min(1.0, LARGEST / max(most, 1e-9)))
    looped = loop_costs(costs)
    parts, spots = merge(looped, [grid])
    costs = cap(costs)
    return Arrangement(0.0, fill(costs, parts, spots, [grid]), parts, spots, costs)
