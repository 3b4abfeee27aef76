# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Each step by hand, its refusals, and the lists of steps that are refused.

``test_cipher_properties.py`` compares the steps with loops over pixels.
"""

import itertools
import re

import loops
import numpy as np
import pytest

from hime_mm.ciphers import STEPS, Cipher, PatchLayout
from hime_mm.ciphers import functional as F
from hime_mm.ciphers import (Center, Drop, Erode, Mix, Negate, Noise, Orient,
                             PermuteChannels, PermutePixels, Shuffle)

DTYPES = (np.uint8, np.uint16, np.float32, np.float64)


class Bytes:
    """A source that gives what it was given, and nothing more."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, num: int) -> bytes:
        assert num <= len(self.data)
        data, self.data = self.data[:num], self.data[num:]
        return data


def words(*values: int) -> bytes:
    return np.array(values, '<u8').tobytes()


def layout(rows: int, cols: int, p: int) -> PatchLayout:
    return PatchLayout((rows * p, cols * p), p, (rows, cols))


# What is said of each step.


@pytest.mark.parametrize('step, invertible, scope, moves_pixels', [
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
])
def test_properties(step, invertible, scope, moves_pixels):
    assert STEPS[step.name] is type(step)
    assert step.invertible == invertible
    assert step.scope == scope
    assert step.moves_pixels == moves_pixels
    cipher = Cipher([step])
    assert cipher.invertible == invertible
    assert cipher.moves_pixels == moves_pixels
    assert cipher.shuffles == (step.name == 'shuffle')
    assert cipher.random == (step.name not in ('mix', 'erode', 'center'))
    # Beside another step as well.
    other = 'negate' if step.name != 'negate' else 'permute_channels'
    assert Cipher([other, step]).moves_pixels == moves_pixels
    assert Cipher([step, other]).invertible == invertible
    assert Cipher([other, step]).shuffles == (step.name == 'shuffle')


def test_every_step_is_here():
    assert len(STEPS) == 10


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


@pytest.mark.parametrize('name', [
    'orient', 'negate', 'permute_channels', 'permute_pixels'
])
def test_comparison_steps_say_so(name):
    assert 'never part of a recommended preset' in ' '.join(
        STEPS[name].__doc__.split())


# Short forms and parameters.


@pytest.mark.parametrize('text, full, step', [
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
])
def test_short_forms(text, full, step):
    cipher = Cipher(text)
    assert cipher.steps == (step, )
    assert str(step) == str(cipher) == full
    assert Cipher(full).steps == (step, )
    assert Cipher([step.to_dict()]).steps == (step, )


@pytest.mark.parametrize('step, state', [
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
])
def test_to_dict(step, state):
    assert step.to_dict() == state


@pytest.mark.parametrize('text, problem', [
    ('shuffle2', r'takes no number and no option$'),
    ('shuffle:fast', r'takes no number and no option$'),
    ('center3', r'takes no number and no option$'),
    ('orient1', r'takes no number and no option$'),
    ('negate:all', r'takes no number and no option$'),
    ('permute_channels3', r'takes no number and no option$'),
    ('permute_pixels:all', r'takes no number and no option$'),
    ('drop50:filled', "'drop' takes no option$"),
    ('noise25:uniform', "'noise' takes no option$"),
    ('mix1', '`num_splits`, from 2 to 4096, got 1'),
    ('mix0', '`num_splits`, from 2 to 4096, got 0'),
    ('mix4097', '`num_splits`, from 2 to 4096, got 4097'),
    ('erode0', '`border`, from 1 to 4096, got 0'),
    ('drop0', '`percent`, from 1 to 99, got 0'),
    ('drop100', '`percent`, from 1 to 99, got 100'),
    ('noise0', '`std`, from 1 to 255, got 0'),
    ('noise256', '`std`, from 1 to 255, got 256'),
    ('mix2:small', "no form 'small': choose 'compact' or 'tiled'"),
    ('mix2:filled', "no form 'filled': choose 'compact' or 'tiled'"),
    ('erode2:tiled', "no form 'tiled': choose 'compact' or 'filled'"),
])
def test_refused_parameters(text, problem):
    with pytest.raises(ValueError, match=problem):
        Cipher(text)


