# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Properties that hold for every cipher, size, pixel type and key."""

import copy
import json
import pickle
from dataclasses import fields

import loops
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from owner_data import named

from hime_mm.ciphers import STEPS, Cipher, Key, PatchLayout
from hime_mm.errors import BoxError, CipherError

PARAMETERS = {
    'mix': ('2', '3', '4', '8', '2:tiled', '4:tiled', '8:tiled'),
    'erode': ('1', '2', '3', '1:filled', '3:filled'),
    'drop': ('1', '34', '50', '99'),
    'noise': ('1', '25', '255'),
}
CHANNELS = st.sampled_from([(), (1,), (3,), (4,), (5,)])
DTYPES = st.sampled_from([np.uint8, np.uint16, np.float32])
NAMES = st.text(max_size=5)


def test_every_step_with_parameters_is_tried():
    assert {name for name, step in STEPS.items() if fields(step)} == set(PARAMETERS)


def parts(name: str):
    """The short forms of one step."""
    return st.sampled_from([name + parameter for parameter in PARAMETERS.get(name, ('',))])


@st.composite
def step_lists(draw):
    """Any list of steps, sensible or not."""
    names = st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4)
    return '+'.join(draw(parts(name)) for name in draw(names))


@st.composite
def sensible_step_lists(draw, names, p):
    """A list of steps that a cipher may have, up to six of them."""
    length = draw(st.integers(1, 6))
    chosen = []
    for name in draw(st.permutations(names)):
        longer = [*chosen, draw(parts(name))]
        if len(chosen) < length and not loops.refused('+'.join(longer), p):
            chosen = longer
    return '+'.join(chosen)


ALL_STEPS = tuple(sorted(STEPS))


@st.composite
def cases(draw, names=ALL_STEPS):
    """A cipher that makes sense, an image for it, and a key."""
    p = draw(st.sampled_from([4, 6, 8]))
    text = draw(sensible_step_lists(names, p))
    channels = draw(CHANNELS)
    if 'permute_channels' in text and channels in ((), (1,)):
        channels = (2,)
    shape = (draw(st.integers(1, 3)) * p, draw(st.integers(1, 3)) * p, *channels)
    dtype = draw(DTYPES)
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    if dtype == np.float32:
        # Any value does, not only those from 0 to 255.
        img = rng.normal(100, 200, shape).astype(dtype)
    else:
        img = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    return Cipher(text, p), img, draw(st.binary(min_size=32, max_size=32))


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal, up to rounding for floating-point pixels."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if actual.dtype.kind == 'u':
        np.testing.assert_array_equal(actual, expected)
    else:
        # Values up to about 2500, after some steps.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-2)


def stack(draws) -> list:
    """The draws of some images as the draw of a batch."""
    return [None if values[0] is None else np.stack(values) for values in zip(*draws, strict=True)]


