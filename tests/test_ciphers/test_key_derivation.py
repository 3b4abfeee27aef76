# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import hashlib
import hmac
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from independent_decoder import chacha20, sub_key
from key_parts import SECRET, SECRETS

from hime_mm.ciphers import Cipher, ImageRNG, Key
from hime_mm.ciphers.keys import KeyStream

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
    rng = Key(secret).image_rng(dataset, image)
    assert isinstance(rng, ImageRNG)
    assert (rng.dataset_id, rng.image_id) == (dataset, image)
    own = sub_key(secret, 'image', dataset, cipher, image)
    shared = sub_key(secret, 'dataset', dataset, cipher)
    assert own != shared
    # Every call starts the stream anew.
    for _ in range(2):
        assert rng.stream(cipher, number, 'image').read(40) == chacha20(own, number, 40)
        assert rng.stream(cipher, number, 'dataset').read(40) == chacha20(shared, number, 40)
        assert rng.augmentation(cipher).read(40) == chacha20(own, 255, 40)


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
        rng = Key(secret).image_rng(dataset, image)
        data = rng.stream(cipher, number, scope).read(16)
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
            key.image_rng(*names).stream('shuffle/16', 0, 'image').read(16)
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
        return Cipher(text, patch_size).draw(shape, secret.image_rng(dataset, image))

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
            cipher.draw(shape, key.image_rng('data', image))
            for image, shape in (('1', (64, 64, 3)), ('2', (64, 64, 3)), ('3', (64, 32)))
        ),
        strict=True,
    )
    assert (pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all()
    assert (patches[0] != patches[1]).any()
    for other in (key.image_rng('data2', '1'), Key(bytes(32)).image_rng('data', '1')):
        assert (cipher.draw((64, 64, 3), other)[0] != pixels[0]).any()
    other = Cipher('permute_pixels', 8).draw((64, 64, 3), key.image_rng('data', '1'))
    assert (other[0] != pixels[0]).any()


def test_encrypted_with_a_key(make_image):
    img = make_image((64, 80, 3))
    cipher = Cipher('orient+negate+permute_channels+permute_pixels+shuffle')
    rng = Key(SECRET).image_rng('data', 'a/b.png')
    encrypted, layout, _ = cipher.encrypt(img, rng)
    assert (encrypted != img).mean() > 0.9
    # Later, from the key file alone.
    drawn = cipher.draw(img.shape, Key(SECRET).image_rng('data', 'a/b.png'))
    np.testing.assert_array_equal(cipher.decrypt(encrypted, drawn), img)
    np.testing.assert_array_equal(
        cipher.secret_layout((64, 80), drawn).permutation, layout.permutation
    )
    wrong = cipher.draw(img.shape, Key(bytes(32)).image_rng('data', 'a/b.png'))
    assert (cipher.decrypt(encrypted, wrong) != img).mean() > 0.9
