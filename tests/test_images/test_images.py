# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import errno
import io
import os
import signal
import socket
import stat
import threading

import mmcv
import numpy as np
import pytest
from owner_data import named, photo, png_chunks, tree
from picture_files import FILES, encoded, png_of, png_parts
from PIL import Image

from hime_mm.errors import HimeError, PictureError, UnreadableImage
from hime_mm.images.codec import COLOR_TYPES, check_encoding, decode_image, encode_image, read_image
from hime_mm.images.files import atomic_file, file_sha256, read_json, write_atomic
from hime_mm.images.sizing import INTERPOLATIONS, fit_image, resize_image


class TestDecode:
    @pytest.mark.parametrize('color_type', COLOR_TYPES)
    @pytest.mark.parametrize('name', FILES)
    def test_as_mmcv(self, name, color_type):
        expected = mmcv.imfrombytes(FILES[name], flag=color_type)
        img = decode_image(FILES[name], color_type)
        assert img.dtype == expected.dtype
        np.testing.assert_array_equal(img, expected)

    def test_follows_the_orientation_that_a_viewer_follows(self):
        img = decode_image(FILES['turned'])
        assert img.shape == (70, 40, 3)
        raw = decode_image(FILES['turned'], 'color_ignore_orientation')
        np.testing.assert_array_equal(img, np.rot90(raw, -1))

    def test_what_follows_a_jpeg_is_no_part_of_it(self):
        # A film behind the picture, as phones write it.
        data = FILES['jpeg'] + b'\xff\xda movie' + bytes(range(256)) * 9
        np.testing.assert_array_equal(decode_image(data), decode_image(FILES['jpeg']))

    @pytest.mark.parametrize(
        'name',
        [
            'jpeg',
            'progressive',
            'gray jpeg',
            'restarts',
            'thumbnail',
            'turned',
            'png',
            'alpha',
            'gray16',
            'palette',
            'bmp',
            'webp',
            'tiff',
            'pgm',
        ],
    )
    def test_half_a_file_is_refused(self, name):
        data = FILES[name]
        is_jpeg = data[:2] == b'\xff\xd8'
        # A JPEG file lacks its end as soon as it lacks the last byte.
        most = len(data) - (0 if is_jpeg else len(data) // 8)
        for size in {*range(3, most, max(1, most // 60)), most - 1}:
            with pytest.raises(UnreadableImage, match='truncated' if is_jpeg else None):
                decode_image(data[:size])

    @pytest.mark.parametrize('name', ['png', 'alpha', 'gray16', 'palette'])
    @pytest.mark.parametrize(
        'more', [b'\0', b'IEND', FILES['jpeg'], bytes(2000), bytes(1 << 20), b'\x89PNG IEND' * 300]
    )
    def test_what_follows_a_png_is_no_part_of_it(self, name, more):
        np.testing.assert_array_equal(decode_image(FILES[name] + more), decode_image(FILES[name]))

    @pytest.mark.parametrize('text', [b'', b'IEND', bytes(4) + b'IEND\xaeB`\x82'])
    def test_a_png_that_is_cut_anywhere(self, text):
        """In its last bytes, too, and whatever a chunk of it says."""
        chunks = png_parts(FILES['palette'])
        data = png_of(*chunks[:-1], (b'tEXt', b'x\0' + text), chunks[-1])
        assert decode_image(data).shape == (30, 40, 3)
        for size in {*range(8, len(data) - 50, 7), *range(len(data) - 50, len(data))}:
            with pytest.raises(UnreadableImage, match='PNG file is truncated'):
                decode_image(data[:size])

    @pytest.mark.parametrize(
        'data, reason',
        [
            # OpenCV says something of that, too.
            (b'', 'file .*empty$'),
            (b'not a picture\n', 'decode'),
            (b'\xff\xd8\xff', 'truncated'),
            (FILES['png'][:-20], 'PNG.*truncated'),
            (encoded('.tiff', np.ones((4, 4), np.float32)), 'float32'),
        ],
    )
    def test_reason(self, data, reason):
        with pytest.raises(UnreadableImage, match=reason):
            decode_image(data, 'unchanged')

    def test_missing_file(self, tmp_path):
        with pytest.raises(UnreadableImage, match=os.strerror(errno.ENOENT)):
            read_image(tmp_path / 'none.png')
        with pytest.raises(UnreadableImage, match='^it is a folder, not a regular file$'):
            read_image(tmp_path)

    def test_reason_names_no_file(self, tmp_path):
        """It is handed over, where ids may replace the names."""
        (tmp_path / 'Alice').mkdir()
        (tmp_path / 'Alice.txt').write_text('x')
        for name in ('Alice', 'Alice.txt', 'Alice.png', 'Alice.txt/x.png'):
            with pytest.raises(UnreadableImage) as error:
                read_image(str(tmp_path / name))
            assert 'Alice' not in str(error.value)


class TestOnlyRegularFiles:
    """Of others, opening or reading may never end."""

    @pytest.fixture(autouse=True)
    def _patience(self):
        def too_long(*args):
            raise TimeoutError

        before = signal.signal(signal.SIGALRM, too_long)
        signal.alarm(10)
        yield
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

    @staticmethod
    def make(path, kind):
        if kind == 'a named pipe':
            os.mkfifo(path)
        elif kind == 'a socket':
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name)  # no longer than a hundred bytes
        elif kind == 'a folder':
            path.mkdir()
        else:
            path.symlink_to('/dev/zero')

    @pytest.mark.parametrize('behind', ['', 'link', 'two links'])
    @pytest.mark.parametrize('kind', ['a named pipe', 'a socket', 'a folder', 'a device'])
    def test_are_read(self, tmp_path, monkeypatch, kind, behind):
        monkeypatch.chdir(tmp_path)
        path = tmp_path / 'x.jpg'
        self.make(path, kind)
        for _ in behind.split():
            link = path.with_suffix('.x.jpg')
            link.symlink_to(path)
            path = link
        what = f'it is {kind}, not a regular file'
        with pytest.raises(UnreadableImage, match=f'^{what}$'):
            read_image(str(path))
        with pytest.raises(OSError, match=what):
            file_sha256(str(path))
        with pytest.raises(HimeError, match=named('list', path, what)):
            read_json(path, 'list', HimeError)

    def test_but_for_what_may_come_through_a_pipe(self, tmp_path):
        path = tmp_path / 'pipe'
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_text, args=('[1, 2]',))
        writer.start()
        assert read_json(path, 'list', HimeError, regular=False) == [1, 2]
        writer.join()


class TestEncode:
    @pytest.mark.parametrize(
        'shape, dtype',
        [
            ((33, 20), np.uint8),
            ((33, 20), np.uint16),
            ((33, 20, 3), np.uint8),
            ((33, 20, 3), np.uint16),
            ((33, 20, 4), np.uint8),
            ((33, 20, 4), np.uint16),
        ],
    )
    @pytest.mark.parametrize('compression', [None, 0, 1, 9])
    def test_png_loses_nothing_and_says_nothing(self, make_image, shape, dtype, compression):
        img = make_image(shape, dtype)
        data = encode_image(img, 'png', compression)
        back = decode_image(data, 'unchanged')
        assert back.dtype == dtype
        np.testing.assert_array_equal(back, img)
        assert set(png_chunks(data)) == {'IHDR', 'IDAT', 'IEND'}
        assert Image.open(io.BytesIO(data)).info == {}

    def test_one_channel_is_stored_as_gray(self, make_image):
        img = make_image((8, 9, 1))
        back = decode_image(encode_image(img), 'unchanged')
        np.testing.assert_array_equal(back, img[..., 0])

    def test_compression(self):
        flat = np.zeros((200, 200, 3), np.uint8)
        sizes = [len(encode_image(flat, 'png', n)) for n in (0, 1, 9)]
        assert sizes[0] > 120000 > 4000 > sizes[1] > sizes[2]

    def test_webp_loses_nothing(self, make_image):
        for img in (make_image((48, 33, 3)), photo(64, 64)):
            data = encode_image(img, 'webp')
            assert data[8:16] == b'WEBPVP8L' and b'EXIF' not in data
            np.testing.assert_array_equal(decode_image(data, 'unchanged'), img)

    @pytest.mark.parametrize(
        'shape, dtype',
        [
            ((8, 8), np.uint8),
            ((8, 8, 4), np.uint8),
            ((8, 8, 3), np.uint16),
            ((1, 16384, 3), np.uint8),
        ],
    )
    def test_webp_refuses_what_it_would_change(self, shape, dtype):
        with pytest.raises(PictureError, match="'webp'.*'png'"):
            encode_image(np.zeros(shape, dtype), 'webp')

    @pytest.mark.parametrize(
        'shape, dtype',
        [((8, 8, 2), np.uint8), ((8, 8, 5), np.uint8), ((8, 8), np.float32), ((8, 8), np.int32)],
    )
    def test_png_refuses_what_it_cannot_hold(self, shape, dtype):
        with pytest.raises(PictureError, match=named("'png'", np.dtype(dtype), shape)):
            encode_image(np.zeros(shape, dtype))

    @pytest.mark.parametrize(
        'fmt, compression', [('jpg', None), ('jpeg', 5), ('png', 10), ('png', -1), ('webp', 5)]
    )
    def test_unknown_encoding(self, fmt, compression):
        things = [repr(fmt)] if 'jp' in fmt else ['compression', f' {compression} ', repr(fmt)]
        with pytest.raises(HimeError, match=named(*things)):
            check_encoding(fmt, compression)
        with pytest.raises(HimeError):
            encode_image(np.zeros((8, 8), np.uint8), fmt, compression)


class TestAtomicFile:
    def test_is_there_as_a_whole_or_not_at_all(self, tmp_path):
        path = tmp_path / 'deep' / 'er' / 'file'
        with atomic_file(str(path)) as file:
            file.write(b'first')
            file.flush()
            assert not path.exists()
        assert tree(tmp_path) == {'deep/er/file': b'first'}
        with pytest.raises(RuntimeError), atomic_file(str(path)) as file:
            file.write(b'second, but')
            raise RuntimeError
        assert tree(tmp_path) == {'deep/er/file': b'first'}
        write_atomic(str(path), 'dritté')
        assert tree(tmp_path) == {'deep/er/file': 'dritté'.encode()}

    @pytest.mark.parametrize('mask', [0o022, 0o077, 0o002])
    def test_follows_the_umask(self, tmp_path, mask):
        old = os.umask(mask)
        try:
            write_atomic(str(tmp_path / 'a'), b'')
            assert os.umask(mask) == mask
        finally:
            os.umask(old)
        mode = stat.S_IMODE((tmp_path / 'a').stat().st_mode)
        assert mode == 0o666 & ~mask

    @pytest.mark.parametrize('name', ['x' * 256, 'é' * 128, 'deep/' + 'y' * 300])
    def test_an_error_names_the_file_and_no_other(self, tmp_path, name):
        with pytest.raises(OSError, match=named(name)) as error:
            write_atomic(str(tmp_path / name), b'1')
        assert error.value.errno == errno.ENAMETOOLONG
        assert '.part' not in str(error.value) and not tree(tmp_path)

    def test_a_temporary_name_that_is_too_long(self, tmp_path):
        """Where that of the file would do."""
        parts = [str(tmp_path)]
        most = os.pathconf(tmp_path, 'PC_PATH_MAX') - 10
        while len('/'.join(parts)) < most:
            parts.append('d' * min(250, most - len('/'.join(parts)) - 1))
        path = '/'.join(parts) + '/x'
        with pytest.raises(OSError, match=named('/x')) as error:
            write_atomic(path, b'1')
        assert error.value.errno == errno.ENAMETOOLONG and error.value.filename == path

    def test_relative_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_atomic('name', b'1')
        assert tree(tmp_path) == {'name': b'1'}

    @pytest.mark.parametrize('sync', [True, False])
    def test_waits_for_the_disk_before_the_file_appears(self, tmp_path, monkeypatch, sync):
        calls = []
        for name in ('fsync', 'replace'):
            do = getattr(os, name)
            monkeypatch.setattr(
                os,
                name,
                lambda *args, do=do, name=name: (calls.append(name), do(*args)),
            )
        write_atomic(str(tmp_path / 'a'), b'1', sync)
        assert calls == ['fsync', 'replace'][not sync :]


class TestResize:
    @pytest.mark.parametrize('interpolation', INTERPOLATIONS)
    @pytest.mark.parametrize('shape', [(40, 61, 3), (40, 61)])
    def test_as_mmcv(self, shape, interpolation):
        img = photo(40, 61, channels=3 if len(shape) == 3 else 1)
        np.testing.assert_array_equal(
            resize_image(img, (64, 33), interpolation),
            mmcv.imresize(img, (33, 64), interpolation=interpolation),
        )

    def test_keeps_the_channel_axis(self):
        img = photo(40, 61, channels=1)
        np.testing.assert_array_equal(
            resize_image(img[..., None], (20, 30))[..., 0], resize_image(img, (20, 30))
        )


class TestFit:
    @pytest.mark.parametrize(
        'shape, expected',
        [
            ((40, 61, 3), (32, 48, 3)),
            ((17, 15), (16, 16)),
            ((3, 5), (16, 16)),
            ((48, 20, 1), (48, 16, 1)),
        ],
    )
    def test_resize(self, make_image, shape, expected):
        img = make_image(shape)
        fitted, scaled = fit_image(img, 16)
        assert scaled and fitted.shape == expected
        np.testing.assert_array_equal(
            fitted.squeeze(), mmcv.imresize(img.squeeze(), expected[1::-1])
        )

    @pytest.mark.parametrize('fit', ['resize', 'pad', 'error'])
    def test_leaves_what_fits(self, make_image, fit):
        img = make_image((32, 48, 3))
        fitted, scaled = fit_image(img, 16, fit)
        assert fitted is img and not scaled

    @pytest.mark.parametrize('pad_val', [0, 7, (1, 2, 3)])
    def test_pad(self, make_image, pad_val):
        img = make_image((40, 61, 3))
        fitted, scaled = fit_image(img, 16, 'pad', pad_val=pad_val)
        assert not scaled and fitted.shape == (48, 64, 3)
        np.testing.assert_array_equal(fitted[:40, :61], img)
        expected = np.broadcast_to(pad_val, 3)
        assert (fitted[40:] == expected).all()
        assert (fitted[:, 61:] == expected).all()

    @pytest.mark.parametrize('pad_val', [256, -1, (1, 2)])
    def test_impossible_padding(self, make_image, pad_val):
        with pytest.raises(PictureError, match=named('`pad_val`', pad_val)):
            fit_image(make_image((40, 61, 3)), 16, 'pad', pad_val=pad_val)

    def test_error(self, make_image):
        with pytest.raises(PictureError, match='40x61.*16'):
            fit_image(make_image((40, 61)), 16, 'error')
