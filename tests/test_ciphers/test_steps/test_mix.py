# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from owner_data import named

from hime_mm.ciphers import mix_patches
from hime_mm.ciphers.grid import PIXEL_DTYPES
from hime_mm.ciphers.steps import mix
from hime_mm.errors import CipherError, PictureError

CHANNELS = st.sampled_from([(), (1,), (3,), (5,)])
DTYPES = st.sampled_from(PIXEL_DTYPES)


def loop_mix(img: np.ndarray, p: int, g: int) -> np.ndarray:
    """The average of the sub-patches, in exact integers or in float64."""
    h, w = img.shape[:2]
    side = p // g
    out = np.zeros((h // g, w // g, *img.shape[2:]), img.dtype)
    for row in range(h // p):
        for col in range(w // p):
            for y in range(side):
                for x in range(side):
                    parts = np.stack(
                        [
                            img[row * p + i * side + y, col * p + j * side + x]
                            for i in range(g)
                            for j in range(g)
                        ]
                    )
                    if img.dtype.kind == 'u':
                        # Halves upwards: floor(sum / g² + 1/2).
                        total = parts.astype(np.int64).sum(0)
                        value = (2 * total + g * g) // (2 * g * g)
                    else:
                        value = parts.astype(np.float64).mean(0)
                    out[row * side + y, col * side + x] = value
    return out


@given(
    rows=st.integers(1, 3),
    cols=st.integers(1, 3),
    g=st.sampled_from([1, 2, 3, 4, 8]),
    side=st.integers(1, 3),
    channels=CHANNELS,
    dtype=DTYPES,
    seed=st.integers(0, 99),
)
def test_mix_is_the_loop(make_image, rows, cols, g, side, channels, dtype, seed):
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
                tiled[y, x], mixed[y // p * side + y % side, x // p * side + x % side]
            )


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


@pytest.mark.parametrize(
    'values, mean',
    [
        ([0, 0, 0, 1], 0),
        ([0, 0, 1, 1], 1),
        ([0, 1, 1, 1], 1),
        ([2, 2, 3, 3], 3),
        ([254, 254, 255, 255], 255),
    ],
)
def test_mix_rounds_halves_up(values, mean):
    img = np.array(values, np.uint8).reshape(2, 2)
    assert mix_patches(img, 2, 2).item() == mean


@pytest.mark.parametrize('form', ['compact', 'tiled'])
def test_mix_batch(make_image, form):
    batch = make_image((3, 8, 12, 2))
    mixed = mix_patches(batch, 4, 2, form)
    for image, result in zip(batch, mixed, strict=True):
        np.testing.assert_array_equal(result, mix_patches(image, 4, 2, form))
    assert mixed.shape == ((3, 4, 6, 2) if form == 'compact' else batch.shape)


@pytest.mark.parametrize('dtype', [np.uint8, np.float64])
@pytest.mark.parametrize('patch_rows', [0, 1, 2, 3, 5, 100])
def test_mix_in_blocks(make_image, monkeypatch, dtype, patch_rows):
    img = make_image((28, 12, 3), dtype)
    # Bytes of the sums of so many of the seven patch rows.
    itemsize = 2 if dtype == np.uint8 else 8
    monkeypatch.setattr(mix, '_MIX_BLOCK', patch_rows * 2 * 36 * itemsize)
    np.testing.assert_allclose(mix_patches(img, 4, 2), loop_mix(img, 4, 2), rtol=1e-12)
    batch = make_image((3, 8, 12, 3), dtype)
    np.testing.assert_allclose(
        mix_patches(batch, 4, 4), np.stack([loop_mix(image, 4, 4) for image in batch]), rtol=1e-9
    )


def test_mix_errors(make_image):
    img = make_image((32, 48, 3))
    for g in (3, 5, 32, 0, -2):
        with pytest.raises(CipherError, match=named(f"'mix{g}'", 16)):
            mix_patches(img, 16, g)
    with pytest.raises(CipherError, match="'small'.*'compact'.*'tiled'"):
        mix_patches(img, 16, 2, 'small')
    with pytest.raises(PictureError, match='32x48.*20'):
        mix_patches(img, 20, 2)
    with pytest.raises(TypeError, match='int16'):
        mix_patches(img.astype(np.int16), 16, 2)


@pytest.mark.parametrize(
    'view',
    [
        lambda x: x[::2, ::-1],
        lambda x: x.transpose(1, 0, 2),
        lambda x: np.asfortranarray(x),
        lambda x: x[4:12, 8:16],
    ],
)
def test_mix_non_contiguous(make_image, view):
    img = view(make_image((16, 32, 3)))
    np.testing.assert_array_equal(mix_patches(img, 4, 2), loop_mix(img, 4, 2))


def test_mix_of_a_photo(coco_tiny):
    cv2 = pytest.importorskip('cv2')
    path = sorted((coco_tiny / 'val2017').glob('*.jpg'))[0]
    img = cv2.imread(str(path))
    img = img[: img.shape[0] // 16 * 16, : img.shape[1] // 16 * 16]
    np.testing.assert_array_equal(mix_patches(img, 16, 2), loop_mix(img, 16, 2))
