# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest

from hime_mm.ciphers.steps import center_patches


@pytest.mark.parametrize(
    'patch, centred, clipped',
    [
        # A mean of 1/4, of 1/2 and of 3/4.
        ([0, 0, 0, 1], [128, 128, 128, 129], 0),
        ([0, 0, 1, 1], [127, 127, 128, 128], 0),
        ([0, 1, 1, 1], [127, 128, 128, 128], 0),
        ([255, 255, 255, 254], [128, 128, 128, 127], 0),
        ([254, 254, 255, 255], [127, 127, 128, 128], 0),
        # A mean of 63.75: 255 would become 319.
        ([255, 0, 0, 0], [255, 64, 64, 64], 1),
        # A mean of 191.25: 0 would become -63.
        ([0, 255, 255, 255], [0, 192, 192, 192], 1),
        # Just inside the range: the means are 128 and 64.
        ([0, 128, 255, 129], [0, 128, 255, 129], 0),
        ([191, 20, 20, 25], [255, 84, 84, 89], 0),
        ([192, 20, 20, 24], [255, 84, 84, 88], 1),
        ([255, 255, 0, 0], [255, 255, 0, 0], 0),
    ],
)
def test_center_by_hand(patch, centred, clipped):
    img = np.array(patch, np.uint8).reshape(2, 2)
    result, num = center_patches(img, 2)
    assert result.ravel().tolist() == centred
    assert (num, type(num)) == (clipped, int)
    # Each patch and channel by itself.
    img = np.stack([img, np.full_like(img, 9)], 2)
    img = np.hstack([np.full_like(img, 200), img])
    result, num = center_patches(img, 2)
    assert result[:, 2:, 0].ravel().tolist() == centred
    assert (result[:, 2:, 1] == 128).all() and (result[:, :2] == 128).all()
    assert num == clipped


def test_center_of_other_types():
    img = np.array([[65535, 0], [0, 1]], np.uint16)
    # A mean of exactly 16384.
    result, num = center_patches(img, 2)
    assert result.tolist() == [[65535, 16384], [16384, 16385]]
    assert num == 1
    for dtype in (np.float32, np.float64):
        img = np.array([[1000, 0], [-1000, 1]], dtype)
        result, num = center_patches(img, 2)
        assert result.tolist() == [[1127.75, 127.75], [-872.25, 128.75]]
        assert num == 0


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_center_of_large_patches(dtype):
    """No sum overflows."""
    peak = np.iinfo(dtype).max
    img = np.full((512, 512), peak, dtype)
    result, num = center_patches(img, 512)
    assert (result == (peak + 1) // 2).all() and num == 0
