# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a header says, held to what OpenCV does with the file."""

import io
import struct
import time

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from owner_data import photo
from picture_files import (
    FILES,
    chunk,
    encoded,
    exif_block,
    saved,
    turned_file,
    with_chunks,
    with_segments,
)
from PIL import Image, features

from hime_mm.errors import UnreadableImage
from hime_mm.images.codec import COLOR_TYPES, decode_image
from hime_mm.images.headers import exif_orientation, read_header
from hime_mm.images.preprocess import Preprocess
from hime_mm.images.reading import read_picture, turn

TIFFS = ['tiff', 'tiff gray', 'tiff 16', 'tiff gray 16', 'tiff zlib', 'big tiff']
KINDS = ['jpeg', 'png', 'png, at its end', 'webp', *TIFFS]


def is_turned(data, color_type='color'):
    """Whether OpenCV turns this file, unlike the same pixels without a word on that."""
    return not np.array_equal(
        decode_image(data, color_type), decode_image(data, 'color_ignore_orientation')
    )


class TestOrientation:
    @pytest.mark.parametrize('order', ['<', '>'])
    @pytest.mark.parametrize('kind', KINDS)
    def test_is_what_opencv_follows(self, kind, order):
        stored = {c: decode_image(turned_file(kind, 1, order), c) for c in COLOR_TYPES}
        for orientation in range(1, 9):
            data = turned_file(kind, orientation, order)
            assert read_header(data).orientation == orientation
            for color_type, plain in stored.items():
                picture = read_picture(data, Preprocess(color_type=color_type))
                turned = not np.array_equal(picture.img, plain)
                assert ('turned' in picture.noticed) == turned
                if turned:
                    np.testing.assert_array_equal(picture.img, turn(plain, orientation))

    @pytest.mark.parametrize('kind', KINDS)
    @pytest.mark.parametrize('orientation', [0, 9, 255, 65535])
    def test_that_is_none(self, kind, orientation):
        data = turned_file(kind, orientation)
        assert read_header(data).orientation == 1
        np.testing.assert_array_equal(decode_image(data), decode_image(turned_file(kind, 1)))

    @pytest.mark.parametrize(
        'segments',
        [
            [b'Exif\0\0' + exif_block(1), b'Exif\0\0' + exif_block(6)],
            [b'Exif\0\0' + exif_block(6), b'Exif\0\0' + exif_block(1)],
            [b'http://ns.adobe.com/xap/1.0/\0<x/>', b'Exif\0\0' + exif_block(3)],
            [b'ABCDEF' + exif_block(6)],
            [b'', b'Exif\0\0' + exif_block(6)],
        ],
        ids=['first', 'second', 'behind XMP', 'another name', 'behind nothing'],
    )
    def test_of_several_segments(self, segments):
        data = with_segments(FILES['jpeg'], *segments)
        assert ('turned' in read_picture(data, Preprocess()).noticed) == is_turned(data)

    @pytest.mark.parametrize(
        'chunks',
        [
            [chunk(b'eXIf', exif_block(1)), chunk(b'eXIf', exif_block(6))],
            [chunk(b'eXIf', exif_block(1))[:-1] + b'?', chunk(b'eXIf', exif_block(6))],
            [chunk(b'eXIf', b'Exif\0\0' + exif_block(6))],
            [chunk(b'eXIf', b'XX' + exif_block(6)[2:]), chunk(b'eXIf', exif_block(5, '>'))],
            [chunk(b'acTL', struct.pack('>II', 1, 0)), chunk(b'eXIf', exif_block(6))],
        ],
        ids=['first', 'broken', 'named', 'invalid', 'animated'],
    )
    def test_of_several_chunks(self, chunks):
        data = with_chunks(FILES['png'], *chunks)
        assert ('turned' in read_picture(data, Preprocess()).noticed) == is_turned(data)

    @given(st.data())
    def test_of_hostile_blocks(self, data):
        """Entries in any order, of any size, that point anywhere, cut off anywhere."""
        blocks = data.draw(st.lists(exif_blocks(), min_size=1, max_size=3))
        jpeg = with_segments(SMALL, *(b'Exif\0\0' + block for block in blocks))
        assert ('turned' in read_picture(jpeg, Preprocess()).noticed) == is_turned(jpeg)

    @given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8))
    def test_turn(self, height, width, orientation):
        """Twice the turn of a mirror, and a quarter and its inverse, change nothing."""
        img = photo(height, width)
        back = {6: 8, 8: 6}.get(orientation, orientation)
        np.testing.assert_array_equal(turn(turn(img, orientation), back), img)


SMALL = encoded('.jpg', photo(5, 3), cv2.IMWRITE_JPEG_QUALITY, 100)
TAGS = [0x0112, 0x010E, 0x0132, 0x8298, 0x011A, 0x013E, 0x013F, 0x0211, 0x0213, 0x0214, 0x8769]


