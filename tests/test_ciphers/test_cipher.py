# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from owner_data import named

from hime_mm.ciphers import (
    PRESETS,
    STEPS,
    Cipher,
    Mix,
    PatchLayout,
    Shuffle,
    Step,
    mix_patches,
    register_step,
    shuffle_patches,
)
from hime_mm.ciphers.grid import PIXEL_DTYPES
from hime_mm.errors import CipherError, PictureError

RS_AND_MI = (
    'shuffle',
    'mix2',
    'mix4',
    'mix8',
    'mix2:tiled',
    'mix2+shuffle',
    'shuffle+mix2',
    'shuffle+mix4:tiled',
    'mix8:tiled+shuffle',
)
TEXTS = (
    *RS_AND_MI,
    'center+erode2+shuffle',
    'noise9+drop33+erode1:filled',
    'orient+negate+permute_channels+permute_pixels+shuffle',
)


@pytest.mark.parametrize('text', TEXTS)
def test_written_forms(text):
    cipher = Cipher(text)
    assert str(cipher) == text
    assert Cipher(str(cipher)) == cipher
    assert Cipher(text.split('+')) == cipher
    assert Cipher(list(cipher.steps)) == cipher
    assert Cipher([step.to_dict() for step in cipher.steps]) == cipher
    assert Cipher.build(cipher) == cipher
    assert Cipher.build(cipher.to_dict()) == cipher
    assert Cipher.build(text) == cipher
    assert eval(repr(cipher)) == cipher
    assert hash(Cipher(text)) == hash(cipher)
    assert pickle.loads(pickle.dumps(cipher)) == cipher
    assert cipher != text
    assert cipher != Cipher(text, patch_size=32)


def test_parsing():
    assert Cipher('shuffle').steps == (Shuffle(),)
    assert Cipher('mix').steps == (Mix(2, 'compact'),)
    assert Cipher('mix4:tiled').steps == (Mix(4, 'tiled'),)
    assert Cipher(' mix2 + shuffle ') == Cipher('mix2+shuffle')
    assert Cipher([dict(type='mix', num_splits=4)]) == Cipher('mix4')
    assert Cipher('mix').patch_size == 16
    # A config is not to be edited by building from it.
    config = dict(steps=[dict(type='mix', num_splits=4)], patch_size=8)
    Cipher.build(config)
    assert config == dict(steps=[dict(type='mix', num_splits=4)], patch_size=8)


def test_different_ciphers():
    ciphers = {Cipher(text) for text in TEXTS}
    ciphers |= {Cipher(text, patch_size=8) for text in TEXTS}
    assert len(ciphers) == 2 * len(TEXTS)


def test_patch_size():
    assert Cipher.build('mix2', 8).patch_size == 8
    assert Cipher.build(Cipher('mix2', 8)).patch_size == 8
    assert Cipher.build(Cipher('mix2', 8), 8).patch_size == 8
    assert Cipher.build(dict(steps='mix2'), 8).patch_size == 8
    assert Cipher.build(dict(steps='mix2')).patch_size == 16
    for own in (Cipher('mix2', 8), dict(steps='mix2', patch_size=8)):
        with pytest.raises(CipherError, match='8.*16'):
            Cipher.build(own, 16)
    for patch_size in (0, -1):
        for make in (Cipher, Cipher.build):
            with pytest.raises(CipherError, match=f'`patch_size`.*{patch_size}'):
                make('shuffle', patch_size)
    for patch_size in (16.0, '16', True, (16, 16)):
        with pytest.raises(TypeError, match=named('`patch_size`', type(patch_size).__name__)):
            Cipher('shuffle', patch_size)


@pytest.mark.parametrize(
    'text',
    [
        '',
        'suffle',
        'Shuffle',
        'shuffle+',
        '+mix2',
        'mix-2',
        'mix2:',
        'mix2 4',
        '2mix',
        'mix2:ti led',
    ],
)
def test_unknown_steps(text):
    with pytest.raises(CipherError, match=' mix,.* shuffle'):
        Cipher(text)


@pytest.mark.parametrize('digits', [5, 50, 5000])
def test_numbers_of_any_length(digits):
    # Python converts no more than 4300 digits.
    with pytest.raises(CipherError):
        Cipher('mix' + '9' * digits)


def test_refusals():
    with pytest.raises(CipherError, match=' mix,.* shuffle'):
        Cipher([])
    with pytest.raises(CipherError, match="'blend'.* mix,.* shuffle"):
        Cipher([dict(type='blend')])
    with pytest.raises(CipherError, match=named("'mix'", "'num_splits', 'form'", "['num_split']")):
        Cipher([dict(type='mix', num_split=2)])
    with pytest.raises(CipherError, match=named("['mix']")):
        Cipher([dict(type=['mix'])])


