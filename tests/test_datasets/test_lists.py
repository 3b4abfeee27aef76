# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Text files of pictures and labels."""

import errno
import os

import cv2
import numpy as np
import pytest
from owner_data import named

from hime_mm.apis import encrypt_folder, verify_dataset
from hime_mm.ciphers import Key
from hime_mm.datasets.lists import read_list, write_list
from hime_mm.datasets.stores import LocalStore
from hime_mm.errors import EncryptionError, ListError

NUMBERS = {'val/a.JPEG': 0, 'val/b c.JPEG': 1, 'train/n1/a.JPEG': 2}


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ('path', 'text', 'folder', 'rows'),
    [
        ('meta/val.txt', 'a.JPEG 65\nb c.JPEG 9\n', 'val', [(0, ' 65'), (1, ' 9')]),
        ('meta/val.txt', 'b c.JPEG\n\n  a.JPEG  \n', 'val', [(1, ''), (0, '')]),
        ('meta/train.txt', 'n1/a.JPEG 3', 'train', [(2, ' 3')]),
        ('all.txt', 'train/n1/a.JPEG 1\r\nval/a.JPEG 0\r\n', '', [(2, ' 1'), (0, ' 0')]),
        ('val/list.txt', 'a.JPEG 0\n', 'val', [(0, ' 0')]),
        ('meta/val.txt', '', 'val', []),
        # With the mark that Windows' Notepad puts first.
        ('meta/val.txt', '\ufeffa.JPEG 65\r\nb c.JPEG 9\r\n', 'val', [(0, ' 65'), (1, ' 9')]),
        ('all.txt', '\ufefftrain/n1/a.JPEG 1', '', [(2, ' 1')]),
        ('meta/val.txt', '\ufeff', 'val', []),
    ],
)
def test_read(tmp_path, path, text, folder, rows):
    write(tmp_path / path, text)
    found, lines = read_list(LocalStore(str(tmp_path)), path, NUMBERS.get)
    assert (found, [*lines]) == (folder, rows)


@pytest.mark.parametrize(
    ('text', 'things'),
    [
        ('a.JPEG 1\nno.JPEG 2\n', ["'no.JPEG 2'", 'line 2']),
        ('a.JPEG 1 2\n', ["'a.JPEG 1 2'", 'line 1']),
        ('../val/a.JPEG 1\n', ["'../val/a.JPEG 1'", 'line 1']),
        (b'\xff\xfe', ['UTF-8']),
    ],
)
def test_read_refuses(tmp_path, text, things):
    write(tmp_path / 'meta/val.txt', text)
    with pytest.raises(ListError, match=named('meta/val.txt', *things)):
        read_list(LocalStore(str(tmp_path)), 'meta/val.txt', NUMBERS.get)
    with pytest.raises(ListError, match=named('no.txt', os.strerror(errno.ENOENT))):
        read_list(LocalStore(str(tmp_path)), 'no.txt', NUMBERS.get)


def test_write():
    files = ['val/a_v0.png', 'val/a_v1.png']
    assert [*write_list('val', [([], ' 3'), (files, ' 7')])] == ['a_v0.png 7\n', 'a_v1.png 7\n']
    assert [*write_list('', [(files, '')])] == ['val/a_v0.png\n', 'val/a_v1.png\n']


def test_imagenet_trains_on_the_flat_tree(tmp_path):
    """ImageNet's own layout: labels of ``val`` are only in ``val.txt``."""
    datasets = pytest.importorskip('mmpretrain.datasets')
    src, out = tmp_path / 'src', tmp_path / 'out'
    rng = np.random.default_rng(0)
    for name in (
        'train/n01440764/x.JPEG',
        'train/n01443537/y.JPEG',
        'val/v1.JPEG',
        'val/v2.JPEG',
        'val/broken.JPEG',
    ):
        path = src / name
        path.parent.mkdir(parents=True, exist_ok=True)
        img = rng.integers(0, 256, (40, 40, 3), np.uint8)
        path.write_bytes(b'' if 'broken' in name else cv2.imencode('.jpg', img)[1])
    write(src / 'meta/val.txt', 'v2.JPEG 1\nbroken.JPEG 1\nv1.JPEG 0\n')
    write(src / 'meta/train.txt', 'n01440764/x.JPEG 0\nn01443537/y.JPEG 1\n')
    summary = encrypt_folder(
        str(src),
        str(out),
        'paper-rs',
        key=Key.generate(),
        views=2,
        lists=['meta/val.txt', 'meta/train.txt'],
        progress=False,
    )
    assert summary.left_out == []
    assert [path for path, _ in summary.skipped] == ['val/broken.JPEG']
    assert (out / 'meta/val.txt').read_text() == (
        'v2_v0.png 1\nv2_v1.png 1\nv1_v0.png 0\nv1_v1.png 0\n'
    )
    data = datasets.ImageNet(data_root=str(out), split='val')
    assert [int(row['gt_label']) for row in data] == [1, 1, 0, 0]
    assert all(out.joinpath(row['img_path']).is_file() for row in data)
    assert len(datasets.ImageNet(data_root=str(out), split='train')) == 4
    # The lists are part of the data set.
    report = verify_dataset(str(out), progress=False)
    assert [path for path, _ in report.problems] == ['.hime-work', 'val/broken_v0.png']
    write(out / 'meta/val.txt', 'v2_v0.png 0\n')
    report = verify_dataset(str(out), progress=False)
    assert 'meta/val.txt' in [path for path, _ in report.problems]


def test_absolute_list_inside_the_source(tmp_path):
    src, out = tmp_path / 'src', tmp_path / 'out'
    write(src / 'val.txt', '\ufeffa.png 3\n')
    cv2.imwrite(str(src / 'a.png'), np.zeros((16, 16), np.uint8))
    encrypt_folder(str(src), str(out), 'mix2', lists=[str(src / 'val.txt')], progress=False)
    assert (out / 'val.txt').read_bytes() == b'a.png 3\n'


def test_lists_are_inside_the_source(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((16, 16), np.uint8))
    with pytest.raises(EncryptionError, match='../list.txt'):
        encrypt_folder(str(tmp_path), str(tmp_path) + '-out', 'paper-mi', lists=['../list.txt'])
