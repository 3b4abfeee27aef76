# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from step_helpers import Bytes, words

from hime_mm.ciphers import Cipher
from hime_mm.ciphers.steps import permute_patch_pixels
from hime_mm.errors import CipherError


def test_permute_pixels_by_hand():
    img = np.array([[10, 11, 20, 21], [12, 13, 22, 23]], np.uint8)
    perm = [1, 2, 0, 3]
    result = permute_patch_pixels(img, perm, 2)
    assert result.tolist() == [[11, 12, 21, 22], [10, 13, 20, 23]]
    back = permute_patch_pixels(result, perm, 2, True)
    assert back.tolist() == img.tolist()


def test_permute_pixels_draw():
    # Of the patch as it is when the step's turn comes.
    source = Bytes(words(4, 3, 1, 2) + b'rest')
    drawn = Cipher('mix2+permute_pixels', 4).draw((8, 16, 3), source)
    assert drawn[1].tolist() == [2, 3, 1, 0]
    assert source.data == b'rest'


@pytest.mark.parametrize(
    'perm',
    [
        np.arange(3),
        np.arange(5),
        np.array([0, 1, 2, 4321]),
        np.array([0, 1, 2, 2]),
        np.array([[0, 1, 2, 3]] * 3),
        np.array([0.0, 1.0, 2.0, 3.0]),
    ],
)
def test_permute_pixels_refused(make_image, perm):
    with pytest.raises(CipherError) as error:
        permute_patch_pixels(make_image((2, 2, 2, 3)), perm, 2)
    assert '4321' not in str(error.value)
