# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The store of a bucket, against an S3 server and in front of a broken one."""

import errno
import http.client
import http.server
import logging
import multiprocessing
import pickle
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest
from s3_server import SECRET, bucket, s3_server, use_server  # noqa: F401

from hime_mm.datasets.stores import open_store, remote

DENIED = b'<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
SLOW = b'<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'


@pytest.fixture
def store(bucket):  # noqa: F811
    return open_store(f'{bucket}/out')


def listed(store, folder=''):
    return sorted((one.name, one.folder) for one in store.list(folder))


def test_what_a_store_does(store):
    store.write('a/[1]*?#.png', b'1234')
    store.write_many([(f'a/{n}.png', bytes([n])) for n in range(40)])
    store.write('b.png', b'')
    with store.writing('deep/er/c.tar') as file:
        file.write(b'56')
        file.write(b'78')
    assert store.read('a/[1]*?#.png') == b'1234'
    assert store.read('b.png') == b''
    assert list(store.read_many([f'a/{n}.png' for n in range(40)])) == [
        bytes([n]) for n in range(40)
    ]
    assert store.read_range('deep/er/c.tar', 1, 2) == b'67'
    assert store.read_range('deep/er/c.tar', 0, 0) == b''
    with store.open('deep/er/c.tar') as file:
        assert file.read() == b'5678'
    assert [store.size(path) for path in ('deep/er/c.tar', 'b.png', 'no', 'a')] == [
        4, 0, None, None,
    ]  # fmt: skip
    assert store.is_whole('deep/er/c.tar', 4, '')
    assert listed(store) == [('a', True), ('b.png', False), ('deep', True)]
    assert len(listed(store, 'a')) == 41
    assert listed(store, 'deep') == [('er', True)]
    # What another process wrote is seen: nothing is kept of an answer.
    open_store(store.url).write('a/new.png', b'1')
    assert ('new.png', False) in listed(store, 'a')
    store.write('b.png', b'longer')
    assert (store.size('b.png'), store.read('b.png')) == (6, b'longer')
    store.remove('b.png')
    store.remove('b.png')
    store.remove_tree('a')
    store.remove_tree('a')
    assert listed(store) == [('deep', True)]


def test_what_is_missing(store, bucket):  # noqa: F811
    for place in (store, open_store('s3://nosuchbucket/out')):
        with pytest.raises(FileNotFoundError) as raised:
            place.read('a.png')
        assert raised.value.filename == f'{place.url}/a.png'
        with pytest.raises(FileNotFoundError):
            list(place.list('folder'))
        assert place.size('a.png') is None
        found = next(place.read_many(['a.png']))
        assert isinstance(found, FileNotFoundError)
    with pytest.raises(FileNotFoundError) as raised:
        open_store('s3://nosuchbucket/out').write('a.png', b'1')
    assert raised.value.filename == 's3://nosuchbucket/out/a.png'
    # The root of a bucket, which has no prefix.
    root = open_store(bucket)
    root.write('a.png', b'1')
    assert (listed(root), root.read('a.png')) == ([('a.png', False)], b'1')


@pytest.mark.slow
def test_many_names(store):
    store.write_many([(f'{n:04d}', b'') for n in range(95)])  # more than a page
    assert len(listed(store)) == 95
    store.remove_tree('')
    with pytest.raises(FileNotFoundError):
        listed(store)


def read_there(store, results):
    results.put(store.read('a'))


@pytest.mark.slow
def test_workers_have_connections_of_their_own(store):
    store.write('a', b'1')
    assert pickle.loads(pickle.dumps(store)).read('a') == b'1'
    for method in ('fork', 'spawn'):
        context = multiprocessing.get_context(method)
        results = context.Queue()
        worker = context.Process(target=read_there, args=(store, results))
        worker.start()
        assert results.get(timeout=60) == b'1'
        worker.join()


# --- A server that fails --------------------------------------------------------------------------


class Proxy(http.server.BaseHTTPRequestHandler):
    """Hands requests on; ``fault(method, path, number)`` says what goes wrong."""

    protocol_version = 'HTTP/1.1'
    server_url = ''
    asked: list = []

    @staticmethod
    def fault(method, path, number):
        return None

    def log_message(self, *args):
        pass

    def _handle(self):
        size = int(self.headers.get('Content-Length') or 0)
        body = self.rfile.read(size)
        self.asked.append((self.command, self.path))
        what = type(self).fault(self.command, self.path, len(self.asked))
        if what == 'break':
            self.close_connection = True
            return None
        if what == 'hang':
            time.sleep(60)
            return None
        if isinstance(what, int):
            return self._answer(what, {}, DENIED if what == 403 else SLOW)
        if what == 'lose':
            return self._answer(200, {'ETag': '"d41d8cd98f00b204e9800998ecf8427e"'}, b'')
        there = http.client.HTTPConnection(urlsplit(self.server_url).netloc)
        headers = {k: v for k, v in self.headers.items() if k.lower() != 'host'}
        there.request(self.command, self.path, body, headers)
        answer = there.getresponse()
        data = answer.read()
        headers = {
            k: v
            for k, v in answer.getheaders()
            if k.lower() not in ('transfer-encoding', 'connection', 'content-length')
        }
        if self.command == 'HEAD':
            headers['Content-Length'] = answer.getheader('Content-Length', '0')
        there.close()
        return self._answer(answer.status, headers, data, cut=what == 'cut')

    def _answer(self, status, headers, data, cut=False):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if 'Content-Length' not in headers:
            self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle


