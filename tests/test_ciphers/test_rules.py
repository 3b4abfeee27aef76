# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The lists of steps that are refused, and their neighbours."""

import loops
import pytest

from hime_mm.ciphers import STEPS, Cipher, Step, register_step
from hime_mm.ciphers.rules import RULES
from hime_mm.errors import CipherError


@pytest.mark.parametrize(
    'text, p, reason',
    [
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
        (
            'center+mix16',
            16,
            "'mix16' leaves the mean of each patch of side 16, "
            "and 'center' removes just that.*fewer splits",
        ),
        ('mix16+center', 16, "'center' removes just that"),
        ('mix16:tiled+center', 16, "'center' removes just that"),
        ('center+erode4+mix8', 16, "'center' removes just that"),
        ('mix2:tiled+erode1', 16, "the border are repeated inside. Put 'erode' first"),
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
    ],
)
def test_meaningless(text, p, reason):
    with pytest.raises(ValueError, match=reason):
        Cipher(text, p)
    assert loops.refused(text, p)


@pytest.mark.parametrize(
    'text, p',
    [
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
    ],
)
def test_sensible(text, p):
    assert str(Cipher(text, p)) == text
    assert not loops.refused(text, p)


# A step that nobody has heard of is judged by its traits.


def new_step(monkeypatch, **traits):
    """Register a step of this kind for one test."""
    monkeypatch.setitem(STEPS, 'other', None)
    register_step(type('Other', (Step,), dict(name='other', invertible=False, leaves='', **traits)))


@pytest.mark.parametrize('rule', RULES)
def test_rules_know_no_names(monkeypatch, rule):
    """Each rule with a new step as the later one and as the earlier one."""
    earlier = next(
        text
        for text in ('mix2:tiled', 'erode1:filled', 'permute_pixels', 'drop50')
        if getattr(Cipher(text).steps[0], rule.first)
    )
    later = next(
        text
        for text in ('erode1', 'mix2', 'center', 'permute_pixels', 'noise25')
        if getattr(Cipher(text).steps[0], rule.second)
    )
    new_step(monkeypatch)
    for text in (f'{earlier}+other', f'other+{later}'):
        assert str(Cipher(text)) == text
    for trait, text in ((rule.second, f'{earlier}+other'), (rule.first, f'other+{later}')):
        new_step(monkeypatch, **{trait: True})
        with pytest.raises(CipherError) as error:
            Cipher(text)
        assert rule.reason in str(error.value)


def test_means_that_are_left_and_removed(monkeypatch):
    new_step(monkeypatch, removes_means=True)
    for text in ('other+mix16', 'mix16+other'):
        with pytest.raises(CipherError, match="'other' removes just that"):
            Cipher(text)
    with pytest.raises(CipherError, match="takes part in 'other'"):
        Cipher('other').check_fit('pad')
    new_step(monkeypatch, leaves_means_only=lambda self, side: side == 16)
    with pytest.raises(CipherError, match="'other' leaves the mean"):
        Cipher('center+other')
    assert Cipher('erode1+center+other')


@pytest.mark.parametrize(
    'text, remedy',
    [
        (
            'mix2:tiled+erode1',
            "'erode' after 'mix' in its tiled form .*Put 'erode' first, or use the "
            "compact form of 'mix'$",
        ),
        (
            'erode1:filled+permute_pixels',
            "'permute_pixels' after 'erode' in its filled form .*Use the compact form of 'erode'$",
        ),
        ('permute_pixels+mix2', "'mix' after 'permute_pixels' .*Put 'mix' first$"),
    ],
)
def test_remedies(text, remedy):
    with pytest.raises(CipherError, match=remedy):
        Cipher(text)
