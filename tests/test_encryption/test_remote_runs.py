# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Runs from a bucket or an archive into a bucket: the bytes of a local run, whatever fails."""

import json
import subprocess
import sys
import time
import zipfile

import pytest
from owner_data import make_coco, photo, write
from s3_server import bucket, s3_server  # noqa: F401

from hime_mm.apis import encrypt_coco, encrypt_folder
from hime_mm.ciphers import Key
from hime_mm.datasets.stores import FsspecStore, open_store, remote
from hime_mm.encryption import lock
from hime_mm.errors import EncryptionError, HimeError

KEY = Key(bytes(range(32)))
NUM = 7


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    root = tmp_path_factory.mktemp('plain')
    for i in range(NUM):
        write(root / 'folder' / f'c{i % 2}' / f'{i}.v1.png', photo(32, 48, i))
    make_coco(root / 'coco')
    return root


def arguments(**more):
    return dict(
        dict(key=KEY, dataset_id='0123456789abcdef', progress=False, shard_size=3, storage='tar'),
        **more,
    )


def put(folder, url):
    store = open_store(url)
    for path in sorted(folder.rglob('*')):
        if path.is_file():
            store.write(path.relative_to(folder).as_posix(), path.read_bytes())
    return url


def content(url, folder=''):
    """All files of a place, with their bytes."""
    store, found = open_store(url), {}
    for entry in store.list(folder):
        path = f'{folder}/{entry.name}'.strip('/')
        found.update(content(url, path) if entry.folder else {path: store.read(path)})
    return found


def local_run(plain, tmp_path, **more):
    encrypt_folder(str(plain / 'folder'), str(tmp_path / 'local'), 'mix2', **arguments(**more))
    return content(str(tmp_path / 'local'))


@pytest.mark.parametrize('storage', [pytest.param('files', marks=pytest.mark.slow), 'tar'])
def test_from_a_bucket_into_a_bucket(bucket, plain, tmp_path, storage):  # noqa: F811
    src, out = put(plain / 'folder', f'{bucket}/in'), f'{bucket}/out'
    summary = encrypt_folder(src, out, 'mix2', **arguments(storage=storage))
    assert (summary.out, summary.images) == (out, NUM)
    assert content(out) == local_run(plain, tmp_path, storage=storage)
    again = encrypt_folder(src, out, 'mix2', **arguments(storage=storage))
    assert again.finished_before


@pytest.mark.slow
def test_coco_from_a_bucket(bucket, plain, tmp_path):  # noqa: F811
    src = put(plain / 'coco', f'{bucket}/coco')
    encrypt_coco(src, f'{bucket}/out', 'mix2', **arguments())
    encrypt_coco(str(plain / 'coco'), str(tmp_path / 'out'), 'mix2', **arguments())
    assert content(f'{bucket}/out') == content(str(tmp_path / 'out'))


def test_from_an_archive(plain, tmp_path):
    with zipfile.ZipFile(tmp_path / 'in.zip', 'w') as file:
        for path in (plain / 'folder').rglob('*.png'):
            file.write(path, path.relative_to(plain / 'folder').as_posix())
    encrypt_folder(f'zip://::{tmp_path}/in.zip', str(tmp_path / 'zipped'), 'mix2', **arguments())
    assert content(str(tmp_path / 'zipped')) == local_run(plain, tmp_path)


@pytest.mark.slow
def test_local_workers_write_to_a_bucket(bucket, plain, tmp_path):  # noqa: F811
    src = put(plain / 'folder', f'{bucket}/in')
    encrypt_folder(src, f'{bucket}/out', 'mix2', **arguments(workers=2))
    assert content(f'{bucket}/out') == local_run(plain, tmp_path)


