# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Tar shards as MMEngine reads files: the same samples as from the folder of files."""

import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.fileio import FileClient, get_file_backend, list_from_file, load
from owner_data import make_coco, photo, write
from s3_server import bucket, s3_server  # noqa: F401
from torch.utils.data import DataLoader

from hime_mm.apis import encrypt_coco, encrypt_folder
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.stores import FsspecStore
from hime_mm.engine import HimeBackend, backend
from hime_mm.errors import ConfigError, ManifestError
from hime_mm.transforms import LoadEncryptedMeta, remote

CLASSES = ('cat.v1', 'cup')
IDS = dict(dataset_id='0123456789abcdef', progress=False, shard_size=3)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """The same data sets as files and as tar shards: pictures in folders, and COCO."""
    root = tmp_path_factory.mktemp('made')
    names = [f'{name}/{i}.v2.png' for name in CLASSES for i in range(4)]
    for i, name in enumerate(names):
        write(root / 'plain' / 'train' / name, photo(40 + 16 * (i % 2), 72, i))
    write(root / 'plain' / 'odd %2E' / 'grün #1?.png', photo(32, 32))
    lines = [f'{name} {i % 2}' for i, name in enumerate(names)]
    (root / 'plain' / 'meta').mkdir()
    (root / 'plain' / 'meta' / 'train.txt').write_text('\n'.join(lines) + '\n')
    make_coco(root / 'coco')
    for storage in ('files', 'tar'):
        encrypt_folder(
            str(root / 'plain'),
            str(root / storage),
            'mix2',
            lists=['meta/train.txt'],
            storage=storage,
            **IDS,
        )
        encrypt_coco(
            str(root / 'coco'), str(root / f'coco_{storage}'), 'mix2', storage=storage, **IDS
        )
    return root


def forget():
    for cached in (backend._data_set, backend._store, remote._load):
        cached.cache_clear()
    backend._FOUND.clear()


@pytest.fixture(autouse=True)
def fresh():
    forget()
    yield
    forget()


@pytest.fixture(params=['tar', 'files', pytest.param('s3', marks=pytest.mark.slow)])
def there(request, made):
    """URLs of the data sets: ``there('')``, ``there('coco_')``."""
    if request.param != 's3':
        return lambda kind='': f'hime://{made}/{kind}{request.param}'
    url = request.getfixturevalue('bucket')
    fs = fsspec.filesystem('s3')
    for kind in ('', 'coco_'):
        for path in (made / f'{kind}tar').rglob('*'):
            if path.is_file():
                key = path.relative_to(made / f'{kind}tar').as_posix()
                fs.pipe_file(f'{url}/{kind}out/{key}', path.read_bytes())
    return lambda kind='': f'hime-{url}/{kind}out'


def pictures(made):
    return [one.relative_to(made / 'files').as_posix() for one in (made / 'files').rglob('*.png')]


def test_what_a_backend_does(there, made):
    url = there()
    files = get_file_backend(url)
    assert isinstance(files, HimeBackend)
    assert len(pictures(made)) == 9
    for path in (*pictures(made), 'meta/train.txt'):
        full = files.join_path(url, path)
        data = (made / 'files' / path).read_bytes()
        assert files.get(full) == data
        with files.get_local_path(full) as local:
            assert Path(local).read_bytes() == data
        assert (files.isfile(full), files.isdir(full), files.exists(full)) == (True, False, True)
    for path in ('', '/train', '/train/cat.v1', '/train/'):
        full = url + path
        assert (files.isfile(full), files.isdir(full), files.exists(full)) == (False, True, True)
    for path in ('/no', '/train/cat.v1/no.png', '/train/no/0.v2.png'):
        assert not files.exists(url + path)
        with pytest.raises(FileNotFoundError):
            files.get(url + path)
    with pytest.raises(FileNotFoundError):
        list(files.list_dir_or_file(f'{url}/no'))
    assert files.get_text(f'{url}/meta/train.txt') == (made / 'files/meta/train.txt').read_text()
    assert list_from_file(f'{url}/meta/train.txt')[0] == 'cat.v1/0.v2.png 0'
    assert FileClient.infer_client(uri=url).get(f'{url}/{pictures(made)[0]}')


