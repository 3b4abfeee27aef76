# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from step_helpers import Bytes, layout

from hime_mm.ciphers import Negate
from hime_mm.ciphers.steps import negate_patches


@pytest.mark.parametrize(
    'dtype, white',
    [
        (np.uint8, 255),
        (np.uint16, 65535),
        (np.float32, 255),
        (np.float64, 255),
    ],
)
def test_negate_by_hand(dtype, white):
    img = np.array([[0, 1, 100, 200]], dtype)
    flags = [True, False, True, False]
    result = negate_patches(img, flags, 1)
    assert result.tolist() == [[white, 1, white - 100, 200]]
    assert result.dtype == dtype
    assert negate_patches(result, flags, 1).tolist() == img.tolist()
    for kind in (np.array, lambda x: np.array(x, np.uint8)):
        np.testing.assert_array_equal(negate_patches(img, kind(flags), 1), result)


def test_negate_flags():
    source = Bytes(bytes([0, 1, 2, 3, 254, 255]) + b'rest')
    flags = Negate().draw(layout(2, 3, 4), (), source)
    assert flags.dtype == bool
    assert flags.tolist() == [False, True] * 3
    assert source.data == b'rest'
