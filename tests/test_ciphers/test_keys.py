# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import base64
import copy
import errno
import hashlib
import hmac
import itertools
import os
import pickle
import resource
import stat
import subprocess
import sys
import traceback

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from independent_decoder import chacha20, sub_key

from hime_mm.ciphers import KEY_ENV, Cipher, ImageSource, InvalidKey, Key
from hime_mm.ciphers.keys import KeyStream, looks_like_key

# Bytes that do not come up by chance.
SECRET = bytes.fromhex('c0ffee00d15ea5e0b16b00b5deadbeeffeedfacecafed00d8badf00dabad1dea')
HEX = SECRET.hex()
LINE = f'hime-key-v1:{HEX}\n'
SECRETS = st.binary(min_size=32, max_size=32)


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / 'owner.key'
    Key(SECRET).save(str(path))
    return path


def assert_hidden(text: str, secret: bytes = SECRET) -> None:
    """No part of the key is in a text, in any form one would write it."""
    text = text.lower()
    for start in range(0, 24, 4):
        part = secret[start : start + 8]
        forms = [
            part.hex(),
            repr(part)[2:-1],
            part.decode('latin-1'),
            str(int.from_bytes(part, 'big')),
            str(int.from_bytes(part, 'little')),
            str(list(part))[1:-1],
        ]
        forms += [base64.b64encode(secret[start + i : start + i + 9]).decode() for i in range(3)]
        for form in forms:
            assert form.lower() not in text


def assert_hidden_in_error(error: BaseException, secret: bytes = SECRET) -> None:
    """Nor is it in an error, or in one that led to it."""
    assert_hidden(''.join(traceback.format_exception(error)), secret)
    while error is not None:
        assert_hidden(f'{error} {error!r} {error.args} {vars(error)}', secret)
        following = error.__cause__ or error.__context__
        if error.__cause__ is not None and error.__context__ is not None:
            assert_hidden(repr(error.__context__), secret)
        error = following


def test_the_check_finds_keys():
    for text in (
        HEX,
        HEX.upper(),
        LINE,
        repr(SECRET),
        str(list(SECRET)),
        base64.b64encode(SECRET).decode(),
        HEX[8:40],
        SECRET.decode('latin-1'),
    ):
        with pytest.raises(AssertionError):
            assert_hidden(f'the key {text} is wrong')
    hidden = ValueError('nothing')
    hidden.__context__ = KeyError(HEX)
    with pytest.raises(AssertionError):
        assert_hidden_in_error(hidden)


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
    with pytest.raises(InvalidKey, match=f'06{bit:02o}.*chmod 600') as error:
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
    with pytest.raises(FileExistsError, match='never overwritten') as error:
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
    with pytest.raises(
        InvalidKey, match=f'{place} does not hold a key: expected one line "hime-key-v1:"'
    ) as error:
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
            ('pipe', 'is no regular file'),
            ('folder', 'Is a directory'),
            ('missing', 'No such file or directory'),
            ('missing/owner.key', 'No such file'),
            ('n' * 300, 'name too long'),
        ):
            with pytest.raises(InvalidKey, match=problem) as error:
                Key.from_file(tmp_path / name)
            assert name in str(error.value)
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
    with pytest.raises(InvalidKey, match='variable HIME_KEY is not set'):
        Key.from_env()
    monkeypatch.setenv('OTHER', LINE)
    assert Key.from_env('OTHER') == Key(SECRET)
    with pytest.raises(InvalidKey, match='HIME_KEY is not set'):
        Key.from_env()


def test_descriptors():
    closed = os.open(os.devnull, os.O_RDONLY)
    os.close(closed)
    for fd, reason in ((closed, 'Bad file'), (-1, 'negative file')):
        with pytest.raises(InvalidKey, match=f'from file descriptor {fd}: {reason} descriptor$'):
            Key.from_fd(fd)
    # Neither the end nor an endless file is waited for.
    for path in (os.devnull, '/dev/zero'):
        fd = os.open(path, os.O_RDONLY)
        try:
            with pytest.raises(InvalidKey, match='does not hold a key'):
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
    assert child.returncode == 1 and 'does not hold a key' in child.stderr
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
        with pytest.raises(InvalidKey, match='a key itself was given') as error:
            call(text)
        assert_hidden_in_error(error.value)
    assert os.listdir(tmp_path) == []


