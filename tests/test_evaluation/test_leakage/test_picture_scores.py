# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import math
from dataclasses import astuple

import cv2
import numpy as np
import pytest
from leakage_twins import edges_twin, ssim_twin

from hime_mm.errors import HimeError
from hime_mm.evaluation.leakage import score_picture


def smooth(shape, seed):
    """A picture with some structure."""
    noise = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    return cv2.GaussianBlur(noise, (3, 3), 0).reshape(shape)


@pytest.mark.parametrize('shape', [(12, 11), (9, 14, 1), (10, 8, 3), (7, 7)])
@pytest.mark.parametrize('seed', [1, 2])
def test_equals_loops(shape, seed):
    truth = smooth(shape, 0)
    mixed = 0.7 * truth + 0.3 * smooth(shape, seed)
    guess = mixed.round().astype(np.uint8)
    channels = [
        (guess.reshape(*shape[:2], -1)[..., c], truth.reshape(*shape[:2], -1)[..., c])
        for c in range(1 if len(shape) == 2 else shape[2])
    ]
    squares = [(int(a) - int(b)) ** 2 for a, b in zip(guess.ravel(), truth.ravel(), strict=True)]
    scores = score_picture(guess, truth)
    assert scores.psnr == pytest.approx(
        10 * math.log10(255**2 / (sum(squares) / len(squares))), rel=1e-9
    )
    assert scores.ssim == pytest.approx(np.mean([ssim_twin(*pair) for pair in channels]))
    edges = [ssim_twin(*map(edges_twin, pair)) for pair in channels]
    assert scores.gradient_ssim == pytest.approx(np.mean(edges))


def test_equal_pictures_have_a_number():
    img = smooth((20, 30, 3), 0)
    scores = score_picture(img, img.copy())
    assert astuple(scores) == pytest.approx((58.92, 1, 1), abs=0.01)
    assert all(map(math.isfinite, astuple(scores)))
    almost = img.copy()
    almost[0, 0, 0] ^= 1
    assert score_picture(almost, img).psnr == scores.psnr


def test_an_error_of_one_everywhere():
    img = np.full((8, 8), 100, np.uint8)
    assert score_picture(img + np.uint8(1), img).psnr == pytest.approx(48.13, abs=0.01)
    # Numbers of 8 bits do not run over.
    assert score_picture(img * 0, img * 0 + 255).psnr == 0


def test_grey_is_a_channel():
    one, other = smooth((16, 16), 0), smooth((16, 16), 1)
    scores = score_picture(one, other)
    assert scores == score_picture(one[..., None], other)
    three = score_picture(np.stack([one] * 3, 2), np.stack([other] * 3, 2))
    assert astuple(three) == pytest.approx(astuple(scores))


def test_order_of_channels_does_not_matter():
    one, other = smooth((16, 16, 3), 0), smooth((16, 16, 3), 1)
    swapped = score_picture(one[..., ::-1], other[..., ::-1])
    assert astuple(swapped) == pytest.approx(astuple(score_picture(one, other)))


def test_edges_do_not_see_brightness():
    img = smooth((32, 32, 3), 0) // 2
    brighter = score_picture(img + np.uint8(100), img)
    assert brighter.gradient_ssim == pytest.approx(1) and brighter.ssim < 0.9


def test_of_real_pictures():
    data = pytest.importorskip('skimage.data')
    img, other = (cv2.resize(one, (224, 224)) for one in (data.astronaut(), data.chelsea()))
    scores = []
    for block in (1, 2, 16):
        small = cv2.resize(img, (224 // block,) * 2, interpolation=cv2.INTER_AREA)
        scores.append(score_picture(cv2.resize(small, (224, 224), interpolation=0), img))
    scores.append(score_picture(other, img))
    table = np.array([astuple(one) for one in scores])
    assert (np.diff(table[:, :2], axis=0) < 0).all()
    # The false edges of a mosaic are no better than those of another picture.
    assert (np.diff(table[:3, 2]) < 0).all()


@pytest.mark.parametrize(
    'guess, message',
    [
        (np.zeros((16, 17, 3), np.uint8), '16x17 .* 16x16'),
        (np.zeros((16, 16), np.uint8), '1 channels, the original 16x16 .* 3 channels'),
        (np.zeros((16, 16, 3)), 'reconstruction is float64'),
        (np.zeros((16, 16, 3), np.uint16), 'reconstruction is uint16'),
        (np.zeros((1, 16, 16, 3), np.uint8), r'\(1, 16, 16, 3\)'),
    ],
)
def test_what_does_not_agree(guess, message):
    with pytest.raises(HimeError, match=message):
        score_picture(guess, np.zeros((16, 16, 3), np.uint8))


def test_too_small():
    with pytest.raises(HimeError, match='too small'):
        score_picture(np.zeros((6, 9), np.uint8), np.zeros((6, 9), np.uint8))