@pytest.mark.parametrize('text', ['drop1', 'drop99', 'noise1', 'noise255'])
def test_the_ends_of_a_range_are_allowed(text):
    assert str(Cipher(text)) == text


@pytest.mark.parametrize('step', [Mix, Erode, Drop, Noise])
@pytest.mark.parametrize('value', [2., '2', True, None, [2], np.float32(2)])
def test_whole_numbers_only(step, value):
    with pytest.raises(ValueError, match='whole number'):
        step(value)


# Lists of steps that make no sense, and their sensible neighbours.


@pytest.mark.parametrize('text, p, reason', [
    ('shuffle+shuffle', 16, "'shuffle' stands more than once"),
    ('mix2+mix2', 16, "'mix' stands more than once"),
    ('mix2+center+mix4', 16, "'mix' stands more than once"),
    ('erode1+shuffle+erode1', 16, "'erode' stands more than once"),
    ('negate+negate', 16, "'negate' stands more than once"),
    ('mix3', 16, r"'mix3' cannot cut patches of side 16 .*divisor of 16"),
    ('mix32', 16, 'divisor of 16'),
    ('mix5:tiled', 16, 'divisor of 16'),
    ('erode3+mix4', 16, "'mix4' cannot cut patches of side 10"),
    ('erode8', 16, "'erode8' leaves nothing of patches of side 16: drop less"),
    ('erode9:filled', 16, 'leaves nothing of patches of side 16'),
    ('mix4+erode2', 16, 'leaves nothing of patches of side 4'),
    ('center', 1, "'center' on patches of one pixel leaves plain grey"),
    ('erode1+center', 3, 'patches of one pixel'),
    ('orient', 1, "'orient' does nothing to patches of one pixel"),
    ('mix16+orient', 16, "'orient' does nothing to patches of one pixel"),
    ('permute_pixels', 1, 'does nothing to patches of one pixel'),
    ('mix16+permute_pixels', 16, 'does nothing to patches of one pixel'),
    ('center+mix16', 16, "'mix16' leaves the mean of each patch of side 16, "
     "and 'center' removes just that.*fewer splits"),
    ('mix16+center', 16, "'center' removes just that"),
    ('mix16:tiled+center', 16, "'center' removes just that"),
    ('center+erode4+mix8', 16, "'center' removes just that"),
    ('mix2:tiled+erode1', 16, 'the border are repeated inside. Put \'erode\' '
     'first'),
    ('mix2:tiled+shuffle+erode1:filled', 16, 'are repeated inside'),
    ('erode1:filled+mix2', 16, 'averages the grey border'),
    ('erode1:filled+shuffle+mix2:tiled', 16, 'averages the grey border'),
    ('permute_pixels+erode1', 16, "drops arbitrary pixels.*Put 'erode' first"),
    ('permute_pixels+mix2', 16, 'averages arbitrary pixels'),
    ('permute_pixels+erode1:filled', 16, 'drops arbitrary pixels'),
    ('erode1:filled+shuffle+center', 16, 'writes the mean into the border'),
    ('erode1:filled+permute_pixels', 16, 'where the grey pixels go'),
    ('mix2:tiled+noise25', 16, 'averaged away over the copies'),
    ('drop50+noise25', 16, "patches that are left out. Put 'noise' first"),
    ('drop50+shuffle+noise25', 16, 'patches that are left out'),
])
def test_meaningless(text, p, reason):
    with pytest.raises(ValueError, match=reason):
        Cipher(text, p)
    assert loops.refused(text, p)


