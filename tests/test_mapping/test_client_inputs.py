# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The forms in which a client takes a picture."""

import io
import sys
import tempfile

import numpy as np
import pytest
import torch
from client_parts import Stub
from hypothesis import given
from hypothesis import strategies as st
from owner_data import named, photo, write
from picture_files import FILES, encoded, rotated_jpeg, saved, turned_file
from PIL import Image, ImageOps

from hime_mm.apis import Client, encrypt_folder
from hime_mm.errors import ClientError, PictureError, UnreadableImage
from hime_mm.images.codec import COLOR_TYPES, decode_image
from hime_mm.mapping import pictures

ALPHA = np.dstack([photo(32, 48), np.zeros((32, 48), np.uint8)])


def client(**preprocess):
    # It changes every pixel, and draws nothing.
    return Client('center', preprocess or None)


class Reader:
    """The least that a file object has to have."""

    def __init__(self, data):
        self.data = data

    def read(self):
        return self.data


class TestBytes:
    @pytest.mark.parametrize('name', FILES)
    @pytest.mark.parametrize('color_type', COLOR_TYPES)
    def test_every_form_gives_the_same(self, tmp_path, name, color_type):
        data = FILES[name]
        (tmp_path / 'a').write_bytes(data)
        mine = client(color_type=color_type)
        wanted = mine.encrypt(tmp_path / 'a').img
        for given_ in (data, bytearray(data), memoryview(data), io.BytesIO(data), Reader(data)):
            np.testing.assert_array_equal(mine.encrypt(given_).img, wanted)
        with open(tmp_path / 'a', 'rb') as file:
            np.testing.assert_array_equal(mine.encrypt(file).img, wanted)

    def test_without_a_preprocess_files_are_read_in_colour(self):
        data = FILES['gray16']
        for given_ in (data, io.BytesIO(data), Image.open(io.BytesIO(data))):
            img = client().encrypt(given_).img
            assert img.dtype == np.uint8 and img.shape[2] == 3

    def test_from_where_a_file_was_read_to(self):
        with tempfile.TemporaryFile() as file:
            file.write(b'a header of its own' + FILES['png'])
            file.seek(len(b'a header of its own'))
            np.testing.assert_array_equal(
                client().encrypt(file).img, client().encrypt(FILES['png']).img
            )
            with pytest.raises(UnreadableImage, match='empty'):
                client().encrypt(file)

    @pytest.mark.parametrize(
        'wrong, error, match',
        [
            (b'', UnreadableImage, 'file is empty'),
            (bytearray(), UnreadableImage, 'file is empty'),
            (io.BytesIO(), UnreadableImage, 'file is empty'),
            (b'not a picture', UnreadableImage, 'cannot decode'),
            (FILES['jpeg'][:-30], UnreadableImage, 'truncated'),
            (io.StringIO('text'), TypeError, 'binary mode'),
            (Reader(None), TypeError, 'NoneType.*binary mode'),
            (Reader(photo(8, 8)), TypeError, '8x8x3 uint8.*binary mode'),
            (5, TypeError, 'int'),
            (None, TypeError, 'NoneType'),
            ([1, 2], TypeError, 'list'),
        ],
    )
    def test_what_is_none(self, wrong, error, match):
        with pytest.raises(error, match=match):
            client().encrypt(wrong)

    def test_an_empty_file(self, tmp_path):
        (tmp_path / 'a.png').touch()
        with pytest.raises(UnreadableImage, match=named(tmp_path / 'a.png', 'empty')):
            client().encrypt(tmp_path / 'a.png')

    def test_names_are_no_content(self, tmp_path):
        write(tmp_path / 'a.png', photo(16, 16))
        with pytest.raises(UnreadableImage):
            client().encrypt(str(tmp_path / 'a.png').encode())


