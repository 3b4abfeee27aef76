# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Encrypted data sets at URLs: LoadEncryptedMeta makes of them what it makes of a folder."""

import functools
import http.server
import shutil
import threading
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from loading_parts import ANN_FILE, ANNOTATIONS, coco_dataset, load_meta, loaded
from mmcv.transforms import LoadImageFromFile
from mmengine.fileio import io
from mmengine.fileio.backends import BaseStorageBackend
from owner_data import named, photo, write
from torch.utils.data import DataLoader

from hime_mm.apis import encrypt_folder
from hime_mm.errors import ConfigError, ManifestError, PictureError
from hime_mm.transforms import LoadEncryptedMeta, remote

pytest.importorskip('mmdet.datasets')
NAMES = ('0.png', 'a b/1.png', 'a b/50%20.png', 'a#b.png', 'c?d=1.png', 'é/ü.png', 'x%2Fy.png')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """An encrypted folder with names that URLs write otherwise."""
    root = tmp_path_factory.mktemp('remote')
    for i, name in enumerate(NAMES):
        write(root / 'plain' / name, photo(40 + 16 * i, 72, i))
    encrypt_folder(str(root / 'plain'), str(root / 'data/out'), 'mix2', progress=False)
    return root / 'data/out'


@pytest.fixture
def fresh():
    """Nothing is known of any URL."""
    remote._load.cache_clear()
    yield
    remote._load.cache_clear()


class Quiet(http.server.SimpleHTTPRequestHandler):
    asked: list = []

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def server(fresh):
    """Serves folders; what was asked for."""
    running = []

    def serve(root):
        Quiet.asked = []
        handler = functools.partial(Quiet, directory=str(root))
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        return f'http://127.0.0.1:{server.server_port}'

    yield serve
    for one in running:
        one.shutdown()
        one.server_close()


class Bucket(BaseStorageBackend):
    """A bucket in memory: keys are what is between the slashes, literally."""

    files: dict = {}
    asked: list = []

    def __init__(self, path_mapping=None):
        self.path_mapping = path_mapping or {}

    def _key(self, path):
        for before, after in self.path_mapping.items():
            path = path.replace(before, after, 1)
        self.asked.append(path)
        return path

    def exists(self, path):
        return self._key(path) in self.files

    def get(self, path):
        return memoryview(self.files[self._key(path)])

    def get_text(self, path, encoding='utf-8'):
        return self.files[self._key(path)].decode(encoding)


@pytest.fixture
def bucket(fresh, monkeypatch):
    """Puts folders into buckets that MMEngine reads as ``s3://``."""
    monkeypatch.setattr(io, 'backend_instances', {})
    monkeypatch.setitem(io.backends, 'bucket', Bucket)
    for prefix in ('s3', 'gs', 'file'):
        monkeypatch.setitem(io.prefix_to_backends, prefix, Bucket)
    Bucket.files, Bucket.asked = {}, []

    def put(root, url):
        for path in root.rglob('*'):
            if path.is_file():
                Bucket.files[f'{url}/{path.relative_to(root).as_posix()}'] = path.read_bytes()
        return url

    return put


def facts(results):
    layout = results.pop('patch_layout')
    return repr((results['ori_shape'], results['scale_factor'], results['cipher'], layout))


def load(path, backend_args=None, **kwargs):
    results = LoadImageFromFile(backend_args=backend_args)(dict(img_path=path))
    return LoadEncryptedMeta(backend_args=backend_args, **kwargs)(results)


@pytest.mark.parametrize('coordinates', ['encrypted', 'original'])
@pytest.mark.parametrize('verify', [False, True])
def test_from_a_server(server, folder, coordinates, verify):
    url = server(folder.parents[1])
    args = dict(coordinates=coordinates, verify=verify)
    for name in NAMES:
        expected = LoadEncryptedMeta(**args)(loaded(folder / name))
        for query in ('', '?token=1', '#there'):
            results = load(f'{url}/data/out/{quote(name)}{query}', **args)
            np.testing.assert_array_equal(results['img'], expected['img'])
            assert facts(dict(results)) == facts(dict(expected))
    # Once for each folder above.
    asked = [path for path in Quiet.asked if path.endswith('hime.json')]
    assert sorted(asked) == sorted(
        f'/data/out/{folder}hime.json' for folder in ('', 'a%20b/', '%C3%A9/')
    )


