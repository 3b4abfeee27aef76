# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Costs of pairs beside loops that follow the papers."""

import numpy as np
import pytest
from attack_parts import photo
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_t

from hime_mm.attacks.jigsaw.compatibility import FLOOR, alternatives, buddies, mgc
from hime_mm.attacks.jigsaw.learned import FREEDOM, StripModel, strips
from hime_mm.attacks.jigsaw.loops import EPSILON, LIMIT, POWER, loop_costs
from hime_mm.ciphers import split_patches


def slow_mgc(left, right):
    """Equations 1 to 5 of Gallagher, for one pair side by side."""
    channels = left.shape[2]
    eye = np.eye(channels)
    dummies = [np.zeros(channels), np.ones(channels), -np.ones(channels), *eye, *-eye]

    def one_side(border, inner, facing):
        gradients = border - inner
        mean = gradients.mean(axis=0)
        cov = np.cov(np.concatenate([gradients, dummies]).T, ddof=1).reshape(channels, channels)
        total = 0.0
        for p in range(len(border)):
            rest = facing[p] - border[p] - mean
            total += rest @ np.linalg.solve(cov, rest)
        return total

    last = min(1, left.shape[1] - 1)
    return (
        one_side(left[:, -1], left[:, -1 - last], right[:, 0])
        + one_side(right[:, 0], right[:, last], left[:, -1])
        + FLOOR
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from((1, 3)))
def test_mgc_is_that_of_the_paper(seed, side, channels):
    pieces = (
        np.random.default_rng(seed).integers(0, 256, (5, side, side, channels)).astype(np.uint8)
    )
    costs, wide = mgc(pieces), pieces.astype(float)
    for i in range(5):
        for j in range(5):
            if i == j:
                assert np.isinf(costs[:, i, j]).all()
                continue
            right = slow_mgc(wide[i], wide[j])
            below = slow_mgc(wide[i].swapaxes(0, 1), wide[j].swapaxes(0, 1))
            np.testing.assert_allclose(costs[:, i, j], [right, below], rtol=1e-6, atol=1e-5)


def test_flat_pieces_do_not_come_first_for_nothing():
    pieces = np.full((4, 8, 8, 3), 77, np.uint8)
    assert (mgc(pieces)[0][~np.eye(4, dtype=bool)] == FLOOR).all()


def costs_of(seed, n):
    costs = np.random.default_rng(seed).random((2, n, n)) + 0.01
    costs[:, range(n), range(n)] = np.inf
    return costs


@given(st.integers(0, 2**32 - 1), st.integers(3, 8))
def test_alternatives_and_buddies(seed, n):
    costs = costs_of(seed, n)
    least, mutual = alternatives(costs), buddies(costs)
    for d in range(2):
        for i in range(n):
            for j in range(n):
                row = [costs[d, i, k] for k in range(n) if k != j]
                column = [costs[d, k, j] for k in range(n) if k != i]
                assert least[d, i, j] == min(row + column)
                best = i != j and costs[d, i, j] < min(row + column)
                assert mutual[d, i, j] == best


def slow_loops(costs, rounds):
    """The fixed point, with all pairs and Python's loops."""
    n = costs.shape[1]
    least = alternatives(costs)

    def balanced(matrix):
        rows, cols = matrix.sum(axis=1), matrix.sum(axis=0)
        out = np.zeros_like(matrix)
        for i in range(n):
            for j in range(n):
                if matrix[i, j]:
                    out[i, j] = matrix[i, j] / (rows[i] * cols[j]) ** 0.5
        return out

    first = []
    for d in range(2):
        weights = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                if i != j:
                    weights[i, j] = min(least[d, i, j] / costs[d, i, j], np.exp(LIMIT)) ** POWER
        first.append(balanced(weights))
    right, down = first
    for _ in range(rounds):
        around_right, around_down = np.zeros((n, n)), np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                for a in range(n):
                    for b in range(n):
                        around_right[i, j] += down[i, a] * right[a, b] * down[j, b]
                        around_right[i, j] += down[a, i] * right[a, b] * down[b, j]
                        around_down[i, j] += right[i, a] * down[a, b] * right[j, b]
                        around_down[i, j] += right[a, i] * down[a, b] * right[b, j]
        right = balanced(first[0] * (EPSILON + around_right))
        down = balanced(first[1] * (EPSILON + around_down))
    with np.errstate(divide='ignore'):
        return -np.log(np.stack([right, down]))


@pytest.mark.parametrize('seed', range(3))
def test_loops_with_all_partners_are_the_dense_ones(seed):
    costs = costs_of(seed, 6)
    np.testing.assert_allclose(
        loop_costs(costs, partners=6, share=0, rounds=3), slow_loops(costs, 3), rtol=1e-5
    )


def test_few_partners_leave_the_others_out():
    found = loop_costs(costs_of(0, 20), partners=2)
    kept = np.isfinite(found)
    assert kept.any(axis=2).all()
    assert kept.any(axis=1).all()
    assert kept.sum() <= 2 * 20 * 4


@pytest.mark.parametrize('depth', [1, 2])
def test_learnt_cost_is_a_likelihood_ratio(depth):
    pieces = split_patches(photo('coffee', 64, 96), 8)
    cells = np.stack(np.divmod(np.arange(len(pieces)), 12), axis=1)
    model = StripModel.fit([(pieces, cells)], depth)
    costs = model.costs(pieces[:6])
    # Both strips in the coordinates that the model works in.
    (front, behind), _ = strips(pieces[:6], depth)
    u, v = ((one - model.mean) @ model.axes for one in (front, behind))
    dim = u.shape[1]
    rho = np.diag(model.correlations)
    shape = np.block([[np.eye(dim), rho], [rho, np.eye(dim)]])
    alone = [multivariate_t(np.zeros(dim), np.eye(dim), FREEDOM).logpdf(one) for one in (u, v)]
    slow = np.array(
        [
            [
                alone[0][i]
                + alone[1][j]
                - multivariate_t(np.zeros(2 * dim), shape, FREEDOM).logpdf(
                    np.concatenate([u[i], v[j]])
                )
                for j in range(6)
            ]
            for i in range(6)
        ]
    )
    # Up to what is the same for all pairs.
    difference = costs[0] - slow
    np.testing.assert_allclose(difference, np.full((6, 6), difference[0, 0]), rtol=1e-6)


def test_learnt_strips_are_whitened():
    pieces = split_patches(photo('astronaut', 128, 128), 8)
    cells = np.stack(np.divmod(np.arange(len(pieces)), 16), axis=1)
    model = StripModel.fit([(pieces, cells)], 1)
    (front, behind), _ = strips(pieces, 1)
    slots = np.arange(len(pieces)).reshape(16, 16)
    u = (front[slots[:, :-1].ravel()] - model.mean) @ model.axes
    v = (behind[slots[:, 1:].ravel()] - model.mean) @ model.axes
    found = [np.corrcoef(u[:, k], v[:, k])[0, 1] for k in range(u.shape[1])]
    assert np.abs(np.array(found) - model.correlations).mean() < 0.15
    assert model.correlations.max() > 0.9
