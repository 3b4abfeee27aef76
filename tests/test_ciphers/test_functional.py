# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hime_mm.ciphers import (invert_permutation, mix_patches, shuffle_patches,
                             unshuffle_patches)
from hime_mm.ciphers.grid import PIXEL_DTYPES
from hime_mm.ciphers.permutation import check_permutation
from hime_mm.ciphers.steps import mix

CHANNELS = st.sampled_from([(), (1, ), (3, ), (5, )])
DTYPES = st.sampled_from(PIXEL_DTYPES)


def loop_shuffle(img: np.ndarray, perm, p: int) -> np.ndarray:
    """Slot after slot, pixel after pixel."""
    out = np.zeros_like(img)
    cols = img.shape[1] // p
    for slot, patch in enumerate(perm):
        for y in range(p):
            for x in range(p):
                out[slot // cols * p + y,
                    slot % cols * p + x] = img[patch // cols * p + y,
                                               patch % cols * p + x]
    return out


def loop_mix(img: np.ndarray, p: int, g: int) -> np.ndarray:
    """The average of the sub-patches, in exact integers or in float64."""
    h, w = img.shape[:2]
    side = p // g
    out = np.zeros((h // g, w // g, *img.shape[2:]), img.dtype)
    for row in range(h // p):
        for col in range(w // p):
            for y in range(side):
                for x in range(side):
                    parts = np.stack([
                        img[row * p + i * side + y, col * p + j * side + x]
                        for i in range(g) for j in range(g)
                    ])
                    if img.dtype.kind == 'u':
                        # Halves upwards: floor(sum / g² + 1/2).
                        total = parts.astype(np.int64).sum(0)
                        value = (2 * total + g * g) // (2 * g * g)
                    else:
                        value = parts.astype(np.float64).mean(0)
                    out[row * side + y, col * side + x] = value
    return out


@given(
    rows=st.integers(1, 4),
    cols=st.integers(1, 4),
    p=st.integers(1, 5),
    channels=CHANNELS,
    dtype=DTYPES,
    seed=st.integers(0, 99))
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


@given(num=st.integers(1, 50), seed=st.integers(0, 99))
def test_invert_permutation(num, seed):
    perm = np.random.default_rng(seed).permutation(num)
    inverse = invert_permutation(perm)
    assert inverse.dtype == np.int64
    assert all(perm[inverse[patch]] == patch for patch in range(num))


@pytest.mark.parametrize('dtype', [
    np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64,
    np.uint64
])
def test_permutation_dtypes(make_image, dtype):
    img = make_image((8, 12, 3))
    perm = np.random.default_rng(0).permutation(6)
    np.testing.assert_array_equal(
        shuffle_patches(img, perm.astype(dtype), 4),
        loop_shuffle(img, perm, 4))
    np.testing.assert_array_equal(
        shuffle_patches(img, perm.tolist(), 4), loop_shuffle(img, perm, 4))


def test_shuffle_batch(make_image):
    rng = np.random.default_rng(1)
    batch = make_image((3, 8, 12, 3))
    one = rng.permutation(6)
    shuffled = shuffle_patches(batch, one, 4)
    for image, result in zip(batch, shuffled):
        np.testing.assert_array_equal(result, loop_shuffle(image, one, 4))
    np.testing.assert_array_equal(unshuffle_patches(shuffled, one, 4), batch)

    each = np.stack([rng.permutation(6) for _ in range(3)])
    shuffled = shuffle_patches(batch, each, 4)
    for image, perm, result in zip(batch, each, shuffled):
        np.testing.assert_array_equal(result, loop_shuffle(image, perm, 4))
    np.testing.assert_array_equal(unshuffle_patches(shuffled, each, 4), batch)

    for wrong in (each[:2], np.concatenate([each, each])):
        with pytest.raises(ValueError, match='batch of 3 images'):
            shuffle_patches(batch, wrong, 4)
        with pytest.raises(ValueError, match='batch of 3 images'):
            unshuffle_patches(batch, wrong, 4)


@pytest.mark.parametrize('view', [
    lambda x: x[::2, ::-1],
    lambda x: x.transpose(1, 0, 2),
    lambda x: np.asfortranarray(x),
    lambda x: x[4:12, 8:16],
])
def test_non_contiguous(make_image, view):
    img = view(make_image((16, 32, 3)))
    num = img.shape[0] * img.shape[1] // 16
    perm = np.random.default_rng(0).permutation(num)
    np.testing.assert_array_equal(
        shuffle_patches(img, perm, 4), loop_shuffle(img, perm, 4))
    np.testing.assert_array_equal(mix_patches(img, 4, 2), loop_mix(img, 4, 2))


def test_shuffle_out(make_image):
    perm = np.random.default_rng(0).permutation(6)
    for shape in ((8, 12), (8, 12, 3), (2, 8, 12, 3)):
        img = make_image(shape)
        out = np.zeros_like(img)
        assert shuffle_patches(img, perm, 4, out=out) is out
        np.testing.assert_array_equal(out, shuffle_patches(img, perm, 4))


@pytest.mark.parametrize('make_out', [
    lambda img: np.zeros((8, 8, 3), np.uint8),
    lambda img: np.zeros((8, 12), np.uint8),
    lambda img: np.zeros_like(img, dtype=np.uint16),
    lambda img: np.zeros((16, 12, 3), np.uint8)[::2],
    lambda img: np.asfortranarray(np.zeros_like(img)),
    lambda img: img,
    lambda img: img.reshape(-1).reshape(img.shape),
])
def test_shuffle_out_refused(make_image, make_out):
    img = make_image((8, 12, 3))
    before = img.copy()
    with pytest.raises(ValueError, match='`out` must be'):
        shuffle_patches(img, np.arange(6)[::-1], 4, out=make_out(img))
    np.testing.assert_array_equal(img, before)


# Numbers that would be recognised in a message.
@pytest.mark.parametrize('perm', [
    np.array([0, 1, 2, 3, 4, 4321]),
    np.array([0, 1, 2, 3, 4, -4321]),
    np.array([0, 1, 2, 3, 4, 2**63 + 4321], np.uint64),
    np.array([0, 1, 2, 3, 4, 3]),
    np.array([0, 1, 2, 3]),
    np.array([0, 1, 2, 3, 4, 5, 6]),
    np.array([[0, 1, 2, 3, 4, 5]]),
    np.array([0., 1., 2., 3., 4., 5.]),
    np.ones(6, bool),
    np.array(0),
])
def test_permutation_errors_keep_the_secret(make_image, perm):
    img = make_image((8, 12, 3))
    with pytest.raises(ValueError, match='permutation') as error:
        shuffle_patches(img, perm, 4)
    # What numpy has to say about an index names the index.
    assert error.value.__context__ is None
    allowed = {'6', '5', '0', '64', *map(str, perm.shape)}
    assert set(re.findall(r'\d+', str(error.value))) <= allowed
    if perm.ndim == 1:
        with pytest.raises(ValueError, match='permutation'):
            unshuffle_patches(img, perm, 4)


@given(num=st.integers(1, 20), seed=st.integers(0, 99), data=st.data())
def test_check_permutation(num, seed, data):
    perm = np.random.default_rng(seed).permutation(num)
    checked = check_permutation(perm, num)
    assert checked.dtype == np.int64
    np.testing.assert_array_equal(checked, perm)
    where = data.draw(st.integers(0, num - 1))
    perm[where] = data.draw(
        st.integers(-num - 1, 2 * num).filter(lambda x: x != perm[where]))
    with pytest.raises(ValueError, match='exactly once'):
        check_permutation(perm, num)


@pytest.mark.parametrize('shape', [(8, 12, 3), (2, 8, 12, 3)])
def test_shuffle_sizes(make_image, shape):
    img = make_image(shape)
    with pytest.raises(ValueError, match='8x12.*patch size 5'):
        shuffle_patches(img, np.arange(4), 5)
    with pytest.raises(ValueError, match='must be positive'):
        shuffle_patches(img, np.arange(4), 0)
    for call in (shuffle_patches, unshuffle_patches):
        with pytest.raises(TypeError, match='int32'):
            call(img.astype(np.int32), np.arange(6), 4)
        with pytest.raises(TypeError, match='got list'):
            call(img.tolist(), np.arange(6), 4)


@given(
    rows=st.integers(1, 3),
    cols=st.integers(1, 3),
    g=st.sampled_from([1, 2, 3, 4, 8]),
    side=st.integers(1, 3),
    channels=CHANNELS,
    dtype=DTYPES,
    seed=st.integers(0, 99))
def test_mix_is_the_loop(make_image, rows, cols, g, side, channels, dtype,
                         seed):
    p = g * side
    img = make_image((rows * p, cols * p, *channels), dtype, seed)
    before = img.copy()
    mixed = mix_patches(img, p, g)
    expected = loop_mix(img, p, g)
    assert mixed.dtype == dtype
    assert mixed.flags.writeable
    assert not np.shares_memory(mixed, img)
    if np.dtype(dtype).kind == 'u':
        np.testing.assert_array_equal(mixed, expected)
    else:
        rtol = 1e-5 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(mixed, expected, rtol, atol=1e3 * rtol)
    np.testing.assert_array_equal(img, before)

    tiled = mix_patches(img, p, g, 'tiled')
    assert tiled.dtype == dtype and tiled.shape == img.shape
    assert tiled.flags.writeable
    for y in range(img.shape[0]):
        for x in range(img.shape[1]):
            np.testing.assert_array_equal(
                tiled[y, x], mixed[y // p * side + y % side,
                                   x // p * side + x % side])


def test_mix_defaults(make_image):
    img = make_image((12, 12, 3))
    np.testing.assert_array_equal(mix_patches(img, 6), loop_mix(img, 6, 2))


@pytest.mark.parametrize('g', [2, 4, 8, 16, 32])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_mix_extremes(dtype, g):
    peak = np.iinfo(dtype).max
    for value in (0, 1, peak - 1, peak):
        img = np.full((32, 64, 3), value, dtype)
        for form in ('compact', 'tiled'):
            assert (mix_patches(img, 32, g, form) == value).all()
    # All but one pixel of the average at the peak: rounds to the peak from
    # g = 2 on, without overflow.
    img = np.full((g, g), peak, dtype)
    img[0, 0] = peak - 1
    assert mix_patches(img, g, g).item() == peak


@pytest.mark.parametrize('values, mean', [
    ([0, 0, 0, 1], 0),
    ([0, 0, 1, 1], 1),
    ([0, 1, 1, 1], 1),
    ([2, 2, 3, 3], 3),
    ([254, 254, 255, 255], 255),
])
def test_mix_rounds_halves_up(values, mean):
    img = np.array(values, np.uint8).reshape(2, 2)
    assert mix_patches(img, 2, 2).item() == mean


@pytest.mark.parametrize('form', ['compact', 'tiled'])
def test_mix_batch(make_image, form):
    batch = make_image((3, 8, 12, 2))
    mixed = mix_patches(batch, 4, 2, form)
    for image, result in zip(batch, mixed):
        np.testing.assert_array_equal(result, mix_patches(image, 4, 2, form))
    assert mixed.shape == ((3, 4, 6, 2) if form == 'compact' else batch.shape)


@pytest.mark.parametrize('dtype', [np.uint8, np.float64])
@pytest.mark.parametrize('patch_rows', [0, 1, 2, 3, 5, 100])
def test_mix_in_blocks(make_image, monkeypatch, dtype, patch_rows):
    img = make_image((28, 12, 3), dtype)
    # Bytes of the sums of so many of the seven patch rows.
    itemsize = 2 if dtype == np.uint8 else 8
    monkeypatch.setattr(mix, '_MIX_BLOCK',
                        patch_rows * 2 * 36 * itemsize)
    np.testing.assert_allclose(
        mix_patches(img, 4, 2), loop_mix(img, 4, 2), rtol=1e-12)
    batch = make_image((3, 8, 12, 3), dtype)
    np.testing.assert_allclose(
        mix_patches(batch, 4, 4),
        np.stack([loop_mix(image, 4, 4) for image in batch]),
        rtol=1e-9)


def test_mix_errors(make_image):
    img = make_image((32, 48, 3))
    for g in (3, 5, 32, 0, -2):
        with pytest.raises(ValueError, match='divisor of 16'):
            mix_patches(img, 16, g)
    with pytest.raises(ValueError, match="'compact' or 'tiled'"):
        mix_patches(img, 16, 2, 'small')
    with pytest.raises(ValueError, match='32x48.*patch size 20'):
        mix_patches(img, 20, 2)
    with pytest.raises(TypeError, match='int16'):
        mix_patches(img.astype(np.int16), 16, 2)


def test_real_image(coco_tiny):
    cv2 = pytest.importorskip('cv2')
    path = sorted((coco_tiny / 'val2017').glob('*.jpg'))[0]
    img = cv2.imread(str(path))
    img = img[:img.shape[0] // 16 * 16, :img.shape[1] // 16 * 16]
    num = img.shape[0] * img.shape[1] // 256
    perm = np.random.default_rng(0).permutation(num)
    shuffled = shuffle_patches(img, perm, 16)
    np.testing.assert_array_equal(shuffled, loop_shuffle(img, perm, 16))
    assert (shuffled != img).any()
    np.testing.assert_array_equal(unshuffle_patches(shuffled, perm, 16), img)
    np.testing.assert_array_equal(
        mix_patches(img, 16, 2), loop_mix(img, 16, 2))