@pytest.mark.parametrize('text', ['center', 'shuffle+center+erode2'])
def test_padding_would_show_the_means(text):
    cipher = Cipher(text)
    for fit in ('resize', 'error'):
        cipher.check_fit(fit)
    with pytest.raises(CipherError, match=named("fit='pad'", repr(text))):
        cipher.check_fit('pad')
    Cipher('mix2+shuffle').check_fit('pad')


@pytest.mark.parametrize('steps', [None, 2, Shuffle(), {'shuffle'}])
def test_wrong_type_of_steps(steps):
    with pytest.raises(TypeError, match=named('`steps`', type(steps).__name__)):
        Cipher(steps)


@pytest.mark.parametrize('step', [None, 2, dict(name='mix'), Shuffle, ['mix']])
def test_wrong_type_of_step(step):
    with pytest.raises(TypeError, match=named(repr(step))):
        Cipher([step])


def test_wrong_cipher_dict():
    for cipher in (
        {},
        dict(patch_size=16),
        dict(step='mix2'),
        dict(steps='mix2', patch=16),
        dict(version=1),
    ):
        with pytest.raises(
            CipherError, match=named('`steps`, `patch_size` and `version`', sorted(cipher))
        ):
            Cipher.build(cipher)


@given(
    text=st.sampled_from(RS_AND_MI),
    patch_size=st.sampled_from([8, 16]),
    rows=st.integers(1, 3),
    cols=st.integers(1, 3),
    channels=st.sampled_from([(), (1,), (3,), (5,)]),
    dtype=st.sampled_from(PIXEL_DTYPES),
    seed=st.integers(0, 99),
)
def test_apply(make_image, text, patch_size, rows, cols, channels, dtype, seed):
    cipher = Cipher(text, patch_size)
    shape = (rows * patch_size, cols * patch_size)
    img = make_image((*shape, *channels), dtype, seed)
    before = img.copy()
    drawn = cipher.draw(img.shape, np.random.default_rng(seed))
    encrypted = cipher.apply(img, drawn)
    assert encrypted.dtype == dtype
    np.testing.assert_array_equal(img, before)
    assert not np.shares_memory(encrypted, img)
    np.testing.assert_array_equal(cipher.apply(img, drawn), encrypted)

    # The steps in their order, each on what the one before left.
    expected, p = img, patch_size
    for part, value in zip(text.split('+'), drawn, strict=True):
        if part == 'shuffle':
            expected = shuffle_patches(expected, value, p)
        else:
            g = int(part[3])
            form = 'tiled' if part.endswith('tiled') else 'compact'
            expected = mix_patches(expected, p, g, form)
            p = p if form == 'tiled' else p // g
    np.testing.assert_array_equal(encrypted, expected)

    layout = cipher.plan(shape)
    assert encrypted.shape[:2] == layout.shape
    assert layout.patch_size == p
    assert layout.ori_shape == shape
    assert layout.grid == (rows, cols)
    assert layout.scale == (p / patch_size,) * 2
    assert cipher.encrypted_patch_size == p
    assert layout.shuffled == cipher.shuffles == ('shuffle' in text)
    assert layout.permutation is None
    secret = cipher.secret_layout(shape, drawn)
    assert repr(secret) == repr(layout)
    perms = [value for value in drawn if value is not None]
    assert (secret.permutation is None) == (not perms)
    for perm in perms:
        np.testing.assert_array_equal(secret.permutation, perm)

    assert cipher.invertible == (text == 'shuffle')
    if cipher.invertible:
        np.testing.assert_array_equal(cipher.decrypt(encrypted, drawn), img)


@pytest.mark.parametrize('g', [2, 4, 8])
@pytest.mark.parametrize('form', ['', ':tiled'])
def test_shuffle_and_mix_commute(make_image, g, form):
    img = make_image((48, 64, 3))
    perm = np.random.default_rng(0).permutation(12)
    mix_first = Cipher(f'mix{g}{form}+shuffle').apply(img, [None, perm])
    mix_last = Cipher(f'shuffle+mix{g}{form}').apply(img, [perm, None])
    np.testing.assert_array_equal(mix_first, mix_last)
    # They are different ciphers all the same.
    assert Cipher(f'mix{g}+shuffle') != Cipher(f'shuffle+mix{g}')