@pytest.mark.parametrize(
    'fault',
    ['lost', *(pytest.param(fault, marks=pytest.mark.slow) for fault in ('cut', 'timeout'))],
)
def test_a_store_that_loses_what_it_took(bucket, plain, tmp_path, monkeypatch, fault):  # noqa: F811
    """Every fifth file is lost, cut or times out; none is missing in the end."""
    import s3fs

    monkeypatch.setattr(remote, 'WAITS', (0, 0, 0))
    real, calls = s3fs.S3FileSystem._pipe_file, []

    async def losing(self, path, data, **kwargs):
        calls.append(path)
        if len(calls) % 5 == 0:
            if fault == 'timeout':
                raise TimeoutError('no answer')
            if fault == 'lost':
                return None
            data = data[: len(data) // 2]
        return await real(self, path, data, **kwargs)

    src = put(plain / 'folder', f'{bucket}/in')
    monkeypatch.setattr(s3fs.S3FileSystem, '_pipe_file', losing)
    s3fs.S3FileSystem.clear_instance_cache()
    encrypt_folder(src, f'{bucket}/out', 'mix2', **arguments(storage='files'))
    assert len(calls) > 10
    assert content(f'{bucket}/out') == local_run(plain, tmp_path, storage='files')


def test_a_run_that_cannot_write_goes_on_later(bucket, plain, tmp_path, monkeypatch):  # noqa: F811
    """A server that is gone in the middle of a run."""
    real, calls = FsspecStore._put, []

    def failing(self, path, size, put):
        calls.append(path)
        if len(calls) > 9:
            raise OSError(5, 'the server is gone', self.place(path))
        return real(self, path, size, put)

    out = f'{bucket}/out'
    with monkeypatch.context() as patch:
        patch.setattr(FsspecStore, '_put', failing)
        with pytest.raises((HimeError, OSError)) as raised:
            encrypt_folder(str(plain / 'folder'), out, 'mix2', **arguments())
        assert out in str(raised.value)
    assert open_store(out).size('hime.json') is None
    summary = encrypt_folder(str(plain / 'folder'), out, 'mix2', **arguments())
    assert summary.images == NUM
    assert content(out) == local_run(plain, tmp_path)


def sign(**more):
    return json.dumps(dict(dict(token='1', host='there', pid=7, time=time.time()), **more)).encode()


def test_two_drivers_on_one_bucket(bucket, plain):  # noqa: F811
    out = f'{bucket}/out'
    store, path = open_store(out), f'{lock.WORK_NAME}/locks/1-of-1'
    store.write(path, sign())
    with pytest.raises(EncryptionError, match='process 7 of there'):
        encrypt_folder(str(plain / 'folder'), out, 'mix2', **arguments())
    assert store.read(path) == store.read(path)
    # One that was killed is given up.
    store.write(path, sign(time=time.time() - 500))
    assert encrypt_folder(str(plain / 'folder'), out, 'mix2', **arguments()).images == NUM
    assert not [name for name in content(out) if 'locks' in name]


KILLED = """
import os, sys
from hime_mm.datasets.stores import FsspecStore
from hime_mm.encryption import lock
from hime_mm.apis import encrypt_folder
from hime_mm.ciphers import Key
real, calls = FsspecStore._put, []
def dying(self, path, size, put):
    calls.append(path)
    if len(calls) > int(sys.argv[3]):
        os._exit(9)
    return real(self, path, size, put)
FsspecStore._put = dying
lock._DEAD = 0
encrypt_folder(sys.argv[1], sys.argv[2], 'mix2', key=Key(bytes(range(32))), shard_size=3,
               dataset_id='0123456789abcdef', progress=False, storage='tar')
"""


@pytest.mark.slow
def test_killed_at_any_write(bucket, plain, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(lock, '_DEAD', 0)
    expected = local_run(plain, tmp_path)
    script = tmp_path / 'killed.py'
    script.write_text(KILLED)
    for num in range(0, 40, 3):
        out = f'{bucket}/out{num}'
        ended = subprocess.run(
            [sys.executable, str(script), str(plain / 'folder'), out, str(num)], timeout=120
        )
        if ended.returncode == 0:
            break
        assert ended.returncode == 9
        encrypt_folder(str(plain / 'folder'), out, 'mix2', **arguments())
        assert content(out) == expected
    assert num > 6
