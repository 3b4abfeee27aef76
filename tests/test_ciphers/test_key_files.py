# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import base64
import errno
import os
import resource
import stat
import subprocess
import sys

import pytest
from hypothesis import given, settings
from key_parts import HEX, LINE, SECRET, SECRETS, assert_hidden, assert_hidden_in_error
from owner_data import named

from hime_mm.ciphers import KEY_ENV, InvalidKey, Key
from hime_mm.ciphers.keys import looks_like_key

# Making and saving.


def test_generate(monkeypatch):
    assert Key.generate() != Key.generate()
    sizes = []

    def urandom(num):
        sizes.append(num)
        return SECRET

    monkeypatch.setattr(os, 'urandom', urandom)
    assert Key.generate() == Key(SECRET)
    assert sizes == [32]


@pytest.mark.parametrize('umask', [0, 0o022, 0o077])
def test_file(tmp_path, umask):
    path = tmp_path / 'owner.key'
    before = os.umask(umask)
    try:
        Key(SECRET).save(path)
    finally:
        os.umask(before)
    assert path.read_bytes() == LINE.encode()
    info = path.stat()
    assert stat.S_ISREG(info.st_mode)
    assert stat.S_IMODE(info.st_mode) == 0o600
    for name in (path, str(path), os.fsencode(path)):
        assert Key.from_file(name) == Key(SECRET)


@settings(max_examples=40)
@given(secret=SECRETS)
def test_file_round_trip(tmp_path_factory, secret):
    path = tmp_path_factory.mktemp('key') / 'owner.key'
    Key(secret).save(path)
    assert path.read_text() == f'hime-key-v1:{secret.hex()}\n'
    assert Key.from_file(path).secret_bytes() == secret


@pytest.mark.parametrize('bit', [1 << i for i in range(6)])
def test_file_that_others_may_use(key_file, bit):
    key_file.chmod(0o600 | bit)
    with pytest.raises(InvalidKey, match=named(key_file, f'06{bit:02o}', 'chmod 600')) as error:
        Key.from_file(key_file)
    assert_hidden_in_error(error.value)
    key_file.chmod(0o600)
    assert Key.from_file(key_file) == Key(SECRET)


@pytest.mark.parametrize('mode', [0o400, 0o600, 0o700])
def test_file_of_its_owner(key_file, mode):
    key_file.chmod(mode)
    assert Key.from_file(key_file) == Key(SECRET)


def test_link_to_a_file(key_file, tmp_path):
    """What counts is the file that is read."""
    link = tmp_path / 'link'
    link.symlink_to(key_file)
    assert Key.from_file(link) == Key(SECRET)
    key_file.chmod(0o640)
    with pytest.raises(InvalidKey, match='0640'):
        Key.from_file(link)


@pytest.mark.parametrize(
    'make',
    [
        lambda path: path.write_bytes(b'old'),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(path.with_name('nowhere')),
        lambda path: os.mkfifo(path),
    ],
)
def test_nothing_is_overwritten(tmp_path, make):
    path = tmp_path / 'owner.key'
    make(path)
    before = path.lstat()
    with pytest.raises(FileExistsError, match=named(path)) as error:
        Key(SECRET).save(path)
    assert_hidden_in_error(error.value)
    assert path.lstat() == before
    assert os.listdir(tmp_path) == ['owner.key']
    if path.is_file():
        assert path.read_bytes() == b'old'


