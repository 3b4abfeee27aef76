# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import errno
import pickle
import zipfile

import fsspec
import pytest

from hime_mm.datasets.stores import FsspecStore, LocalStore, open_store, remote
from hime_mm.errors import StoreError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(remote, 'WAITS', (0, 0))


@pytest.fixture(params=['memory', 'local'])
def store(request, tmp_path):
    if request.param == 'local':
        return open_store(str(tmp_path / 'out'))
    memory = fsspec.filesystem('memory')
    memory.store.clear()
    memory.pseudo_dirs[:] = ['']
    return open_store('memory://bucket/out')


def fail(monkeypatch, name, error, times=9):
    """Have a call of the file system in memory fail some times."""
    cls = type(fsspec.filesystem('memory'))
    real, calls = getattr(cls, name), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) <= times:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(cls, name, failing)
    return calls


def test_a_store_reads_what_it_wrote(store):
    store.write('a/[1]*.png', b'1234')
    store.write_many([('a/2.png', b'2'), ('b.png', b'')])
    with store.writing('c.tar') as file:
        file.write(b'5678')
    assert store.read('a/[1]*.png') == b'1234'
    assert store.read_range('c.tar', 1, 2) == b'67'
    assert store.open('c.tar').read() == b'5678'
    found = list(store.read_many(['a/2.png', 'no.png', 'b.png']))
    assert (found[0], type(found[1]), found[2]) == (b'2', FileNotFoundError, b'')
    assert found[1].filename == store.place('no.png')
    assert (store.size('c.tar'), store.size('no.png'), store.size('a')) == (4, None, None)
    listed = sorted((one.name, one.folder) for one in store.list())
    assert listed == [('a', True), ('b.png', False), ('c.tar', False)]
    assert sorted(one.name for one in store.list('a')) == ['2.png', '[1]*.png']
    store.remove('b.png')
    store.remove('b.png')
    store.remove_tree('a')
    store.remove_tree('a')
    assert [one.name for one in store.list()] == ['c.tar']


def test_an_interrupted_file_is_not_there(store):
    with pytest.raises(KeyboardInterrupt), store.writing('a.tar') as file:
        file.write(b'1')
        raise KeyboardInterrupt
    assert store.size('a.tar') is None


def test_missing_folders(store):
    with pytest.raises(FileNotFoundError):
        list(store.list('no'))


def test_a_store_travels_to_a_worker(store):
    store.write('a', b'1')
    assert pickle.loads(pickle.dumps(store)).read('a') == b'1'
    assert open_store(store.url).read('a') == b'1'


@pytest.mark.parametrize('error', [TimeoutError(), ConnectionResetError(), OSError(5, 'x')])
def test_what_times_out_is_tried_again_and_never_missing(monkeypatch, error):
    store = open_store('memory://bucket/faults')
    store.write('a', b'1')
    calls = fail(monkeypatch, 'cat_file', error, times=2)
    assert store.read('a') == b'1'
    assert len(calls) == 3
    fail(monkeypatch, 'info', error)
    with pytest.raises(OSError) as raised:
        store.size('a')
    assert not isinstance(raised.value, FileNotFoundError)
    assert raised.value.filename == 'memory://bucket/faults/a'


def test_no_permission_is_said_at_once(monkeypatch):
    calls = fail(monkeypatch, 'cat_file', PermissionError('Access Denied'))
    with pytest.raises(PermissionError) as raised:
        open_store('memory://bucket/faults').read('a')
    assert (raised.value.filename, len(calls)) == ('memory://bucket/faults/a', 1)


@pytest.mark.parametrize('kept', [0, 2])
def test_lost_and_partial_files(monkeypatch, kept):
    cls = type(fsspec.filesystem('memory'))
    real, calls = cls.pipe_file, []

    def losing(self, path, data, **kwargs):
        calls.append(path)
        if kept:
            real(self, path, data[:kept])

    store = open_store(f'memory://bucket/lost{kept}')
    monkeypatch.setattr(cls, 'pipe_file', losing)
    with pytest.raises(OSError, match='lost it: 4 bytes were written') as raised:
        store.write('a', b'1234')
    assert (raised.value.errno, len(calls)) == (errno.EIO, 3)
    monkeypatch.setattr(cls, 'pipe_file', real)
    store.write('a', b'1234')
    assert store.read('a') == b'1234'


def test_a_zip_is_read_only(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as file:
        file.writestr('folder/a.png', b'1')
    store = open_store(f'zip://folder::{tmp_path}/a.zip')
    assert store.read('a.png') == b'1'
    assert store.place('a.png') == f'zip://folder/a.png::{tmp_path}/a.zip'
    whole = open_store(f'zip://::{tmp_path}/a.zip')
    assert whole.read('folder/a.png') == b'1'
    assert [(one.name, one.folder) for one in whole.list()] == [('folder', True)]
    with pytest.raises(OSError, match='only read'):
        store.write('b', b'')


@pytest.mark.parametrize('url', ['nosuch://a/b', 'reference://::/a.json', 'x::reference://a'])
def test_unknown_and_refused_schemes(url):
    with pytest.raises(StoreError, match='not known|does not name'):
        open_store(url)


def test_a_missing_package_is_named(monkeypatch):
    def missing(url, **options):
        raise ImportError('Please install gcsfs to access Google Storage')

    monkeypatch.setattr('fsspec.core.url_to_fs', missing)
    with pytest.raises(StoreError, match=r'gcsfs.*hime-mm\[stores\]'):
        open_store('gs://bucket')


def test_passwords_are_not_shown():
    with pytest.raises(StoreError) as raised:
        open_store('nosuch://user:secret@host/a')
    assert 'secret' not in str(raised.value)


def test_local_urls():
    assert isinstance(open_store('file:///a%20b'), LocalStore)
    assert open_store('file:///a%20b').local == '/a b'
    assert isinstance(open_store('memory://a'), FsspecStore)
