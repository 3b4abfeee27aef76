# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import itertools

import numpy as np
import pytest

from hime_mm.ciphers.steps import erode_patches
from hime_mm.errors import CipherError


def test_erode_by_hand():
    img = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert erode_patches(img, 4, 1).tolist() == [
        [9, 10, 13, 14],
        [17, 18, 21, 22],
        [41, 42, 45, 46],
        [49, 50, 53, 54],
    ]
    filled = erode_patches(img, 4, 1, 'filled')
    expected = np.full((8, 8), 128)
    for y, x in itertools.product((1, 2, 5, 6), repeat=2):
        expected[y, x] = img[y, x]
    np.testing.assert_array_equal(filled, expected)
    assert erode_patches(img, 8, 3).tolist() == [[27, 28], [35, 36]]


@pytest.mark.parametrize('border', [0, -1, 2, 3])
def test_erode_refused(make_image, border):
    with pytest.raises(CipherError, match=f'{border} pixels.*side 4'):
        erode_patches(make_image((8, 8)), 4, border)


def test_erode_form_refused(make_image):
    with pytest.raises(CipherError, match="'tiled'.*'compact'.*'filled'"):
        erode_patches(make_image((8, 8)), 4, 1, 'tiled')