@st.composite
def exif_blocks(draw):
    order = draw(st.sampled_from('<>'))
    name = draw(st.sampled_from([b'II' if order == '<' else b'MM'] * 8 + [b'MI', b'AB']))
    entries = draw(
        st.lists(
            st.tuples(
                st.sampled_from([0x0112, *TAGS]),
                st.sampled_from([2, 3, 5]),
                st.sampled_from([0, 1, 4, 5, 20, 2**31, 2**32 - 1]),
                st.sampled_from([0, 8, 6 << 16 | 6, 3 << 16 | 3, 20, 60, 100, 2**32 - 1]),
            ),
            max_size=5,
        )
    )
    num = draw(st.sampled_from([len(entries)] * 4 + [len(entries) + 1, 60000]))
    start = draw(st.sampled_from([8] * 6 + [9, 2**32 - 2]))
    block = name + struct.pack(order + 'HIH', 42, start, num)
    block += b''.join(struct.pack(order + 'HHII', *entry) for entry in entries)
    block += bytes(draw(st.integers(0, 40)))
    return block[: draw(st.sampled_from([len(block)] * 3 + [11, 20, 23, 30]))]


def animation(kind, num, **kwargs):
    first, *others = [Image.fromarray(photo(16, 24, seed)) for seed in range(num)]
    return saved(first, kind, save_all=True, append_images=others, **kwargs)


SEVERAL = {
    'apng': animation('PNG', 3),
    'apng with a picture beside': animation('PNG', 2, default_image=True),
    'webp': animation('WEBP', 2, lossless=True),
    'lossy webp': animation('WEBP', 3, quality=80),
    'tiff': animation('TIFF', 2),
    'gif': animation('GIF', 2),
    'gif of few colours': saved(
        Image.new('1', (9, 9)), 'GIF', save_all=True, append_images=[Image.new('1', (9, 9), 1)] * 2
    ),
    'compressed tiff': animation('TIFF', 3, compression='tiff_lzw'),
}
if features.check('avif'):
    SEVERAL['avif'] = animation('AVIF', 2)
ONE = {
    **FILES,
    'apng of one': with_chunks(FILES['png'], chunk(b'acTL', struct.pack('>II', 1, 0))),
    'webp of one': animation('WEBP', 1, lossless=True),
    'gif of one': animation('GIF', 1, comment=b'a comment of some length' * 20),
    'tiff of one': animation('TIFF', 1),
}


class TestSeveral:
    @pytest.mark.parametrize('name', SEVERAL)
    def test_pictures(self, name):
        assert read_header(SEVERAL[name]).several
        assert Image.open(io.BytesIO(SEVERAL[name])).n_frames > 1

    @pytest.mark.parametrize('name', ONE)
    def test_one(self, name):
        assert not read_header(ONE[name]).several


class TestHostileBytes:
    FIRST = [
        b'\xff\xd8',
        b'\x89PNG\r\n\x1a\n',
        b'RIFF\0\0\0\0WEBP',
        b'II*\0',
        b'MM\0*',
        b'II+\0\x08\0\0\0',
        b'MM\0+\0\x08\0\0',
        b'BM',
        b'GIF89a\1\0\1\0\0\0\0',
        b'P5',
        b'',
    ]

    @given(st.sampled_from(FIRST), st.binary(max_size=300))
    @example(b'\xff\xd8', b'\xff\xe1\0\0' * 9)
    @example(b'II*\0', b'\xff\xff\xff\xff')
    @example(b'\x89PNG\r\n\x1a\n', b'\xff\xff\xff\xffeXIf')
    def test_never_raise(self, first, rest):
        header = read_header(first + rest)
        assert 1 <= header.orientation <= 8

    @given(
        st.sampled_from(sorted({**ONE, **SEVERAL})),
        st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8),
        st.integers(0, 400),
    )
    def test_changed_files(self, name, changes, cut):
        data = bytearray({**ONE, **SEVERAL}[name])
        for at, value in changes:
            data[at % len(data)] = value
        assert 1 <= read_header(bytes(data[: len(data) - cut])).orientation <= 8

    @given(st.binary(max_size=60))
    def test_blocks(self, block):
        assert exif_orientation(block) in (None, *range(65536))

    @pytest.mark.parametrize(
        'data',
        [
            b'\xff\xd8' + b'\xff\xe0\0\2' * 200_000,
            FILES['png'][:33] + (bytes(4) + b'aaAa' + bytes(4)) * 200_000,
            b'RIFF\0\0\0\0WEBP' + (b'XXXX' + bytes(4)) * 200_000,
            b'GIF89a' + bytes(7) + (b'!\xfe' + b'\1 ' * 9 + b'\0') * 100_000,
            b'GIF89a' + bytes(7) + b'!\xfe' + b'\1 ' * 1_000_000,
            b'II*\0\x08\0\0\0\xff\xff' + bytes(12) * 65535,
            b'II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0' + b'\xff' * 2_000_000,
        ],
        ids=['jpeg', 'png', 'webp', 'gif', 'gif of one block', 'tiff', 'big tiff'],
    )
    def test_take_no_time(self, data):
        start = time.monotonic()
        read_header(data)
        assert time.monotonic() - start < 2
        with pytest.raises(UnreadableImage):
            decode_image(data)
