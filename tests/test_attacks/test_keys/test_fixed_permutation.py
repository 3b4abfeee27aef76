# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from dataclasses import replace

import numpy as np
import pytest
from keys_parts import owner, photos, read

from hime_mm.attacks.keys import FixedPermutation
from hime_mm.attacks.keys.fixed_permutation import agreement, log_ratios
from hime_mm.evaluation.leakage import chance, score_puzzle


def attack(evidence):
    assert not FixedPermutation.why_not(evidence)
    one = FixedPermutation()
    one.prepare(evidence)
    return one


def scores(one, cells):
    guesses = [one.guess(i) for i in range(len(cells))]
    found = [score_puzzle(g.cells, c).neighbor for g, c in zip(guesses, cells, strict=True)]
    return found, [guess.confidence for guess in guesses]


@pytest.mark.parametrize(
    'steps',
    ['shuffle', 'erode1+shuffle', 'erode1:filled+shuffle', 'mix2+shuffle', 'drop20+shuffle'],
)
def test_pictures_of_one_permutation_are_solved(steps):
    evidence, cells, _ = owner(steps).evidence(photos(8, (96, 128)))
    found, confidences = scores(attack(evidence), cells)
    assert min(found) == 1
    assert np.mean(confidences) > 0.5


@pytest.mark.parametrize('count', [2, 5])
@pytest.mark.parametrize('steps', ['shuffle', 'erode1+shuffle', 'mix2+shuffle', 'drop20+shuffle'])
def test_pictures_of_their_own_permutations_are_at_chance(steps, count):
    expected = chance((6, 8)).neighbor
    evidence, cells, _ = owner(steps, shared=False).evidence(photos(count, (96, 128)))
    found, confidences = scores(attack(evidence), cells)
    assert np.mean(found) < expected + 4 * np.sqrt(expected / (82 * count))
    assert abs(np.mean(confidences)) < 0.2


def test_confidence_tells_whether_a_permutation_is_shared():
    plain = photos(6, (96, 128))
    sure, unsure = (
        scores(attack(evidence), cells)[1]
        for evidence, cells, _ in (
            owner('erode1+shuffle', shared=shared).evidence(plain) for shared in (True, False)
        )
    )
    assert min(sure) > max(unsure)


def test_grids_are_solved_apart_and_one_alone_is_left_as_it_is():
    plain = photos(8, (96, 128)) + photos(8, (128, 96)) + photos(1, (64, 64))
    order = np.random.default_rng(0).permutation(len(plain))
    evidence, cells, _ = owner('shuffle').evidence([plain[i] for i in order])
    one = attack(evidence)
    found, confidences = scores(one, cells)
    alone = int(np.flatnonzero(order == 16)[0])
    assert np.delete(found, alone).min() == 1
    assert confidences[alone] == 0
    assert (one.guess(alone).cells == np.stack(np.divmod(np.arange(16), 4), axis=1)).all()


@pytest.mark.parametrize('shared', [True, False])
def test_pictures_in_any_order_give_the_same(shared):
    evidence, _, _ = owner('erode2+shuffle', shared=shared).evidence(photos(5, (96, 128)))
    order = [3, 0, 4, 2, 1]
    other = replace(
        evidence,
        images=[evidence.images[i] for i in order],
        layouts=[evidence.layouts[i] for i in order],
    )
    first, second = attack(evidence), attack(other)
    for place, index in enumerate(order):
        np.testing.assert_array_equal(first.guess(index).cells, second.guess(place).cells)
        assert first.guess(index).confidence == second.guess(place).confidence


def test_the_permutation_itself_changes_nothing():
    """Other draws hand the same pieces over in another order."""
    plain = photos(6, (96, 128))
    found = []
    for seed in range(3):
        evidence, cells, _ = owner('erode2+shuffle', seed=seed).evidence(plain)
        found.append(scores(attack(evidence), cells)[0])
    assert found[0] == found[1] == found[2]


