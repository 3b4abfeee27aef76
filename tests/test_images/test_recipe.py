# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import json
from dataclasses import fields

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from owner_data import SECRET

from hime_mm.ciphers import Cipher, Key
from hime_mm.cli.encrypt import coco, folder
from hime_mm.errors import CipherError, EncryptionError, HimeError
from hime_mm.images import Recipe
from hime_mm.images.augment import Augment
from hime_mm.images.preprocess import Preprocess

KEY = Key(SECRET)

preprocesses = st.builds(
    Preprocess,
    color_type=st.sampled_from(['color', 'grayscale', 'unchanged']),
    short_side=st.none()
    | st.integers(1, 500)
    | st.lists(st.integers(1, 500), min_size=1).map(tuple),
    fit=st.sampled_from(['resize', 'error']),
    pad_val=st.integers(0, 255) | st.tuples(*[st.integers(0, 255)] * 3),
    augment=st.builds(Augment, flip=st.floats(0, 1), jitter=st.floats(0, 0.9)),
)
recipes = st.builds(
    Recipe,
    cipher=st.sampled_from(
        ['shuffle', 'mix2:tiled', 'center+erode2+shuffle', 'drop50', 'noise25']
    ).map(Cipher),
    preprocess=preprocesses,
    names=st.sampled_from(['keep', 'ids']),
    compression=st.none() | st.integers(0, 9),
    one_way=st.booleans(),
)


@given(recipes)
def test_there_and_back_through_a_manifest(recipe):
    mode = 'one-way' if recipe.one_way else 'keyed'
    state = json.loads(json.dumps(dict(recipe.to_dict(), mode=mode)))
    assert Recipe.from_dict(state) == recipe


@given(recipes)
def test_no_secret_is_in_it(recipe):
    assert not any(isinstance(value, (bytes, Key)) for value in vars(recipe).values())


@pytest.mark.parametrize(
    'settings, match',
    [
        (dict(cipher='mix2', views=2), "2 views.*'mix2'"),
        (dict(cipher='shuffle', views=0), '`views`.*at least 1.*0'),
        (dict(cipher='shuffle', views=True), '`views`.*True'),
        (dict(cipher='shuffle', names='hash'), "'hash'.*ids"),
        (dict(cipher='shuffle', fmt='jpg'), "'jpg'"),
        (dict(cipher='shuffle', fmt='webp', compression=3), "compression.* 3 .*'webp'"),
        (dict(cipher='shuffle', compression=11), "compression.* 11 .*'png'"),
        (
            dict(cipher='shuffle', fmt='webp', preprocess=dict(color_type='unchanged')),
            "'webp'.*'unchanged'",
        ),
        (dict(cipher='center', preprocess=dict(fit='pad')), "fit='pad'.*'center'"),
        (dict(cipher='permute_pixels', one_way=True), "'permute_pixels'.*key"),
    ],
)
def test_contradictions(settings, match):
    with pytest.raises(HimeError, match=match):
        Recipe.build(**settings)


def test_unknown_cipher_and_setting():
    with pytest.raises(CipherError, match="'blur'"):
        Recipe.build('blur')
    with pytest.raises(HimeError, match="'blur'"):
        Recipe.build('shuffle', preprocess=dict(blur=3))
    with pytest.raises(HimeError, match="'spin'"):
        Recipe.build('shuffle', preprocess=dict(augment=dict(spin=3)))
    with pytest.raises(TypeError, match='colour'):
        Recipe.build('shuffle', colour=1)


@pytest.mark.parametrize(
    'cipher, augment, one_way, key, match',
    [
        ('shuffle', {}, False, None, "'shuffle'.*one-way"),
        ('mix2', dict(flip=0.5), False, None, "'mix2'.*one-way"),
        ('shuffle', {}, True, KEY, 'key.*`one_way`'),
        ('mix2', {}, False, None, None),
        ('mix2', {}, False, KEY, None),
        ('shuffle', {}, True, None, None),
        ('shuffle', {}, False, KEY, None),
    ],
)
def test_key(cipher, augment, one_way, key, match):
    recipe = Recipe.build(cipher, preprocess=dict(augment=augment), one_way=one_way)
    if match is None:
        recipe.check(key)
        return
    with pytest.raises(EncryptionError, match=match):
        recipe.check(key)


@pytest.mark.parametrize('command', [coco, folder])
def test_every_setting_is_an_option_with_the_same_default(command):
    options = {param.name: param for param in command.params}
    context = click.Context(command)
    for owner in (Recipe, Preprocess, Augment):
        for item in fields(owner):
            if item.name == 'center_crop' and command is coco:
                assert 'center_crop' not in options
            elif item.metadata:
                default = options[item.name].get_default(context)
                assert (default or None) == (item.default or None)
                assert options[item.name].help == item.metadata['text']
    # All that is no option of a setting.
    assert {
        item.name
        for owner in (Recipe, Preprocess, Augment)
        for item in fields(owner)
        if not item.metadata
    } == {'cipher', 'preprocess', 'augment', 'storage'}  # a value of `--format`
