# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import pytest
import torch
from scripts import run_fresh
from timm_parts import SMALL, build, timm

from hime_mm.errors import ConfigError
from hime_mm.models.backbones import TIMMPEViT
from hime_mm.models.backbones.timm_inspection import (
    build_vit,
    order_dependence,
    outline,
    timm_patch_size,
)

REFUSED = {
    'resnet18': ('ResNet', r'convolutions .*`conv1`'),
    'swin_tiny_patch4_window7_224': ('SwinTransformer', 'windowed attention'),
    'samvit_base_patch16': ('VisionTransformerSAM', 'windowed attention'),
    'eva02_tiny_patch14_224': ('Eva', 'rotary positions'),
    'vit_base_patch16_rope_224': ('Eva', 'rotary positions'),
    'vit_small_patch16_dinov3': ('Eva', 'rotary positions'),
    'beit_base_patch16_224': ('Beit', 'relative position biases'),
    'vit_relpos_small_patch16_224': ('VisionTransformerRelPos', 'relative position biases'),
    'convit_tiny': ('ConVit', 'relative position biases'),
    'vit_small_r26_s32_224': ('HybridEmbed', 'convolutions'),
    'levit_128s': ('Levit', 'convolutions'),
    'xcit_nano_12_p16_224': ('Xcit', 'convolutions'),
    'mixer_s32_224': ('MlpMixer', 'mix tokens by their place'),
    'gmlp_ti16_224': ('MlpMixer', 'mix tokens by their place'),
    'resmlp_12_224': ('MlpMixer', 'mix tokens by their place'),
    'poolformer_s12': ('MetaFormer', 'pooling'),
    'cait_xxs24_224': ('Cait', 'only the VisionTransformer'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refusals_say_why(name):
    kind, reason = REFUSED[name]
    with pytest.raises(ConfigError, match=f'{kind}.*{reason}') as error:
        TIMMPEViT(name)
    text = str(error.value)
    assert text.startswith(f"'{name}' ")
    assert 'deit_small_patch16_224' in text
    if not name.startswith(('resnet', 'levit', 'xcit', 'poolf', 'samvit', 'vit_small_r26')):
        assert 'convolutions' not in text


class Block(timm.models.vision_transformer.Block):
    """Of timm's name, but who knows."""


def test_parts_are_looked_at():
    """Not the names alone: arguments and surgery change a model."""
    with pytest.raises(ConfigError, match='`blocks.0` .*Block'):
        build(block_fn=Block)
    with pytest.raises(ConfigError, match=r'patches .*\(16, 8\)'):
        build_vit('deit_tiny_patch16_224', False, '', patch_size=(16, 8), **SMALL)
    for change, reason in (
        (dict(stride=8), 'patches overlap'),
        (dict(stride=16, padding=2), 'patches overlap'),
        (dict(stride=16, dilation=2), 'patches overlap'),
    ):
        model = outline('deit_tiny_patch16_224')
        assert not order_dependence(model)
        model.patch_embed.proj = torch.nn.Conv2d(3, 192, 16, **change)
        assert reason in order_dependence(model)[0]
    model = outline('deit_tiny_patch16_224')
    model.blocks[3].mlp.act = torch.nn.Softmax(dim=1)
    model.norm = torch.nn.BatchNorm1d(197)
    model.patch_embed.norm = torch.nn.BatchNorm2d(3)
    reasons = ' '.join(order_dependence(model))
    for part in (
        '`blocks.3.mlp.act` is a Softmax',
        '`norm` is a BatchNorm1d',
        '`patch_embed.norm` is a BatchNorm2d',
    ):
        assert part in reasons
    with pytest.raises(ConfigError, match='tokens before the patches.* 6'):
        build('deit_tiny_distilled_patch16_224', reg_tokens=4)


@pytest.mark.parametrize(
    'kwargs, reason',
    [
        (dict(name='deit_smal_patch16_224'), "mean 'deit_small_patch16_224'"),
        (dict(name='qqqqq'), 'list_models'),
        (dict(name='deit_tiny_patch16_224.foo'), 'deit_tiny_patch16_224.fb_in1k'),
        (dict(name='vit_base_patch16_siglip_224'), "class token.*'avg_featmap'"),
        (dict(out_type='det_tokens'), 'hime_mm.PEViT'),
        (dict(out_type='cls'), "'cls'.*'cls_token'"),
        (dict(pos_encoding='sin'), "'sin'.*'rpe'"),
        (dict(patch_size=(16, 16)), r'`patch_size` .*\(16, 16\)'),
        (dict(out_indices=2), r'`out_indices` \(2,\).*-2 to 1'),
        (dict(out_indices=[]), r'`out_indices` \(\)'),
        (dict(out_indices={1: 1}), r'`out_indices` .*\{1: 1\}'),
        (dict(out_indices={0, 1}), r'`out_indices` .*\{0, 1\}'),
        (dict(out_indices=(i for i in (0, 1))), r'`out_indices` .*generator'),
        (dict(out_indices='01'), r"`out_indices` .*'01'"),
        (dict(out_indices=[0.0, 1]), r'`out_indices` .*\[0.0, 1\]'),
        (dict(out_indices=None), '`out_indices` .*None'),
        (dict(num_classes=3), '^`num_classes` .*`in_channels`'),
        (dict(in_chans=3), '^`in_chans` .*`in_channels`'),
        (dict(out_type='featmap', patch_drop_rate=0.1), 'patch_drop_rate'),
        (
            dict(pos_encoding='learned', pos_embed='none'),
            "'deit_tiny_patch16_224' .*`pos_encoding='rpe'`",
        ),
    ],
)
def test_bad_arguments(kwargs, reason):
    with pytest.raises(ConfigError, match=reason):
        build(**kwargs)


def test_bad_types():
    with pytest.raises(TypeError, match='checkpoint_path'):
        TIMMPEViT('deit_tiny_patch16_224', pretrained='weights.pth')
    with pytest.raises(TypeError, match='no_such_option'):
        TIMMPEViT('deit_tiny_patch16_224', no_such_option=1)


@pytest.mark.parametrize(
    'name, size',
    [
        ('deit_tiny_patch16_224', 16),
        ('vit_small_patch14_reg4_dinov2.lvd142m', 14),
        ('flexivit_small', 16),
        ('vit_base_patch32_clip_224', 32),
        ('swin_tiny_patch4_window7_224', None),
        ('no_such_model', None),
    ],
)
def test_patch_size_without_weights(name, size):
    assert timm_patch_size(name) == size


@pytest.mark.slow
def test_without_timm():
    """Importing works, and using it says what is missing.

    Its twin is that of test_registration.py without mmdet.
    """
    code = (
        'import sys, importlib.metadata as meta\n'
        "sys.modules['timm'] = None\n"
        'real = meta.distribution\n'
        'def find(name):\n'
        "    if name == 'timm':\n"
        '        raise meta.PackageNotFoundError(name)\n'
        '    return real(name)\n'
        'meta.distribution = find\n'
        'from hime_mm.models.backbones import TIMMPEViT\n'
        'try:\n'
        "    TIMMPEViT('deit_tiny_patch16_224')\n"
        'except ImportError as error:\n'
        "    assert 'TIMMPEViT requires timm' in str(error), error\n"
        "    assert 'torch==' in str(error), error\n"
        'else:\n'
        '    raise AssertionError\n'
    )
    run_fresh(code)
