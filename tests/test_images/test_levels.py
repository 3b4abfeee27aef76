# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hime_mm.images.levels import add_levels, count_levels, levels_of, statistics_of

planes = st.sampled_from([(), (1,), (3,), (4,)])
pictures = st.tuples(array_shapes(min_dims=2, max_dims=2, max_side=9), planes).flatmap(
    lambda case: st.sampled_from([np.uint8, np.uint16]).flatmap(
        lambda dtype: arrays(dtype, case[0] + case[1])
    )
)


def as_colour(img):
    """Rows of red, green and blue, of 8 bits."""
    img = img.reshape(*img.shape[:2], -1)
    if img.dtype == np.uint16:
        img = img // 256
    channels = [2, 1, 0] if img.shape[2] > 1 else [0, 0, 0]
    return img[:, :, channels].reshape(-1, 3).astype(float)


@given(st.lists(pictures, min_size=1, max_size=3))
def test_of_all_pixels(some):
    pixels = np.concatenate([as_colour(img) for img in some])
    found = statistics_of(add_levels(*map(count_levels, some)))
    assert found['pixels'] == len(pixels)
    np.testing.assert_allclose(found['mean'], pixels.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found['std'], pixels.std(axis=0), atol=1e-6)


@given(st.lists(pictures, min_size=1, max_size=3))
def test_there_and_back(some):
    found = statistics_of(add_levels(*map(count_levels, some)))
    again = statistics_of(levels_of(found))
    assert again['pixels'] == found['pixels']
    np.testing.assert_allclose(again['mean'], found['mean'], atol=0.51)
    np.testing.assert_allclose(again['std'], found['std'], atol=1)


def test_as_exact_as_numbers_are_whole():
    """A hundred million pictures of one grey but for a pixel."""
    img = np.full((1000, 1000), 200, np.uint8)
    one = count_levels(img)
    many = [10**8 * number for number in one]
    other = img.copy()
    other[0, 0] = 201
    found = statistics_of(add_levels(many, count_levels(other)))
    assert found['mean'] == [200.0] * 3 and found['std'] == [0.0] * 3
    assert add_levels(many, count_levels(other))[1] == 10**8 * 200 * 10**6 + 200 * 10**6 + 1


def test_none_of_nothing():
    assert statistics_of(add_levels()) == {}


@pytest.mark.parametrize('order', ['C', 'F'])
def test_any_order_in_memory(order):
    img = np.asarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3), order=order)
    assert count_levels(img) == count_levels(img.copy(order='C'))