class TestEmpty:
    @given(
        st.lists(st.integers(0, 3), min_size=2, max_size=3).filter(lambda shape: 0 in shape),
        st.sampled_from([np.uint8, np.uint16]),
        st.sampled_from(
            [
                {},
                dict(resize=(64, 64)),
                dict(resize=(64, 64), keep_ratio=True),
                dict(short_side=32),
                dict(color_type='grayscale'),
                dict(center_crop=(1, 1)),
            ]
        ),
    )
    def test_arrays(self, shape, dtype, preprocess):
        with pytest.raises(PictureError, match='empty'):
            client(**preprocess).encrypt(np.zeros(shape, dtype))

    @pytest.mark.parametrize('size', [(0, 5), (5, 0), (0, 0)])
    def test_of_pil(self, size):
        with pytest.raises(PictureError, match='empty'):
            client().encrypt(Image.new('RGB', size))


def opened(data):
    return Image.open(io.BytesIO(data))


class TestPIL:
    @pytest.mark.parametrize(
        'name',
        ['png', 'alpha', 'gray16', 'palette', 'bmp', 'webp', 'tiff', 'pgm', 'la', 'bits', 'trns'],
    )
    @pytest.mark.parametrize('color_type', COLOR_TYPES)
    def test_as_the_file(self, name, color_type):
        more = dict(
            la=saved(opened(FILES['alpha']).convert('LA'), 'PNG'),
            bits=saved(opened(FILES['png']).convert('1'), 'PNG'),
            trns=saved(opened(FILES['palette']), 'PNG', transparency=bytes(5) + b'\x80' * 11),
        )
        data = {**FILES, **more}[name]
        mine = client(color_type=color_type)
        got, wanted = mine.encrypt(opened(data)).img, mine.encrypt(data).img
        assert got.dtype == wanted.dtype
        # Each decoder has its own arithmetic.
        if name == 'webp' or name in ('bmp', 'tiff') and color_type == 'grayscale':
            assert abs(got.astype(int) - wanted).mean() < 2
        else:
            np.testing.assert_array_equal(got, wanted)

    @pytest.mark.parametrize('color_type', COLOR_TYPES)
    @pytest.mark.parametrize('orientation', range(1, 9))
    @pytest.mark.parametrize('kind', ['jpeg', 'png'])
    def test_turned_as_the_file(self, kind, orientation, color_type):
        data = turned_file(kind, orientation)
        mine = client(color_type=color_type)
        got, wanted = mine.encrypt(opened(data)).img, mine.encrypt(data).img
        assert got.shape == wanted.shape
        # JPEG decoders differ by a little.
        assert abs(got.astype(int) - wanted).mean() < 2
        turned = ImageOps.exif_transpose(opened(data))
        as_turned = mine.encrypt(turned).img
        follows = color_type in ('color', 'grayscale')
        assert np.array_equal(as_turned, got) == (follows or orientation == 1)

    def test_tiff_is_turned_by_pil_already(self):
        data = turned_file('tiff', 6)
        for color_type in COLOR_TYPES:
            mine = client(color_type=color_type)
            got, wanted = mine.encrypt(opened(data)).img, mine.encrypt(data).img
            # TIFF and PNG become gray with other numbers.
            assert abs(got.astype(int) - wanted).max() <= 2 * (color_type == 'grayscale')

    @pytest.mark.parametrize('mode', ['CMYK', 'YCbCr', 'HSV', 'LAB', 'RGBX', 'PA', 'La', 'RGBa'])
    def test_other_modes_become_colours(self, mode):
        picture = Image.fromarray(photo(32, 48))
        via = {'PA': 'P', 'La': 'LA', 'RGBa': 'RGBA'}.get(mode, 'RGB')
        picture = Image.new('LAB', (48, 32)) if mode == 'LAB' else picture.convert(via)
        picture = picture if picture.mode == mode else picture.convert(mode)
        plain = {'PA': 'RGBA', 'La': 'LA', 'RGBa': 'RGBA'}.get(mode, 'RGB')
        wanted = np.asarray(picture.convert(plain).convert('RGB'))
        got = client().encrypt(picture).img
        np.testing.assert_array_equal(got, client().encrypt(wanted[..., ::-1].copy()).img)

    @pytest.mark.parametrize('mode', ['I', 'I;16', 'I;16B'])
    def test_of_16_bits(self, mode):
        img = photo(32, 48, channels=1, dtype=np.uint16)
        picture = Image.fromarray(img).convert('I')
        if mode == 'I;16B':
            picture = Image.frombytes(mode, (48, 32), img.astype('>u2').tobytes())
        elif mode == 'I;16':
            picture = Image.fromarray(img)
        assert picture.mode == mode
        mine = client(color_type='unchanged')
        np.testing.assert_array_equal(mine.encrypt(picture).img, mine.encrypt(img).img)

    @pytest.mark.parametrize(
        'img',
        [
            np.ones((32, 48), np.float32),
            np.full((32, 48), -1, np.int32),
            np.full((32, 48), 65536, np.int32),
        ],
    )
    def test_more_than_16_bits(self, img):
        with pytest.raises(ClientError, match="'RGB', 'L'"):
            client().encrypt(Image.fromarray(img))

    @pytest.mark.parametrize('name', ['png', 'jpeg', 'bmp', 'pgm'])
    def test_truncated(self, name):
        picture = Image.open(io.BytesIO(FILES[name][:-200]))
        with pytest.raises(UnreadableImage, match='PIL'):
            client().encrypt(picture)

    def test_the_frame_that_it_shows(self):
        frames = [Image.fromarray(photo(32, 48, seed)) for seed in range(3)]
        picture = opened(saved(frames[0], 'PNG', save_all=True, append_images=frames[1:]))
        picture.seek(2)
        for options in (dict(color_type='color'), dict(frames='refuse')):
            np.testing.assert_array_equal(
                client(**options).encrypt(picture).img, client().encrypt(frames[2]).img
            )

    def test_stays_as_it_is(self):
        picture = opened(rotated_jpeg(6))
        before = (picture.mode, picture.size, picture.tobytes(), dict(picture.getexif()))
        client().encrypt(picture)
        assert before == (picture.mode, picture.size, picture.tobytes(), dict(picture.getexif()))

    def test_is_not_needed(self, monkeypatch):
        monkeypatch.setitem(sys.modules, 'PIL', None)
        assert client().encrypt(FILES['png']).img.any()
        assert not any('PIL' in str(vars(pictures).get(n)) for n in ('Image', 'PIL'))


