# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from owner_data import named

from hime_mm.ciphers import invert_permutation, shuffle_patches, unshuffle_patches
from hime_mm.ciphers.grid import PIXEL_DTYPES
from hime_mm.errors import CipherError, PictureError

CHANNELS = st.sampled_from([(), (1,), (3,), (5,)])
DTYPES = st.sampled_from(PIXEL_DTYPES)


def loop_shuffle(img: np.ndarray, perm, p: int) -> np.ndarray:
    """Slot after slot, pixel after pixel."""
    out = np.zeros_like(img)
    cols = img.shape[1] // p
    for slot, patch in enumerate(perm):
        for y in range(p):
            for x in range(p):
                out[slot // cols * p + y, slot % cols * p + x] = img[
                    patch // cols * p + y, patch % cols * p + x
                ]
    return out


@given(
    rows=st.integers(1, 4),
    cols=st.integers(1, 4),
    p=st.integers(1, 5),
    channels=CHANNELS,
    dtype=DTYPES,
    seed=st.integers(0, 99),
)
def test_shuffle_is_the_loop(make_image, rows, cols, p, channels, dtype, seed):
    img = make_image((rows * p, cols * p, *channels), dtype, seed)
    before = img.copy()
    perm = np.random.default_rng(seed).permutation(rows * cols)
    shuffled = shuffle_patches(img, perm, p)
    assert shuffled.dtype == dtype
    np.testing.assert_array_equal(shuffled, loop_shuffle(img, perm, p))
    np.testing.assert_array_equal(unshuffle_patches(shuffled, perm, p), img)
    np.testing.assert_array_equal(img, before)


def test_shuffle_direction():
    # Slot 0 shows patch 1, slot 1 patch 2, slot 2 patch 0: a 3-cycle, since
    # a swap cannot tell a permutation from its inverse.
    img = np.repeat(np.array([[10, 11, 12]], np.uint8), 2, 0).repeat(2, 1)
    perm = np.array([1, 2, 0])
    shuffled = shuffle_patches(img, perm, 2)
    assert shuffled[0, ::2].tolist() == [11, 12, 10]
    assert unshuffle_patches(img, perm, 2)[0, ::2].tolist() == [12, 10, 11]
    assert invert_permutation(perm).tolist() == [2, 0, 1]


def test_slots_are_row_major():
    img = np.arange(6, dtype=np.uint8).reshape(2, 3)
    perm = [5, 0, 1, 2, 3, 4]
    assert shuffle_patches(img, perm, 1).tolist() == [[5, 0, 1], [2, 3, 4]]