def test_order_of_steps(make_image, monkeypatch):
    """Steps that commute with no other show the order."""
    # Taken back when the test ends.
    monkeypatch.setitem(STEPS, 'ramp', None)

    @register_step
    class Ramp(Step):
        name, invertible, leaves = 'ramp', True, 'everything'

        @classmethod
        def parse(cls, number, option):
            return cls()

        def __str__(self):
            return self.name

        def next_layout(self, layout):
            return layout

        def apply(self, img, layout, drawn, stats=None):
            ramp = np.arange(img.size, dtype=img.dtype).reshape(img.shape)
            return img * 2 + ramp

        def undo(self, img, layout, drawn):
            ramp = np.arange(img.size, dtype=img.dtype).reshape(img.shape)
            return (img - ramp) / 2

    img = make_image((32, 48, 3), np.float64)
    ramp = np.arange(img.size).reshape(img.shape)
    perm = np.random.default_rng(0).permutation(6)
    first, last = Cipher('ramp+shuffle'), Cipher('shuffle+ramp')
    encrypted = first.apply(img, [None, perm])
    np.testing.assert_allclose(encrypted, shuffle_patches(img * 2 + ramp, perm, 16))
    np.testing.assert_allclose(first.decrypt(encrypted, [None, perm]), img)
    encrypted = last.apply(img, [perm, None])
    np.testing.assert_allclose(encrypted, shuffle_patches(img, perm, 16) * 2 + ramp)
    np.testing.assert_allclose(last.decrypt(encrypted, [perm, None]), img)


@pytest.mark.parametrize('text', TEXTS)
def test_batch(make_image, text):
    cipher = Cipher(text)
    batch = make_image((3, 32, 48, 3))
    rng = np.random.default_rng(0)
    draws = [cipher.draw((32, 48, 3), rng) for _ in batch]
    stacked = [
        None if values[0] is None else np.stack(values) for values in zip(*draws, strict=True)
    ]
    expected = np.stack([cipher.apply(*pair) for pair in zip(batch, draws, strict=True)])
    np.testing.assert_array_equal(cipher.apply(batch, stacked), expected)
    if cipher.invertible:
        np.testing.assert_array_equal(cipher.decrypt(expected, stacked), batch)
    np.testing.assert_array_equal(
        cipher.apply(batch, draws[0]), np.stack([cipher.apply(image, draws[0]) for image in batch])
    )
    with pytest.raises(PictureError, match='`apply`'):
        cipher.encrypt(batch)


def test_encrypt(make_image):
    img = make_image((64, 80, 3))
    cipher = Cipher('shuffle')
    encrypted, layout, drawn = cipher.encrypt(img, np.random.default_rng(5))
    np.testing.assert_array_equal(encrypted, cipher.apply(img, drawn))
    np.testing.assert_array_equal(layout.permutation, drawn[0])
    again = cipher.encrypt(img, np.random.default_rng(5))
    np.testing.assert_array_equal(again[0], encrypted)
    # From the operating system no two images get the same permutation.
    first, second = (cipher.encrypt(img)[2][0] for _ in range(2))
    assert (first != second).any()


@pytest.mark.parametrize('text', TEXTS)
def test_numpy_sources_repeat(make_image, text):
    cipher = Cipher(text)
    img = make_image((32, 48, 3))
    for make in (np.random.default_rng, np.random.RandomState):
        encrypted, layout, _ = cipher.encrypt(img, make(7))
        again = cipher.encrypt(img, make(7))
        np.testing.assert_array_equal(again[0], encrypted)
        np.testing.assert_array_equal(again[1].permutation, layout.permutation)
        other = cipher.encrypt(img, make(8))[0]
        assert (other != encrypted).any() == cipher.random