class TestAsTheDataSet:
    @pytest.mark.parametrize(
        'preprocess',
        [
            dict(color_type='color', transparent='black'),
            dict(color_type='unchanged', transparent='black'),
            dict(color_type='grayscale', transparent='black', resize=(64, 48)),
            dict(color_type='color_ignore_orientation'),
        ],
    )
    def test_hidden_colours(self, tmp_path, preprocess):
        img = ALPHA.copy()
        img[:, 24:, 3] = 255
        write(tmp_path / 'src/a.png', img)
        encrypt_folder(
            str(tmp_path / 'src'),
            str(tmp_path / 'out'),
            'mix2',
            preprocess=preprocess,
            progress=False,
        )
        stored = decode_image((tmp_path / 'out/a.png').read_bytes(), 'unchanged')
        mine = Client.from_manifest(tmp_path / 'out')
        data = (tmp_path / 'src/a.png').read_bytes()
        for picture in (tmp_path / 'src/a.png', data, io.BytesIO(data), opened(data), img):
            np.testing.assert_array_equal(mine.encrypt(picture).img, stored)

    @pytest.mark.parametrize('kind', ['PNG', 'WEBP', 'TIFF'])
    def test_frames(self, tmp_path, kind):
        write(tmp_path / 'src/a.png', photo(32, 48))
        encrypt_folder(
            str(tmp_path / 'src'),
            str(tmp_path / 'out'),
            'mix2',
            preprocess=dict(frames='refuse'),
            progress=False,
        )
        frames = [Image.fromarray(photo(32, 48, seed)) for seed in range(2)]
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        mine = Client.from_manifest(tmp_path / 'out')
        for picture in (data, io.BytesIO(data)):
            with pytest.raises(PictureError, match="frames='first'"):
                mine.encrypt(picture)
        assert Client('mix2').encrypt(data).img.shape == (16, 24, 3)


def test_predict_takes_the_same():
    model = Stub(bboxes=torch.zeros((0, 4)))
    data = encoded('.png', photo(32, 48))
    for picture in (data, io.BytesIO(data), opened(data)):
        client().predict(picture, model)
        seen = model.seen['inputs'][0]
        assert tuple(seen.shape) == (3, 32, 48)
