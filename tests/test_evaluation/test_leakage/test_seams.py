# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest
from hypothesis import assume, given
from test_puzzle_scores import cells_of, puzzles

from hime_mm.errors import HimeError
from hime_mm.evaluation.leakage import SeamEnergy, seam_energy


def energy_twin(costs, cells, empty):
    """The mean cost of the borders, pair by pair; None without any."""
    found = [
        float(costs[kind][i][j])
        for kind, step in enumerate(((0, 1), (1, 0)))
        for i in range(len(cells))
        for j in range(len(cells))
        if not (empty[i] or empty[j])
        and (cells[j][0] - cells[i][0], cells[j][1] - cells[i][1]) == step
    ]
    return sum(found) / len(found) if found else None


@given(puzzles())
def test_equals_loops(puzzle):
    truth, guess, rng = puzzle
    n = len(truth)
    costs, empty = rng.random((2, n, n)), rng.random(n) < 0.3
    assume(not empty.all())
    twins = [energy_twin(costs, cells.tolist(), empty) for cells in (guess, truth)]
    got = seam_energy(costs, guess, truth, empty)
    if None in twins:
        assert got is None
    else:
        assert (got.found, got.true) == pytest.approx(tuple(twins))
        assert got.ratio == pytest.approx(twins[0] / twins[1])


@given(puzzles())
def test_order_of_pieces_and_place_do_not_matter(puzzle):
    truth, guess, rng = puzzle
    costs, order = rng.random((2, len(truth), len(truth))), rng.permutation(len(truth))
    assume(len(truth) > 1)
    one = seam_energy(costs, guess, truth)
    other = seam_energy(costs[:, order][:, :, order], guess[order] - 3, truth[order])
    assert (one.found, one.true) == pytest.approx((other.found, other.true))


def test_what_follows():
    truth = cells_of(3, 3)
    guess = truth[::-1]
    costs = np.ones((2, 9, 9))
    assert seam_energy(costs, guess, truth).limited_by == 'compatibility'
    costs[0, 0, 1] = 0.5
    assert seam_energy(costs, guess, truth).limited_by == 'search'
    costs[0, 0, 1] = 3
    energy = seam_energy(costs, guess, truth)
    assert energy.limited_by == 'compatibility' and energy.ratio < 1


def test_rounding_does_not_decide():
    assert SeamEnergy(0.1 + 0.2, 0.3).limited_by == 'compatibility'


def test_rounding_does_not_decide_of_single_precision():
    # The same costs in another order: those of the picture upside down.
    truth, rng = cells_of(9, 14), np.random.default_rng(0)
    for _ in range(10):
        costs = rng.random((2, 126, 126)).astype(np.float32)
        costs += costs.swapaxes(1, 2)
        for found, true in ((truth, truth[::-1]), (truth[::-1], truth)):
            assert seam_energy(costs, found, true).limited_by == 'compatibility'


def test_an_attack_without_costs():
    assert seam_energy(np.zeros((2, 4, 4)), cells_of(2, 2)[::-1], cells_of(2, 2)) is None


def test_as_json():
    written = json.loads(json.dumps(SeamEnergy(3.0, 2.0).to_dict(), allow_nan=False))
    assert written == {'found': 3.0, 'true': 2.0, 'ratio': 1.5, 'limited_by': 'search'}
    assert SeamEnergy(3.0, 0.0).to_dict()['ratio'] is None


@pytest.mark.parametrize(
    'costs, guess, message',
    [
        (np.ones((2, 4, 5)), cells_of(2, 2), 'do not go with'),
        (np.ones((2, 4, 4)), cells_of(2, 3), 'do not go with'),
        (np.full((2, 4, 4), np.inf), cells_of(2, 2), 'not finite'),
        (np.full((2, 4, 4), np.nan), cells_of(2, 2), 'not finite'),
        (np.ones((2, 4, 4)), np.zeros((4, 2), int), 'in one cell of the guess'),
    ],
)
def test_what_makes_no_sense(costs, guess, message):
    with pytest.raises(HimeError, match=message):
        seam_energy(costs, guess, cells_of(2, 2))


def test_the_cost_of_a_piece_beside_itself_is_nothing():
    costs = np.ones((2, 4, 4))
    costs[:, range(4), range(4)] = np.inf
    assert seam_energy(costs, cells_of(2, 2), cells_of(2, 2)).ratio == 1
