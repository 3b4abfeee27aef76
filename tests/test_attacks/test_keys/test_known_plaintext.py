# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from dataclasses import replace

import numpy as np
import pytest
from keys_parts import owner, photos, read

from hime_mm.attacks.keys import KnownPlaintext, KnownPlaintextPixels
from hime_mm.evaluation.leakage import score_puzzle

SIZE = (96, 128)
STEPS = [
    'shuffle',
    'mix2+shuffle',
    'shuffle+center+erode2',
    'erode1:filled+shuffle',
    'noise8+shuffle',
    'orient+shuffle',
    'negate+permute_channels+shuffle',
    'shuffle+permute_pixels',
    'negate+shuffle+permute_channels+permute_pixels+center',
]


def known(person, count=1, size=SIZE, grey=False):
    return [(img, person(img)) for img in photos(count, size, grey)]


def attack(cls, evidence):
    assert not cls.why_not(evidence)
    one = cls()
    one.prepare(evidence)
    return one


@pytest.mark.parametrize('grey', [False, True])
@pytest.mark.parametrize('steps', STEPS)
def test_one_known_picture_solves_another(steps, grey):
    if grey and 'channels' in steps:
        pytest.skip('a grey picture has no channels to permute')
    person = owner(steps)
    other = photos(2, SIZE, grey)[1:]
    evidence, cells, _ = person.evidence(other, pairs=known(person, grey=grey))
    guess = attack(KnownPlaintext, evidence).guess(0)
    assert (guess.cells == cells[0]).all()
    assert score_puzzle(guess.spots, cells[0], guess.parts).neighbor == 1
    if not any(step.choices((3,)) for step in person.cipher.steps):
        assert guess.confidence > 0.3


@pytest.mark.parametrize('steps', STEPS)
def test_permutations_of_their_own_stay_unknown(steps):
    person = owner(steps, shared=False)
    evidence, cells, _ = person.evidence(photos(4, SIZE)[1:], pairs=known(person))
    one = attack(KnownPlaintext, evidence)
    guesses = [one.guess(i) for i in range(3)]
    found = [score_puzzle(g.cells, c).neighbor for g, c in zip(guesses, cells, strict=True)]
    assert np.mean(found) < 0.06
    assert np.mean([guess.confidence for guess in guesses]) < 0.3


def test_patches_alike_in_one_picture_are_told_apart_by_another():
    person = owner('shuffle')
    first, second, target = photos(3, SIZE)
    first[:48], second[48:] = 128, 128
    evidence, cells, _ = person.evidence([target], pairs=[(first, person(first))])
    alone = attack(KnownPlaintext, evidence).guess(0)
    seen = cells[0][:, 0] >= 3
    assert (alone.cells[seen] == cells[0][seen]).all()
    assert not (alone.cells == cells[0]).all()
    both = replace(evidence, pairs=[*evidence.pairs, (second, person(second))])
    assert (attack(KnownPlaintext, both).guess(0).cells == cells[0]).all()


def test_patches_that_were_left_out_are_the_only_ones_unknown():
    person = owner('drop25+shuffle')
    evidence, cells, _ = person.evidence(photos(2, SIZE)[1:], pairs=known(person))
    guess = attack(KnownPlaintext, evidence).guess(0)
    shown = (evidence.pairs[0][1].reshape(6, 16, 8, 16, 3) != 128).any(axis=(1, 3, 4)).ravel()
    assert (guess.cells[shown] == cells[0][shown]).all()
    assert len({tuple(cell) for cell in guess.cells}) == 48


def test_grids_of_which_no_original_is_known_stay_as_they_are():
    person = owner('shuffle')
    plain = [photos(1, SIZE)[0], photos(1, (64, 64))[0]]
    evidence, cells, _ = person.evidence(plain, pairs=known(person))
    one = attack(KnownPlaintext, evidence)
    assert (one.guess(0).cells == cells[0]).all()
    assert one.guess(1).confidence == 0
    np.testing.assert_array_equal(one.undo(1, one.guess(1)), evidence.images[1])
    np.testing.assert_array_equal(one.undo(0, one.guess(0)), plain[0])


@pytest.mark.parametrize(
    'steps', ['permute_pixels', 'mix2+permute_pixels+shuffle', 'noise8+negate+permute_pixels']
)
def test_one_known_picture_gives_the_order_of_pixels(steps):
    person = owner(steps)
    evidence, _, orders = person.evidence(photos(2, SIZE)[1:], pairs=known(person))
    guess = attack(KnownPlaintextPixels, evidence).guess(0)
    assert (guess.order == orders[0]).all()
    assert guess.confidence > 0.2


def test_undone_the_pixels_are_back():
    person = owner('permute_pixels')
    plain = photos(2, SIZE)[1:]
    evidence, _, _ = person.evidence(plain, pairs=known(person))
    one = attack(KnownPlaintextPixels, evidence)
    np.testing.assert_array_equal(one.undo(0, one.guess(0)), plain[0])


def test_pairs_in_any_order_give_the_same():
    person = owner('shuffle+permute_pixels')
    evidence, _, _ = person.evidence(photos(3, SIZE)[2:], pairs=known(person, 2))
    turned = replace(evidence, pairs=evidence.pairs[::-1])
    for cls, what in ((KnownPlaintext, 'cells'), (KnownPlaintextPixels, 'order')):
        one, other = (getattr(attack(cls, e).guess(0), what) for e in (evidence, turned))
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ('cls', 'steps', 'pairs', 'words'),
    [
        (KnownPlaintext, 'mix2', True, 'no patch is moved'),
        (KnownPlaintext, 'shuffle', False, 'of no picture'),
        (KnownPlaintextPixels, 'shuffle', True, 'no step permutes'),
        (KnownPlaintextPixels, 'permute_pixels', False, 'of no picture'),
        (KnownPlaintextPixels, 'orient+permute_pixels', True, 'turned in a way of its own'),
    ],
)
def test_it_says_why_not(cls, steps, pairs, words):
    person = owner(steps)
    evidence, _, _ = person.evidence(photos(1, SIZE), pairs=known(person) if pairs else ())
    assert words in cls.why_not(evidence)


def test_known_originals_of_other_grids_are_no_evidence():
    person = owner('shuffle')
    evidence, _, _ = person.evidence(photos(1, SIZE), pairs=known(person, size=(64, 64)))
    assert 'as many rows and columns' in KnownPlaintext.why_not(evidence)


@pytest.mark.slow
@pytest.mark.parametrize('steps', ['center+erode2+shuffle', 'noise25+shuffle', 'mix4+shuffle'])
def test_few_coco_pictures_solve_others(coco_tiny, steps):
    """One but for patches that look the same in it."""
    person = owner(steps)
    plain = read(coco_tiny / 'val2017', 6)
    pairs = [(img, person(img)) for img in plain[:3]]
    evidence, cells, _ = person.evidence(plain[3:], pairs=pairs)
    for count, least in ((1, 0.9), (3, 0.99)):
        one = attack(KnownPlaintext, replace(evidence, pairs=pairs[:count]))
        found = [score_puzzle(one.guess(i).cells, cells[i]).neighbor for i in range(3)]
        assert min(found) > least