def test_folders_are_listed_as_the_disk_is(there, made):
    url, local = there(), get_file_backend(str(made))
    files = get_file_backend(url)

    def listed(reader, folder, **kwargs):
        found = set(reader.list_dir_or_file(folder, **kwargs))
        return {one for one in found if not one.startswith('hime')}

    for folder in ('', 'train', 'train/cup', 'odd %2E'):
        for kwargs in (
            {},
            dict(recursive=True),
            dict(list_dir=False, recursive=True, suffix=('.png', '.txt')),
            dict(list_file=False),
        ):
            expected = listed(local, os.path.join(made / 'files', folder), **kwargs)
            assert listed(files, f'{url}/{folder}', **kwargs) == expected
    with pytest.raises(TypeError):
        list(files.list_dir_or_file(url, suffix='.png'))


def test_nothing_is_written(there):
    files = get_file_backend(there())
    for call in (files.put, files.remove, files.rmtree, files.copyfile):
        with pytest.raises(ConfigError, match='only read'):
            call(b'', f'{there()}/a')


def test_relative_paths(made, monkeypatch):
    monkeypatch.chdir(made)
    for url in ('hime://tar', 'hime://./files', f'hime://{made}/../{made.name}/tar'):
        assert get_file_backend(url).isfile(f'{url}/train/cup/0.v2.png')
        results = LoadImageFromFile()(dict(img_path=f'{url}/train/cup/0.v2.png'))
        assert LoadEncryptedMeta()(results)['patch_layout']


@pytest.mark.parametrize('path', ['s3://b/a', 'himes3://b/a'])
def test_other_schemes_are_refused(path):
    with pytest.raises(ConfigError, match='hime-'):
        backend.store_url(path)


def facts(results):
    return repr([results[name] for name in ('ori_shape', 'scale_factor', 'cipher', 'patch_layout')])


def read_sample(path):
    results = LoadImageFromFile()(dict(img_path=path))
    return LoadEncryptedMeta(verify=True)(results)


def test_facts_of_pictures(there, made):
    for path in pictures(made):
        expected = read_sample(str(made / 'files' / path))
        results = read_sample(f'{there()}/{path}')
        np.testing.assert_array_equal(results['img'], expected['img'])
        assert facts(results) == facts(expected)
    for manifest in (there(), f'{there()}/hime.json'):
        results = LoadImageFromFile()(dict(img_path=f'{there()}/train/cup/0.v2.png'))
        assert LoadEncryptedMeta(manifest)(results)['patch_layout']
    with pytest.raises(ManifestError, match='not in the manifest'):
        results = dict(results, img_path=f'{there()}/train/cup/no.png', patch_layout=None)
        LoadEncryptedMeta()(results)


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for expected, results in zip(one, other, strict=True):
        assert type(expected) is type(results)
        np.testing.assert_array_equal(results['img'], expected['img'])
        for name in ('gt_label', 'img_id', 'gt_bboxes_labels'):
            assert str(results.get(name)) == str(expected.get(name))
        if 'gt_bboxes' in expected:
            np.testing.assert_array_equal(
                results['gt_bboxes'].numpy(), expected['gt_bboxes'].numpy()
            )
        assert facts(results) == facts(expected)


STEPS = [dict(type='LoadImageFromFile'), dict(type='hime_mm.LoadEncryptedMeta', verify=True)]