@pytest.mark.parametrize('text, p', [
    ('shuffle', 1),
    ('mix16', 16),
    ('mix16:tiled', 16),
    ('mix16+shuffle', 16),
    ('mix8+center', 16),
    ('center+mix8', 16),
    ('mix16:tiled+orient', 16),
    ('mix16:tiled+permute_pixels', 16),
    ('erode7', 16),
    ('erode7:filled', 16),
    ('mix4+erode1', 16),
    ('erode3+mix5', 16),
    ('erode2+mix2:tiled', 16),
    ('mix2+erode1:filled', 16),
    ('mix2+center+erode1', 16),
    ('erode2+mix2', 16),
    ('erode2+permute_pixels', 16),
    ('erode2+permute_pixels', 16),
    ('center+erode2:filled', 16),
    ('permute_pixels+noise25', 16),
    ('noise25+drop50', 16),
    ('drop50+center', 16),
    ('center', 2),
    ('orient', 2),
    ('permute_pixels', 2),
    ('negate', 1),
    ('permute_channels', 1),
    ('drop50', 1),
    ('noise25', 1),
    ('center+erode2+shuffle', 16),
    ('shuffle+erode2+center', 16),
    ('noise25+mix2', 16),
    ('mix2+noise25', 16),
    ('orient+erode1', 16),
    ('shuffle+permute_pixels+orient+negate+permute_channels+center', 16),
])
def test_sensible(text, p):
    assert str(Cipher(text, p)) == text
    assert not loops.refused(text, p)


# Shapes.


@pytest.mark.parametrize('text, side, scale, erosion', [
    ('shuffle', 16, 1, 0),
    ('mix4', 4, .25, 0),
    ('mix4:tiled', 16, 1, 0),
    ('erode3', 10, 10 / 16, 3),
    ('erode3:filled', 16, 1, 3),
    ('erode2+mix4', 3, 3 / 16, 2),
    ('mix2+erode1', 6, 6 / 16, 1),
    ('noise25+drop50+center+orient+negate', 16, 1, 0),
])
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


# Erode.


def test_erode_by_hand():
    img = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert F.erode_patches(img, 4, 1).tolist() == [
        [9, 10, 13, 14],
        [17, 18, 21, 22],
        [41, 42, 45, 46],
        [49, 50, 53, 54],
    ]
    filled = F.erode_patches(img, 4, 1, 'filled')
    expected = np.full((8, 8), 128)
    for y, x in itertools.product((1, 2, 5, 6), repeat=2):
        expected[y, x] = img[y, x]
    np.testing.assert_array_equal(filled, expected)
    assert F.erode_patches(img, 8, 3).tolist() == [[27, 28], [35, 36]]


@pytest.mark.parametrize('dtype, grey', [
    (np.uint8, 128),
    (np.uint16, 32768),
    (np.float32, 128),
    (np.float64, 128),
])
def test_mid_grey(make_image, dtype, grey):
    img = make_image((4, 4, 3), dtype)
    filled = F.erode_patches(img, 4, 1, 'filled')
    assert filled.dtype == dtype
    assert (filled[0] == grey).all() and (filled[:, -1] == grey).all()
    dropped = F.drop_patches(img, np.array([True]), 4)
    assert dropped.dtype == dtype
    assert (dropped == grey).all()
    centred, _ = F.center_patches(np.full_like(img, 7), 4)
    assert centred.dtype == dtype
    assert (centred == grey).all()


@pytest.mark.parametrize('border', [0, -1, 2, 3])
def test_erode_refused(make_image, border):
    with pytest.raises(ValueError, match=f'{border} pixels.*side 4'):
        F.erode_patches(make_image((8, 8)), 4, border)


def test_erode_form_refused(make_image):
    with pytest.raises(ValueError, match="'tiled': choose 'compact' or "):
        F.erode_patches(make_image((8, 8)), 4, 1, 'tiled')


# Drop.