@pytest.mark.parametrize(
    'dtype', [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
)
def test_permutation_dtypes(make_image, dtype):
    img = make_image((8, 12, 3))
    perm = np.random.default_rng(0).permutation(6)
    np.testing.assert_array_equal(
        shuffle_patches(img, perm.astype(dtype), 4), loop_shuffle(img, perm, 4)
    )
    np.testing.assert_array_equal(
        shuffle_patches(img, perm.tolist(), 4), loop_shuffle(img, perm, 4)
    )


def test_shuffle_batch(make_image):
    rng = np.random.default_rng(1)
    batch = make_image((3, 8, 12, 3))
    one = rng.permutation(6)
    shuffled = shuffle_patches(batch, one, 4)
    for image, result in zip(batch, shuffled, strict=True):
        np.testing.assert_array_equal(result, loop_shuffle(image, one, 4))
    np.testing.assert_array_equal(unshuffle_patches(shuffled, one, 4), batch)

    each = np.stack([rng.permutation(6) for _ in range(3)])
    shuffled = shuffle_patches(batch, each, 4)
    for image, perm, result in zip(batch, each, shuffled, strict=True):
        np.testing.assert_array_equal(result, loop_shuffle(image, perm, 4))
    np.testing.assert_array_equal(unshuffle_patches(shuffled, each, 4), batch)

    for wrong in (each[:2], np.concatenate([each, each])):
        with pytest.raises(CipherError, match=named(f'{len(wrong)} permutations', 'batch of 3 ')):
            shuffle_patches(batch, wrong, 4)
        with pytest.raises(CipherError, match=named(f'{len(wrong)} permutations', 'batch of 3 ')):
            unshuffle_patches(batch, wrong, 4)


def test_shuffle_out(make_image):
    perm = np.random.default_rng(0).permutation(6)
    for shape in ((8, 12), (8, 12, 3), (2, 8, 12, 3)):
        img = make_image(shape)
        out = np.zeros_like(img)
        assert shuffle_patches(img, perm, 4, out=out) is out
        np.testing.assert_array_equal(out, shuffle_patches(img, perm, 4))


@pytest.mark.parametrize(
    'make_out',
    [
        lambda img: np.zeros((8, 8, 3), np.uint8),
        lambda img: np.zeros((8, 12), np.uint8),
        lambda img: np.zeros_like(img, dtype=np.uint16),
        lambda img: np.zeros((16, 12, 3), np.uint8)[::2],
        lambda img: np.asfortranarray(np.zeros_like(img)),
        lambda img: img,
        lambda img: img.reshape(-1).reshape(img.shape),
    ],
)
def test_shuffle_out_refused(make_image, make_out):
    img = make_image((8, 12, 3))
    before = img.copy()
    with pytest.raises(PictureError, match='`out`'):
        shuffle_patches(img, np.arange(6)[::-1], 4, out=make_out(img))
    np.testing.assert_array_equal(img, before)


# Numbers that would be recognised in a message.
@pytest.mark.parametrize(
    'perm',
    [
        np.array([0, 1, 2, 3, 4, 4321]),
        np.array([0, 1, 2, 3, 4, -4321]),
        np.array([0, 1, 2, 3, 4, 2**63 + 4321], np.uint64),
        np.array([0, 1, 2, 3, 4, 3]),
        np.array([0, 1, 2, 3]),
        np.array([0, 1, 2, 3, 4, 5, 6]),
        np.array([[0, 1, 2, 3, 4, 5]]),
        np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        np.ones(6, bool),
        np.array(0),
    ],
)
def test_permutation_errors_keep_the_secret(make_image, perm):
    img = make_image((8, 12, 3))
    with pytest.raises(CipherError, match='permutation') as error:
        shuffle_patches(img, perm, 4)
    # What numpy has to say about an index names the index.
    assert error.value.__context__ is None
    allowed = {'6', '5', '0', '64', *map(str, perm.shape)}
    assert set(re.findall(r'\d+', str(error.value))) <= allowed
    if perm.ndim == 1:
        with pytest.raises(CipherError, match='permutation'):
            unshuffle_patches(img, perm, 4)


@pytest.mark.parametrize('shape', [(8, 12, 3), (2, 8, 12, 3)])
def test_shuffle_sizes(make_image, shape):
    img = make_image(shape)
    with pytest.raises(PictureError, match='8x12.*5'):
        shuffle_patches(img, np.arange(4), 5)
    with pytest.raises(CipherError, match='patch size.* 0$'):
        shuffle_patches(img, np.arange(4), 0)
    for call in (shuffle_patches, unshuffle_patches):
        with pytest.raises(TypeError, match='int32'):
            call(img.astype(np.int32), np.arange(6), 4)
        with pytest.raises(TypeError, match='list'):
            call(img.tolist(), np.arange(6), 4)


@pytest.mark.parametrize(
    'view',
    [
        lambda x: x[::2, ::-1],
        lambda x: x.transpose(1, 0, 2),
        lambda x: np.asfortranarray(x),
        lambda x: x[4:12, 8:16],
    ],
)
def test_shuffle_non_contiguous(make_image, view):
    img = view(make_image((16, 32, 3)))
    num = img.shape[0] * img.shape[1] // 16
    perm = np.random.default_rng(0).permutation(num)
    np.testing.assert_array_equal(shuffle_patches(img, perm, 4), loop_shuffle(img, perm, 4))


def test_shuffle_of_a_photo(coco_tiny):
    cv2 = pytest.importorskip('cv2')
    path = sorted((coco_tiny / 'val2017').glob('*.jpg'))[0]
    img = cv2.imread(str(path))
    img = img[: img.shape[0] // 16 * 16, : img.shape[1] // 16 * 16]
    num = img.shape[0] * img.shape[1] // 256
    perm = np.random.default_rng(0).permutation(num)
    shuffled = shuffle_patches(img, perm, 16)
    np.testing.assert_array_equal(shuffled, loop_shuffle(img, perm, 16))
    assert (shuffled != img).any()
    np.testing.assert_array_equal(unshuffle_patches(shuffled, perm, 16), img)
