# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from dataclasses import astuple

import numpy as np
import pytest
from leakage_twins import puzzle_twin

from hime_mm.evaluation.leakage import chance, random_arrangement


@pytest.mark.parametrize(
    'grid, direct, neighbor, largest',
    [
        ((7, 7), 0.0204, 0.0179, 0.037),
        ((14, 14), 0.0051, 0.0048, 0.0096),
        ((30, 40), 0.00083, 0.00081, 0.0015),
    ],
)
def test_known_figures(grid, direct, neighbor, largest):
    got = chance(grid)
    assert got.direct == pytest.approx(direct, rel=0.01)
    assert got.neighbor == pytest.approx(neighbor, rel=0.01)
    assert got.largest == pytest.approx(largest, rel=0.05)


@pytest.mark.parametrize('side', [2, 3, 7, 14])
def test_neighbors_of_a_square(side):
    assert chance((side, side)).neighbor == pytest.approx(1 / (side * (side + 1)))


@pytest.mark.parametrize('share', [1, 0.6])
@pytest.mark.parametrize('grid', [(3, 4), (1, 6), (5, 2)])
def test_what_random_guesses_get(grid, share):
    rng = np.random.default_rng(1)
    pieces = round(share * grid[0] * grid[1])
    truth = random_arrangement(grid, rng, pieces)
    got = np.array(
        [puzzle_twin(random_arrangement(grid, rng, pieces), truth) for _ in range(1500)], float
    )
    error = got.std(axis=0) / np.sqrt(len(got))
    # The last one is an estimate from 500 itself.
    far = np.abs(got.mean(axis=0) - astuple(chance(grid, truth))) / (error * [1, 1, 2])
    assert (far < 4).all()


def test_the_order_of_pieces_does_not_matter():
    assert chance((4, 5)) == chance((4, 5), random_arrangement((4, 5), np.random.default_rng(3)))


@pytest.mark.parametrize('grid, pieces', [((1, 1), None), ((3, 3), 1)])
def test_one_piece(grid, pieces):
    truth = random_arrangement(grid, np.random.default_rng(0), pieces)
    scores = chance(grid, truth)
    assert scores.direct == 1 / (grid[0] * grid[1])
    assert scores.neighbor is None and scores.largest == 1


def test_random_arrangement():
    cells = random_arrangement((3, 5), np.random.default_rng(0))
    assert sorted(map(tuple, cells.tolist())) == [(y, x) for y in range(3) for x in range(5)]
    few = random_arrangement((3, 5), np.random.default_rng(0), 4)
    assert (few == cells[:4]).all()