# What a key shows.


@pytest.mark.parametrize(
    'show',
    [
        repr,
        str,
        lambda key: f'{key} {key!r}',
        lambda key: '%s %r' % (key, key),  # noqa: UP031
        lambda key: key.id,
        lambda key: repr([key, {key: key}]),
        lambda key: str(hash(key)),
    ],
)
def test_key_is_hidden(show):
    assert_hidden(show(Key(SECRET)))


def test_sources_are_hidden():
    source = Key(SECRET).source('data', 'image')
    stream = source.stream('shuffle/16', 0, 'image')
    derived = Key(SECRET).derive('image', 'data', 'shuffle/16', 'image')
    for thing in (source, stream, vars(source), vars(stream)):
        assert_hidden(repr(thing))
        assert_hidden(repr(thing), derived)
    assert repr(Key(SECRET)) == f'Key(id={Key(SECRET).id!r})'
    assert not hasattr(Key(SECRET), '__dict__')


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle(protocol):
    source = Key(SECRET).source('a', 'b')
    for thing in (Key(SECRET), source, [Key(SECRET)], source.stream('shuffle/16', 0, 'image')):
        with pytest.raises(TypeError, match='not pickled') as error:
            pickle.dumps(thing, protocol)
        assert_hidden_in_error(error.value)


def test_copies():
    key = Key(SECRET)
    assert copy.copy(key) is key and copy.deepcopy(key) is key
    config = dict(key=key, steps=[key])
    assert copy.deepcopy(config) == config
    source = copy.deepcopy(key.source('a', 'b'))
    assert source.stream('c', 0, 'image').read(9) == key.source('a', 'b').stream(
        'c', 0, 'image'
    ).read(9)


@pytest.mark.parametrize('length', [0, 16, 31, 33, 64])
def test_wrong_length(length):
    secret = (SECRET * 2)[:length]
    with pytest.raises(InvalidKey, match=f'32 bytes, got {length}') as error:
        Key(secret)
    assert_hidden_in_error(error.value)


@pytest.mark.parametrize(
    'secret',
    [
        HEX,
        LINE,
        list(SECRET),
        int.from_bytes(SECRET, 'big'),
        None,
        memoryview(SECRET),
        np.frombuffer(SECRET, np.uint8),
    ],
)
def test_wrong_type(secret):
    with pytest.raises(TypeError, match='made of bytes') as error:
        Key(secret)
    assert_hidden_in_error(error.value)


def test_own_copy():
    secret = bytearray(SECRET)
    key = Key(secret)
    secret[0] ^= 1
    assert key == Key(SECRET)
    assert isinstance(key.secret_bytes(), bytes)


def test_errors_of_use():
    """Wrong arguments to a key show the argument, not the key."""
    key = Key(SECRET)
    for call in (
        lambda: key.derive('image', b'bytes'),
        lambda: key.derive('image', 7),
        lambda: key.derive('image', '\ud800'),
        lambda: key.derive('image', length=255 * 32 + 1),
        lambda: key.source(None, 'b').stream('c', 0, 'image'),
        lambda: key.source('a', 'b').stream('c', -1, 'image'),
        lambda: key.source('a', 'b').stream('c', 1 << 96, 'image'),
        lambda: key.source('a', 'b').stream('c', 0, 'image').read(-1),
        lambda: key < key,
        lambda: key + 1,
        lambda: key['secret'],
        lambda: key.secret,
        lambda: bytes(key),
        lambda: len(key),
        lambda: Cipher('mix2').draw((32, 30), key.source('a', 'b')),
        lambda: Cipher('shuffle').draw((32, 32), key),
    ):
        with pytest.raises(Exception) as error:
            call()
        assert_hidden_in_error(error.value)


# Equality and name.


