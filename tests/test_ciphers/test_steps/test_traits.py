# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is said of each step, how it is written, and what all of them refuse.

``test_cipher_properties.py`` compares the steps with loops over pixels.
"""

import re
from dataclasses import fields

import numpy as np
import pytest
from owner_data import named
from step_helpers import layout

from hime_mm.ciphers import (
    STEPS,
    Center,
    Cipher,
    Drop,
    Erode,
    Mix,
    Negate,
    Noise,
    Orient,
    PermuteChannels,
    PermutePixels,
    Shuffle,
    Step,
)
from hime_mm.ciphers.steps import (
    center_patches,
    drop_patches,
    erode_patches,
    negate_patches,
    orient_patches,
    permute_patch_channels,
)
from hime_mm.errors import CipherError, PictureError

TRAITS = [
    (Shuffle(), True, 'image', True),
    (Mix(), False, 'image', False),
    (Erode(), False, 'image', False),
    (Drop(), False, 'image', False),
    (Center(), False, 'image', False),
    (Noise(), False, 'image', False),
    (Orient(), True, 'image', True),
    (Negate(), True, 'image', False),
    (PermuteChannels(), True, 'image', False),
    (PermutePixels(), True, 'dataset', True),
]


@pytest.mark.parametrize('step, invertible, scope, moves_pixels', TRAITS)
def test_properties(step, invertible, scope, moves_pixels):
    assert STEPS[step.name] is type(step)
    assert step.invertible == invertible
    assert step.scope == scope
    assert step.moves_pixels == moves_pixels
    cipher = Cipher([step])
    assert cipher.invertible == invertible
    assert cipher.moves_pixels == moves_pixels
    assert cipher.shuffles == (step.name == 'shuffle')
    assert cipher.random == (type(step).draw is not Step.draw)
    # Beside another step as well.
    other = 'negate' if step.name != 'negate' else 'permute_channels'
    assert Cipher([other, step]).moves_pixels == moves_pixels
    assert Cipher([step, other]).invertible == invertible
    assert Cipher([other, step]).shuffles == (step.name == 'shuffle')


@pytest.mark.parametrize('name', sorted(STEPS))
def test_what_is_left_is_measured(name):
    """Stated on every step, in words that promise nothing."""
    leaves = STEPS[name].leaves
    assert leaves and leaves == leaves.strip()
    text = (leaves + STEPS[name].__doc__).lower()
    for word in ('secure', 'safe', 'intractable', 'unbreakable'):
        assert word not in text
    # Patch and image size of the measurement stand beside its numbers.
    assert 'patches' in leaves and re.search(r'\d+x\d+', leaves)


@pytest.mark.parametrize('name', ['orient', 'negate', 'permute_channels', 'permute_pixels'])
def test_comparison_steps_say_so(name):
    assert 'never part of a recommended preset' in ' '.join(STEPS[name].__doc__.split())


SHORT_FORMS = [
    ('shuffle', 'shuffle', Shuffle()),
    ('mix', 'mix2', Mix(2, 'compact')),
    ('mix4', 'mix4', Mix(4)),
    ('mix:tiled', 'mix2:tiled', Mix(2, 'tiled')),
    ('mix8:compact', 'mix8', Mix(8)),
    ('erode', 'erode1', Erode(1, 'compact')),
    ('erode3', 'erode3', Erode(3)),
    ('erode:filled', 'erode1:filled', Erode(1, 'filled')),
    ('erode7:filled', 'erode7:filled', Erode(7, 'filled')),
    ('drop', 'drop50', Drop(50)),
    ('drop7', 'drop7', Drop(7)),
    ('center', 'center', Center()),
    ('noise', 'noise25', Noise(25)),
    ('noise100', 'noise100', Noise(100)),
    ('orient', 'orient', Orient()),
    ('negate', 'negate', Negate()),
    ('permute_channels', 'permute_channels', PermuteChannels()),
    ('permute_pixels', 'permute_pixels', PermutePixels()),
]


@pytest.mark.parametrize('text, full, step', SHORT_FORMS)
def test_short_forms(text, full, step):
    cipher = Cipher(text)
    assert cipher.steps == (step,)
    assert str(step) == str(cipher) == full
    assert Cipher(full).steps == (step,)
    assert Cipher([step.to_dict()]).steps == (step,)


DICTS = [
    (Shuffle(), dict(type='shuffle')),
    (Mix(4, 'tiled'), dict(type='mix', num_splits=4, form='tiled')),
    (Erode(2), dict(type='erode', border=2, form='compact')),
    (Drop(7), dict(type='drop', percent=7)),
    (Center(), dict(type='center')),
    (Noise(9), dict(type='noise', std=9)),
    (Orient(), dict(type='orient')),
    (Negate(), dict(type='negate')),
    (PermuteChannels(), dict(type='permute_channels')),
    (PermutePixels(), dict(type='permute_pixels')),
]


@pytest.mark.parametrize('step, state', DICTS)
def test_to_dict(step, state):
    assert step.to_dict() == state


@pytest.mark.parametrize(
    'text, names',
    [
        ('shuffle2', "'shuffle'.* number.* option"),
        ('shuffle:fast', "'shuffle'.* number.* option"),
        ('center3', "'center'.* number.* option"),
        ('orient1', "'orient'.* number.* option"),
        ('negate:all', "'negate'.* number.* option"),
        ('permute_channels3', "'permute_channels'.* number.* option"),
        ('permute_pixels:all', "'permute_pixels'.* number.* option"),
        ('drop50:filled', "'drop' ((?! number).)* option"),
        ('noise25:uniform', "'noise' ((?! number).)* option"),
        ('mix1', "'mix'.*`num_splits`.* 2 to 4096, .*1$"),
        ('mix0', "'mix'.*`num_splits`.* 2 to 4096, .*0$"),
        ('mix4097', "'mix'.*`num_splits`.* 2 to 4096, .*4097$"),
        ('erode0', "'erode'.*`border`.* 1 to 4096, .*0$"),
        ('drop0', "'drop'.*`percent`.* 1 to 99, .*0$"),
        ('drop100', "'drop'.*`percent`.* 1 to 99, .*100$"),
        ('noise0', "'noise'.*`std`.* 1 to 255, .*0$"),
        ('noise256', "'noise'.*`std`.* 1 to 255, .*256$"),
        ('mix2:small', "'mix'.*'small'.*'compact'.*'tiled'"),
        ('mix2:filled', "'mix'.*'filled'.*'compact'.*'tiled'"),
        ('erode2:tiled', "'erode'.*'tiled'.*'compact'.*'filled'"),
    ],
)
def test_refused_parameters(text, names):
    with pytest.raises(CipherError, match=names):
        Cipher(text)


@pytest.mark.parametrize('text', ['drop1', 'drop99', 'noise1', 'noise255'])
def test_the_ends_of_a_range_are_allowed(text):
    assert str(Cipher(text)) == text


@pytest.mark.parametrize('step', [step for step in STEPS.values() if fields(step)])
@pytest.mark.parametrize('value', [2.0, '2', True, None, [2], np.float32(2)])
def test_whole_numbers_only(step, value):
    with pytest.raises(CipherError, match=named(f'`{fields(step)[0].name}`', repr(value))):
        step(value)


@pytest.mark.parametrize(
    'text, side, scale, erosion',
    [
        ('shuffle', 16, 1, 0),
        ('mix4', 4, 0.25, 0),
        ('mix4:tiled', 16, 1, 0),
        ('erode3', 10, 10 / 16, 3),
        ('erode3:filled', 16, 1, 3),
        ('erode2+mix4', 3, 3 / 16, 2),
        ('mix2+erode1', 6, 6 / 16, 1),
        ('noise25+drop50+center+orient+negate', 16, 1, 0),
    ],
)
def test_plan(text, side, scale, erosion):
    cipher = Cipher(text)
    plan = cipher.plan((48, 80))
    assert cipher.encrypted_patch_size == plan.patch_size == side
    assert plan.ori_shape == (48, 80)
    assert plan.grid == (3, 5)
    assert plan.shape == (3 * side, 5 * side)
    assert plan.scale == (scale, scale)
    assert plan.erosion == erosion
    assert plan.shuffled == ('shuffle' in text)


@pytest.mark.parametrize(
    'dtype, grey',
    [
        (np.uint8, 128),
        (np.uint16, 32768),
        (np.float32, 128),
        (np.float64, 128),
    ],
)
def test_mid_grey(make_image, dtype, grey):
    img = make_image((4, 4, 3), dtype)
    filled = erode_patches(img, 4, 1, 'filled')
    assert filled.dtype == dtype
    assert (filled[0] == grey).all() and (filled[:, -1] == grey).all()
    dropped = drop_patches(img, np.array([True]), 4)
    assert dropped.dtype == dtype
    assert (dropped == grey).all()
    centred, _ = center_patches(np.full_like(img, 7), 4)
    assert centred.dtype == dtype
    assert (centred == grey).all()


def test_clipped_counts_add_up():
    cipher = Cipher('noise255+center', 2)
    img = np.array([[0, 0], [0, 255]], np.uint8)
    noise = np.array([[-1, 1], [1, 1]], np.int16)
    stats = {}
    cipher.apply(img, [noise, None], stats)
    # 0, 1, 1, 255 with the noise, twice clipped; then 255 - 64 + 128.
    assert stats == {'noise255': (2, 4), 'center': (1, 4)}
    cipher.apply(img, [np.zeros_like(noise), None], stats)
    assert stats == {'noise255': (2, 8), 'center': (2, 8)}
    other = {}
    Cipher('center+shuffle+negate', 2).apply(img, [None, np.arange(1), [True]], other)
    assert other == {'center': (1, 4)}
    # Nobody has to ask for them.
    cipher.apply(img, [noise, None])


PER_PATCH = [
    lambda img, values: drop_patches(img, values, 4),
    lambda img, values: orient_patches(img, values, 4),
    lambda img, values: negate_patches(img, values, 4),
]


@pytest.mark.parametrize('call', PER_PATCH)
@pytest.mark.parametrize('shape', [(), (5,), (7,), (2, 3), (2, 6), (4, 6), (6, 1), (3, 6, 1)])
def test_one_value_for_each_patch(make_image, call, shape):
    img = make_image((3, 8, 12, 3))
    values = np.zeros(shape, np.uint8)
    with pytest.raises(CipherError, match=named('6 patches', shape)) as error:
        call(img, values)
    assert error.value.__context__ is None
    with pytest.raises(CipherError, match=named('6 patches', (3, 6))):
        call(img[0], np.zeros((3, 6), np.uint8))
    for fitting in ((6,), (3, 6)):
        call(img, np.zeros(fitting, np.uint8))


@pytest.mark.parametrize(
    'call', [*PER_PATCH, lambda img, values: permute_patch_channels(img, values, 4)]
)
@pytest.mark.parametrize('shape', [(5,), (2, 6), (5, 3), (6, 2), (2, 6, 3)])
def test_values_of_patches_are_in_no_message(make_image, call, shape):
    # A number that would be recognised.
    with pytest.raises(CipherError) as error:
        call(make_image((3, 8, 12, 3)), np.full(shape, 4321))
    assert '4321' not in str(error.value)
    assert error.value.__context__ is None


@pytest.mark.parametrize('name', sorted(STEPS))
def test_every_step_checks_the_image(make_image, name):
    cipher = Cipher(name, 4)
    img = make_image((8, 12, 3))
    drawn = cipher.draw(img.shape)
    for call in (
        cipher.apply,
        lambda x, y: cipher.decrypt(x, y, partial=True),
        lambda x, y: cipher.steps[0].apply(x, layout(2, 3, 4), y[0]),
    ):
        with pytest.raises(TypeError, match='int64'):
            call(img.astype(np.int64), drawn)
        with pytest.raises(TypeError, match='list'):
            call(img.tolist(), drawn)
    with pytest.raises(PictureError, match='7x12.*4'):
        cipher.apply(img[:7], drawn)
    with pytest.raises(PictureError, match='8x11.*4'):
        cipher.draw((8, 11, 3))


@pytest.mark.parametrize('name', [name for name in STEPS if not STEPS[name].invertible])
def test_deleted_data_stays_deleted(make_image, name):
    step = STEPS[name]()
    with pytest.raises(CipherError, match=f"'{name}'"):
        step.undo(make_image((8, 8)), layout(2, 2, 4), None)
