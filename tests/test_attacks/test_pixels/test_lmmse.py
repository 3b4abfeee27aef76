# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest
from pixel_parts import IN_PLACE, PATCH, SIDE, evidence, guesses, others, psnr, real, scenes, ssim

from hime_mm.attacks.pixels.lmmse import (
    RIDGES,
    Lmmse,
    Moments,
    View,
    by_opponents,
    fit,
    plain_colours,
)
from hime_mm.attacks.pixels.mosaic import Mosaic
from hime_mm.attacks.pixels.observed import Observed
from hime_mm.ciphers import Cipher


@pytest.mark.parametrize(
    ('steps', 'gain'),
    [
        ('mix2', 1.5),
        ('mix2:tiled', 1.5),
        ('erode1:filled', 5),
        ('mix2+erode1', 0.4),
        pytest.param('noise25', 4, marks=pytest.mark.slow),
        pytest.param('drop50', 2, marks=pytest.mark.slow),
    ],
)
def test_more_comes_back_than_the_means(steps, gain):
    plain, held = scenes(), evidence(steps)
    assert psnr(plain, guesses(Lmmse(), held)) > psnr(plain, guesses(Mosaic(), held)) + gain


@pytest.mark.parametrize('steps', ['mix2', 'erode2:filled', 'mix2+erode1', 'erode1+mix2:tiled'])
def test_guesses_encrypt_to_what_was_seen(steps):
    held = evidence(steps)
    for img, guessed in zip(held.images, guesses(Lmmse(), held), strict=True):
        again = held.cipher.apply(guessed, [None] * len(held.cipher.steps))
        off = np.abs(again.astype(int) - img)
        # Some values that were clipped to the range may be off.
        assert np.quantile(off, 0.95) <= 1
        assert off.mean() < 0.5


def test_patches_that_are_there_stay_as_they_are():
    plain = scenes()
    cipher = Cipher('drop50', PATCH)
    for i, guessed in enumerate(guesses(Lmmse(), evidence('drop50'))):
        observed = Observed(cipher)
        pieces = observed.pieces(evidence('drop50').images[i], cipher.plan((SIDE, SIDE)))
        there = observed.there(pieces)
        np.testing.assert_array_equal(
            observed.plain(guessed)[there], observed.plain(plain[i])[there]
        )


@pytest.mark.parametrize('steps', IN_PLACE[:1] + IN_PLACE[3:4])
def test_grey_pictures(steps):
    plain = [cv2.cvtColor(x, cv2.COLOR_BGR2GRAY) for x in scenes()]
    held = evidence(steps, plain)
    guessed = guesses(Lmmse(), held)
    assert [img.shape for img in guessed] == [x.shape for x in plain]
    assert psnr(plain, guessed) > psnr(plain, guesses(Mosaic(), held)) + 1


def test_nothing_comes_from_nothing():
    """Of pictures that show one grey the guess is one grey: nothing of the public pictures."""
    held = evidence('mix2')
    held = replace(held, images=[np.full_like(img, 77) for img in held.images])
    for img in guesses(Lmmse(), held):
        assert np.ptp(img) <= 1
        assert abs(int(img[0, 0, 0]) - 77) <= 1


def test_other_pictures_are_no_better_than_grey():
    plain = scenes()
    swapped = guesses(Lmmse(), evidence('mix2', plain[::-1]))
    assert psnr(plain, swapped) < psnr(plain, [np.full_like(x, 128) for x in plain]) + 1


def test_the_order_of_pictures_and_the_day_change_nothing():
    first = guesses(Lmmse(), evidence('mix2'))
    np.testing.assert_array_equal(first, guesses(Lmmse(), evidence('mix2')))
    np.testing.assert_array_equal(first[::-1], guesses(Lmmse(), evidence('mix2', scenes()[::-1])))
    attack = Lmmse()
    attack.prepare(evidence('mix2'))
    np.testing.assert_array_equal(attack.guess(1).img, first[1])
    np.testing.assert_array_equal(attack.guess(1).img, first[1])


@pytest.mark.parametrize('steps', ['mix2', 'erode1'])
def test_two_public_pictures_suffice(steps):
    plain, held = scenes(), evidence(steps, public=others()[:2])
    assert psnr(plain, guesses(Lmmse(), held)) > psnr(plain, guesses(Mosaic(), held)) + 1


def test_why_not():
    assert "'seams'" in Lmmse.why_not(evidence('mix2+center'))
    assert 'undone' in Lmmse.why_not(evidence('shuffle'))
    assert 'public' in Lmmse.why_not(evidence('mix2', public=()))
    assert not Lmmse.why_not(evidence('mix2'))


