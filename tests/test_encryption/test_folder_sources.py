# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import errno
import os
import sys

import cv2
import mmcv
import numpy as np
import pytest
from encryption_parts import KEY, folder
from owner_data import found, named, photo, read, tree, write

from hime_mm.ciphers import Cipher
from hime_mm.datasets.manifest import Manifest
from hime_mm.errors import EncryptionError


class TestFolder:
    def test_tree(self, tmp_path):
        src, out = tmp_path / 'src', tmp_path / 'out'
        names = [
            'n01/b c.JPEG',
            'n01/ü.jpg',
            'n02/deep/x.PNG',
            'top.webp',
            'n02/a.b.bmp',
            'n02/y.tif',
            'n03 space/q.Jpg',
        ]
        for i, name in enumerate(names):
            write(src / name, photo(32, 48, i))
        for name in ('readme.txt', 'n01/labels.csv', '.hidden.jpg', '.cache/x.jpg'):
            (src / name).parent.mkdir(exist_ok=True)
            (src / name).write_bytes(b'text')
        summary = folder(src, out)
        assert summary.complete and summary.images == 7
        assert [path for path, _ in summary.left_out] == [
            '.cache',
            '.hidden.jpg',
            'n01/labels.csv',
            'readme.txt',
        ]
        assert (out / '.cache').is_dir()  # MMPretrain counts it
        expected = {os.path.splitext(name)[0] + '.png' for name in names}
        assert set(tree(out)) == expected | {'hime.json', 'hime-000000.json'}
        assert set(Manifest.load(out).files) == expected

    def test_ids_instead_of_names(self, tmp_path):
        src, out = tmp_path / 'src', tmp_path / 'out'
        for i, name in enumerate(('n01/Alice.jpg', 'n01/Bob.jpg', 'Eve.jpg', 'n02/Alice.jpg')):
            write(src / name, photo(32, 48, i))
        folder(src, out, names='ids')
        new = {
            path: f'{os.path.join(os.path.dirname(path), KEY.mac("name", "d", path.encode())[:16])}'
            for path in ('n01/Alice.jpg', 'n01/Bob.jpg', 'Eve.jpg', 'n02/Alice.jpg')
        }
        assert set(tree(out)) == {
            'hime.json',
            'hime-000000.json',
            *(f'{stem}.png' for stem in new.values()),
        }
        assert not found([b'Alice', b'Bob', b'Eve'], tree(out).values())
        np.testing.assert_array_equal(
            Cipher('shuffle').decrypt(
                read(out / f'{new["n01/Bob.jpg"]}.png'),
                Cipher('shuffle').draw(
                    (32, 48, 3), KEY.image_rng('d', f'{new["n01/Bob.jpg"]}.png')
                ),
            ),
            mmcv.imread(src / 'n01/Bob.jpg'),
        )

    @pytest.mark.parametrize(
        'names', [('a.jpg', 'a.png'), ('a.jpg', 'A.png'), ('x/b.jpg', 'X/b.jpg')]
    )
    def test_two_pictures_of_one_name(self, tmp_path, names):
        src = tmp_path / 'src'
        for i, name in enumerate(names):
            write(src / name, photo(32, 48, i))
        with pytest.raises(EncryptionError, match=named(*names, "names='ids'")):
            folder(src, tmp_path / 'out')
        assert not (tmp_path / 'out').exists()
        if names[0][1] != '/':
            assert folder(src, tmp_path / 'out', names='ids').files == 2

    def test_links(self, tmp_path):
        src = tmp_path / 'src'
        write(src / 'a' / 'x.png', photo(32, 48))
        elsewhere = write(tmp_path / 'elsewhere' / 'y.png', photo(32, 48))
        (src / 'a' / 'loop').symlink_to(src)
        (src / 'a' / 'self').symlink_to('self')
        # The same class under two names is no loop.
        (src / 'b').symlink_to(src / 'a')
        (src / 'c').symlink_to(elsewhere.parent)
        (src / 'd.png').symlink_to(elsewhere)
        (src / 'gone.png').symlink_to(tmp_path / 'none')
        summary = folder(src, tmp_path / 'out')
        assert set(Manifest.load(tmp_path / 'out').files) == {
            'a/x.png',
            'b/x.png',
            'c/y.png',
            'd.png',
        }
        assert [name for name, _ in summary.skipped] == ['gone.png']
        assert [name for name, _ in summary.left_out] == ['a/loop', 'a/self', 'b/loop', 'b/self']

    def test_two_links_that_lead_in_circles(self, tmp_path):
        src = tmp_path / 'src'
        write(src / 'a' / 'x.png', photo(32, 48))
        write(src / 'b' / 'y.png', photo(32, 48))
        (src / 'a' / 'to_b').symlink_to(src / 'b')
        (src / 'b' / 'to_a').symlink_to(src / 'a')
        folder(src, tmp_path / 'out')
        assert set(Manifest.load(tmp_path / 'out').files) == {
            'a/x.png',
            'a/to_b/y.png',
            'b/y.png',
            'b/to_a/x.png',
        }

    def test_folder_that_cannot_be_listed(self, tmp_path, monkeypatch):
        src = tmp_path / 'src'
        write(src / 'a' / 'x.png', photo(32, 48))
        write(src / 'b' / 'x.png', photo(32, 48))
        scandir = os.scandir

        def refusing(path):
            if str(path).endswith('b'):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return scandir(path)

        monkeypatch.setattr(os, 'scandir', refusing)
        with pytest.raises(EncryptionError, match=named(src / 'b', os.strerror(errno.EACCES))):
            folder(src, tmp_path / 'out')

    @pytest.mark.skipif(sys.platform != 'linux', reason='names are bytes')
    def test_name_that_is_no_text(self, tmp_path):
        src = tmp_path / 'src'
        write(src / 'a.png', photo(32, 48))
        os.rename(os.fsencode(src / 'a.png'), os.fsencode(src) + b'/\xff.png')
        write(src / 'b.png', photo(32, 48))
        summary = folder(src, tmp_path / 'out')
        ((_, reason),) = summary.skipped
        assert "names='ids'" in reason and summary.files == 1
        assert folder(src, tmp_path / 'ids', names='ids').files == 2

    def test_no_pictures(self, tmp_path):
        (tmp_path / 'src').mkdir()
        with pytest.raises(EncryptionError, match=named(tmp_path / 'src')):
            folder(tmp_path / 'src', tmp_path / 'out')

    def test_center_crop(self, tmp_path):
        img = photo(100, 200)
        write(tmp_path / 'src' / 'a.png', img)
        folder(
            tmp_path / 'src',
            tmp_path / 'out',
            'mix2',
            preprocess=dict(short_side=64, center_crop=(48, 48)),
        )
        expected = cv2.resize(img, (128, 64))[8:56, 40:88]
        np.testing.assert_array_equal(
            read(tmp_path / 'out' / 'a.png'), Cipher('mix2').apply(expected, [None])
        )

    def test_center_crop_of_less_than_a_pixel(self, tmp_path):
        write(tmp_path / 'src' / 'a.png', photo(2, 2))
        folder(
            tmp_path / 'src',
            tmp_path / 'out',
            'mix2',
            preprocess=dict(short_side=224, center_crop=(16, 16)),
        )
        assert Manifest.load(tmp_path / 'out').files['a.png'].ori_shape == (1, 1)