@pytest.mark.parametrize('percent, num, dropped', [
    (50, 12, 6),
    (50, 13, 6),
    (33, 12, 3),
    (34, 12, 4),
    (1, 99, 0),
    (1, 100, 1),
    (99, 1, 0),
    (99, 100, 99),
    (99, 2, 1),
    # In floating point, 0.29 · 100 is a little less than 29.
    (29, 100, 29),
])
def test_drop_rounds_down(percent, num, dropped):
    step = Drop(percent)
    flags = step.draw(layout(1, num, 4), (3, ), None)
    assert flags.dtype == bool and flags.shape == (num, )
    assert flags.sum() == dropped


def test_drop_takes_the_first_of_a_permutation():
    # The order of these words: 4, 2, 0, 1, 3.
    source = Bytes(words(30, 40, 20, 50, 10) + b'rest')
    flags = Drop(50).draw(layout(1, 5, 4), (), source)
    assert flags.tolist() == [False, False, True, False, True]
    assert source.data == b'rest'


def test_drop_by_hand():
    img = np.arange(6, dtype=np.uint8).reshape(2, 3)
    flags = np.array([0, 1, 0, 1, 1, 0], bool)
    expected = [[0, 128, 2], [128, 128, 5]]
    assert F.drop_patches(img, flags, 1).tolist() == expected
    # Flags read from elsewhere are no indices.
    for kind in (list, lambda x: x.astype(int), lambda x: x.astype(np.uint8)):
        assert F.drop_patches(img, kind(flags), 1).tolist() == expected


# Center.


@pytest.mark.parametrize('patch, centred, clipped', [
    # A mean of 1/4, of 1/2 and of 3/4.
    ([0, 0, 0, 1], [128, 128, 128, 129], 0),
    ([0, 0, 1, 1], [127, 127, 128, 128], 0),
    ([0, 1, 1, 1], [127, 128, 128, 128], 0),
    ([255, 255, 255, 254], [128, 128, 128, 127], 0),
    ([254, 254, 255, 255], [127, 127, 128, 128], 0),
    # A mean of 63.75: 255 would become 319.
    ([255, 0, 0, 0], [255, 64, 64, 64], 1),
    # A mean of 191.25: 0 would become -63.
    ([0, 255, 255, 255], [0, 192, 192, 192], 1),
    # Just inside the range: the means are 128 and 64.
    ([0, 128, 255, 129], [0, 128, 255, 129], 0),
    ([191, 20, 20, 25], [255, 84, 84, 89], 0),
    ([192, 20, 20, 24], [255, 84, 84, 88], 1),
    ([255, 255, 0, 0], [255, 255, 0, 0], 0),
])
def test_center_by_hand(patch, centred, clipped):
    img = np.array(patch, np.uint8).reshape(2, 2)
    result, num = F.center_patches(img, 2)
    assert result.ravel().tolist() == centred
    assert (num, type(num)) == (clipped, int)
    # Each patch and channel by itself.
    img = np.stack([img, np.full_like(img, 9)], 2)
    img = np.hstack([np.full_like(img, 200), img])
    result, num = F.center_patches(img, 2)
    assert result[:, 2:, 0].ravel().tolist() == centred
    assert (result[:, 2:, 1] == 128).all() and (result[:, :2] == 128).all()
    assert num == clipped