def test_file_that_cannot_be_made(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        Key(SECRET).save(tmp_path / 'missing' / 'owner.key')
    assert_hidden_in_error(error.value)


def test_full_disk(tmp_path):
    """A limit on the size of files stops the write half-way."""
    path = tmp_path / 'owner.key'
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        with pytest.raises(OSError) as error:
            Key(SECRET).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.errno == errno.EFBIG
    assert_hidden_in_error(error.value)
    assert os.listdir(tmp_path) == []
    Key(SECRET).save(path)
    assert Key.from_file(path) == Key(SECRET)


@pytest.mark.parametrize(
    'raised', [OSError(errno.ENOSPC, 'No space left on device'), KeyboardInterrupt()]
)
def test_interrupted_write(tmp_path, monkeypatch, raised):
    synced = []

    def fsync(fd):
        # By now all of it is written.
        synced.append(os.fstat(fd).st_size)
        raise raised

    monkeypatch.setattr(os, 'fsync', fsync)
    with pytest.raises(type(raised)) as error:
        Key(SECRET).save(tmp_path / 'owner.key')
    assert error.value is raised
    assert_hidden_in_error(error.value)
    assert synced == [len(LINE)]
    assert os.listdir(tmp_path) == []


# Reading.


GOOD_TEXTS = (LINE, LINE.strip(), f'  {LINE}\n\n', HEX, f'{HEX}\r\n', f'hime-key-v1:{HEX.upper()}')
BAD_TEXTS = (
    '',
    '\n',
    'hime-key-v1:',
    HEX[:-1],
    HEX[:-2],
    f'{HEX}0',
    f'{HEX}00',
    f'{LINE}{LINE}',
    f'{LINE}x',
    f'x{LINE}',
    f'hime-key-v2:{HEX}',
    f'hime-key-v1: {HEX}',
    f'hime-key-v1:{HEX[:32]} {HEX[32:]}',
    f'Hime-Key-V1:{HEX}',
    f'0x{HEX}',
    f'{HEX[:-1]}g',
    # Digits to Python, but not hexadecimal ones.
    f'{HEX[:-1]}\N{FULLWIDTH DIGIT ONE}',
    f'\N{BYTE ORDER MARK}{LINE}',
    base64.b64encode(SECRET).decode(),
    SECRET.decode('latin-1'),
    HEX * 10,
)


def from_file(text, tmp_path, monkeypatch):
    path = tmp_path / 'text.key'
    path.touch(0o600)
    path.write_bytes(text.encode('utf-8', 'surrogateescape'))
    return Key.from_file(path)


def from_env(text, tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'environ', {'HIME_KEY': text})
    return Key.from_env()


def from_fd(text, tmp_path, monkeypatch):
    reader, writer = os.pipe()
    try:
        os.write(writer, text.encode())
        os.close(writer)
        key = Key.from_fd(reader)
        # It stays open.
        os.fstat(reader)
        return key
    finally:
        os.close(reader)


WAYS = (from_file, from_env, from_fd)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('text', GOOD_TEXTS)
def test_key_text(way, text, tmp_path, monkeypatch):
    assert way(text, tmp_path, monkeypatch).secret_bytes() == SECRET


@pytest.mark.parametrize(
    'way, place',
    [
        (from_file, r'the key file .*text\.key'),
        (from_env, 'the environment variable HIME_KEY'),
        (from_fd, r'file descriptor \d+'),
    ],
)
@pytest.mark.parametrize('text', BAD_TEXTS)
def test_malformed_text(way, place, text, tmp_path, monkeypatch):
    with pytest.raises(InvalidKey, match=f'{place} .*"hime-key-v1:"') as error:
        way(text, tmp_path, monkeypatch)
    assert_hidden_in_error(error.value)
    assert error.value.__context__ is None


def test_files_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / 'pipe', 0o600)
    (tmp_path / 'folder').mkdir(0o700)
    # A pipe can be opened once somebody writes to it.
    writer = os.open(tmp_path / 'pipe', os.O_RDWR)
    try:
        for name, problem in (
            ('pipe', 'regular file'),
            ('folder', os.strerror(errno.EISDIR)),
            ('missing', os.strerror(errno.ENOENT)),
            ('missing/owner.key', os.strerror(errno.ENOENT)),
            ('n' * 300, os.strerror(errno.ENAMETOOLONG)),
        ):
            with pytest.raises(InvalidKey, match=named(tmp_path / name, problem)):
                Key.from_file(tmp_path / name)
    finally:
        os.close(writer)
    with pytest.raises(TypeError):
        Key.from_file(0)


