# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What all attacks that link have in common."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from linkage_parts import SIDE, evidence, gallery, grey, ranks

from hime_mm.attacks.base import ATTACKS, Ranking, cut, matched
from hime_mm.attacks.linkage import Histogram, PatchHash, Texture
from hime_mm.attacks.linkage.gallery import draws_values, imitate, margin, resized, uneven
from hime_mm.ciphers import Cipher

LINKAGES = (Histogram, PatchHash, Texture)
linkages = pytest.mark.parametrize('linkage', LINKAGES, ids=lambda one: one.name)


def test_they_are_known_by_name():
    assert {name: ATTACKS[name] for name in ('histogram', 'patch-hash', 'texture')} == {
        one.name: one for one in LINKAGES
    }


@linkages
@pytest.mark.parametrize(
    'steps',
    (
        'shuffle',
        'erode2+shuffle',
        'erode2:filled+shuffle',
        'mix2+shuffle',
        'mix2:tiled+shuffle',
        'center+erode2+shuffle',
        'mix2+center+shuffle',
        'drop25+shuffle',
        'permute_pixels+shuffle',
        'negate+permute_channels+orient+shuffle',
        'negate+center+erode1+shuffle',
    ),
)
def test_the_very_pictures_are_found(linkage, steps):
    found = ranks(linkage(), evidence(steps)) == 0
    # Of 36 patches a quarter tells less of their distribution than all.
    assert found.mean() >= (0.8 if 'drop' in steps and linkage is Texture else 1)


@linkages
def test_another_truth_gets_chance(linkage):
    given = evidence('mix2+center+shuffle')
    shifted = [(i + 5) % len(given.gallery) for i in range(len(given.images))]
    assert not (ranks(linkage(), given, shifted) == 0).any()


@linkages
def test_what_is_not_there_is_not_surely_found(linkage):
    half = len(gallery()) // 2
    there = evidence('shuffle')
    absent = replace(there, gallery=gallery()[:half])
    sure = []
    for given in (there, absent):
        attack = linkage()
        attack.prepare(given)
        sure.append([attack.guess(i).confidence for i in range(half, 2 * half)])
    assert np.median(sure[0]) > np.median(sure[1])


@linkages
def test_nothing_left_is_no_guess(linkage):
    """Patches of one colour each, which centring takes."""
    rng = np.random.default_rng(3)
    plain = [
        np.repeat(np.repeat(rng.integers(0, 256, (6, 6, 3), np.uint8), 16, 0), 16, 1)
        for _ in range(6)
    ]
    attack = linkage()
    attack.prepare(evidence('center+shuffle', plain))
    for i in range(6):
        guess = attack.guess(i)
        np.testing.assert_allclose(guess.scores, guess.scores[0], atol=1e-12)
        assert guess.confidence < 1e-6


@pytest.mark.parametrize(
    'linkage, steps',
    (
        *((one, steps) for one in LINKAGES for steps in ('shuffle', 'negate+orient+mix2+shuffle')),
        (Histogram, 'noise20+shuffle'),
        (Texture, 'noise20+shuffle'),
    ),
)
def test_guesses_repeat_and_orders_do_not_matter(linkage, steps):
    given = evidence(steps, gallery()[:6], seed=4)
    attack, again, turned = linkage(), linkage(), linkage()
    attack.prepare(given)
    again.prepare(given)
    order = [3, 0, 5, 1, 4, 2]
    rng = np.random.default_rng(9)
    images = []
    for img, layout in zip(given.images, given.layouts, strict=True):
        pieces = cut(img, layout)
        rows = rng.permutation(pieces).reshape(*layout.grid, *pieces.shape[1:])
        images.append(rows.swapaxes(1, 2).reshape(img.shape))
    turned.prepare(
        replace(
            given,
            images=[images[i] for i in order],
            gallery=[given.gallery[i] for i in order],
        )
    )
    for k, i in enumerate(order):
        guess = attack.guess(i)
        assert isinstance(guess, Ranking)
        assert guess.scores.shape == (6,)
        assert guess.scores.dtype == np.float64
        np.testing.assert_array_equal(guess.scores, again.guess(i).scores)
        np.testing.assert_array_equal(guess.scores, attack.guess(i).scores)
        np.testing.assert_allclose(turned.guess(k).scores, guess.scores[order], rtol=1e-9)


