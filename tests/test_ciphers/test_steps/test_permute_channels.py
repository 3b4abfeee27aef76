# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from step_helpers import Bytes, layout, words

from hime_mm.ciphers import Cipher, PermuteChannels
from hime_mm.ciphers.steps import permute_patch_channels
from hime_mm.errors import CipherError, PictureError


def test_permute_channels_by_hand():
    # A 3-cycle: a swap cannot tell a permutation from its inverse.
    img = np.array([[[10, 11, 12], [20, 21, 22]]], np.uint8)
    perms = [[1, 2, 0], [0, 1, 2]]
    result = permute_patch_channels(img, perms, 1)
    assert result.tolist() == [[[11, 12, 10], [20, 21, 22]]]
    back = permute_patch_channels(result, perms, 1, True)
    assert back.tolist() == img.tolist()


def test_permute_channels_draw():
    source = Bytes(words(2, 3, 1, 9, 9, 9) + b'rest')
    perms = PermuteChannels().draw(layout(2, 1, 4), (3,), source)
    # Equal words keep their order.
    assert perms.tolist() == [[2, 0, 1], [0, 1, 2]]
    assert source.data == b'rest'


@pytest.mark.parametrize('channels', [(), (1,)])
def test_permute_channels_of_gray_images(make_image, channels):
    cipher = Cipher('permute_channels', 4)
    img = make_image((8, 8, *channels))
    for call in (lambda: cipher.encrypt(img), lambda: cipher.draw(img.shape)):
        with pytest.raises(PictureError, match="'permute_channels'"):
            call()
    with pytest.raises(PictureError, match="'permute_channels'"):
        permute_patch_channels(img, np.zeros((4, 1), int), 4)


@pytest.mark.parametrize(
    'perms',
    [
        np.array([[0, 1, 4321]]),
        np.array([[0, 1, -1]]),
        np.array([[0, 1, 1]]),
        np.array([[0, 1]]),
        np.array([[0, 1, 2, 3]]),
        np.array([[0, 1, 2]] * 2),
        np.array([0, 1, 2]),
    ],
)
def test_permute_channels_refused(make_image, perms):
    with pytest.raises(CipherError) as error:
        permute_patch_channels(make_image((4, 4, 3)), perms, 4)
    assert '4321' not in str(error.value)
    assert error.value.__context__ is None
