# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.testing import demo_mm_inputs
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from hime_mm.errors import ConfigError


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def build(seed=0, **backbone):
    torch.manual_seed(seed)
    kwargs = dict(
        type='hime_mm.PEViT',
        arch=dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=64),
        img_size=(64, 96),
        pos_encoding='learned',
        patch_embed='mixed',
        num_det_tokens=8,
        out_type='det_tokens',
    )
    kwargs.update(backbone)
    model = MODELS.build(
        dict(
            type='hime_mm.PEYOLOS',
            data_preprocessor=dict(
                type='DetDataPreprocessor',
                mean=[123.675, 116.28, 103.53],
                std=[58.395, 57.12, 57.375],
                bgr_to_rgb=True,
                pad_size_divisor=8,
            ),
            backbone=kwargs,
            bbox_head=dict(type='hime_mm.DetTokenHead', num_classes=3, embed_dims=32),
        )
    )
    with torch.no_grad():
        for name, param in model.named_parameters():
            if 'token' in name or 'pos' in name:
                param.normal_()
    return model


def inputs(shapes, **kwargs):
    data = demo_mm_inputs(len(shapes), [[3, *s] for s in shapes], num_classes=3, **kwargs)
    for sample in data['data_samples']:
        sample.set_metainfo(dict(scale_factor=(0.5, 0.5)))
    return data


@pytest.mark.parametrize(
    'backbone',
    [
        {},
        dict(with_cp=True),
        dict(patch_embed='linear'),
        dict(pos_encoding='rpe'),
        dict(out_indices=(0, 1, 2)),
    ],
)
def test_three_modes_and_gradients(backbone):
    model = build(**backbone)
    data = model.data_preprocessor(inputs([(48, 64), (64, 48)]), True)
    model.train()
    losses = model(**data, mode='loss')
    sum(losses.values()).backward()
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.abs().max() > 0, name
    model.eval()
    with torch.no_grad():
        logits, boxes = model(data['inputs'], mode='tensor')
        results = model(**data, mode='predict')
    assert logits.shape[1:] == (2, 8, 4) and boxes.shape[1:] == (2, 8, 4)
    assert len(results) == 2
    for sample in results:
        assert sample.pred_instances.bboxes.shape == (8, 4)


@pytest.mark.parametrize('patch_embed', ['linear', 'mixed'])
@pytest.mark.parametrize('pos_encoding', ['rpe', 'none', 'learned'])
def test_unequal_images_predict_as_alone(pos_encoding, patch_embed):
    model = build(pos_encoding=pos_encoding, patch_embed=patch_embed).eval()
    # Sides that are multiples of the patch, as an encryption leaves them.
    data = inputs([(48, 64), (64, 32), (16, 96)])
    with torch.no_grad():
        together = model.test_step(data)
        unmasked = model(model.data_preprocessor(data, False)['inputs'], mode='tensor')[1]
        for i, result in enumerate(together):
            alone = model.test_step(
                dict(inputs=data['inputs'][i : i + 1], data_samples=data['data_samples'][i : i + 1])
            )[0]
            torch.testing.assert_close(
                result.pred_instances.bboxes, alone.pred_instances.bboxes, atol=1e-3, rtol=0
            )
            torch.testing.assert_close(
                result.pred_instances.scores, alone.pred_instances.scores, atol=1e-3, rtol=0
            )
            raw = model(
                model.data_preprocessor(dict(inputs=data['inputs'][i : i + 1]), False)['inputs'],
                mode='tensor',
            )[1][0, 0]
            # Without the mask it would not be so.
            assert (raw - unmasked[0, i]).abs().max() > 1e-4


@pytest.mark.parametrize(
    'dtype', [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_amp_trains_with_finite_matching(dtype):
    """Big boxes, whose areas in pixels overflow float16."""
    model = build(patch_embed='linear').train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler('cpu', enabled=dtype == torch.float16)
    rng = np.random.default_rng(0)
    data = inputs([(320, 480), (480, 320)])
    for sample in data['data_samples']:
        h, w = sample.img_shape
        corners = rng.uniform(0, 0.3, (4, 2)) * (w, h)
        sizes = rng.uniform(0.5, 0.7, (4, 2)) * (w, h)
        sample.gt_instances = InstanceData(
            bboxes=torch.as_tensor(np.hstack([corners, corners + sizes]), dtype=torch.float32),
            labels=torch.arange(4) % 3,
        )
    values = []
    for _ in range(4):
        # MMEngine's AmpOptimWrapper does the same, but not without a GPU.
        with torch.autocast('cpu', dtype=dtype):
            losses = model(**model.data_preprocessor(data, True), mode='loss')
        loss = sum(losses.values())
        assert loss.dtype == torch.float32 and torch.isfinite(loss)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        values.append(loss.item())
    assert values[-1] < values[0]
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_no_boxes_at_all():
    model = build().train()
    data = inputs([(48, 64), (48, 64)], num_items=[0, 0])
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    assert losses['loss_bbox'] == 0 and torch.isfinite(losses['loss_cls'])


def test_rescale_to_the_original():
    model = build().eval()
    data = model.data_preprocessor(inputs([(48, 64)]), False)
    with torch.no_grad():
        scaled = model.predict(**_named(data), rescale=True)
        scaled = scaled[0].pred_instances.bboxes.clone()
        plain = model.predict(**_named(data), rescale=False)
    torch.testing.assert_close(scaled, plain[0].pred_instances.bboxes * 2)


def _named(data):
    return dict(batch_inputs=data['inputs'], batch_data_samples=data['data_samples'])


def test_parts_that_do_not_fit():
    with pytest.raises(ConfigError, match='out_type'):
        build(out_type='cls_token')
    with pytest.raises(ConfigError, match='embed_dims=64'):
        build(arch=dict(embed_dims=64, num_layers=1, num_heads=4, feedforward_channels=64))


def test_image_that_outgrew_its_shape():
    model = build()
    sample = DetDataSample(metainfo=dict(img_shape=(64, 64)))
    with pytest.raises(ConfigError, match='img_shape'):
        model.extract_feat(torch.rand(1, 3, 48, 64), [sample])


def test_layer_wise_decay():
    from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor as Constructor

    init_default_scope('mmpretrain')
    model = build_for_decay()
    wrapper = Constructor(
        optim_wrapper_cfg=dict(
            type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.0)
        ),
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )(model)
    rates = {g['param_name']: g['lr'] for g in wrapper.optimizer.param_groups}
    assert rates['backbone.det_token'] == rates['backbone.pos_embed'] == 1 / 16
    assert rates['backbone.layers.0.ln1.weight'] == 1 / 8
    assert rates['backbone.layers.2.ln1.weight'] == 1 / 2
    assert rates['bbox_head.cls_branch.layers.0.weight'] == 1


def build_for_decay():
    init_default_scope('mmdet')
    model = build()
    init_default_scope('mmpretrain')
    return model
