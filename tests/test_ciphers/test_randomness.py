# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import os
from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from hime_mm.ciphers import draw_permutation
from hime_mm.ciphers import randomness as module

SOURCES = {
    'os': lambda: None,
    'generator': lambda: np.random.default_rng(0),
    'legacy': lambda: np.random.RandomState(0),
    'global': lambda: np.random,
}


@pytest.mark.parametrize('source', SOURCES)
@pytest.mark.parametrize('num', [1, 2, 3, 17, 4150])
def test_is_a_permutation(source, num):
    perm = draw_permutation(num, SOURCES[source]())
    assert perm.dtype == np.int64
    assert sorted(perm.tolist()) == list(range(num))


def test_os_draws_differ():
    # Two of 50! draws are never equal.
    draws = [tuple(draw_permutation(50)) for _ in range(20)]
    assert len(set(draws)) == 20


def test_os_draws_ignore_the_seed():
    np.random.seed(0)
    first = draw_permutation(50)
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    assert (draw_permutation(50) != first).any()
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_seeded_draws_repeat():
    for make in (np.random.default_rng, np.random.RandomState):
        first = draw_permutation(50, make(3))
        np.testing.assert_array_equal(draw_permutation(50, make(3)), first)
        assert (draw_permutation(50, make(4)) != first).any()


@pytest.mark.parametrize('source', ['os', 'generator', 'legacy'])
def test_uniform(source):
    source = SOURCES[source]()
    expected = 300
    counts = Counter(
        tuple(draw_permutation(4, source)) for _ in range(24 * expected))
    chi_square = sum((counts[perm] - expected)**2 / expected
                     for perm in permutations(range(4)))
    # 23 degrees of freedom: exceeded by one uniform sample in 10^8.
    assert chi_square < 83


@pytest.mark.parametrize('tied', [[7, 7, 7, 7], [9, 2, 9, 1], [1, 2, 3, 1]])
def test_ties_are_redrawn(monkeypatch, tied):
    # A sort would put the equal draws in their first order, more often than
    # in the other one.
    draws = [tied, tied, [30, 10, 40, 20]]
    sizes = []

    def urandom(size):
        sizes.append(size)
        return np.array(draws[len(sizes) - 1], np.uint64).tobytes()

    monkeypatch.setattr(module.os, 'urandom', urandom)
    assert draw_permutation(4).tolist() == [1, 3, 0, 2]
    assert sizes == [32, 32, 32]


def test_all_bits_count(monkeypatch):
    # Draws above 2^63 are larger, not negative.
    draws = np.array([2**64 - 1, 5, 2**63, 2**63 - 1], np.uint64)
    monkeypatch.setattr(os, 'urandom', lambda size: draws.tobytes())
    assert draw_permutation(4).tolist() == [1, 3, 2, 0]