@pytest.mark.parametrize(
    'url', ['s3://b', 's3://b/deep/er', 'cluster:s3://b/data', 'file:///d', 'gs://b']
)
def test_from_a_bucket(bucket, folder, url, tmp_path, monkeypatch):
    bucket(folder, url)
    # No local path is made of it.
    decoy = tmp_path / url.replace('//', '/')
    decoy.mkdir(parents=True)
    (decoy / 'hime.json').write_text('{}')
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        results = load(f'{url}/{name}', verify=True)
        assert facts(results) == facts(LoadEncryptedMeta()(loaded(folder / name)))
    for manifest in (url, f'{url}/', f'{url}/hime.json'):
        assert load(f'{url}/a b/1.png', manifest=manifest)


def test_by_the_arguments_of_a_backend(bucket, folder):
    bucket(folder, 's3://b/out')
    args = dict(backend='bucket', path_mapping={'data/': 's3://b/'})
    for name in NAMES:
        results = load(f'data/out/{name}', args)
        assert facts(results) == facts(LoadEncryptedMeta()(loaded(folder / name)))
    # The local one by its name.
    assert load(str(folder / '0.png'), dict(backend='local'))


def test_once_per_process(bucket, folder):
    bucket(folder, 's3://b/out')
    for _ in range(3):
        for transform in (load_meta(), load_meta(verify=True)):
            transform.pop('type')
            for name in NAMES:
                load(f's3://b/out/{name}', **transform)
    asked = [path for path in Bucket.asked if path.endswith('hime.json')]
    assert asked.count('s3://b/out/hime.json') == 2  # is it there, and its content
    assert len(asked) == len({*asked}) + 1


def test_a_changed_file_is_found(bucket, folder):
    bucket(folder, 's3://b')
    other = write(folder.parents[1] / 'other.png', photo(16, 48)).read_bytes()
    Bucket.files['s3://b/0.png'] = (folder / '0.png').read_bytes() + b'\0'
    assert load('s3://b/0.png')
    with pytest.raises(PictureError, match=named('s3://b/0.png', 'SHA-256')):
        load('s3://b/0.png', verify=True)
    Bucket.files['s3://b/0.png'] = other
    with pytest.raises(PictureError, match='s3://b/0.png came in as 16x48'):
        load('s3://b/0.png')


def test_what_is_refused(bucket, server, folder, tmp_path):
    bucket(folder, 's3://b/out')
    web = server(folder)
    for url in ('s3://b/other.png', 's3://b/out/other.png', 's3://c/0.png'):
        Bucket.files[url] = (folder / '0.png').read_bytes()
    shutil.copy(folder / '0.png', tmp_path)
    local = str(tmp_path / '0.png')
    for path, manifest, words in (
        ('s3://b/other.png', None, ('no hime.json in s3://b ',)),
        ('s3://c/0.png', None, ('no hime.json in s3://c ',)),
        ('s3://b/out/other.png', None, ('s3://b/out/other.png', 's3://b/out/hime.json')),
        # Where an image lies tells which it is: names alone do not.
        ('s3://c/0.png', 's3://b/out', ('s3://c/0.png', 's3://b/out')),
        ('s3://c/out/0.png', 's3://b/out', ('s3://c/out/0.png', 's3://b/out')),
        ('gs://b/out/0.png', 's3://b/out', ('gs://b/out/0.png', 's3://b/out')),
        ('s3://b/out/0.png', str(folder), ('s3://b/out/0.png', str(folder))),
        (f'{web}/0.png', str(folder), (f'{web}/0.png', str(folder))),
        (f'{web}/0.png', 's3://b/out', (f'{web}/0.png', 's3://b/out')),
        (local, 's3://b/out', (local, 's3://b/out')),
        ('s3://b/out/0.png', 's3://b', ('there is no manifest s3://b/hime.json',)),
    ):
        results = dict(loaded(folder / '0.png'), img_path=path)
        with pytest.raises(ManifestError, match=named('hime_mm.LoadEncryptedMeta', *words)):
            LoadEncryptedMeta(manifest)(results)
    with pytest.raises(ConfigError, match=named('unknown', 'unknown://a/0.png')):
        LoadEncryptedMeta()(dict(loaded(folder / '0.png'), img_path='unknown://a/0.png'))


