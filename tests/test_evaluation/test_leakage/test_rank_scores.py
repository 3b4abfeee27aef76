# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from dataclasses import astuple
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hime_mm.errors import HimeError
from hime_mm.evaluation.leakage import relative_accuracy, score_ranking


def rank_twin(scores, true):
    """Means over all orders in which candidates of equal scores may come."""
    ranks = []
    for order in permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in zip(order, order[1:], strict=False)):
            ranks.append(order.index(true) + 1)
    return tuple(
        sum(values) / len(ranks)
        for values in (ranks, [int(r <= 1) for r in ranks], [int(r <= 5) for r in ranks])
    )


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.data())
def test_equals_loops(scores, data):
    true = data.draw(st.integers(0, len(scores) - 1))
    got = score_ranking(np.array(scores), true)
    assert astuple(got) == pytest.approx(rank_twin(scores, true))


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=20), st.randoms())
def test_order_of_candidates_does_not_matter(scores, random):
    order = list(range(len(scores)))
    random.shuffle(order)
    one = score_ranking(np.array(scores), order[0])
    assert one == score_ranking(np.array(scores)[order], 0)


@pytest.mark.parametrize('m', [1, 4, 5, 80])
def test_equal_scores_get_chance(m):
    got = score_ranking(np.zeros(m), m - 1)
    assert astuple(got) == pytest.approx(((m + 1) / 2, 1 / m, min(5 / m, 1)))


def test_only_the_order_of_scores_counts():
    scores = np.array([0.2, -np.inf, np.inf, 0.7, 0.1])
    assert [score_ranking(scores, i).rank for i in range(5)] == [3, 5, 1, 2, 4]
    assert score_ranking(scores, 2).rank_1 == 1 and score_ranking(scores, 3).rank_1 == 0


@pytest.mark.parametrize(
    'scores, true', [([], 0), ([1, 2], 2), ([1, 2], -1), ([[1, 2]], 0), ([1, np.nan], 0)]
)
def test_what_makes_no_sense(scores, true):
    with pytest.raises(HimeError, match='candidate'):
        score_ranking(np.array(scores), true)


def test_relative_accuracy():
    assert relative_accuracy(0.5, 0.9, 0.1) == pytest.approx(0.5)
    assert relative_accuracy(0.9, 0.9, 0.1) == 1 and relative_accuracy(0.1, 0.9, 0.1) == 0
    assert relative_accuracy(0.05, 0.9, 0.1) < 0
    assert relative_accuracy(0.5, 0.1, 0.1) is None and relative_accuracy(0.5, 0.05, 0.1) is None