def test_features_are_what_lies_around(make_image):
    """Against loops over the patches, in grey."""
    img = make_image((40, 48))
    cipher = Cipher('mix2', 16)
    layout = cipher.plan((80, 96))
    view = View.of(Observed(cipher), img, layout)
    means = img.reshape(5, 8, 6, 8).mean(axis=(1, 3))
    features = view.features()[0]
    assert features.shape == (30, 5 * 64 + 24)
    detail = img - means.repeat(8, axis=0).repeat(8, axis=1)

    def at(y, x):
        inside = 0 <= y < 5 and 0 <= x < 6
        return detail[8 * y : 8 * y + 8, 8 * x : 8 * x + 8] if inside else np.zeros((8, 8))

    for y in range(5):
        for x in range(6):
            patches = [at(y, x), at(y, x - 1), at(y, x + 1), at(y - 1, x), at(y + 1, x)]
            around = [
                means[np.clip(y + dy, 0, 4), np.clip(x + dx, 0, 5)] - means[y, x]
                for dy in range(-2, 3)
                for dx in range(-2, 3)
                if dy or dx
            ]
            expected = np.concatenate([*map(np.ravel, patches), around])
            np.testing.assert_allclose(features[6 * y + x], expected, atol=1e-3)


def test_of_large_patches_only_the_facing_borders_take_part(make_image):
    cipher = Cipher('noise', 16)
    view = View.of(Observed(cipher), make_image((32, 32)), cipher.plan((32, 32)))
    detail = (view.pieces - view.means.reshape(4, 1, 1, 1))[..., 0]
    features = view.features()[0]
    assert features.shape[1] == 256 + 4 * 64 + 24
    np.testing.assert_allclose(features[0, 320:384], detail[1][:, :4].ravel(), atol=1e-3)
    np.testing.assert_allclose(features[0, 448:512], detail[2][:4].ravel(), atol=1e-3)
    np.testing.assert_array_equal(features[0, 256:320], 0)


def test_left_out_patches_tell_nothing_of_themselves(make_image):
    cipher = Cipher('drop', PATCH)
    img = make_image((24, 24))
    img[8:16, 8:16] = 128
    view = View.of(Observed(cipher), img, cipher.plan(img.shape))
    features = view.features()[0]
    size = PATCH**2
    assert view.there.sum() == 8
    np.testing.assert_array_equal(features[4, :size], 0)
    # It is the right neighbour of the fourth patch, and the upper one of the eighth.
    np.testing.assert_array_equal(features[3, 2 * size : 3 * size], 0)
    np.testing.assert_array_equal(features[7, 3 * size : 4 * size], 0)
    assert features[4, size : 5 * size].any()


def test_colours_come_back(make_image):
    patches = make_image((5, 4, 4, 3), np.float32)
    there_and_back = plain_colours(by_opponents(patches).astype(np.float32), 4)
    np.testing.assert_allclose(there_and_back, patches, atol=1e-3)


def test_the_ridge_is_a_ridge():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(2, 6, 3))
    samples = [rng.normal(size=(2, 40, 6)) for _ in range(2)]
    targets = [x @ truth + 0.1 * rng.normal(size=(2, 40, 3)) for x in samples]
    halves = [Moments.of(x, y) for x, y in zip(samples, targets, strict=True)]
    found = fit(*halves)
    inputs, cross = halves[0] + halves[1]
    for channel in range(2):
        scale = np.trace(inputs[channel]) / 6
        solved = [
            np.linalg.solve(inputs[channel] + ridge * scale * np.eye(6), cross[channel])
            for ridge in RIDGES
        ]
        assert min(np.abs(found[channel] - one).max() for one in solved) < 1e-5
    np.testing.assert_allclose(found, truth, atol=0.1)


@pytest.mark.slow
def test_sums_of_one_picture_at_a_time_are_in_memory():
    """Of 32-pixel patches they take 10 MB and more; 80 public pictures are turned 8 times each."""
    peaks = []
    for number in (2, 4):
        held = evidence('erode8', [scenes()[0][:64, :64]], others()[:2] * (number // 2), 32)
        tracemalloc.start()
        Lmmse().prepare(held)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_what_does_not_hold_elsewhere_is_not_learnt():
    """Features that tell nothing of the other half get the strongest ridge."""
    rng = np.random.default_rng(1)
    halves = [
        Moments.of(rng.normal(size=(1, 20, 15)), rng.normal(size=(1, 20, 2))) for _ in range(2)
    ]
    assert np.abs(fit(*halves)).max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ('size', 'number', 'least'), [((224, 224), 20, 20.4), ((640, 480), 5, 22.4)]
)
def test_strength_on_real_pictures(coco_tiny, size, number, least):
    plain = real(coco_tiny / 'val2017', number, size)
    public = real(coco_tiny / 'train2017', None)
    guessed = guesses(Lmmse(), evidence('mix2', plain, public, 16))
    assert psnr(plain, guessed) > least
    assert ssim(plain, guessed) > 0.57
