# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_parts import IN_PLACE, PATCH, ROW, evidence, guesses, psnr, real, scenes

from hime_mm.attacks.pixels.mosaic import Mosaic, as_picture, filled_means, mosaic, thumbnail


@pytest.mark.parametrize('steps', [*IN_PLACE, 'noise25', 'drop25'])
def test_guesses_have_the_size_of_the_original(steps):
    plain = scenes()
    assert [img.shape for img in guesses(Mosaic(), evidence(steps))] == [x.shape for x in plain]
    assert all(img.dtype == np.uint8 for img in guesses(Mosaic(), evidence(steps)))


@pytest.mark.parametrize('steps', ['mix2', 'mix4:tiled', 'noise3'])
def test_it_is_the_original_in_small(steps):
    plain = scenes()
    small = [cv2.resize(x, (ROW, ROW), interpolation=cv2.INTER_AREA) for x in plain]
    blown = [thumbnail(x.astype(np.float32), PATCH) for x in small]
    for img, expected in zip(guesses(Mosaic(), evidence(steps)), blown, strict=True):
        np.testing.assert_allclose(img, np.clip(expected, 0, 255), atol=3)


def test_bicubic_beats_the_mosaic():
    plain = scenes()
    small = [cv2.resize(x, (ROW, ROW), interpolation=cv2.INTER_AREA) for x in plain]
    flat = [mosaic(x, PATCH) for x in small]
    assert psnr(plain, guesses(Mosaic(), evidence('mix2'))) > psnr(plain, flat) + 0.3


def test_the_border_that_was_painted_does_not_count():
    filled, compact = (guesses(Mosaic(), evidence(f'erode2{form}')) for form in (':filled', ''))
    np.testing.assert_array_equal(filled, compact)


def test_grey_pictures():
    plain = [cv2.cvtColor(x, cv2.COLOR_BGR2GRAY) for x in scenes()]
    for img, x in zip(guesses(Mosaic(), evidence('mix2', plain)), plain, strict=True):
        assert img.shape == x.shape
    assert psnr(plain, guesses(Mosaic(), evidence('mix2', plain))) > 15


@settings(max_examples=30)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_holes_are_filled_with_what_lies_around(rows, cols, random):
    there = np.array([random.random() < 0.4 for _ in range(rows * cols)])
    values = np.array([[random.uniform(0, 255)] for _ in there], np.float32)
    means = filled_means(values[:, None, None], there, (rows, cols))
    flat = means.reshape(-1, 1)
    np.testing.assert_array_equal(flat[there], values[there])
    if there.any():
        assert (flat >= values[there].min() - 1e-2).all()
        assert (flat <= values[there].max() + 1e-2).all()
    else:
        np.testing.assert_array_equal(flat, values)


def test_near_patches_count_more_than_far_ones():
    values = np.array([0, 100, 0, 0, 0, 200], np.float32).reshape(6, 1, 1, 1)
    means = filled_means(values, np.array([0, 1, 0, 0, 0, 1], bool), (1, 6))[0, :, 0]
    assert means[0] <= means[2] < 125 < 175 < means[4]


def test_pictures_are_rounded_and_clipped():
    values = np.array([[[-3.0], [0.6], [254.4], [300.0]]])
    np.testing.assert_array_equal(as_picture(values, 2), [[0, 1, 254, 255]])
    assert as_picture(values, 3).shape == (1, 4, 1)


@pytest.mark.parametrize('steps', ['center', 'center+mix2', 'mix2+center+erode1'])
def test_not_where_the_means_are_gone(steps):
    assert 'means' in Mosaic.why_not(evidence(steps))


def test_not_where_a_key_undoes_a_step():
    assert 'undone' in Mosaic.why_not(evidence('mix2+shuffle'))
    assert not Mosaic.why_not(evidence('mix2'))


def test_rough_pictures_are_guessed_at_with_less_confidence(make_image):
    plain = [np.full((64, 64, 3), 90, np.uint8), scenes()[0], make_image((64, 64, 3))]
    attack = Mosaic()
    attack.prepare(evidence('mix2', plain))
    smooth, scene, rough = (attack.guess(i).confidence for i in range(3))
    assert smooth == 0 > scene > rough


@pytest.mark.slow
@pytest.mark.parametrize(('size', 'number', 'least'), [((224, 224), 20, 18), ((640, 480), 5, 20)])
def test_strength_on_real_pictures(coco_tiny, size, number, least):
    plain = real(coco_tiny / 'val2017', number, size)
    assert psnr(plain, guesses(Mosaic(), evidence('mix2', plain, patch_size=16))) > least
