# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""DINO on a plain ViT, laid out as LW-DETR."""

import contextlib
from copy import deepcopy

import pytest
import token_parts as parts
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

from hime_mm.errors import ConfigError

DIMS = 32
LAYER = dict(
    self_attn_cfg=dict(embed_dims=DIMS, num_heads=4, dropout=0.0),
    cross_attn_cfg=dict(embed_dims=DIMS, num_heads=4, num_levels=2, dropout=0.0),
    ffn_cfg=dict(embed_dims=DIMS, feedforward_channels=48, ffn_drop=0.0),
)
#: Backbones, the cipher of their images, and the side of its patches.
KINDS = {
    'compact': (parts.MI, 'mix2', 16),
    'tiled': (dict(parts.MI, input_form='full'), 'mix2:tiled', 16),
    'TIMMPEViT': (dict(parts.TIMM, pos_encoding='learned', patch_size=7), 'mix2', 14),
}
#: Rows and columns of patches, odd ones too.
SIZES = [(4, 6), (3, 5), (4, 3)]


def build(kind='compact', **changes):
    backbone, _, _ = KINDS[kind]
    if 'TIMM' in kind:
        pytest.importorskip('timm')
    stride = dict(tiled=16, compact=8).get(kind, 7)
    model = ConfigDict(
        type='hime_mm.PEDINO',
        num_queries=9,
        with_box_refine=True,
        as_two_stage=True,
        num_feature_levels=2,
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[128.0] * 3,
            std=[64.0] * 3,
            pad_size_divisor=2 * stride,
        ),
        # Of timm's the blocks behind the last are left out.
        backbone=dict(backbone, out_indices=(0, 1) if 'TIMM' in kind else (1, 2)),
        neck=dict(
            type='hime_mm.ViTProjector', in_channels=[32] * 2, out_channels=DIMS, scales=(2, 0.5)
        ),
        decoder=dict(
            num_layers=2, return_intermediate=True, layer_cfg=deepcopy(LAYER), post_norm_cfg=None
        ),
        positional_encoding=dict(num_feats=DIMS // 2, normalize=True),
        bbox_head=dict(
            type='DINOHead',
            num_classes=3,
            embed_dims=DIMS,
            loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True),
        ),
        dn_cfg=dict(
            label_noise_scale=0.5,
            box_noise_scale=1.0,
            group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=10),
        ),
        train_cfg=dict(
            assigner=dict(
                type='HungarianAssigner', match_costs=[dict(type='FocalLossCost', weight=2.0)]
            )
        ),
        test_cfg=dict(max_per_img=9),
    )
    for key, value in changes.items():
        model[key] = value
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(model)
        model.init_weights()
    with torch.no_grad():
        for name, param in model.named_parameters():
            # Boxes and scores that differ from token to token.
            if name.startswith('bbox_head') and param.ndim > 1:
                param.normal_(std=0.3)
            elif 'pos_embed' in name:
                param.normal_()
    return model


def pairs(kind):
    _, cipher, patch = KINDS[kind]
    return [
        parts.sample(parts.picture(*size, patch, i), cipher, patch, parts.truth(*size, patch))
        for i, size in enumerate(SIZES)
    ]


@pytest.mark.parametrize('kind', KINDS)
def test_each_image_gives_what_it_gives_alone(kind):
    model, images = build(kind).eval(), pairs(kind)
    alone = [parts.detect(model, [pair])[0] for pair in images]
    together = parts.detect(model, images)
    for one, many in zip(alone, together, strict=True):
        assert len(one) == 9
        parts.assert_same(many, one, atol=1e-2)
    # Images differ, and boxes lie in the pixels of the original.
    assert abs(alone[0][0] - alone[1][0]).max() > 1
    assert max(one[:, :4].max() for one in alone) > 1.2 * SIZES[0][0] * KINDS[kind][2]