@settings(max_examples=300)
@given(case=cases(), dataset=NAMES, image=NAMES)
def test_encrypt_is_the_loops(case, dataset, image):
    """From the 32 bytes to the pixels, beside an independent way there."""
    cipher, img, secret = case
    before = img.copy()
    rng = Key(secret).image_rng(dataset, image)
    encrypted, layout, drawn = cipher.encrypt(img, rng)
    p, text = cipher.patch_size, str(cipher)
    expected_draw = loops.draw(text, p, img.shape, secret, dataset, image)
    for value, expected in zip(drawn, expected_draw, strict=True):
        assert (value is None) == (expected is None)
        if value is not None:
            np.testing.assert_array_equal(value, np.reshape(expected, value.shape))
    expected_stats, stats = {}, {}
    expected = loops.apply(img, text, p, expected_draw, expected_stats)
    assert_same(encrypted, expected)
    np.testing.assert_array_equal(img, before)
    assert not np.shares_memory(encrypted, img)
    assert encrypted.flags.writeable and encrypted.flags.c_contiguous

    # The same again, with counts that add up.
    for _ in range(2):
        np.testing.assert_array_equal(cipher.apply(img, drawn, stats), encrypted)
    assert stats == {
        step: (2 * clipped, 2 * size) for step, (clipped, size) in expected_stats.items()
    }
    if img.dtype.kind == 'f':
        assert all(clipped == 0 for clipped, _ in stats.values())

    grid = (img.shape[0] // p, img.shape[1] // p)
    side = expected.shape[0] // grid[0]
    assert cipher.encrypted_patch_size == layout.patch_size == side
    assert layout.shape == expected.shape[:2]
    assert layout.grid == grid
    assert layout.ori_shape == img.shape[:2]
    np.testing.assert_allclose(layout.scale, side / p)
    assert layout.shuffled == cipher.shuffles == ('shuffle' in text)
    assert layout.erosion == sum(number for name, number, _ in loops.parse(text) if name == 'erode')
    assert (layout.permutation is not None) == cipher.shuffles
    assert repr(layout) == repr(cipher.plan(img.shape[:2]))
    assert cipher.plan(img.shape[:2]).permutation is None


@settings(max_examples=100)
@given(case=cases(names=('shuffle', 'orient', 'negate', 'permute_channels', 'permute_pixels')))
def test_decrypt_is_the_inverse(case):
    cipher, img, secret = case
    assert cipher.invertible
    rng = Key(secret).image_rng('data', 'image')
    encrypted, _, drawn = cipher.encrypt(img, rng)
    # The draw again, from the key alone.
    again = cipher.draw(img.shape, rng)
    for draw in (drawn, again):
        for partial in (False, True):
            decrypted = cipher.decrypt(encrypted, draw, partial)
            assert_same(decrypted, img)
            if 'negate' not in str(cipher):
                np.testing.assert_array_equal(decrypted, img)


@settings(max_examples=100)
@given(case=cases())
def test_partial_decrypt(case):
    """Undone is what comes after the last step that deletes data."""
    cipher, img, secret = case
    encrypted, _, drawn = cipher.encrypt(img, Key(secret).image_rng('a', 'b'))
    lost = [i for i, step in enumerate(cipher.steps) if not step.invertible]
    assert cipher.invertible == (not lost)
    decrypted = cipher.decrypt(encrypted, drawn, partial=True)
    if not lost:
        assert_same(decrypted, img)
        return
    with pytest.raises(CipherError, match=named(repr(cipher))):
        cipher.decrypt(encrypted, drawn)
    stop = lost[-1] + 1
    first = Cipher(list(cipher.steps[:stop]), cipher.patch_size)
    assert_same(decrypted, first.apply(img, drawn[:stop]))


def surrounded(img: np.ndarray, fill) -> tuple:
    """The image as a window of a larger array full of other values."""
    margins = [(3, 5), (7, 2), (1, 1)][: img.ndim]
    around = np.full([n + sum(m) for n, m in zip(img.shape, margins, strict=True)], fill, img.dtype)
    window = around[tuple(slice(m[0], m[0] + n) for n, m in zip(img.shape, margins, strict=True))]
    window[...] = img
    return around, window


VIEWS = {
    'column-major': np.asfortranarray,
    'every second': lambda x: x.repeat(2, 0).repeat(2, 1)[::2, ::2],
    'mirrored': lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    'transposed': lambda x: np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1),
}


@settings(max_examples=150)
@given(case=cases())
def test_nothing_outside_the_image_is_read(case):
    cipher, img, secret = case
    drawn = cipher.draw(img.shape, Key(secret).image_rng('data', 'image'))
    encrypted = cipher.apply(img, drawn)
    assert np.isfinite(encrypted).all()
    fills = (np.nan, np.inf) if img.dtype.kind == 'f' else (0, np.iinfo(img.dtype).max)
    for fill in fills:
        around, window = surrounded(img, fill)
        before = around.copy()
        np.testing.assert_array_equal(cipher.apply(window, drawn), encrypted)
        # Nor is anything written there, or into the image.
        np.testing.assert_array_equal(around, before)
        around, window = surrounded(encrypted, fill)
        before = around.copy()
        np.testing.assert_array_equal(
            cipher.decrypt(window, drawn, partial=True),
            cipher.decrypt(encrypted, drawn, partial=True),
        )
        np.testing.assert_array_equal(around, before)
    for view in VIEWS.values():
        img = view(img)
        img.flags.writeable = False
        np.testing.assert_array_equal(cipher.apply(img, drawn), encrypted)
        np.testing.assert_array_equal(
            cipher.decrypt(view(encrypted), drawn, partial=True),
            cipher.decrypt(encrypted, drawn, partial=True),
        )


@settings(max_examples=150)
@given(case=cases(), num=st.integers(1, 3))
def test_batches(case, num):
    cipher, img, secret = case
    if img.ndim == 2:
        img = img[..., None]
    rng = np.random.default_rng(0)
    batch = np.stack([rng.permuted(img) for _ in range(num)])
    key = Key(secret)
    draws = [cipher.draw(img.shape, key.image_rng('data', f'{i}')) for i in range(num)]
    # Each with its own draw, or all of them with the first.
    for each, drawn in ((draws, stack(draws)), ([draws[0]] * num, draws[0])):
        stats, expected_stats = {}, {}
        encrypted = cipher.apply(batch, drawn, stats)
        expected = np.stack(
            [cipher.apply(one, draw, expected_stats) for one, draw in zip(batch, each, strict=True)]
        )
        np.testing.assert_array_equal(encrypted, expected)
        assert encrypted.dtype == batch.dtype
        assert stats == expected_stats
        np.testing.assert_array_equal(
            cipher.decrypt(encrypted, drawn, partial=True),
            np.stack(
                [
                    cipher.decrypt(one, draw, partial=True)
                    for one, draw in zip(expected, each, strict=True)
                ]
            ),
        )
        # A window of a larger batch.
        around = np.zeros((num + 2, *(n + 3 for n in img.shape)), img.dtype)
        window = around[1:-1, 1:-2, 2:-1, 2:-1]
        window[...] = batch
        np.testing.assert_array_equal(cipher.apply(window, drawn), encrypted)


