# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The jigsaw solver: costs of pairs, loops, merging, filling."""

from weakref import WeakKeyDictionary

import numpy as np

from hime_mm.ciphers import Cipher
from hime_mm.ciphers.grid import cells_of
from hime_mm.ciphers.pixels import mid_grey

from ..base import (
    Arrangement,
    Evidence,
    LayoutAttack,
    Practice,
    cut,
    register_attack,
    scattered,
)
from .assembly import Grid, borders, cap, fill, grids_of, merge
from .compatibility import buddies, mgc
from .learned import StripModel
from .loops import loop_costs

#: Costs to choose from: columns of a border that the learnt cost sees, and the
#: powers of gradient compatibility and of the learnt likelihood ratio.
DEPTHS = (1, 2, 3)
POWERS = ((1, 0.1), (1, 0.3), (0.5, 0.2), (0, 0.2))
#: Neighbours that a cost is learnt from, at least.
LEAST = 100
#: Public pictures that the cost is chosen on, and how many rows and columns of patches of
#: each; it is learnt from the others.
TRIALS, CORNER = 20, 14
#: A learnt cost, if there is one, and the powers of gradient compatibility and of it.
Cost = tuple[StripModel | None, tuple[float, float]]
_CHOSEN: WeakKeyDictionary[Evidence, Cost] = WeakKeyDictionary()


@register_attack
class Jigsaw(LayoutAttack):
    """Puts shuffled patches back by how their borders fit.

    Gradient compatibility is what needs no learning. Of public pictures, which
    the adversary encrypts himself, a likelihood ratio of facing borders is
    learnt beside it; which of them is used, and how many columns of a border
    it sees, is what finds most neighbours on public pictures that were kept
    for that.

    Left out of the papers: unknown orientations (see :class:`OrientedJigsaw`),
    and the second half of Gallagher's trimming, since a part that is wrong in
    one place is mostly right in others.
    """

    name = 'jigsaw'
    title = 'puts shuffled patches back by how their borders fit'
    source = (
        'Gallagher, CVPR 2012 (gradient compatibility, constrained merging); Son, Hays and '
        'Cooper, ECCV 2014 (loops); a Gaussian scale mixture of facing borders'
    )

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        if reason := super().why_not(evidence) or scattered(evidence):
            return reason
        if any(step.choices(evidence.images[0].shape[2:]) for step in evidence.cipher.steps):
            return 'patches are turned, negated or recoloured: `oriented-jigsaw` is for these'
        return ''

    def prepare(self, evidence: Evidence) -> None:
        super().prepare(evidence)
        self.model, self.powers = choose_cost(evidence)

    def guess(self, index: int) -> Arrangement:
        layout = self.evidence.layouts[index]
        pieces, there = shown(self.evidence.pieces(index), self.evidence.cipher)
        return spread(solve(pieces, layout.grid, self.model, self.powers), there, layout.grid)


