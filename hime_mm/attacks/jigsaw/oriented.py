# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The jigsaw solver for patches that were turned, negated or recoloured, each in its own way."""

from collections.abc import Iterable, Iterator

import numpy as np

from hime_mm.ciphers import join_patches

from ..base import Arrangement, Attack, Evidence, cut, register_attack, scattered, too_large
from .assembly import Grid, cap, fill
from .changes import Changes
from .compatibility import beside, mgc
from .looks import Looks
from .solver import shown, solved, spread

#: Candidates that are kept for each side of each piece.
CANDIDATES = 10
#: Pieces in all their changes that are compared when gaps are filled up, at most.
MOST_FORMS = 4000
#: Right, down, left, up, as (row, column).
SIDES = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])


@register_attack
class OrientedJigsaw(Attack):
    """Puts patches back that were turned, negated or recoloured as well.

    Each pair is tried in each relative change, and parts carry the change of
    each of their pieces. Of the changes of the whole, which borders cannot
    tell apart, the one is taken that looks most like public pictures.
    Left out of the papers: no loops are looked for, and what remains once parts
    are merged is filled up only where costs of all its changes fit into the
    memory. Places that are known are not used.
    """

    name = 'oriented-jigsaw'
    title = 'puts patches back that were turned, negated or recoloured, too'
    source = (
        'Gallagher, CVPR 2012 (type 2 puzzles); Chuman, Kurihara and Kiya, IEICE Trans. Inf. & '
        'Syst. 2018 (extended jigsaw puzzle solver)'
    )
    guesses = Arrangement

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        if not any(step.choices(evidence.images[0].shape[2:]) for step in evidence.cipher.steps):
            return 'no patch is changed in one of few ways of its own'
        return scattered(evidence) or too_large(evidence)

    def prepare(self, evidence: Evidence) -> None:
        super().prepare(evidence)
        side = evidence.layouts[0].patch_size
        channels = (*evidence.images[0].shape[2:], 1)[0]
        self.changes = Changes(evidence.cipher, side, channels)
        self.looks = Looks.fit(_unchanged(evidence, self.changes))

    def guess(self, index: int) -> Arrangement:
        grid = self.evidence.layouts[index].grid
        pieces, there = shown(self.evidence.pieces(index), self.evidence.cipher)
        return spread(solve_changed(pieces, grid, self.changes, self.looks), there, grid)

    def undo(self, index: int, guess: Arrangement) -> np.ndarray:
        """The picture with its patches where, and as, the guess has them."""
        pieces, grid = self.evidence.pieces(index), self.evidence.layouts[index].grid
        assert guess.turns is not None
        out = np.empty_like(pieces)
        slots = guess.cells[:, 0] * grid[1] + guess.cells[:, 1]
        out[slots] = self.changes.apply_each(pieces, guess.turns)
        picture = join_patches(out, grid)
        return picture if self.evidence.images[index].ndim == 3 else picture[..., 0]


def _unchanged(
    evidence: Evidence, changes: Changes
) -> Iterator[tuple[np.ndarray, np.ndarray, Grid]]:
    """Pieces, cells and grid of public pictures, as all steps but the changes make them."""
    rest = evidence.left(evidence.images, *changes.steps)
    for one in (rest or evidence).practice:
        grid = one.layout.grid
        if rest:
            yield *solved(one, rest.cipher), grid
        else:
            yield cut(one.plain, one.layout), np.argwhere(np.ones(grid)), grid


def solve_changed(pieces: np.ndarray, grid: Grid, changes: Changes, looks: Looks) -> Arrangement:
    """Solve one puzzle whose pieces may each have been changed.

    Args:
        pieces (np.ndarray): Shape (n, p, p, C).
        grid (tuple[int, int]): Rows and columns, which may have been swapped.
        changes (Changes): All changes.
        looks (Looks): What pictures look like.

    Returns:
        Arrangement: With the changes that bring pieces back.
    """
    n = len(pieces)
    parts, spots, turns = _merge(_candidates(pieces, changes), n, grid, changes)
    largest = parts == np.bincount(parts).argmax()
    wholes = []
    for change in range(len(changes)):
        moved = spots @ changes.turns[change].T
        moved -= moved[largest].min(axis=0)
        # Where sides were swapped not all of them fit.
        if (moved[largest].max(axis=0) < grid).all():
            turned = changes.products[change, turns]
            seen = changes.apply_each(pieces[largest], turned[largest])
            wholes.append((looks.likelihood(seen, moved[largest], grid), change, moved, turned))
    _, _, moved, turns = max(wholes, key=lambda whole: whole[:2])
    cells, filled = _filled(pieces, largest, moved, turns, grid, changes)
    none = np.zeros((2, n, n), np.float32)
    return Arrangement(float(largest.mean()), cells, parts, moved, none, filled, turns)


