# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The lists of steps that are refused, and their neighbours."""

import loops
import pytest
from owner_data import named

from hime_mm.ciphers import STEPS, Cipher, Step, register_step
from hime_mm.ciphers.rules import RULES
from hime_mm.errors import CipherError


@pytest.mark.parametrize(
    'text, p, names',
    [
        ('shuffle+shuffle', 16, ["'shuffle'"]),
        ('mix2+mix2', 16, ["'mix'"]),
        ('mix2+center+mix4', 16, ["'mix'"]),
        ('erode1+shuffle+erode1', 16, ["'erode'"]),
        ('negate+negate', 16, ["'negate'"]),
        ('mix3', 16, ["'mix3'", 'side 16 ']),
        ('mix32', 16, ["'mix32'", 'side 16 ']),
        ('mix5:tiled', 16, ["'mix5'", 'side 16 ']),
        ('erode3+mix4', 16, ["'mix4'", 'side 10 ']),
        ('erode8', 16, ["'erode8'", 'side 16']),
        ('erode9:filled', 16, ["'erode9:filled'", 'side 16']),
        ('mix4+erode2', 16, ["'erode2'", 'side 4']),
        ('center', 1, ["'center'", 'one pixel']),
        ('erode1+center', 3, ["'center'", 'one pixel']),
        ('orient', 1, ["'orient'", 'one pixel']),
        ('mix16+orient', 16, ["'orient'", 'one pixel']),
        ('permute_pixels', 1, ["'permute_pixels'", 'one pixel']),
        ('mix16+permute_pixels', 16, ["'permute_pixels'", 'one pixel']),
        ('center+mix16', 16, ["'mix16'", 'side 16', "'center'"]),
        ('mix16+center', 16, ["'mix16'", 'side 16', "'center'"]),
        ('mix16:tiled+center', 16, ["'mix16:tiled'", 'side 16', "'center'"]),
        ('center+erode4+mix8', 16, ["'mix8'", 'side 8', "'center'"]),
        ('mix2:tiled+erode1', 16, ["'erode'", "'mix' in its tiled form"]),
        ('mix2:tiled+shuffle+erode1:filled', 16, ["'erode'", "'mix' in its tiled form"]),
        ('erode1:filled+mix2', 16, ["'mix'", "'erode' in its filled form"]),
        ('erode1:filled+shuffle+mix2:tiled', 16, ["'mix'", "'erode' in its filled form"]),
        ('permute_pixels+erode1', 16, ["'erode'", "'permute_pixels'"]),
        ('permute_pixels+mix2', 16, ["'mix'", "'permute_pixels'"]),
        ('permute_pixels+erode1:filled', 16, ["'erode'", "'permute_pixels'"]),
        ('erode1:filled+shuffle+center', 16, ["'center'", "'erode' in its filled form"]),
        ('erode1:filled+permute_pixels', 16, ["'permute_pixels'", "'erode' in its filled form"]),
        ('mix2:tiled+noise25', 16, ["'noise'", "'mix' in its tiled form"]),
        ('drop50+noise25', 16, ["'noise'", "'drop'"]),
        ('drop50+shuffle+noise25', 16, ["'noise'", "'drop'"]),
    ],
)
def test_meaningless(text, p, names):
    with pytest.raises(CipherError, match=named(*names)):
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
        with pytest.raises(CipherError, match=named("'mix16'", 'side 16', "'other'")):
            Cipher(text)
    with pytest.raises(CipherError, match=named("fit='pad'", "'other'")):
        Cipher('other').check_fit('pad')
    new_step(monkeypatch, leaves_means_only=lambda self, side: side == 16)
    with pytest.raises(CipherError, match=named("'other'", 'side 16', "'center'")):
        Cipher('center+other')
    assert Cipher('erode1+center+other')


@pytest.mark.parametrize(
    'text, remedy',
    [
        (
            'mix2:tiled+erode1',
            "'erode'.*'mix' in its tiled form.*'erode' first.*compact form of 'mix'$",
        ),
        (
            'erode1:filled+permute_pixels',
            "'permute_pixels'.*'erode' in its filled form ((?! first).)* compact form of 'erode'$",
        ),
        ('permute_pixels+mix2', "'mix'.*'permute_pixels' .*'mix' first$"),
    ],
)
def test_remedies(text, remedy):
    with pytest.raises(CipherError, match=remedy):
        Cipher(text)