def test_center_of_other_types():
    img = np.array([[65535, 0], [0, 1]], np.uint16)
    # A mean of exactly 16384.
    result, num = F.center_patches(img, 2)
    assert result.tolist() == [[65535, 16384], [16384, 16385]]
    assert num == 1
    for dtype in (np.float32, np.float64):
        img = np.array([[1000, 0], [-1000, 1]], dtype)
        result, num = F.center_patches(img, 2)
        assert result.tolist() == [[1127.75, 127.75], [-872.25, 128.75]]
        assert num == 0


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_center_of_large_patches(dtype):
    """No sum overflows."""
    peak = np.iinfo(dtype).max
    img = np.full((512, 512), peak, dtype)
    result, num = F.center_patches(img, 512)
    assert (result == (peak + 1) // 2).all() and num == 0


# Noise.


def test_noise_by_hand():
    img = np.array([[0, 10, 250, 255, 128]], np.uint8)
    noise = np.array([[-1, -10, 5, 1, 200]], np.int16)
    result, num = F.add_noise(img, noise)
    assert result.tolist() == [[0, 0, 255, 255, 255]]
    assert (num, type(num)) == (3, int)
    result, num = F.add_noise(img.astype(np.uint16) * 257, noise)
    # In steps of 1/255 of the range.
    assert result.tolist() == [[0, 0, 65535, 65535, 65535]]
    assert num == 3
    result, num = F.add_noise(np.array([[1000, 0]], np.uint16),
                              np.array([[-3, 1]], np.int16))
    assert result.tolist() == [[229, 257]]
    assert num == 0
    # As far as noise goes: no sum overflows.
    for noise, end in ((1103, 65535), (-1103, 0)):
        result, _ = F.add_noise(np.array([[32768]], np.uint16),
                                np.array([[noise]], np.int16))
        assert result.item() == end
    for dtype in (np.float32, np.float64):
        result, num = F.add_noise(img.astype(dtype),
                                  np.array([[-1, -10, 5, 1, 200]], np.int16))
        assert result.tolist() == [[-1, 0, 255, 256, 328]]
        assert result.dtype == dtype
        assert num == 0


def test_noise_draw():
    """Two bytes for each value, row-major, channels last."""
    low, middle, high = (np.array([w], '<u2').tobytes()
                         for w in (0, 1 << 15, 65535))
    source = Bytes(low * 5 + high + middle * 42 + b'rest')
    noise = Noise(100).draw(layout(2, 1, 4), (3, ), Bytes(source.data * 2))
    assert noise.shape == (8, 4, 3)
    noise = Noise(100).draw(layout(1, 1, 4), (3, ), source)
    assert source.data == b'rest'
    assert noise.shape == (4, 4, 3) and noise.dtype == np.int16
    # 4.325 · 100 and the mirror image of it.
    assert noise.ravel()[:6].tolist() == [-432] * 5 + [432]
    assert (noise.ravel()[6:] == 0).all()
    gray = Noise(100).draw(layout(1, 1, 4), (), Bytes(high * 16))
    assert gray.shape == (4, 4) and (gray == 432).all()


@pytest.mark.parametrize('shape', [(4, 4), (4, 4, 1), (1, 4, 4, 3), (4, 3, 4),
                                   (2, 4, 4, 3)])
def test_noise_of_another_shape(make_image, shape):
    with pytest.raises(ValueError, match='does not fit'):
        F.add_noise(make_image((4, 4, 3)), np.zeros(shape, np.int16))


# Counts of clipped values.


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
    Cipher('center+shuffle+negate', 2).apply(
        img, [None, np.arange(1), [True]], other)
    assert other == {'center': (1, 4)}
    # Nobody has to ask for them.
    cipher.apply(img, [noise, None])


# Orient.


@pytest.mark.parametrize('code, turned', [
    (0, 'ab cd'),
    (1, 'bd ac'),
    (2, 'dc ba'),
    (3, 'ca db'),
    (4, 'ba dc'),
    (5, 'ac bd'),
    (6, 'cd ab'),
    (7, 'db ca'),
])
def test_orient_by_hand(code, turned):
    """Mirrored left to right first, then counter-clockwise."""
    img = np.array([list(map(ord, row)) for row in ('ab', 'cd')], np.uint8)
    expected = [list(map(ord, row)) for row in turned.split()]
    assert F.orient_patches(img, [code], 2).tolist() == expected
    back = F.orient_patches(np.array(expected, np.uint8), [code], 2, True)
    assert back.tolist() == img.tolist()


def test_orient_codes():
    source = Bytes(bytes([0, 7, 8, 15, 16, 255]) + b'rest')
    codes = Orient().draw(layout(2, 3, 4), (3, ), source)
    assert codes.tolist() == [0, 7, 0, 7, 0, 7]
    assert source.data == b'rest'


@pytest.mark.parametrize('code', [8, 255, -1, .5])
def test_orient_refuses_other_codes(make_image, code):
    # Nothing that happened to be in memory comes out.
    with pytest.raises(ValueError, match='from 0 to 7') as error:
        F.orient_patches(make_image((4, 4)), np.array([0, 1, code, 2]), 2)
    assert str(code) not in str(error.value)


# Negate.


@pytest.mark.parametrize('dtype, white', [
    (np.uint8, 255),
    (np.uint16, 65535),
    (np.float32, 255),
    (np.float64, 255),
])
def test_negate_by_hand(dtype, white):
    img = np.array([[0, 1, 100, 200]], dtype)
    flags = [True, False, True, False]
    result = F.negate_patches(img, flags, 1)
    assert result.tolist() == [[white, 1, white - 100, 200]]
    assert result.dtype == dtype
    assert F.negate_patches(result, flags, 1).tolist() == img.tolist()
    for kind in (np.array, lambda x: np.array(x, np.uint8)):
        np.testing.assert_array_equal(
            F.negate_patches(img, kind(flags), 1), result)


def test_negate_flags():
    source = Bytes(bytes([0, 1, 2, 3, 254, 255]) + b'rest')
    flags = Negate().draw(layout(2, 3, 4), (), source)
    assert flags.dtype == bool
    assert flags.tolist() == [False, True] * 3
    assert source.data == b'rest'


# Permutations within a patch.


def test_permute_channels_by_hand():
    # A 3-cycle: a swap cannot tell a permutation from its inverse.
    img = np.array([[[10, 11, 12], [20, 21, 22]]], np.uint8)
    perms = [[1, 2, 0], [0, 1, 2]]
    result = F.permute_patch_channels(img, perms, 1)
    assert result.tolist() == [[[11, 12, 10], [20, 21, 22]]]
    back = F.permute_patch_channels(result, perms, 1, True)
    assert back.tolist() == img.tolist()


def test_permute_channels_draw():
    source = Bytes(words(2, 3, 1, 9, 9, 9) + b'rest')
    perms = PermuteChannels().draw(layout(2, 1, 4), (3, ), source)
    # Equal words keep their order.
    assert perms.tolist() == [[2, 0, 1], [0, 1, 2]]
    assert source.data == b'rest'


@pytest.mark.parametrize('channels', [(), (1, )])
def test_permute_channels_of_gray_images(make_image, channels):
    cipher = Cipher('permute_channels', 4)
    img = make_image((8, 8, *channels))
    for call in (lambda: cipher.encrypt(img), lambda: cipher.draw(img.shape)):
        with pytest.raises(ValueError, match='at least two channels.*leave'):
            call()
    with pytest.raises(ValueError, match='at least two channels'):
        F.permute_patch_channels(img, np.zeros((4, 1), int), 4)


@pytest.mark.parametrize('perms', [
    np.array([[0, 1, 4321]]),
    np.array([[0, 1, -1]]),
    np.array([[0, 1, 1]]),
    np.array([[0, 1]]),
    np.array([[0, 1, 2, 3]]),
    np.array([[0, 1, 2]] * 2),
    np.array([0, 1, 2]),
])
def test_permute_channels_refused(make_image, perms):
    with pytest.raises(ValueError) as error:
        F.permute_patch_channels(make_image((4, 4, 3)), perms, 4)
    assert '4321' not in str(error.value)
    assert error.value.__context__ is None


def test_permute_pixels_by_hand():
    img = np.array([[10, 11, 20, 21], [12, 13, 22, 23]], np.uint8)
    perm = [1, 2, 0, 3]
    result = F.permute_patch_pixels(img, perm, 2)
    assert result.tolist() == [[11, 12, 21, 22], [10, 13, 20, 23]]
    back = F.permute_patch_pixels(result, perm, 2, True)
    assert back.tolist() == img.tolist()


def test_permute_pixels_draw():
    # Of the patch as it is when the step's turn comes.
    source = Bytes(words(4, 3, 1, 2) + b'rest')
    drawn = Cipher('mix2+permute_pixels', 4).draw((8, 16, 3), source)
    assert drawn[1].tolist() == [2, 3, 1, 0]
    assert source.data == b'rest'


@pytest.mark.parametrize('perm', [
    np.arange(3),
    np.arange(5),
    np.array([0, 1, 2, 4321]),
    np.array([0, 1, 2, 2]),
    np.array([[0, 1, 2, 3]] * 3),
    np.array([0., 1., 2., 3.]),
])
def test_permute_pixels_refused(make_image, perm):
    with pytest.raises(ValueError) as error:
        F.permute_patch_pixels(make_image((2, 2, 2, 3)), perm, 2)
    assert '4321' not in str(error.value)


# What all of them refuse.


PER_PATCH = [
    lambda img, values: F.drop_patches(img, values, 4),
    lambda img, values: F.orient_patches(img, values, 4),
    lambda img, values: F.negate_patches(img, values, 4),
]


@pytest.mark.parametrize('call', PER_PATCH)
@pytest.mark.parametrize('shape', [(), (5, ), (7, ), (2, 3), (2, 6), (4, 6),
                                   (6, 1), (3, 6, 1)])
def test_one_value_for_each_patch(make_image, call, shape):
    img = make_image((3, 8, 12, 3))
    values = np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match='each of 6 patches') as error:
        call(img, values)
    assert error.value.__context__ is None
    with pytest.raises(ValueError, match='each of 6 patches'):
        call(img[0], np.zeros((3, 6), np.uint8))
    for fitting in ((6, ), (3, 6)):
        call(img, np.zeros(fitting, np.uint8))