def _filled(
    pieces: np.ndarray,
    largest: np.ndarray,
    spots: np.ndarray,
    turns: np.ndarray,
    grid: Grid,
    changes: Changes,
) -> tuple[np.ndarray, np.ndarray]:
    """Cells and changes of all pieces around the largest part, the others as they fit best."""
    cells, turns = spots.copy(), turns.copy()
    others = np.flatnonzero(~largest)
    k, placed = len(changes), int(largest.sum())
    if not len(others):
        return cells, turns
    if placed + len(others) * k > MOST_FORMS:
        free = np.ones(grid, bool)
        free[tuple(spots[largest].T)] = False
        cells[~largest] = np.argwhere(free)[: len(others)]
        return cells, turns
    forms = np.concatenate(
        [changes.apply_each(pieces[largest], turns[largest])]
        + [changes.apply(pieces[others], change) for change in range(k)]
    )
    forms_of = np.concatenate([np.flatnonzero(largest), np.tile(others, k)])
    part = np.concatenate([np.zeros(placed, int), np.arange(1, 1 + len(others) * k)])
    where = np.concatenate([spots[largest], np.zeros((len(others) * k, 2), int)])
    found = fill(cap(mgc(forms)), part, where, [grid], forms_of)
    taken = np.flatnonzero(found[:, 0] >= 0)
    cells[forms_of[taken]] = found[taken]
    new = taken[taken >= placed]
    turns[forms_of[new]] = (new - placed) // len(others)
    return cells, turns


def _candidates(pieces: np.ndarray, changes: Changes) -> Iterator[tuple[int, int, int, int]]:
    """Piece, side of it, other piece and its change, the surest first."""
    n = len(pieces)
    plain = pieces.astype(np.float64)
    best: np.ndarray = np.full((4, n, 0), np.inf)
    code: np.ndarray = np.zeros((4, n, 0), np.int64)
    for number in range(len(changes)):
        other = changes.apply(pieces, number).astype(np.float64)
        costs = np.stack(
            [
                beside(plain, other),
                beside(plain.swapaxes(1, 2), other.swapaxes(1, 2)),
                beside(other, plain).T,
                beside(other.swapaxes(1, 2), plain.swapaxes(1, 2)).T,
            ]
        )
        costs[:, np.arange(n), np.arange(n)] = np.inf
        best = np.concatenate([best, costs], axis=2)
        here = np.broadcast_to(np.arange(n) * len(changes) + number, costs.shape)
        code = np.concatenate([code, here], axis=2)
        kept = np.argsort(best, axis=2)[..., :CANDIDATES]
        best, code = (np.take_along_axis(one, kept, axis=2) for one in (best, code))
    side, piece, _ = (axis.ravel() for axis in np.indices(best.shape))
    second, change = np.divmod(code.ravel(), len(changes))
    cost = best.ravel()
    # The same pair as the other piece sees it.
    back = -np.einsum('kba,kb->ka', changes.turns[change], SIDES[side])
    facing = (back[:, None] == SIDES).all(axis=2).argmax(axis=1)
    rivals = [_rival(best[side, piece], cost), _rival(best[facing, second], cost)]
    with np.errstate(invalid='ignore'):
        margin = np.log(cost) - np.log(np.minimum(*rivals))
    order = np.argsort(margin, kind='stable')
    order = order[np.isfinite(cost[order])]
    return zip(*(one[order].tolist() for one in (piece, side, second, change)), strict=True)


def _rival(rows: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """The least cost of a row but the one itself, up to rounding."""
    return np.where(rows[:, 0] < cost * (1 - 1e-9), rows[:, 0], rows[:, 1])


def _merge(
    candidates: Iterable[tuple[int, int, int, int]], n: int, grid: Grid, changes: Changes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join pairs into parts; the part, spot and change of each piece."""
    part, turn = list(range(n)), [0] * n
    members = [[i] for i in range(n)]
    spots = [np.zeros(2, np.int64) for _ in range(n)]
    shapes = {grid, grid[::-1]} if changes.turns[:, 0, 1].any() else {grid}
    for i, side, j, change in candidates:
        a, b = part[i], part[j]
        if a == b:
            continue
        # What brings the second part beside the first.
        t = changes.products[changes.products[turn[i], change], changes.inverses[turn[j]]]
        there, here = spots[i] + changes.turns[turn[i]] @ SIDES[side], spots[j]
        if len(members[a]) < len(members[b]):
            a, b, t, there, here = b, a, changes.inverses[t], here, there
        moved = (np.array([spots[k] for k in members[b]]) - here) @ changes.turns[t].T + there
        whole = np.concatenate([[spots[k] for k in members[a]], moved])
        if len(np.unique(whole, axis=0)) < len(whole):
            continue
        height, width = np.ptp(whole, axis=0)
        if not any(height < rows and width < cols for rows, cols in shapes):
            continue
        for k, spot in zip(members[b], moved, strict=True):
            part[k], spots[k], turn[k] = a, spot, int(changes.products[t, turn[k]])
        members[a] += members[b]
        members[b] = []
    return np.array(part), np.array(spots), np.array(turn)