@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='no list of open files here')
def test_refused_files_are_closed(tmp_path, key_file):
    key_file.chmod(0o644)
    before = os.listdir('/proc/self/fd')
    for path in (tmp_path, key_file, tmp_path / 'missing'):
        with pytest.raises(InvalidKey):
            Key.from_file(path)
    assert os.listdir('/proc/self/fd') == before


def test_environment(monkeypatch):
    assert KEY_ENV == 'HIME_KEY'
    monkeypatch.delenv('HIME_KEY', raising=False)
    with pytest.raises(InvalidKey, match='variable HIME_KEY .*set$'):
        Key.from_env()
    monkeypatch.setenv('OTHER', LINE)
    assert Key.from_env('OTHER') == Key(SECRET)
    with pytest.raises(InvalidKey, match='variable HIME_KEY .*set$'):
        Key.from_env()


def test_descriptors():
    closed = os.open(os.devnull, os.O_RDONLY)
    os.close(closed)
    for fd, reason in (
        (closed, 'Bad file'),
        (2**31, 'Bad file'),
        (2**64, 'Bad file'),
        (-1, 'negative file'),
        (-(10**30), 'Bad file'),
    ):
        with pytest.raises(InvalidKey, match=f' {fd}: {reason} descriptor$'):
            Key.from_fd(fd)
    # Neither the end nor an endless file is waited for.
    for path in (os.devnull, '/dev/zero'):
        fd = os.open(path, os.O_RDONLY)
        try:
            with pytest.raises(InvalidKey, match=named(f'descriptor {fd} ', 'hime-key-v1:')):
                Key.from_fd(fd)
            os.fstat(fd)
        finally:
            os.close(fd)


def test_descriptor_of_a_child():
    """As a shell hands it over."""
    code = 'from hime_mm.ciphers import Key; print(Key.from_fd(0).id)'
    child = subprocess.run(
        [sys.executable, '-c', code], input=LINE, capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == Key(SECRET).id
    child = subprocess.run(
        [sys.executable, '-c', code], input=f'{LINE}0', capture_output=True, text=True
    )
    assert child.returncode == 1 and 'InvalidKey: file descriptor 0 ' in child.stderr
    assert_hidden(child.stdout + child.stderr)


@pytest.mark.parametrize(
    'text, like',
    [
        *((text, True) for text in GOOD_TEXTS),
        # Most of one, more than one, and one with a slip.
        (HEX[:48], True),
        (HEX[:47], False),
        (f'{HEX}{HEX}', True),
        (f' {HEX[:-2]}\n', True),
        (f'hime-key-v1:{HEX[:-1]}g', True),
        (f'hime-key-v1:{HEX[:8]}', True),
        # Names of files and variables, an id, and a hash as Git's.
        ('owner.key', False),
        ('HIME_KEY', False),
        (Key(SECRET).id, False),
        (HEX[:40], False),
        (f'keys/{HEX}', False),
        (f'{HEX}.key', False),
    ],
)
def test_looks_like_key(text, like):
    assert looks_like_key(text) is like


@pytest.mark.parametrize('text', [*GOOD_TEXTS, HEX[:-1], f'{HEX}0', f'hime-key-v1:{HEX[:-1]}g'])
def test_a_key_for_its_place(tmp_path, monkeypatch, text):
    """Given where a file or variable is expected, it is in no message."""
    monkeypatch.chdir(tmp_path)
    for call in (Key.from_file, Key.from_env, Key(bytes(32)).save):
        with pytest.raises(InvalidKey, match='key itself') as error:
            call(text)
        assert_hidden_in_error(error.value)
    assert os.listdir(tmp_path) == []
