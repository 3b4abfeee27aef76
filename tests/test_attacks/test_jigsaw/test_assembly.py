# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Merging and filling, on puzzles whose costs are made."""

import numpy as np
import pytest
from attack_parts import neighbors_found
from hypothesis import given
from hypothesis import strategies as st

from hime_mm.attacks.jigsaw.assembly import borders, cap, energy, fill, grids_of, merge

grids = st.tuples(st.integers(1, 6), st.integers(1, 6)).filter(lambda grid: grid[0] * grid[1] > 2)


def made_costs(grid, seed, noise):
    """Low for true neighbours; and the true cells of the pieces, in a random order."""
    rng = np.random.default_rng(seed)
    n = grid[0] * grid[1]
    cells = np.stack(np.divmod(rng.permutation(n), grid[1]), axis=1)
    costs = 1 + rng.random((2, n, n))
    for d, step in enumerate(((0, 1), (1, 0))):
        for i in range(n):
            for j in range(n):
                if tuple(cells[j] - cells[i]) == step:
                    costs[d, i, j] = 0.1 + noise * rng.random()
    costs[:, range(n), range(n)] = np.inf
    return costs, cells


@given(grids, st.integers(0, 2**32 - 1))
def test_clear_costs_give_the_picture(grid, seed):
    costs, cells = made_costs(grid, seed, 0.1)
    parts, spots = merge(costs, [grid])
    assert neighbors_found(spots, cells, parts) == 1
    assert (fill(cap(costs), parts, spots, [grid]) == cells).all()


@given(grids, st.integers(0, 2**32 - 1))
def test_parts_hold_together_and_fit(grid, seed):
    costs, _ = made_costs(grid, seed, 3)
    parts, spots = merge(costs, [grid])
    for part in np.unique(parts):
        here = spots[parts == part]
        assert len(np.unique(here, axis=0)) == len(here)
        assert (np.ptp(here, axis=0) < grid).all()
    cells = fill(cap(costs), parts, spots, [grid])
    assert sorted(map(tuple, cells.tolist())) == [
        (y, x) for y in range(grid[0]) for x in range(grid[1])
    ]


@given(st.sampled_from([(2, 6), (3, 4), (4, 4), (5, 3)]), st.integers(0, 2**32 - 1))
def test_unknown_grid_is_found(grid, seed):
    costs, cells = made_costs(grid, seed, 0.1)
    every = grids_of(len(cells))
    assert grid in every
    parts, spots = merge(costs, every)
    assert (fill(cap(costs), parts, spots, every) == cells).all()


def test_random_costs_get_chance():
    found = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        costs = rng.random((2, 36, 36)) + 0.1
        costs[:, range(36), range(36)] = np.inf
        cells = np.stack(np.divmod(rng.permutation(36), 6), axis=1)
        parts, spots = merge(costs, [(6, 6)])
        found.append(neighbors_found(fill(cap(costs), parts, spots, [(6, 6)]), cells))
    # By chance it is 1 / 42.
    assert np.mean(found) == pytest.approx(1 / 42, abs=0.012)


def test_more_cells_than_pieces():
    costs, cells = made_costs((4, 4), 1, 0.1)
    some = np.flatnonzero(cells[:, 0] < 3)
    parts, spots = merge(costs[:, some][:, :, some], [(4, 4)])
    found = fill(cap(costs[:, some][:, :, some]), parts, spots, [(4, 4)])
    assert neighbors_found(found, cells[some]) == 1


@given(grids, st.integers(0, 2**32 - 1))
def test_of_the_forms_of_a_piece_the_one_that_fits_is_placed(grid, seed):
    """Each piece comes in two forms, of which the second fits nowhere."""
    costs, cells = made_costs(grid, seed, 0.1)
    n = len(cells)
    both = 1 + np.random.default_rng(seed).random((2, 2 * n, 2 * n))
    both[:, :n, :n] = costs
    both[:, range(2 * n), range(2 * n)] = np.inf
    forms_of = np.tile(np.arange(n), 2)
    # One piece is where it belongs, the others have to be found.
    start = int(np.flatnonzero((cells == 0).all(axis=1))[0])
    part = np.arange(1, 2 * n + 1)
    part[[start, start + n]] = 0, 2 * n + 1
    found = fill(cap(both), part, np.zeros((2 * n, 2), int), [grid], forms_of)
    assert (found[:n] == cells).all()
    assert (found[n:] == -1).all()


@given(grids, st.integers(0, 2**32 - 1))
def test_energy_is_the_mean_over_borders(grid, seed):
    costs, cells = made_costs(grid, seed, 3)
    rows = []
    for i in range(len(cells)):
        for j in range(len(cells)):
            if tuple(cells[j] - cells[i]) == (0, 1):
                rows.append(costs[0, i, j])
            if tuple(cells[j] - cells[i]) == (1, 0):
                rows.append(costs[1, i, j])
    assert energy(costs, cells) == pytest.approx(np.mean(rows))
    first, second = borders(cells)
    assert len(np.concatenate(first)) == len(np.concatenate(second)) == len(rows)
