# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Which original an encrypted file was made of, held to what encryption said it read."""

import re
import shutil

import numpy as np
import pytest
from owner_data import make_coco, named, photo, write

from hime_mm.apis import encrypt_coco, encrypt_folder
from hime_mm.ciphers import Key
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.originals import Originals
from hime_mm.errors import HimeError, ManifestError, PictureError

KEY = Key(bytes(range(32)))


@pytest.fixture(scope='module')
def flat(tmp_path_factory):
    """Pictures that no two of have one size, some of them in folders."""
    root = tmp_path_factory.mktemp('flat') / 'src'
    for i, name in enumerate(('a.png', 'B.PNG', 'cats/a.png', 'cats/deep/ü 1.bmp')):
        write(root / name, photo(33 + i, 64, i))
    return root


def encrypted(src, out, make=encrypt_folder, cipher='shuffle', key=KEY, **options):
    make(str(src), str(out), cipher, key=key, progress=False, dataset_id='d', **options)
    return Manifest.load(out)


def all_fit(originals, manifest):
    """Whether each file leads to a picture of its own, of the size that was encrypted."""
    paths = [originals.path(name) for name in manifest.files]
    shapes = [originals.read(name).shape[:2] for name in manifest.files]
    return len({*paths}) == len(paths) and shapes == [
        entry.ori_shape for entry in manifest.files.values()
    ]


@pytest.mark.parametrize('names', ['keep', 'ids'])
def test_of_a_folder(flat, tmp_path, names):
    manifest = encrypted(flat, tmp_path / 'out', names=names)
    originals = Originals(str(flat), manifest, KEY)
    assert all_fit(originals, manifest)
    assert {originals.path(name) for name in manifest.files} == {
        path.relative_to(flat).as_posix() for path in flat.rglob('*.*')
    }


@pytest.mark.parametrize('names', ['keep', 'ids'])
def test_of_a_coco_data_set(tmp_path, names):
    src = make_coco(tmp_path / 'src')
    manifest = encrypted(src, tmp_path / 'out', encrypt_coco, 'mix2', None, names=names)
    originals = Originals(str(src), manifest)
    assert len(manifest.files) == 4 and all_fit(originals, manifest)
    (src / 'annotations/instances_val2017.json').unlink()
    if names == 'keep':
        assert all_fit(Originals(str(src), manifest), manifest)
    else:
        with pytest.raises(ManifestError, match=named('instances_val2017.json', src)):
            Originals(str(src), manifest)


def test_of_several_views(flat, tmp_path):
    manifest = encrypted(flat, tmp_path / 'out', cipher='noise5', views=2)
    originals = Originals(str(flat), manifest)
    assert len(manifest.files) == 8
    for name in manifest.files:
        assert re.sub(r'\.\w+$', '', originals.path(name)) == re.sub(r'_v\d\.\w+$', '', name)


def test_names_that_cannot_be_told(flat, tmp_path):
    manifest = encrypted(flat, tmp_path / 'out', names='ids')
    with pytest.raises(ManifestError, match=f'{KEY.id}.*`key`'):
        Originals(str(flat), manifest)
    manifest = encrypted(flat, tmp_path / 'random', key=None, one_way=True, names='ids')
    with pytest.raises(ManifestError, match='nothing was kept') as error:
        Originals(str(flat), manifest)
    assert '`key`' not in str(error.value)


def test_folders_that_hold_no_originals(flat, tmp_path):
    manifest = encrypted(flat, tmp_path / 'out')
    with pytest.raises(ManifestError, match='is an encrypted data set itself'):
        Originals(str(tmp_path / 'out'), manifest)
    with pytest.raises(HimeError, match='no folder'):
        Originals(str(tmp_path / 'nowhere'), manifest)


def test_pictures_that_are_missing_or_damaged(flat, tmp_path):
    manifest = encrypted(flat, tmp_path / 'out')
    copy = tmp_path / 'copy'
    shutil.copytree(flat, copy)
    (copy / 'a.png').unlink()
    (copy / 'cats/a.png').write_bytes(b'no picture')
    originals = Originals(str(copy), manifest)
    assert originals.path('a.png') is None and originals.path('no/../such\0.png') is None
    with pytest.raises(PictureError, match=named('no picture of that name', copy)):
        originals.read('a.png')
    with pytest.raises(PictureError):
        originals.read('cats/a.png')
    assert np.array_equal(originals.read('B.png'), photo(34, 64, 1))