@settings(max_examples=100)
@given(case=cases(), seed=st.integers(0, 999))
def test_boxes_return(case, seed):
    """Under every cipher, and each point keeps its place in its patch."""
    cipher, img, secret = case
    _, layout, _ = cipher.encrypt(img, Key(secret).image_rng('data', 'image'))
    h, w = img.shape[:2]
    p, side, (_, cols) = cipher.patch_size, layout.patch_size, layout.grid
    rng = np.random.default_rng(seed)
    # Down to a millionth of a pixel from borders.
    cell = rng.integers(0, layout.num_patches, 10)
    inside = rng.uniform(1e-6, side - 1e-6, (10, 2)) * p / side
    origin = np.stack([cell % cols, cell // cols], 1) * p
    half = rng.uniform(0, max(h, w), (10, 2))
    boxes = np.hstack([origin + inside - half, origin + inside + half])

    mapped = layout.map_boxes(boxes)
    slot = cell
    if cipher.shuffles:
        slot = [layout.permutation.tolist().index(patch) for patch in cell]
    slot = np.array(slot)
    centre = np.stack([slot % cols, slot // cols], 1) * side + (inside * side / p)
    np.testing.assert_allclose((mapped[:, :2] + mapped[:, 2:]) / 2, centre, rtol=0, atol=1e-6)
    np.testing.assert_allclose(mapped[:, 2:] - mapped[:, :2], 2 * half * side / p, atol=1e-6)
    np.testing.assert_allclose(layout.unmap_boxes(mapped), boxes, rtol=0, atol=1e-6)

    # A manifest's line tells all but the permutation.
    state = json.loads(json.dumps(layout.to_dict()))
    public = PatchLayout.from_dict(state)
    assert repr(public) == repr(layout) == repr(layout.public())
    assert public.to_dict() == state
    if cipher.shuffles:
        for call in (public.map_boxes, public.unmap_boxes):
            with pytest.raises(BoxError, match='key'):
                call(boxes)
    else:
        np.testing.assert_array_equal(public.map_boxes(boxes), mapped)


@settings(max_examples=300)
@given(text=step_lists(), p=st.sampled_from([1, 2, 4, 6, 8]))
def test_refused_lists(text, p):
    if loops.refused(text, p):
        with pytest.raises(CipherError):
            Cipher(text, p)
    else:
        assert str(Cipher(text, p)) == text


@settings(max_examples=150)
@given(case=cases())
def test_written_forms(case):
    cipher = case[0]
    p, text = cipher.patch_size, str(cipher)
    assert cipher.canonical == f'{text}/{p}'
    state = cipher.to_dict()
    assert list(state) == ['version', 'steps', 'patch_size']
    assert state['version'] == 1
    as_json = cipher.to_json()
    assert json.loads(as_json) == json.loads(json.dumps(state))
    for written in (cipher, state, json.loads(as_json), copy.deepcopy(state)):
        again = Cipher.build(written)
        assert again == cipher
        assert hash(again) == hash(cipher)
        assert again.canonical == cipher.canonical
        assert again.to_json() == as_json
        assert again.to_dict() == state
        assert Cipher.build(written, p) == cipher
        with pytest.raises(CipherError, match=named('`patch_size`', p, p + 1)):
            Cipher.build(written, p + 1)
    for again in (
        Cipher(text, p),
        Cipher(text.split('+'), p),
        Cipher(state['steps'], p),
        eval(repr(cipher)),
        pickle.loads(pickle.dumps(cipher)),
        copy.copy(cipher),
    ):
        assert again == cipher
    assert cipher != Cipher('shuffle', p + 24)
    assert state == cipher.to_dict()


def test_different_ciphers_are_written_differently():
    steps = [name + parameter for name in STEPS for parameter in PARAMETERS.get(name, ('',))]
    texts = steps + [f'{a}+{b}' for a in steps for b in steps]
    ciphers = [Cipher(text, p) for text in texts for p in (6, 8) if not loops.refused(text, p)]
    assert len(ciphers) > 500
    for written in (lambda x: x, repr, Cipher.to_json, lambda x: x.canonical):
        assert len({written(cipher) for cipher in ciphers}) == len(ciphers)
