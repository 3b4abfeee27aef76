# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from owner_data import named

from hime_mm.ciphers import grid_shape, join_patches, split_patches
from hime_mm.ciphers.grid import PIXEL_DTYPES, check_image
from hime_mm.errors import CipherError, PictureError


def loop_split(img: np.ndarray, p: int) -> np.ndarray:
    patches = []
    for top in range(0, img.shape[0], p):
        for left in range(0, img.shape[1], p):
            patches.append(img[top : top + p, left : left + p])
    return np.stack(patches)


@given(
    rows=st.integers(1, 4),
    cols=st.integers(1, 4),
    p=st.integers(1, 6),
    channels=st.sampled_from([(), (1,), (2,), (3,), (7,)]),
    dtype=st.sampled_from(PIXEL_DTYPES),
    seed=st.integers(0, 99),
)
def test_split_and_join(make_image, rows, cols, p, channels, dtype, seed):
    img = make_image((rows * p, cols * p, *channels), dtype, seed)
    patches = split_patches(img, p)
    assert patches.dtype == dtype
    np.testing.assert_array_equal(patches, loop_split(img, p))
    joined = join_patches(patches, (rows, cols))
    assert joined.dtype == dtype
    np.testing.assert_array_equal(joined, img)


@pytest.mark.parametrize('dtype', PIXEL_DTYPES)
def test_split_and_join_batch(make_image, dtype):
    batch = make_image((3, 8, 12, 2), dtype)
    patches = split_patches(batch, 4)
    assert patches.shape == (3, 6, 4, 4, 2)
    for image, image_patches in zip(batch, patches, strict=True):
        np.testing.assert_array_equal(image_patches, loop_split(image, 4))
    np.testing.assert_array_equal(join_patches(patches, (2, 3)), batch)


@pytest.mark.parametrize(
    'view',
    [
        lambda x: x[::2, ::-1],
        lambda x: x.transpose(1, 0, 2),
        lambda x: np.asfortranarray(x),
        lambda x: x[4:12, 8:16],
    ],
)
def test_split_non_contiguous(make_image, view):
    img = view(make_image((16, 32, 3)))
    patches = split_patches(img, 4)
    np.testing.assert_array_equal(patches, loop_split(img, 4))
    grid = (img.shape[0] // 4, img.shape[1] // 4)
    np.testing.assert_array_equal(join_patches(patches, grid), img)


def test_split_and_join_copy(make_image):
    # One patch is the case where a reshape alone would be a view.
    img = make_image((4, 4, 3))
    patches = split_patches(img, 4)
    assert not np.shares_memory(patches, img)
    assert not np.shares_memory(join_patches(patches, (1, 1)), patches)


def test_grid_shape():
    assert grid_shape((32, 48), 16) == (2, 3)
    for shape in ((33, 48), (32, 47), (0, 48), (32, 0), (8, 16)):
        with pytest.raises(PictureError, match=named('{}x{} '.format(*shape), 16)):
            grid_shape(shape, 16)
    for patch_size in (0, -16):
        with pytest.raises(CipherError, match=f'patch size.* {patch_size}$'):
            grid_shape((32, 48), patch_size)


@pytest.mark.parametrize('dtype', PIXEL_DTYPES)
def test_check_image(dtype):
    for shape in ((4, 4), (4, 4, 3), (2, 4, 4, 3)):
        img = np.zeros(shape, dtype)
        assert check_image(img) is img


@pytest.mark.parametrize(
    'dtype', [np.int8, np.int32, np.int64, np.uint32, np.float16, np.complex64, bool, object, '>u2']
)
def test_check_image_dtype(dtype):
    with pytest.raises(TypeError, match='uint8, uint16, float32, float64'):
        split_patches(np.zeros((4, 4, 3), dtype), 4)


@pytest.mark.parametrize('img', [None, [[1, 2], [3, 4]], 'image', 3])
def test_check_image_kind(img):
    with pytest.raises(TypeError, match=type(img).__name__):
        check_image(img)


@pytest.mark.parametrize('shape', [(), (4,), (1, 1, 4, 4, 3), (0, 4), (4, 4, 0), (0, 4, 4, 3)])
def test_check_image_shape(shape):
    with pytest.raises(PictureError, match=named(shape)):
        check_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    'shape, grid',
    [
        ((5, 4, 4, 3), (2, 3)),
        ((6, 4, 4, 3), (2, 2)),
        ((3, 6, 4, 4, 3), (1, 3)),
        ((6, 4, 3), (2, 3)),
        ((6, 4), (2, 3)),
    ],
)
def test_join_errors(shape, grid):
    with pytest.raises(PictureError, match=named('{}x{} '.format(*grid), shape)):
        join_patches(np.zeros(shape, np.uint8), grid)
