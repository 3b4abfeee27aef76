# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import base64
import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from independent_decoder import sub_key
from key_parts import HEX, LINE, SECRET, SECRETS, assert_hidden, assert_hidden_in_error
from owner_data import named

from hime_mm.ciphers import Cipher, InvalidKey, Key


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


def test_rngs_are_hidden():
    rng = Key(SECRET).image_rng('data', 'image')
    stream = rng.stream('shuffle/16', 0, 'image')
    derived = Key(SECRET).derive('image', 'data', 'shuffle/16', 'image')
    for thing in (rng, stream, vars(rng), vars(stream)):
        assert_hidden(repr(thing))
        assert_hidden(repr(thing), derived)
    assert repr(Key(SECRET)) == f'Key(id={Key(SECRET).id!r})'
    assert not hasattr(Key(SECRET), '__dict__')


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle(protocol):
    rng = Key(SECRET).image_rng('a', 'b')
    for thing in (Key(SECRET), rng, [Key(SECRET)], rng.stream('shuffle/16', 0, 'image')):
        with pytest.raises(TypeError, match='key') as error:
            pickle.dumps(thing, protocol)
        assert_hidden_in_error(error.value)


def test_copies():
    key = Key(SECRET)
    assert copy.copy(key) is key and copy.deepcopy(key) is key
    config = dict(key=key, steps=[key])
    assert copy.deepcopy(config) == config
    rng = copy.deepcopy(key.image_rng('a', 'b'))
    assert rng.stream('c', 0, 'image').read(9) == key.image_rng('a', 'b').stream(
        'c', 0, 'image'
    ).read(9)


@pytest.mark.parametrize('length', [0, 16, 31, 33, 64])
def test_wrong_length(length):
    secret = (SECRET * 2)[:length]
    with pytest.raises(InvalidKey, match=named('32 bytes', length)) as error:
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
    with pytest.raises(TypeError, match=named('bytes', type(secret).__name__)) as error:
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
        lambda: key.image_rng(None, 'b').stream('c', 0, 'image'),
        lambda: key.image_rng('a', 'b').stream('c', -1, 'image'),
        lambda: key.image_rng('a', 'b').stream('c', 1 << 96, 'image'),
        lambda: key.image_rng('a', 'b').stream('c', 0, 'image').read(-1),
        lambda: key < key,
        lambda: key + 1,
        lambda: key['secret'],
        lambda: key.secret,
        lambda: bytes(key),
        lambda: len(key),
        lambda: Cipher('mix2').draw((32, 30), key.image_rng('a', 'b')),
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