@given(first=SECRETS, second=SECRETS, bit=st.integers(0, 255))
def test_equality(first, second, bit):
    assert Key(first) == Key(bytearray(first))
    assert hash(Key(first)) == hash(Key(first))
    assert (Key(first) == Key(second)) == (first == second)
    assert (Key(first).id == Key(second).id) == (first == second)
    other = (int.from_bytes(first, 'big') ^ 1 << bit).to_bytes(32, 'big')
    assert Key(first) != Key(other)
    assert Key(first).id != Key(other).id
    assert Key(first) != first
    assert first != Key(first)


@given(secret=SECRETS)
def test_id(secret):
    key = Key(secret)
    assert key.id == sub_key(secret, 'key id', length=8).hex()
    assert len(key.id) == 16
    assert repr(key) == f"Key(id='{key.id}')"


def test_id_is_stable():
    # Written into data sets: it must not change.
    assert Key(SECRET).id == '41eb728836944085'


# Derivation.


NAMES = st.text(max_size=8)


@given(
    secret=SECRETS,
    label=st.sampled_from(['image', 'dataset', 'key id', 'x']),
    names=st.lists(NAMES, max_size=4),
    length=st.integers(1, 100),
)
def test_derivation_is_hkdf(secret, label, names, length):
    derived = Key(secret).derive(label, *names, length=length)
    assert derived == sub_key(secret, label, *names, length=length)


@given(
    secret=SECRETS,
    number=st.one_of(st.integers(0, 300), st.integers(1, 1 << 96).map(lambda x: x - 1)),
    sizes=st.lists(st.integers(0, 130), max_size=4),
)
def test_stream_is_chacha20(secret, number, sizes):
    stream = KeyStream(secret, number)
    parts = [stream.read(size) for size in sizes]
    assert [len(part) for part in parts] == sizes
    assert b''.join(parts) == chacha20(secret, number, sum(sizes))


@given(secret=SECRETS, dataset=NAMES, image=NAMES, cipher=NAMES, number=st.integers(0, 255))
def test_streams(secret, dataset, image, cipher, number):
    source = Key(secret).source(dataset, image)
    assert isinstance(source, ImageSource)
    assert (source.dataset_id, source.image_id) == (dataset, image)
    own = sub_key(secret, 'image', dataset, cipher, image)
    shared = sub_key(secret, 'dataset', dataset, cipher)
    assert own != shared
    # Every call starts the stream anew.
    for _ in range(2):
        assert source.stream(cipher, number, 'image').read(40) == chacha20(own, number, 40)
        assert source.stream(cipher, number, 'dataset').read(40) == chacha20(shared, number, 40)
        assert source.augmentation(cipher).read(40) == chacha20(own, 255, 40)


def test_every_part_counts():
    """Streams agree in nothing unless all of their names agree."""
    streams = {}
    for secret, dataset, cipher, image, number, scope in itertools.product(
        (SECRET, bytes(32)),
        ('a', 'b', 'ab', ''),
        ('shuffle/16', 'shuffle/8', 'mix2+shuffle/16'),
        ('a', 'b', 'c', ''),
        range(4),
        ('image', 'dataset'),
    ):
        source = Key(secret).source(dataset, image)
        data = source.stream(cipher, number, scope).read(16)
        names = [secret, dataset, cipher, number, scope]
        if scope == 'image':
            names.append(image)
        streams.setdefault(data, set()).add(tuple(names))
    assert len(streams) == 2 * 4 * 3 * 4 * (4 + 1)
    # All images of a data set share a stream of the data set's.
    assert all(len(names) == 1 for names in streams.values())


# Names that run together to the same text, were it not for their lengths.
@pytest.mark.parametrize(
    'first, second',
    [
        (('ab', 'c'), ('a', 'bc')),
        (('abc',), ('ab', 'c')),
        (('abc', ''), ('', 'abc')),
        (('abc',), ('abc', '')),
        (('a\0b',), ('a', 'b')),
        (('a', '\0\0\0\1b'), ('a\0\0\0\1b',)),
        (('a\0\0\0\1b',), ('a', 'b')),
        (('\0\0\0\0',), ('', '')),
        (('1', '11'), ('11', '1')),
        # The same letter, composed and decomposed.
        (('\N{LATIN SMALL LETTER E WITH ACUTE}',), ('e\N{COMBINING ACUTE ACCENT}',)),
        (('A',), ('a',)),
        (('a',), ('a ',)),
    ],
)
def test_names_are_kept_apart(first, second):
    key = Key(SECRET)
    assert key.derive('image', *first) != key.derive('image', *second)
    assert key.derive(first[0]) != key.derive('x', *first)
    if len(first) == len(second) == 2:
        draws = [
            key.source(*names).stream('shuffle/16', 0, 'image').read(16)
            for names in (first, second)
        ]
        assert draws[0] != draws[1]