@pytest.fixture
def broken(store, s3_server, monkeypatch):  # noqa: F811
    """A store behind a server that fails as the tests say, and what it was asked."""
    monkeypatch.setattr(remote, 'WAITS', (0.01, 0.01))
    Proxy.server_url, Proxy.asked = s3_server, []
    monkeypatch.setattr(Proxy, 'fault', staticmethod(lambda *args: None))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Proxy)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    store.write('a.png', b'12345678')
    use_server(monkeypatch, f'http://127.0.0.1:{server.server_port}')
    yield open_store(store.url)
    server.shutdown()
    server.server_close()


def fail(monkeypatch, what, when=lambda method, path, number: True):
    monkeypatch.setattr(Proxy, 'asked', [])
    monkeypatch.setattr(Proxy, 'fault', staticmethod(lambda *args: what if when(*args) else None))


def assert_no_secret(*texts):
    for text in texts:
        assert SECRET not in str(text) and 'Signature' not in str(text)


def test_no_permission(broken, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, 'hime_mm')
    fail(monkeypatch, 403)
    for action in (
        lambda: broken.read('a.png'),
        lambda: broken.write('b.png', b'1'),
        lambda: broken.size('a.png'),
        lambda: list(broken.list()),
        lambda: broken.read_range('a.png', 1, 2),
    ):
        Proxy.asked.clear()
        with pytest.raises(PermissionError) as raised:
            action()
        assert str(raised.value.filename).startswith('s3://data/out')
        assert_no_secret(raised.value, repr(raised.value), caplog.text)
        assert len(Proxy.asked) <= 4


@pytest.mark.parametrize('what', ['break', 503, 'cut'])
def test_what_passes_is_tried_again(broken, monkeypatch, what):
    fail(monkeypatch, what, lambda method, path, number: number == 1)
    assert broken.read('a.png') == b'12345678'
    if what != 'cut':
        fail(monkeypatch, what, lambda method, path, number: number == 1)
        broken.write('b.png', b'1')
        assert broken.read('b.png') == b'1'


@pytest.mark.slow
@pytest.mark.parametrize('what', ['break', 503, 'cut'])
def test_what_does_not_pass_is_never_missing(broken, monkeypatch, what):
    fail(monkeypatch, what, lambda method, path, number: method in ('GET', 'PUT'))
    begin = time.monotonic()
    with pytest.raises(OSError) as raised:
        broken.read('a.png')
    assert not isinstance(raised.value, FileNotFoundError | PermissionError)
    assert raised.value.filename == 's3://data/out/a.png'
    assert_no_secret(raised.value)
    assert time.monotonic() - begin < 30


def test_a_lost_file_is_written_again(broken, monkeypatch):
    fail(monkeypatch, 'lose', lambda method, path, number: (method, number) == ('PUT', 1))
    broken.write('b.png', b'1234')
    assert broken.read('b.png') == b'1234'
    with pytest.raises(OSError, match='lost it: 4 bytes were written, nothing is there') as raised:
        fail(monkeypatch, 'lose', lambda method, path, number: method == 'PUT')
        with broken.writing('c.tar') as file:
            file.write(b'1234')
    assert (raised.value.errno, raised.value.filename) == (errno.EIO, 's3://data/out/c.tar')


@pytest.mark.slow
@pytest.mark.parametrize('dead', ['refuses', 'hangs'])
def test_a_dead_server_is_given_up(store, monkeypatch, dead):
    monkeypatch.setattr(remote, 'LONGEST', 4.0)
    monkeypatch.setitem(remote._S3, 'read_timeout', 3)
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        if dead == 'hangs':
            server.listen(64)
        use_server(monkeypatch, f'http://127.0.0.1:{server.getsockname()[1]}')
        begin = time.monotonic()
        with pytest.raises(OSError) as raised:
            open_store('s3://data/out').read('a.png')
        assert not isinstance(raised.value, FileNotFoundError | PermissionError)
        assert raised.value.filename == 's3://data/out/a.png'
        assert time.monotonic() - begin < 20