@linkages
def test_sizes_and_kinds_mix(linkage):
    """Encrypted pictures of several sizes, a grey and a small one in the gallery."""
    plain = [
        np.ascontiguousarray(img[:rows, :cols])
        for img, rows, cols in zip(gallery()[::4], (96, 64, 96, 64), (96, 96, 64, 96), strict=True)
    ]
    shown = [*plain, *grey(gallery()[1:2]), gallery()[2][:7, :9]]
    assert (ranks(linkage(), evidence('erode1+shuffle', plain, shown)) == 0).all()


@linkages
def test_grey_pictures(linkage):
    plain = grey(gallery())
    assert (ranks(linkage(), evidence('center+shuffle', plain)) == 0).all()
    with_colour = evidence('center+shuffle', plain, gallery())
    assert (ranks(linkage(), with_colour) == 0).all()


@linkages
@pytest.mark.parametrize('shown', ((), gallery()[:1]))
def test_no_choice(linkage, shown):
    given = replace(evidence('shuffle'), gallery=shown)
    assert 'gallery of at least two' in linkage.why_not(given)
    assert not linkage.why_not(evidence('shuffle'))


def test_only_draws_of_values_are_repeated():
    drawn = ('noise5', 'negate', 'orient', 'permute_channels', 'permute_pixels')
    assert all(draws_values(Cipher(f'{step}+shuffle')) for step in drawn)
    assert not draws_values(Cipher('center+mix2+erode1+drop10+shuffle'))


@pytest.mark.parametrize('steps', ('shuffle', 'mix2+shuffle', 'center+erode2:filled+shuffle'))
def test_an_imitation_is_the_encrypted_picture_but_for_its_order(steps):
    given = evidence(steps, gallery()[:1])
    rng = np.random.default_rng(0)
    pieces = imitate(gallery()[0], given.cipher, given.layouts[0], rng)
    found = given.pieces(0)
    assert pieces.shape == found.shape
    assert sorted(one.tobytes() for one in pieces) == sorted(one.tobytes() for one in found)


def test_an_imitation_drops_nothing():
    given = evidence('drop50', gallery()[:1])
    rng = np.random.default_rng(0)
    pieces = imitate(gallery()[0], given.cipher, given.layouts[0], rng)
    np.testing.assert_array_equal(pieces, cut(gallery()[0], given.layouts[0]))


def test_sizing():
    img = gallery()[0]
    assert [one is img for one in resized(img, (6, 6), 16, (cv2.INTER_LINEAR, cv2.INTER_AREA))] == [
        True
    ]
    ways = list(resized(img, (2, 3), 16, (cv2.INTER_LINEAR, cv2.INTER_AREA)))
    assert [one.shape for one in ways] == [(32, 48, 3)] * 2
    np.testing.assert_array_equal(ways[1], cv2.resize(img, (48, 32), interpolation=cv2.INTER_AREA))
    assert (ways[0] != ways[1]).any()
    assert next(resized(img[..., :1], (2, 3), 16)).shape == (32, 48, 1)


def test_channels():
    img = gallery()[0]
    assert matched(img, (3,)) is img
    assert matched(img, ()).shape == (SIDE, SIDE)
    np.testing.assert_array_equal(matched(img[..., 0], (3,)), img[..., [0, 0, 0]])


def test_uneven():
    pieces = np.zeros((3, 2, 2, 1), np.uint8)
    pieces[1, 0, 1] = 5
    np.testing.assert_array_equal(uneven(pieces), pieces[1:2])
    np.testing.assert_array_equal(uneven(pieces[::2]), pieces[::2])


def test_margin():
    assert margin(np.array([1.0, 5.0, 2.0])) == pytest.approx(3 / np.std([1, 5, 2]))
    assert margin(np.ones(4)) == 0