def test_one_stream_for_all_steps():
    """A source that is no key's is read by one step after the other."""
    cipher = Cipher('orient+negate+shuffle', 4)
    codes, flags = bytes(range(6)), bytes(range(1, 7))
    stream = io.BytesIO(codes + flags + np.arange(6, dtype='<u8').tobytes() + b'rest')
    drawn = cipher.draw((8, 12), stream)
    assert drawn[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert drawn[1].tolist() == [True, False] * 3
    assert drawn[2].tolist() == [0, 1, 2, 3, 4, 5]
    assert stream.read() == b'rest'


def test_decrypt_refused(make_image):
    img = make_image((32, 32, 3))
    for text, step in (
        ('mix2', 'mix2'),
        ('shuffle+mix4:tiled', 'mix4:tiled'),
        ('center+erode2+drop9', 'center, erode2, drop9'),
    ):
        cipher = Cipher(text)
        encrypted, _, drawn = cipher.encrypt(img)
        with pytest.raises(CipherError, match=named(repr(cipher), f': {step} ')):
            cipher.decrypt(encrypted, drawn)
        with pytest.raises(CipherError, match=named(repr(cipher.steps[-1].name))):
            cipher.steps[-1].undo(encrypted, cipher.plan((32, 32)), None)


def test_wrong_draws_and_images(make_image):
    cipher = Cipher('shuffle')
    img = make_image((32, 48, 3))
    perm = np.arange(6)
    for drawn in ([], [perm, perm]):
        for call in (cipher.apply, cipher.decrypt):
            with pytest.raises(CipherError, match=named('1 steps', f'{len(drawn)} draws')):
                call(img, drawn)
        with pytest.raises(CipherError, match=named('1 steps', f'{len(drawn)} draws')):
            cipher.secret_layout((32, 48), drawn)
    for call in (cipher.apply, cipher.decrypt):
        with pytest.raises(CipherError, match=named('(6,)', '(4,)')):
            call(img, [np.arange(4)])
        with pytest.raises(TypeError, match='int64'):
            call(img.astype(np.int64), [perm])
        with pytest.raises(PictureError, match='31x48.*16'):
            call(img[:31], [perm])
    with pytest.raises(TypeError, match='list'):
        cipher.encrypt(img.tolist())
    for call in (cipher.plan, cipher.draw):
        with pytest.raises(PictureError, match='31x48.*16'):
            call((31, 48))


def test_errors_tell_what_is_at_fault(make_image):
    cipher, img = Cipher('shuffle'), make_image((32, 48, 3))
    for call in (
        lambda: cipher.plan((31, 48)),
        lambda: cipher.encrypt(img[:31]),
        lambda: cipher.encrypt(img[None]),
        lambda: cipher.encrypt(img[:0]),
    ):
        with pytest.raises(PictureError):
            call()
    for call in (
        lambda: cipher.apply(img, []),
        lambda: cipher.apply(img, [np.arange(4)]),
        lambda: Cipher('mix3'),
        lambda: Cipher('mix2').decrypt(img, [None]),
    ):
        with pytest.raises(CipherError):
            call()


def test_layouts_are_derived_once(make_image, monkeypatch):
    """For one picture, whatever is asked of its cipher."""
    calls = []
    derive = Shuffle.next_layout
    monkeypatch.setattr(Shuffle, 'next_layout', lambda *args: calls.append(args) or derive(*args))
    # A patch size of no other test: nothing is known of it yet.
    cipher, img = Cipher('mix2+shuffle', 22), make_image((44, 66, 3))
    calls.clear()
    encrypted, layout, drawn = cipher.encrypt(img)
    assert cipher.apply(img, drawn).shape[:2] == layout.shape
    assert repr(cipher.secret_layout((44, 66), drawn)) == repr(layout)
    assert repr(cipher.plan([44, 66])) == repr(layout)
    assert len(calls) == 1
    # What one caller does to the list is not seen by the next.
    cipher.layouts((44, 66)).clear()
    assert len(cipher.layouts((44, 66))) == 3


def test_layouts_hold_plain_numbers():
    shape = tuple(np.array([51, 34]))
    for plan in (Cipher('shuffle', 17).plan(shape), Cipher('shuffle', 17).plan((51, 34))):
        json.dumps(plan.to_dict())
    with pytest.raises(TypeError):
        Cipher('shuffle', 17).plan((51.0, 34.0))


def test_draws_are_in_no_message(make_image):
    # Numbers that would be recognised.
    cipher, img = Cipher('orient+shuffle'), make_image((32, 48, 3))
    codes, perm = np.full(6, 4321), np.array([0, 1, 2, 3, 4, 4321])
    for drawn in ([perm], [codes, perm, perm], [codes, perm], [np.zeros(6, np.uint8), perm]):
        for call in (
            cipher.apply,
            cipher.decrypt,
            lambda _, drawn: cipher.secret_layout((32, 48), drawn),
        ):
            with pytest.raises(CipherError) as error:
                call(img, drawn)
            assert '4321' not in str(error.value)
            assert error.value.__context__ is None


def test_no_secret_in_print(make_image):
    cipher = Cipher('mix2+shuffle')
    _, layout, _ = cipher.encrypt(make_image((320, 320, 3)))
    assert layout.permutation is not None
    for show in (repr, str, PatchLayout.to_dict):
        assert show(layout) == show(cipher.plan((320, 320)))


# A text that others keep for years: it must not change.
@pytest.mark.parametrize(
    'text, canonical, as_json',
    [
        ('shuffle', 'shuffle/16', '{"patch_size":16,"steps":[{"type":"shuffle"}],"version":1}'),
        (
            'mix',
            'mix2/16',
            '{"patch_size":16,"steps":[{"form":"compact","num_splits":2,'
            '"type":"mix"}],"version":1}',
        ),
        (
            ' mix4:tiled + drop ',
            'mix4:tiled+drop50/16',
            '{"patch_size":16,"steps":[{"form":"tiled","num_splits":4,'
            '"type":"mix"},{"percent":50,"type":"drop"}],"version":1}',
        ),
        (
            'noise+center+erode2:filled',
            'noise25+center+erode2:filled/16',
            '{"patch_size":16,"steps":[{"std":25,"type":"noise"},'
            '{"type":"center"},{"border":2,"form":"filled","type":"erode"}],'
            '"version":1}',
        ),
        (
            'orient+negate+permute_channels+permute_pixels',
            'orient+negate+permute_channels+permute_pixels/16',
            '{"patch_size":16,"steps":[{"type":"orient"},{"type":"negate"},'
            '{"type":"permute_channels"},{"type":"permute_pixels"}],"version":1}',
        ),
    ],
)
def test_exact_written_forms(text, canonical, as_json):
    cipher = Cipher(text)
    assert cipher.canonical == canonical
    assert cipher.to_json() == as_json
    assert Cipher.build(json.loads(as_json)) == cipher


@pytest.mark.parametrize('version', [0, 2, '1', None, 1.5, [1]])
def test_other_versions_are_refused(version):
    state = dict(Cipher('shuffle').to_dict(), version=version)
    with pytest.raises(CipherError, match=named(f'version {version!r}', 'version 1')):
        Cipher.build(state)


def test_written_without_version():
    # By hand, in a config.
    assert Cipher.build(dict(steps='mix2', patch_size=8)) == Cipher('mix2', 8)
    assert Cipher.build(dict(steps='mix2', version=1)) == Cipher('mix2')


def test_presets():
    assert {name: (preset.steps, preset.patch_size) for name, preset in PRESETS.items()} == {
        'paper-rs': ('shuffle', 16),
        'paper-mi': ('mix2', 16),
    }
    assert Cipher('paper-rs').to_dict() == dict(
        version=1, steps=[dict(type='shuffle')], patch_size=16
    )
    assert Cipher('paper-mi').to_dict() == dict(
        version=1, steps=[dict(type='mix', num_splits=2, form='compact')], patch_size=16
    )
    for name, preset in PRESETS.items():
        for cipher in (Cipher(name), Cipher.build(name), Cipher.build(dict(steps=name))):
            assert cipher == Cipher(preset.steps, preset.patch_size)
            # The steps are written, so that the name may change its meaning.
            assert name not in cipher.to_json() + cipher.canonical
        assert Cipher(name, 8) == Cipher(preset.steps, 8)
        assert 'IJCAI 2025' in preset.reference
        with pytest.raises(CipherError, match=repr(name)):
            Cipher(f'{name}+center')


def test_no_preset_is_recommended():
    for name, preset in PRESETS.items():
        text = f'{name} {preset}'.lower()
        for word in ('recommend', 'default', 'best', 'secure', 'safe'):
            assert word not in text
        for step in Cipher(name).steps:
            assert step.name not in ('orient', 'negate', 'permute_channels', 'permute_pixels')


def test_preset_brings_its_patch_size(monkeypatch):
    preset = type(PRESETS['paper-rs'])('shuffle', 32, 'a test')
    monkeypatch.setitem(PRESETS, 'large', preset)
    assert Cipher('large') == Cipher('shuffle', 32)
    assert Cipher.build('large', 8) == Cipher('shuffle', 8)


@pytest.mark.parametrize('module', ['hime_mm', 'hime_mm.ciphers'])
def test_light_import(module):
    # An owner encrypts on a machine that has only NumPy.
    code = f'import sys, {module}\nprint(*{{name.partition(".")[0] for name in sys.modules}})'
    loaded = subprocess.run(
        [sys.executable, '-c', code],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert 'hime_mm' in loaded
    heavy = {
        'torch',
        'torchvision',
        'mmengine',
        'mmcv',
        'mmdet',
        'mmpretrain',
        'scipy',
        'cv2',
        'PIL',
    }
    assert not heavy & set(loaded)