def test_coco_of_mmdetection(there, made):
    datasets = pytest.importorskip('mmdet.datasets')
    metrics = pytest.importorskip('mmdet.evaluation')

    def dataset(root):
        return datasets.CocoDataset(
            data_root=root,
            ann_file='annotations/instances_val2017.json',
            data_prefix=dict(img='val2017/'),
            metainfo=dict(classes=('cat', 'cup')),
            pipeline=[*STEPS, dict(type='mmdet.LoadAnnotations', with_bbox=True)],
        )

    expected = dataset(str(made / 'coco_files'))
    assert_same(expected, dataset(there('coco_')))
    path = 'annotations/instances_val2017.json'
    metric = metrics.CocoMetric(ann_file=f'{there("coco_")}/{path}', metric='bbox')
    assert metric._coco_api.dataset == load(str(made / 'coco_files' / path))


def test_classification_of_mmpretrain(there, made):
    datasets = pytest.importorskip('mmpretrain.datasets')

    def folder(root):
        return datasets.CustomDataset(data_root=root, data_prefix='train', pipeline=STEPS)

    def listed(root):
        return datasets.ImageNet(
            data_root=root,
            data_prefix='train',
            ann_file='meta/train.txt',
            classes=CLASSES,
            pipeline=STEPS,
        )

    def split(root):
        return datasets.ImageNet(data_root=root, split='train', classes=CLASSES, pipeline=STEPS)

    for make in (folder, listed, split):
        expected = make(str(made / 'files'))
        assert len(expected) == 8
        assert_same(expected, make(there()))


@pytest.mark.parametrize('method', ['fork', pytest.param('spawn', marks=pytest.mark.trial)])
def test_workers(there, made, method):
    """What the parent has read and open is no matter for its workers."""
    paths = [f'{there()}/{path}' for path in pictures(made)]
    for path in paths:
        read_sample(path)
    loader = DataLoader(
        Samples(paths), batch_size=None, num_workers=2, multiprocessing_context=method
    )
    for path, (name, img) in zip(pictures(made), loader, strict=True):
        assert name.endswith(path)
        expected = LoadImageFromFile()(dict(img_path=str(made / 'files' / path)))
        np.testing.assert_array_equal(np.asarray(img), expected['img'])


class Samples:
    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, number):
        import hime_mm.engine  # noqa: F401  by `custom_imports` elsewhere

        return self.paths[number], read_sample(self.paths[number])['img']


def test_few_requests(made, monkeypatch):
    """The manifest is read once, and each picture by one request for its bytes."""
    memory = fsspec.filesystem('memory')
    memory.store.clear()
    for path in (made / 'tar').rglob('*'):
        if path.is_file():
            key = path.relative_to(made / 'tar').as_posix()
            memory.pipe_file(f'/few/out/{key}', path.read_bytes())
    asked = []
    for name in ('read', 'size', 'read_range', 'list', 'open'):
        real = getattr(FsspecStore, name)

        def ask(self, path='', *args, _real=real, _name=name):
            asked.append((_name, self.place(path)))
            return _real(self, path, *args)

        monkeypatch.setattr(FsspecStore, name, ask)
    paths = [f'hime-memory://few/out/{path}' for path in pictures(made)]
    for _ in range(3):
        for path in paths:
            results = LoadImageFromFile()(dict(img_path=path))
            LoadEncryptedMeta()(results)
    ranges = [one for one in asked if one[0] == 'read_range']
    others = [one for one in asked if one[0] != 'read_range']
    assert len(ranges) == 3 * len(paths)
    names = [place.rpartition('/')[2] for _, place in others]
    assert names.count('hime-000000.json') == 1
    # Above the first picture only.
    assert len(others) <= 4 + len(Manifest.load(made / 'tar').shards)


def test_a_tar_that_ends_early_is_said(made, tmp_path):
    shutil.copytree(made / 'tar', tmp_path / 'tar')
    os.truncate(tmp_path / 'tar/hime-000000.tar', 700)
    manifest = Manifest.load(tmp_path / 'tar')
    first = next(manifest.entries())
    with pytest.raises(OSError, match='ends before odd') as raised:
        get_file_backend(f'hime://{tmp_path}/tar').get(f'hime://{tmp_path}/tar/{first.path}')
    assert raised.value.filename.endswith('hime-000000.tar')
