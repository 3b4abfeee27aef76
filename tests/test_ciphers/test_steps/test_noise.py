# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from owner_data import named
from step_helpers import Bytes, layout

from hime_mm.ciphers import Noise
from hime_mm.ciphers.steps import add_noise
from hime_mm.errors import CipherError


def test_noise_by_hand():
    img = np.array([[0, 10, 250, 255, 128]], np.uint8)
    noise = np.array([[-1, -10, 5, 1, 200]], np.int16)
    result, num = add_noise(img, noise)
    assert result.tolist() == [[0, 0, 255, 255, 255]]
    assert (num, type(num)) == (3, int)
    result, num = add_noise(img.astype(np.uint16) * 257, noise)
    # In steps of 1/255 of the range.
    assert result.tolist() == [[0, 0, 65535, 65535, 65535]]
    assert num == 3
    result, num = add_noise(np.array([[1000, 0]], np.uint16), np.array([[-3, 1]], np.int16))
    assert result.tolist() == [[229, 257]]
    assert num == 0
    # As far as noise goes: no sum overflows.
    for noise, end in ((1103, 65535), (-1103, 0)):
        result, _ = add_noise(np.array([[32768]], np.uint16), np.array([[noise]], np.int16))
        assert result.item() == end
    for dtype in (np.float32, np.float64):
        result, num = add_noise(img.astype(dtype), np.array([[-1, -10, 5, 1, 200]], np.int16))
        assert result.tolist() == [[-1, 0, 255, 256, 328]]
        assert result.dtype == dtype
        assert num == 0


def test_noise_draw():
    """Two bytes for each value, row-major, channels last."""
    low, middle, high = (np.array([w], '<u2').tobytes() for w in (0, 1 << 15, 65535))
    source = Bytes(low * 5 + high + middle * 42 + b'rest')
    noise = Noise(100).draw(layout(2, 1, 4), (3,), Bytes(source.data * 2))
    assert noise.shape == (8, 4, 3)
    noise = Noise(100).draw(layout(1, 1, 4), (3,), source)
    assert source.data == b'rest'
    assert noise.shape == (4, 4, 3) and noise.dtype == np.int16
    # 4.325 · 100 and the mirror image of it.
    assert noise.ravel()[:6].tolist() == [-432] * 5 + [432]
    assert (noise.ravel()[6:] == 0).all()
    gray = Noise(100).draw(layout(1, 1, 4), (), Bytes(high * 16))
    assert gray.shape == (4, 4) and (gray == 432).all()


@pytest.mark.parametrize('shape', [(4, 4), (4, 4, 1), (1, 4, 4, 3), (4, 3, 4), (2, 4, 4, 3)])
def test_noise_of_another_shape(make_image, shape):
    with pytest.raises(CipherError, match=named(shape, (4, 4, 3))):
        add_noise(make_image((4, 4, 3)), np.zeros(shape, np.int16))
