# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from keys_parts import owner, photos

from hime_mm.attacks.keys import ChosenPlaintext, ChosenPlaintextPixels
from hime_mm.attacks.keys.chosen_plaintext import LIMIT, design
from hime_mm.ciphers import Cipher
from hime_mm.evaluation.leakage import score_puzzle

SIZE = (96, 128)


class Oracle:
    """Counts what it is asked."""

    def __init__(self, person):
        self.person, self.asked = person, []

    def __call__(self, img):
        self.asked.append(img.shape)
        return self.person(img)


def attack(cls, evidence):
    assert not cls.why_not(evidence)
    one = cls()
    one.prepare(evidence)
    return one


@pytest.mark.parametrize('grey', [False, True])
@pytest.mark.parametrize(
    'steps',
    [
        'shuffle',
        'mix4+shuffle',
        'mix16+shuffle',
        'center+erode4+shuffle',
        'mix2:tiled+center+shuffle',
        'erode2:filled+shuffle',
        'noise50+shuffle',
        'orient+negate+shuffle',
        'mix2+shuffle+permute_pixels+center',
    ],
)
def test_one_picture_that_was_made_for_it_is_enough(steps, grey):
    oracle = Oracle(owner(steps))
    evidence, cells, _ = oracle.person.evidence(photos(2, SIZE, grey), oracle=oracle)
    one = attack(ChosenPlaintext, evidence)
    assert all((one.guess(i).cells == cells[i]).all() for i in range(2))
    assert oracle.asked == [photos(1, SIZE, grey)[0].shape]
    assert one.queries == 1


def test_more_are_asked_for_where_one_cannot_tell_all_patches_apart():
    """300 patches of one grey value each, of 256."""
    oracle = Oracle(owner('mix4+shuffle', 4))
    evidence, cells, _ = oracle.person.evidence(photos(1, (60, 80), grey=True), oracle=oracle)
    one = attack(ChosenPlaintext, evidence)
    assert (one.guess(0).cells == cells[0]).all()
    assert 2 <= one.queries == len(oracle.asked) <= 4


def test_no_more_than_a_few_are_asked_for_where_noise_hides_all():
    oracle = Oracle(owner('mix4+noise255+shuffle', 4))
    evidence, _, _ = oracle.person.evidence(photos(1, (32, 32)), oracle=oracle)
    one = attack(ChosenPlaintext, evidence)
    assert one.queries == len(oracle.asked) <= LIMIT
    assert len({tuple(cell) for cell in one.guess(0).cells}) == 64


def test_each_grid_is_asked_for():
    oracle = Oracle(owner('shuffle'))
    plain = [photos(1, size)[0] for size in (SIZE, (64, 96), SIZE)]
    evidence, cells, _ = oracle.person.evidence(plain, oracle=oracle)
    one = attack(ChosenPlaintext, evidence)
    assert all((one.guess(i).cells == cells[i]).all() for i in range(3))
    assert sorted(oracle.asked) == [(64, 96, 3), (96, 128, 3)]


def test_permutations_of_their_own_stay_unknown():
    person = owner('shuffle', shared=False)
    evidence, cells, _ = person.evidence(photos(4, SIZE), oracle=person)
    one = attack(ChosenPlaintext, evidence)
    found = [score_puzzle(one.guess(i).cells, cells[i]).neighbor for i in range(4)]
    assert np.mean(found) < 0.06
    assert np.mean([one.guess(i).confidence for i in range(4)]) < 0.2


def test_patches_that_were_left_out_are_the_only_ones_unknown():
    person = owner('drop25+shuffle')
    evidence, cells, _ = person.evidence(photos(1, SIZE), oracle=person)
    right = (attack(ChosenPlaintext, evidence).guess(0).cells == cells[0]).all(axis=1)
    assert right.mean() >= 0.75


@pytest.mark.parametrize(
    'steps', ['permute_pixels', 'shuffle+permute_pixels', 'mix2+noise50+permute_pixels']
)
def test_the_order_of_pixels_is_found(steps):
    oracle = Oracle(owner(steps))
    evidence, _, orders = oracle.person.evidence(
        [photos(1, size)[0] for size in (SIZE, (64, 64))], oracle=oracle
    )
    one = attack(ChosenPlaintextPixels, evidence)
    assert all((one.guess(i).order == orders[i]).all() for i in range(2))
    assert one.queries == len(oracle.asked) == 1


def test_the_same_is_asked_under_the_same_seed():
    seen = []
    for _ in range(2):
        person = owner('shuffle')
        evidence, _, _ = person.evidence(
            photos(1, SIZE), oracle=lambda img: seen.append(img) or img
        )
        attack(ChosenPlaintext, evidence)
    np.testing.assert_array_equal(*seen)


@pytest.mark.parametrize('num', [1, 7, 256, 300])
def test_values_differ_as_much_as_they_can(num):
    cipher = Cipher('shuffle', 4)
    img = design(cipher, (1, num), (3,), 4, np.random.default_rng(0))
    values = img.reshape(4, num, 4, 3).swapaxes(0, 1).reshape(num, -1)
    for column in values.T:
        counts = np.unique(column, return_counts=True)[1]
        assert counts.max() <= -(-num // 256) and len(counts) == min(num, 256)


@pytest.mark.parametrize(
    ('cls', 'steps', 'words'),
    [
        (ChosenPlaintext, 'mix2', 'no patch is moved'),
        (ChosenPlaintext, 'shuffle', 'encrypts no picture'),
        (ChosenPlaintextPixels, 'shuffle', 'no step permutes'),
        (ChosenPlaintextPixels, 'permute_pixels', 'encrypts no picture'),
    ],
)
def test_it_says_why_not(cls, steps, words):
    assert words in cls.why_not(owner(steps).evidence(photos(1, SIZE))[0])