@pytest.mark.parametrize('call', [
    *PER_PATCH, lambda img, values: F.permute_patch_channels(img, values, 4)])
@pytest.mark.parametrize('shape', [(5, ), (2, 6), (5, 3), (6, 2), (2, 6, 3)])
def test_values_of_patches_are_in_no_message(make_image, call, shape):
    # A number that would be recognised.
    with pytest.raises(ValueError) as error:
        call(make_image((3, 8, 12, 3)), np.full(shape, 4321))
    assert '4321' not in str(error.value)
    assert error.value.__context__ is None


@pytest.mark.parametrize('name', sorted(STEPS))
def test_every_step_checks_the_image(make_image, name):
    cipher = Cipher(name, 4)
    img = make_image((8, 12, 3))
    drawn = cipher.draw(img.shape)
    for call in (cipher.apply,
                 lambda x, y: cipher.decrypt(x, y, partial=True),
                 lambda x, y: cipher.steps[0].apply(
                     x, layout(2, 3, 4), y[0])):
        with pytest.raises(TypeError, match='int64'):
            call(img.astype(np.int64), drawn)
        with pytest.raises(TypeError, match='list'):
            call(img.tolist(), drawn)
    with pytest.raises(ValueError, match='7x12.*patch size 4'):
        cipher.apply(img[:7], drawn)
    with pytest.raises(ValueError, match='8x11.*patch size 4'):
        cipher.draw((8, 11, 3))


@pytest.mark.parametrize('name', ['mix', 'erode', 'drop', 'center', 'noise'])
def test_deleted_data_stays_deleted(make_image, name):
    step = STEPS[name]()
    with pytest.raises(ValueError, match=f"'{name}' deletes data"):
        step.undo(make_image((8, 8)), layout(2, 2, 4), None)
