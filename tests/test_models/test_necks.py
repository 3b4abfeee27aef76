# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import math

import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope

from hime_mm.errors import ConfigError
from hime_mm.models.necks import SimpleFeaturePyramid

ARCH = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64)
PEVIT = dict(type='hime_mm.PEViT', arch=ARCH, pos_encoding='learned', out_type='featmap')
TIMM = dict(
    type='hime_mm.TIMMPEViT',
    model_name='vit_small_patch14_reg4_dinov2',
    depth=2,
    embed_dim=32,
    num_heads=4,
    img_size=70,
    pos_encoding='learned',
    out_type='featmap',
)
#: Backbones and their patches in pixels of the images that come in.
BACKBONES = {
    'plain': (PEVIT, 16),
    'compact MI': (dict(PEVIT, patch_embed='mixed'), 8),
    'timm': (TIMM, 14),
}
FACTORS = (4.0, 2.0, 1.0, 0.5, 0.25)


def pyramid(**kwargs):
    """One whose biases and norms do something."""
    torch.manual_seed(0)
    neck = SimpleFeaturePyramid(**{'in_channels': 16, 'out_channels': 8, **kwargs})
    with torch.no_grad():
        for param in neck.parameters():
            if param.ndim == 1:
                param.normal_(0.5, 0.3)
    return neck


def norm(x, scale, shift, eps=1e-6):
    """Over the channels of each point."""
    x = x - x.mean(1, keepdim=True)
    x = x / (x.square().mean(1, keepdim=True) + eps).sqrt()
    return x * scale[:, None, None] + shift[:, None, None]


def by_hand(x, params, factor):
    """ViTDet's layers, one after the other, on weights in their order."""
    params = iter(params)

    def take(num=1):
        return [next(params) for _ in range(num)]

    if factor == 4:
        x = F.conv_transpose2d(x, *take(2), stride=2)
        x = F.gelu(norm(x, *take(2)))
        x = F.conv_transpose2d(x, *take(2), stride=2)
    elif factor == 2:
        x = F.conv_transpose2d(x, *take(2), stride=2)
    elif factor < 1:
        side = round(1 / factor)
        x = F.pad(x, (0, -x.shape[3] % side, 0, -x.shape[2] % side), value=-torch.inf)
        x = x.unflatten(2, (-1, side)).unflatten(4, (-1, side)).amax((3, 5))
    x = norm(F.conv2d(x, *take()), *take(2))
    x = norm(F.conv2d(x, *take(), padding=1), *take(2))
    assert next(params, None) is None
    return x


@pytest.mark.parametrize('grid', [(4, 8), (5, 7), (1, 3)])
def test_levels_are_those_of_vitdet(grid):
    neck, x = pyramid(scale_factors=FACTORS), torch.randn(2, 16, *grid)
    levels = neck([torch.zeros_like(x), x])
    assert len(levels) == 5
    for level, got, factor in zip(neck.levels, levels, FACTORS, strict=True):
        sides = [math.ceil(side * factor) for side in grid]
        assert got.shape == (2, 8, *sides)
        expected = by_hand(x, list(level.parameters()), factor)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_further_levels_take_every_second_point():
    neck, x = pyramid(scale_factors=(2.0, 1.0), num_outs=4), torch.randn(2, 16, 5, 7)
    levels = neck([x])
    assert [tuple(level.shape[2:]) for level in levels] == [(10, 14), (5, 7), (3, 4), (2, 2)]
    assert torch.equal(levels[2], levels[1][:, :, ::2, ::2])
    assert torch.equal(levels[3], levels[1][:, :, ::4, ::4])


def test_other_norms():
    neck = pyramid(norm_cfg=dict(type='GN', num_groups=2))
    kinds = [type(m).__name__ for m in neck.modules() if 'Norm' in type(m).__name__]
    assert kinds == ['GroupNorm'] * 9
    bare = pyramid(norm_cfg=None)
    assert not any('Norm' in type(m).__name__ for m in bare.modules())
    # Without a norm the convolutions have their own biases.
    assert sum(param.ndim == 1 for param in bare.parameters()) == 3 + 2 * 4


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(scale_factors=(4.0, 3.0, 1.0)), r'4.0, 3.0, 1.0.*cannot be made.*0.25'),
        (dict(scale_factors=(8,)), '8.*cannot be made'),
        (dict(scale_factors=()), 'scale_factors'),
        (dict(num_outs=3), '`num_outs` is 3.* 4 `scale_factors`'),
    ],
)
def test_what_cannot_be_made(options, words):
    with pytest.raises(ConfigError, match=words):
        pyramid(**options)


@pytest.mark.parametrize('name', BACKBONES)
def test_on_backbones(name):
    """Strides are those of the patches over the factors, and all parameters learn."""
    if name == 'timm':
        pytest.importorskip('timm')
    cfg, patch = BACKBONES[name]
    with DefaultScope.overwrite_default_scope('mmdet'):
        torch.manual_seed(0)
        backbone = MODELS.build(cfg)
        neck = MODELS.build(
            dict(type='hime_mm.SimpleFeaturePyramid', in_channels=32, out_channels=8, num_outs=5)
        )
    neck.init_weights()
    sides = (4 * patch, 6 * patch)
    levels = neck(backbone(torch.randn(2, 3, *sides)))
    strides = [patch / 4, patch / 2, patch, patch * 2, patch * 4]
    for level, stride in zip(levels, strides, strict=True):
        assert level.shape == (2, 8, *(math.ceil(side / stride) for side in sides))
    # A sum alone has no gradient behind a norm.
    sum((level * torch.randn_like(level)).sum() for level in levels).backward()
    for key, param in (*backbone.named_parameters(), *neck.named_parameters()):
        assert param.grad is not None and param.grad.any(), key
