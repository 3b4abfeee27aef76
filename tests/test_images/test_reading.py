# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is noticed of a picture when it is read, and what is done about it."""

import mmcv
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from owner_data import photo
from picture_files import (
    FILES,
    bmp_with_alpha,
    chunk,
    encoded,
    exif_block,
    saved,
    turned_file,
    with_chunks,
)
from PIL import Image

from hime_mm.errors import HimeError, PictureError
from hime_mm.images import reading
from hime_mm.images.codec import COLOR_TYPES, decode_image
from hime_mm.images.preprocess import Preprocess
from hime_mm.images.reading import NOTICES, read_array, read_picture, turn


def noticed(data, **preprocess):
    return read_picture(data, Preprocess(**preprocess)).noticed


def with_alpha(height=24, width=40, dtype=np.uint8):
    """A photo, of which the left half is transparent."""
    most = np.iinfo(dtype).max
    img = np.dstack([photo(height, width, dtype=dtype), np.full((height, width), most, dtype)])
    img[:, : width // 2, 3] = 0
    return img


ALPHA = with_alpha()
PIL_ALPHA = Image.fromarray(ALPHA[..., [2, 1, 0, 3]])
PALETTE = Image.fromarray(photo(24, 40)).quantize(16)
# Files that hide something, and the color types that hand it over.
HIDDEN = {
    'png': (encoded('.png', ALPHA), COLOR_TYPES),
    '16 bits': (encoded('.png', with_alpha(dtype=np.uint16)), COLOR_TYPES),
    'gray': (saved(PIL_ALPHA.convert('LA'), 'PNG'), COLOR_TYPES),
    'palette': (saved(PALETTE, 'PNG', transparency=bytes(8) + b'\xff' * 8), COLOR_TYPES),
    'webp': (saved(PIL_ALPHA, 'WEBP', lossless=True, exact=True), COLOR_TYPES),
    'lossy webp': (saved(PIL_ALPHA, 'WEBP', quality=90, exact=True), COLOR_TYPES),
    'bmp': (bmp_with_alpha(ALPHA), COLOR_TYPES),
    'jpeg 2000': (saved(PIL_ALPHA, 'JPEG2000'), COLOR_TYPES),
    # Of TIFF's unassociated alpha, libtiff makes black where it reads 8 bits.
    'tiff': (encoded('.tiff', ALPHA), COLOR_TYPES),
    'tiff of PIL': (saved(PIL_ALPHA, 'TIFF'), ()),
    'turned': (
        with_chunks(encoded('.png', ALPHA), chunk(b'eXIf', exif_block(6))),
        COLOR_TYPES,
    ),
    'mirrored': (
        with_chunks(encoded('.png', with_alpha(24, 24)), chunk(b'eXIf', exif_block(7, '>'))),
        COLOR_TYPES,
    ),
}


class TestPixels:
    @pytest.mark.parametrize('color_type', COLOR_TYPES)
    @pytest.mark.parametrize('name', FILES)
    def test_are_those_of_mmcv(self, name, color_type):
        picture = read_picture(FILES[name], Preprocess(color_type=color_type))
        np.testing.assert_array_equal(picture.img, mmcv.imfrombytes(FILES[name], flag=color_type))

    @pytest.mark.parametrize('name', FILES)
    def test_ordinary_files_are_decoded_once(self, name, monkeypatch):
        calls = []

        def counted(*args):
            calls.append(args)
            return decode_image(*args)

        monkeypatch.setattr(reading, 'decode_image', counted)
        read_picture(FILES[name], Preprocess())
        assert len(calls) == 1 + (name == 'alpha')


class TestDark:
    @pytest.mark.parametrize('color_type', ['color', 'grayscale', 'color_ignore_orientation'])
    @pytest.mark.parametrize('suffix', ['.png', '.tiff', '.pgm'])
    @pytest.mark.parametrize('bits', [1, 8, 10, 12, 14])
    def test_few_of_16_bits(self, bits, suffix, color_type):
        img = photo(20, 30, channels=1, dtype=np.uint16) >> (16 - bits)
        img[3, 5] = (1 << bits) - 1
        data = encoded(suffix, img)
        assert noticed(data, color_type=color_type) == ['dark']
        assert noticed(data, color_type='unchanged') == []

    @pytest.mark.parametrize('channels', [3, 4])
    def test_of_colours(self, channels):
        img = photo(20, 30, channels=channels, dtype=np.uint16) >> 4
        # What is opaque has all bits of alpha.
        img[..., 3:] = 65535
        assert noticed(encoded('.png', img)) == ['dark']

    @pytest.mark.parametrize(
        'img',
        [
            photo(20, 30, channels=1, dtype=np.uint16) >> 1,
            np.full((8, 8), 1 << 14, np.uint16),
            np.zeros((8, 8), np.uint16),
            photo(20, 30) >> 4,
            photo(20, 30, channels=1) >> 6,
        ],
        ids=['15 bits', 'just', 'black', '8 bits', 'gray of 8 bits'],
    )
    @pytest.mark.parametrize('suffix', ['.png', '.tiff'])
    def test_others(self, img, suffix):
        assert noticed(encoded(suffix, img)) == []


class TestHidden:
    @pytest.mark.parametrize('color_type', COLOR_TYPES)
    @pytest.mark.parametrize('name', HIDDEN)
    def test_noticed_and_painted_black(self, name, color_type):
        data, handed_over = HIDDEN[name]
        kept = read_picture(data, Preprocess(color_type=color_type))
        assert ('hidden' in kept.noticed) == (color_type in handed_over)
        np.testing.assert_array_equal(kept.img, decode_image(data, color_type))
        black = read_picture(data, Preprocess(color_type=color_type, transparent='black'))
        assert 'hidden' not in black.noticed
        # What is not transparent stays, and all that is left of the rest is black.
        changed = black.img != kept.img
        assert changed.any() == (color_type in handed_over)
        assert not black.img[changed].any()
        if color_type == 'unchanged':
            np.testing.assert_array_equal(black.img[..., 3], kept.img[..., 3])
            assert not black.img[black.img[..., 3] == 0].any()

    @given(
        st.integers(1, 8),
        st.sampled_from(['color', 'grayscale', 'color_ignore_orientation', 'unchanged']),
        st.integers(0, 2**32 - 1),
        st.integers(1, 9),
        st.integers(1, 9),
    )
    def test_wherever_they_are(self, orientation, color_type, seed, height, width):
        """The mask turns with the picture: nothing that shows is black, all else is."""
        rng = np.random.default_rng(seed)
        img = rng.integers(8, 256, (height, width, 4), np.uint8)
        img[..., 3] = 255 * rng.integers(0, 2, (height, width))
        data = with_chunks(encoded('.png', img), chunk(b'eXIf', exif_block(orientation)))
        black = read_picture(data, Preprocess(color_type=color_type, transparent='black')).img
        shown = img[..., 3] > 0
        if color_type in ('color', 'grayscale'):
            shown = turn(shown, orientation)
        colours = black[..., :3].any(axis=2) if black.ndim == 3 else black > 0
        np.testing.assert_array_equal(colours, shown)

    def test_colours_that_do_not_tell_whether_they_were_turned(self):
        """The same in each orientation, so OpenCV's mask may lie the other way."""
        img = np.full((8, 8, 4), 200, np.uint8)
        img[:4, :, 3], img[4:, :, 3] = 0, 255
        data = with_chunks(encoded('.png', img), chunk(b'eXIf', exif_block(6)))
        with pytest.raises(PictureError, match='cannot be told'):
            noticed(data, transparent='black')
        stored = read_picture(data, Preprocess(color_type='unchanged', transparent='black')).img
        np.testing.assert_array_equal(stored[..., :3].any(axis=2), img[..., 3] > 0)
        for orientation, changed in ((1, img), (2, img), (6, with_alpha(8, 8))):
            data = with_chunks(encoded('.png', changed), chunk(b'eXIf', exif_block(orientation)))
            black = read_picture(data, Preprocess(transparent='black')).img
            expected = turn(np.where(changed[..., 3:] > 0, changed[..., :3], 0), orientation)
            np.testing.assert_array_equal(black, expected)

    @pytest.mark.parametrize(
        'img',
        [
            np.dstack([photo(24, 40), np.full((24, 40), 255, np.uint8)]),
            np.dstack([photo(24, 40), np.ones((24, 40), np.uint8)]),
            np.where(ALPHA[..., 3:] == 0, np.uint8([255, 255, 255, 0]), ALPHA),
            np.where(ALPHA[..., 3:] == 0, np.uint8([9, 8, 7, 0]), ALPHA),
        ],
        ids=['opaque', 'hardly opaque', 'white', 'one colour'],
    )
    @pytest.mark.parametrize('suffix', ['.png', '.tiff'])
    def test_nothing(self, img, suffix):
        for color_type in COLOR_TYPES:
            assert noticed(encoded(suffix, img), color_type=color_type) == []

    @pytest.mark.parametrize('color_type', COLOR_TYPES)
    def test_alpha_that_opencv_does_not_read(self, color_type):
        data = saved(PIL_ALPHA.convert('LA'), 'TIFF')
        assert 'hidden' in noticed(data, color_type=color_type)
        with pytest.raises(PictureError, match="`transparent='black'`"):
            noticed(data, color_type=color_type, transparent='black')

    @pytest.mark.parametrize('kind', ['JPEG2000', 'GIF', 'PPM'])
    @pytest.mark.parametrize('color_type', COLOR_TYPES)
    def test_no_alpha_in_other_files(self, kind, color_type):
        data = saved(Image.fromarray(photo(24, 40)), kind)
        black = read_picture(data, Preprocess(color_type=color_type, transparent='black')).img
        np.testing.assert_array_equal(black, decode_image(data, color_type))
        assert noticed(data, color_type=color_type) == []

    @pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
    @pytest.mark.parametrize('color_type', COLOR_TYPES)
    def test_arrays_are_as_files(self, color_type, dtype):
        img = with_alpha(dtype=dtype)
        for transparent in ('keep', 'black'):
            preprocess = Preprocess(color_type=color_type, transparent=transparent)
            expected = read_picture(encoded('.png', img), preprocess).img
            before = img.copy()
            np.testing.assert_array_equal(read_array(img, preprocess), expected)
            np.testing.assert_array_equal(img, before)


@pytest.mark.parametrize('color_type', COLOR_TYPES)
@pytest.mark.parametrize('kind', ['PNG', 'WEBP', 'TIFF'])
def test_frames(kind, color_type):
    first, other = (Image.fromarray(photo(16, 24, seed)) for seed in (1, 2))
    options = dict(lossless=True) if kind == 'WEBP' else {}
    data = saved(first, kind, save_all=True, append_images=[other], **options)
    picture = read_picture(data, Preprocess(color_type=color_type))
    assert picture.noticed == ['frames']
    alone = decode_image(saved(first, kind, **options), color_type)
    # Animated PNG files become gray with other numbers.
    first_one = picture.img if alone.ndim == 2 else picture.img[..., :3]
    np.testing.assert_allclose(first_one, alone, atol=int(color_type == 'grayscale'))
    with pytest.raises(PictureError, match="`frames='first'`"):
        read_picture(data, Preprocess(color_type=color_type, frames='refuse'))
    refused = Preprocess(color_type=color_type, frames='refuse')
    np.testing.assert_array_equal(read_picture(saved(first, kind), refused).img.shape, alone.shape)


def test_all_at_once():
    img = with_alpha(dtype=np.uint16) >> 4
    img[:, 20:, 3] = 65535
    data = with_chunks(encoded('.png', img), chunk(b'eXIf', exif_block(8)))
    assert noticed(data) == ['turned', 'dark', 'hidden']
    assert noticed(data, color_type='unchanged') == ['hidden']
    assert noticed(data, color_type='unchanged', transparent='black') == []
    assert set(NOTICES) >= {'turned', 'dark', 'hidden', 'frames'}


@pytest.mark.parametrize('wrong', [dict(transparent='white'), dict(frames='all'), dict(frames='')])
def test_settings(wrong):
    with pytest.raises(HimeError, match=f'`{next(iter(wrong))}`'):
        Preprocess(**wrong)
    assert Preprocess(transparent='black', frames='refuse').to_dict() == dict(
        transparent='black', frames='refuse'
    )


@pytest.mark.parametrize('kind', ['jpeg', 'png', 'tiff'])
def test_turned_files_of_each_color_type(kind):
    found = {c: 'turned' in noticed(turned_file(kind, 5), color_type=c) for c in COLOR_TYPES}
    assert found == {c: kind == 'tiff' or c in ('color', 'grayscale') for c in COLOR_TYPES}