@pytest.mark.parametrize('content', [b'<html>', b'{}', b'\xff', b'[' * 99999])
def test_what_is_no_manifest(bucket, folder, content):
    bucket(folder, 's3://b/out')
    Bucket.files['s3://b/out/hime.json'] = content
    with pytest.raises(ManifestError, match='s3://b/out/hime.json'):
        load('s3://b/out/0.png')


def test_a_server_that_fails_is_asked_again(server, folder, monkeypatch):
    url = server(folder)
    get = Quiet.do_GET
    for code in (500, 401):
        monkeypatch.setattr(
            Quiet,
            'do_GET',
            lambda self, code=code: (
                self.send_error(code) if self.path.endswith('.json') else get(self)
            ),
        )
        with pytest.raises(ManifestError, match=named(f'{url}/hime.json', code)):
            load(f'{url}/0.png')
    monkeypatch.setattr(Quiet, 'do_GET', get)
    assert load(f'{url}/0.png')


def test_arrays_are_held_to_a_named_manifest(bucket, folder):
    bucket(folder, 's3://b')
    for manifest in ('s3://b', 's3://b/hime.json'):
        transform = LoadEncryptedMeta(manifest)
        assert transform(dict(img=np.zeros((24, 40, 3), np.uint8)))['ori_shape'] == (24, 40)
        with pytest.raises(PictureError, match='24x36.*mix2.* 8:'):
            transform(dict(img=np.zeros((24, 36, 3), np.uint8)))


def test_a_detector_reads_from_a_server(server, encrypted):
    """MMDetection's data set at an URL, with workers."""
    root = encrypted('paper-mi')
    url = server(root)
    steps = (load_meta(verify=True), ANNOTATIONS)
    local = coco_dataset(root, *steps)
    there = coco_dataset('', *steps, ann_file=f'{url}/{ANN_FILE}', img=f'{url}/some/')
    loader = DataLoader(there, batch_size=None, num_workers=1, collate_fn=lambda results: results)
    assert len(local) == len(there) > 0
    for expected, results in zip(local, loader, strict=True):
        assert results['img_path'].startswith(url)
        np.testing.assert_array_equal(results['img'], expected['img'])
        np.testing.assert_array_equal(results['gt_bboxes'].numpy(), expected['gt_bboxes'].numpy())
        assert facts(dict(results)) == facts(dict(expected))


names = st.text(st.characters(exclude_characters='/\0', exclude_categories=['Cs']), min_size=1)
parts = names.filter(lambda name: name.strip('.') and not name.endswith('.json'))


@given(
    st.sampled_from(['s3://', 'http://', 'https://', 'c:s3://', 'gs://']),
    st.lists(parts, min_size=1, max_size=5),
    st.sets(st.integers(0, 4)),
)
def test_the_nearest_manifest_and_the_name_in_it(scheme, names, depths):
    """Any names, written as URLs have them, and manifests at any folders above."""
    web = scheme.startswith('http')
    assume(web or not any('://' in name for name in names))
    written = [quote(name, safe='') if web else name for name in names]
    host = f'{scheme}host'
    urls = {'/'.join([host, *written[:n], 'hime.json']): n for n in depths if n < len(names)}

    class Files(dict):
        def get(self, path):
            return path

    def found(url, backend):
        return SimpleNamespace(place=url, files=Files()) if url in urls else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, '_load', found)
        path = '/'.join([host, *written])
        if not urls:
            with pytest.raises(ManifestError, match='hime.json'):
                remote.remote_entry(path, None, None)
            return
        manifest, name = remote.remote_entry(path, None, None)
        assert urls[manifest.place] == max(urls.values())
        assert name == '/'.join(names[max(urls.values()) :])
        for url, depth in urls.items():
            assert remote.remote_entry(path, url, None)[1] == '/'.join(names[depth:])


@pytest.mark.parametrize(
    'path, args, there',
    [
        ('/data/a.png', None, False),
        ('data/a.png', {}, False),
        ('C:\\data\\a.png', None, False),
        ('C:/data/a.png', None, False),
        ('\\\\host\\a.png', None, False),
        ('data/a.png', dict(backend='local'), False),
        ('s3://b/a.png', None, True),
        ('https://h/a.png', {}, True),
        ('data/a.png', dict(backend='petrel'), True),
    ],
)
def test_what_is_local(path, args, there):
    assert remote.is_remote(path, args) == there