def choose_cost(evidence: Evidence) -> Cost:
    """What finds most neighbours on public pictures; learnt once of each evidence."""
    if evidence in _CHOSEN:
        return _CHOSEN[evidence]
    puzzles = [solved(one, evidence.cipher) for one in evidence.practice]
    # Half of them at most: a cost that is learnt from one picture is chosen on another.
    most = min(TRIALS, len(puzzles) // 2)
    trials, others = [_corner(*one) for one in puzzles[:most]], puzzles[most:]
    chosen: Cost = (None, (1.0, 0.0))
    best = _found(trials, *chosen)
    pairs = sum(len(one) for _, cells in others for one in borders(cells)[0])
    for depth in DEPTHS if trials and pairs >= LEAST else ():
        if depth > trials[0][0].shape[1]:
            break
        model = StripModel.fit(others, depth)
        for powers in POWERS:
            found = _found(trials, model, powers)
            if found > best:
                best, chosen = found, (model, powers)
    _CHOSEN[evidence] = chosen
    return chosen


def solve(
    pieces: np.ndarray,
    grid: Grid | None,
    model: StripModel | None = None,
    powers: tuple[float, float] = (1.0, 0.0),
) -> Arrangement:
    """Solve one puzzle.

    Args:
        pieces (np.ndarray): Shape (n, p, p, C).
        grid (tuple[int, int], optional): Rows and columns, of n cells or
            more; None tries all pairs of factors of n.
        model (StripModel, optional): A learnt cost. Defaults to None.
        powers (tuple[float, float]): Of gradient compatibility and of the
            learnt likelihood ratio in the cost. Defaults to (1, 0).

    Returns:
        Arrangement: Where they go.
    """
    grids = [grid] if grid else grids_of(len(pieces))
    if len(pieces) < 3:
        return as_they_are(len(pieces), grids[0])
    costs = pair_costs(pieces, model, powers)
    looped = loop_costs(costs)
    parts, spots = merge(looped, grids)
    costs = cap(costs)
    cells = fill(costs, parts, spots, grids)
    mutual = [pairs[a, b] for pairs, a, b in zip(buddies(looped), *borders(cells), strict=True)]
    return Arrangement(float(np.concatenate(mutual).mean()), cells, parts, spots, costs)


def shown(pieces: np.ndarray, cipher: Cipher) -> tuple[np.ndarray, np.ndarray]:
    """What there is to see of patches: without those left out, and without painted borders.

    Args:
        pieces (np.ndarray): Shape (n, p, p, C).
        cipher (Cipher): What they were encrypted by.

    Returns:
        tuple[np.ndarray, np.ndarray]: The other pieces, of shape (m, q, q, C),
        and which these are, bool of shape (n, ).
    """
    grey = pieces == mid_grey(pieces.dtype)
    there = np.ones(len(pieces), bool)
    if any(step.drops_patches for step in cipher.steps):
        there = ~grey.all(axis=(1, 2, 3))
    if any(step.paints_border for step in cipher.steps):
        inner = np.flatnonzero(~grey.all(axis=(0, 2, 3)))
        # All of a picture may be grey.
        low, high = (inner[0], inner[-1]) if inner.size else (0, pieces.shape[1] - 1)
        pieces = pieces[:, low : high + 1, low : high + 1]
    return pieces[there], there


def spread(found: Arrangement, there: np.ndarray, grid: Grid) -> Arrangement:
    """An arrangement of some patches as one of all: the others take the cells that are left."""
    if there.all():
        return found
    n, m = len(there), len(found.cells)
    free = np.ones(grid, bool)
    free[tuple(found.cells.T)] = False
    cells, spots = np.zeros((n, 2), np.int64), np.zeros((n, 2), np.int64)
    parts, costs = np.arange(m, m + n), np.full((2, n, n), found.costs.max(initial=0))
    cells[there], cells[~there] = found.cells, np.argwhere(free)
    spots[there], parts[there] = found.spots, found.parts
    costs[np.ix_(np.arange(2), there, there)] = found.costs
    turns = [_of_all(one, there) for one in (found.turns, found.part_turns)]
    return Arrangement(found.confidence, cells, parts, spots, costs, *turns)


def _of_all(turns: np.ndarray | None, there: np.ndarray) -> np.ndarray | None:
    """The changes of some patches, and none of the others."""
    if turns is None:
        return None
    out = np.zeros(len(there), np.int64)
    out[there] = turns
    return out


def as_they_are(n: int, grid: Grid) -> Arrangement:
    """Pieces that are too few to compare, in the order in which they came."""
    cells = cells_of(np.arange(n), grid)
    return Arrangement(0.0, cells, np.arange(n), np.zeros_like(cells), np.zeros((2, n, n)))


def pair_costs(
    pieces: np.ndarray, model: StripModel | None, powers: tuple[float, float]
) -> np.ndarray:
    """Gradient compatibility and a learnt likelihood ratio in one cost, of shape (2, n, n)."""
    gradients, ratio = powers
    if model is None or not ratio:
        return mgc(pieces)
    log = ratio * model.costs(pieces)
    log -= log.min()
    costs = np.exp(np.minimum(log, 60))
    if gradients:
        costs *= mgc(pieces) ** gradients
    costs[:, np.arange(len(pieces)), np.arange(len(pieces))] = np.inf
    return costs


def solved(practice: Practice, cipher: Cipher) -> tuple[np.ndarray, np.ndarray]:
    """The pieces of a puzzle, and the row and column of each."""
    pieces, there = shown(cut(practice.encrypted, practice.layout), cipher)
    cells = np.argwhere(np.ones(practice.layout.grid))
    if practice.layout.permutation is not None:
        cells = cells[practice.layout.permutation]
    return pieces, cells[there]


def _corner(pieces: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pieces of a corner of a picture, and the row and column of each."""
    kept = (cells < CORNER).all(axis=1)
    return pieces[kept], cells[kept]


def _found(trials: list, model: StripModel | None, powers: tuple[float, float]) -> float:
    """The share of neighbours that have each other as the best, on solved puzzles."""
    found = []
    for pieces, cells in trials:
        if len(pieces) < 3:
            continue
        best = buddies(loop_costs(pair_costs(pieces, model, powers)))
        found += [
            pairs[first, second] for pairs, first, second in zip(best, *borders(cells), strict=True)
        ]
    return float(np.concatenate(found).mean()) if sum(map(len, found)) else 0.0
