# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from step_helpers import Bytes, layout

from hime_mm.ciphers import Orient
from hime_mm.ciphers.steps import orient_patches
from hime_mm.errors import CipherError


@pytest.mark.parametrize(
    'code, turned',
    [
        (0, 'ab cd'),
        (1, 'bd ac'),
        (2, 'dc ba'),
        (3, 'ca db'),
        (4, 'ba dc'),
        (5, 'ac bd'),
        (6, 'cd ab'),
        (7, 'db ca'),
    ],
)
def test_orient_by_hand(code, turned):
    """Mirrored left to right first, then counter-clockwise."""
    img = np.array([list(map(ord, row)) for row in ('ab', 'cd')], np.uint8)
    expected = [list(map(ord, row)) for row in turned.split()]
    assert orient_patches(img, [code], 2).tolist() == expected
    back = orient_patches(np.array(expected, np.uint8), [code], 2, True)
    assert back.tolist() == img.tolist()


def test_orient_codes():
    source = Bytes(bytes([0, 7, 8, 15, 16, 255]) + b'rest')
    codes = Orient().draw(layout(2, 3, 4), (3,), source)
    assert codes.tolist() == [0, 7, 0, 7, 0, 7]
    assert source.data == b'rest'


@pytest.mark.parametrize('code', [8, 255, -1, 0.5])
def test_orient_refuses_other_codes(make_image, code):
    # Nothing that happened to be in memory comes out.
    with pytest.raises(CipherError, match='orientation.* 0 to 7$') as error:
        orient_patches(make_image((4, 4)), np.array([0, 1, code, 2]), 2)
    assert str(code) not in str(error.value)