def test_labels_are_kept_apart():
    key = Key(SECRET)
    derived = {
        key.derive(label, *names)
        for label in ('image', 'dataset', 'key id')
        for names in ((), ('image',), ('dataset',), ('image', 'dataset'))
    }
    assert len(derived) == 12


@given(secret=SECRETS, label=NAMES, dataset=NAMES, data=st.binary())
def test_mac(secret, label, dataset, data):
    mac = Key(secret).mac(label, dataset, data)
    assert mac == hmac.new(sub_key(secret, label, dataset), data, hashlib.sha256).hexdigest()
    assert mac != Key(secret).mac(label, dataset + 'x', data)
    assert mac != Key(secret).mac(label + 'x', dataset, data)
    assert mac != Key(secret).mac(label, dataset, data + b'x')


# Keys at work.


def test_draws_from_a_key():
    """What must be the same is, and nothing else."""
    key = Key(SECRET)
    shape = (64, 64, 3)

    def draw(text='shuffle', patch_size=16, dataset='data', image='1', secret=key):
        return Cipher(text, patch_size).draw(shape, secret.source(dataset, image))

    perm = draw()[0].tolist()
    assert draw()[0].tolist() == perm
    others = [
        draw(image='2'),
        draw(dataset='data2'),
        draw(secret=Key(bytes(32))),
        # Another cipher has another permutation, in the same place too.
        draw('shuffle+center'),
        draw('shuffle+mix2'),
        draw('shuffle+mix4'),
        draw('center+shuffle')[1:],
    ]
    perms = [perm, *(drawn[0].tolist() for drawn in others)]
    assert len({tuple(perm) for perm in perms}) == len(perms)
    # Nor do the steps of one cipher read the same stream.
    shuffle, dropped, codes, flags = draw('shuffle+drop50+orient+negate')
    assert set(shuffle[:8]) != set(np.flatnonzero(dropped))
    assert (codes % 2).tolist() != flags.tolist()
    # A preset is its steps.
    assert draw('paper-rs')[0].tolist() == perm


def test_scope_of_the_data_set():
    key = Key(SECRET)
    cipher = Cipher('permute_pixels+shuffle', 8)
    pixels, patches = zip(
        *(
            cipher.draw(shape, key.source('data', image))
            for image, shape in (('1', (64, 64, 3)), ('2', (64, 64, 3)), ('3', (64, 32)))
        ),
        strict=True,
    )
    assert (pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all()
    assert (patches[0] != patches[1]).any()
    for other in (key.source('data2', '1'), Key(bytes(32)).source('data', '1')):
        assert (cipher.draw((64, 64, 3), other)[0] != pixels[0]).any()
    other = Cipher('permute_pixels', 8).draw((64, 64, 3), key.source('data', '1'))
    assert (other[0] != pixels[0]).any()


def test_encrypted_with_a_key(make_image):
    img = make_image((64, 80, 3))
    cipher = Cipher('orient+negate+permute_channels+permute_pixels+shuffle')
    source = Key(SECRET).source('data', 'a/b.png')
    encrypted, layout, _ = cipher.encrypt(img, source)
    assert (encrypted != img).mean() > 0.9
    # Later, from the key file alone.
    drawn = cipher.draw(img.shape, Key(SECRET).source('data', 'a/b.png'))
    np.testing.assert_array_equal(cipher.decrypt(encrypted, drawn), img)
    np.testing.assert_array_equal(
        cipher.secret_layout((64, 80), drawn).permutation, layout.permutation
    )
    wrong = cipher.draw(img.shape, Key(bytes(32)).source('data', 'a/b.png'))
    assert (cipher.decrypt(encrypted, wrong) != img).mean() > 0.9