def test_undone_the_picture_is_back():
    plain = photos(8, (96, 128))
    evidence, _, _ = owner('shuffle').evidence(plain)
    one = attack(evidence)
    for index in range(2):
        np.testing.assert_array_equal(one.undo(index, one.guess(index)), plain[index])


def test_ratios_are_those_of_a_loop_less_their_median():
    rng = np.random.default_rng(3)
    costs = rng.uniform(1, 2, (2, 4, 4))
    costs[:, range(4), range(4)] = np.inf
    there = np.array([True, False, True, True, True])
    slots = np.flatnonzero(there)
    expected = np.zeros((2, 5, 5))
    for d in range(2):
        for i in range(4):
            for j in range(4):
                rest = [costs[d, i, k] for k in range(4) if k != j]
                rest += [costs[d, k, j] for k in range(4) if k != i]
                expected[d, slots[i], slots[j]] = np.log(costs[d, i, j] / min(rest))
    known = ~np.eye(4, dtype=bool)
    block = np.ix_((0, 1), slots, slots)
    expected[block] -= np.median(expected[block][:, known])
    expected[:, range(5), range(5)] = np.inf
    np.testing.assert_allclose(log_ratios(costs, there), expected, rtol=1e-5, atol=1e-6)


def test_agreement_is_one_of_standard_deviations():
    rng = np.random.default_rng(4)
    values = []
    for _ in range(40):
        one, other = rng.normal(size=(2, 2, 60, 60))
        for sums in (one, other):
            sums[:, range(60), range(60)] = np.inf
        values.append(agreement(one, other))
        assert agreement(one, one) > 5
    assert abs(np.mean(values)) < 0.5
    assert 0.4 < np.std(values) < 1.3


@pytest.mark.parametrize(
    ('steps', 'sizes', 'words'),
    [
        ('mix2', [(32, 32)] * 2, 'no patch is moved'),
        ('shuffle+permute_pixels', [(32, 32)] * 2, 'put back first'),
        ('shuffle', [(32, 32), (32, 48)], 'no two pictures'),
    ],
)
def test_it_says_why_not(steps, sizes, words):
    plain = [photos(1, size)[0] for size in sizes]
    assert words in FixedPermutation.why_not(owner(steps).evidence(plain)[0])


@pytest.mark.parametrize('size', [(16, 16), (16, 32), (32, 32), (16, 96)])
@pytest.mark.parametrize('value', [None, 128])
def test_small_and_plain_pictures_are_no_error(size, value):
    plain = photos(2, size) if value is None else [np.full((*size, 3), value, np.uint8)] * 2
    evidence, _, _ = owner('drop25+shuffle').evidence(plain)
    for index in range(2):
        cells = attack(evidence).guess(index).cells
        assert len({tuple(cell) for cell in cells}) == size[0] * size[1] // 256


@pytest.mark.slow
@pytest.mark.parametrize('steps', ['erode2+shuffle', 'mix2+shuffle'])
def test_eight_coco_pictures_give_all_neighbours(coco_tiny, steps):
    plain = read(coco_tiny / 'val2017', 8)
    evidence, cells, _ = owner(steps).evidence(plain)
    assert np.mean(scores(attack(evidence), cells)[0]) == 1
    evidence, cells, _ = owner(steps, shared=False).evidence(plain)
    assert np.mean(scores(attack(evidence), cells)[0]) < 0.02


@pytest.mark.trial
def test_the_best_of_the_costs_is_used(coco_tiny, data_root):
    """A learnt cost sees more in patches of 4x4 pixels, and less in centred ones."""
    plain, public = read(coco_tiny / 'val2017', 8), read(data_root / 'photos_256', 20)
    for steps, least in (('mix4+shuffle', 0.9), ('center+erode2+shuffle', 0.4)):
        evidence, cells, _ = owner(steps).evidence(plain, public=public)
        with_public = np.mean(scores(attack(evidence), cells)[0])
        without = np.mean(scores(attack(replace(evidence, public=())), cells)[0])
        assert with_public > least
        assert with_public >= without