def test_padding_that_is_not_known_matters():
    """The test above sees a backbone that takes padding for image."""
    model, images = build().eval(), pairs('compact')
    alone = parts.detect(model, [images[2]])[0]
    model.backbone.told = lambda data_samples: contextlib.nullcontext()
    with pytest.raises(AssertionError):
        parts.assert_same(parts.detect(model, images)[2], alone, atol=1e-2)


@pytest.mark.parametrize('kind', KINDS)
def test_a_step_of_training(kind):
    """All losses are finite, and every part learns."""
    model = build(kind).train()
    data = model.data_preprocessor(parts.collate(pairs(kind)), True)
    losses = model(**data, mode='loss')
    assert {'enc_loss_cls', 'd0.loss_bbox', 'loss_iou', 'dn_loss_cls'} <= set(losses)
    assert all(torch.as_tensor(value).isfinite().all() for value in losses.values())
    total, _ = model.parse_losses(losses)
    total.backward()
    for name, param in model.named_parameters():
        if param.requires_grad:
            assert param.grad is not None and param.grad.any(), name
        else:
            assert name == 'level_embed'


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype):
    """Boxes are in full precision, and the losses are about the same."""
    model = build().train()
    data = model.data_preprocessor(parts.collate(pairs('compact')), True)
    totals = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast('cpu', dtype, enabled=enabled):
            totals.append(model.parse_losses(model(**deepcopy(data), mode='loss'))[0])
    totals[1].backward()
    assert totals[1].item() == pytest.approx(totals[0].item(), rel=0.1)
    with torch.no_grad(), torch.autocast('cpu', dtype):
        (result, *_) = model.eval().test_step(parts.collate(pairs('compact')))
    assert result.pred_instances.bboxes.dtype == torch.float32


def test_queries_come_from_the_projector():
    """Without an encoder its maps are the memory; with one they are not."""
    torch.manual_seed(1)
    images, (_, sample) = torch.rand(1, 3, 32, 48), pairs('compact')[0]
    layer = dict(self_attn_cfg=dict(embed_dims=DIMS, num_levels=2), ffn_cfg=dict(embed_dims=DIMS))
    seen = {}
    for encoder in (None, dict(num_layers=1, layer_cfg=layer)):
        model = build(encoder=encoder).eval()
        sample = sample.clone()
        sample.set_metainfo(dict(batch_input_shape=(32, 48), img_shape=(32, 48)))
        with torch.no_grad():
            maps = model.extract_feat(images)
            memory = model.forward_encoder(**model.pre_transformer(maps, [sample])[0])['memory']
        tokens = torch.cat([one.flatten(2) for one in maps], 2).transpose(1, 2)
        assert memory.shape == tokens.shape == (1, 8 * 12 + 2 * 3, DIMS)
        seen[encoder is None] = torch.equal(memory, tokens)
        assert model.level_embed.requires_grad == (encoder is not None)
    assert seen == {True: True, False: False}


def test_rates_fall_layer_by_layer():
    model = build()
    depth = {name: model.get_layer_depth(name)[0] for name, _ in model.named_parameters()}
    assert depth['backbone.patch_embed.projection.weight'] == 0
    assert depth['backbone.layers.1.ln1.weight'] == 2
    new = {value for name, value in depth.items() if not name.startswith('backbone.')}
    assert new == {model.get_layer_depth('neck.norms.0.weight')[1] - 1}


def test_refuses():
    with pytest.raises(ConfigError, match='ResNet cannot tell image from padding'):
        build(backbone=dict(type='ResNet', depth=18))
    neck = dict(type='hime_mm.ViTProjector', in_channels=[32] * 2, out_channels=DIMS)
    with pytest.raises(ConfigError, match='gives 1 maps, the decoder reads 2'):
        build(neck=neck)
    model = build(num_queries=103)
    data = model.data_preprocessor(parts.collate(pairs('compact')[:1]), False)
    with pytest.raises(ConfigError, match='102 tokens are fewer than the 103 queries'):
        model(**data, mode='predict')
