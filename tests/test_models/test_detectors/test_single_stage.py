# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import re

import cv2
import numpy as np
import pytest
import token_parts as parts
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from token_parts import (
    ALL,
    MI,
    MOVED,
    PEVIT,
    SIZES,
    TIMM,
    assert_same,
    build,
    collate,
    detect,
    model_of,
    pictures,
    training_batch,
    truth,
)

from hime_mm.errors import ConfigError

of_all = pytest.mark.parametrize('name', ALL)


@of_all
def test_two_permutations_of_one_image(name):
    """Alone, in a padded batch and with another permutation: the same boxes in the original."""
    model, cipher, patch = model_of(name)
    first, second = (
        [parts.sample(img, cipher, patch) for img in pictures(patch)] for _ in range(2)
    )
    if name in MOVED:
        for (a, _), (b, _) in zip(first, second, strict=True):
            assert not torch.equal(a, b)
    alone = [detect(model, [pair])[0] for pair in first]
    for (rows, cols), boxes in zip(SIZES, alone, strict=True):
        # No token of padding predicts anything, and all others do.
        assert len(boxes) == rows * cols * 2 * 3
        assert np.ptp(boxes[:, :4], axis=0).min() > patch and np.ptp(boxes[:, 4]) > 0.1
    for pairs in (first, second, [second[2], first[0], second[1]]):
        order = [2, 0, 1] if len(pairs) == 3 and pairs[0] is second[2] else [0, 1, 2]
        for got, index in zip(detect(model, pairs), order, strict=True):
            assert_same(got, alone[index])


@pytest.mark.parametrize('name', ['PEViT', 'eroded', 'TIMMPEViT'])
def test_photos(name, coco_like):
    model, cipher, patch = model_of(name)
    paths = sorted((coco_like / 'val2017').glob('*'))[:2]
    sizes = [(8 * patch, 6 * patch), (5 * patch, 7 * patch)]
    photos = [cv2.resize(cv2.imread(str(p)), size) for p, size in zip(paths, sizes, strict=True)]
    first, second = ([parts.sample(img, cipher, patch) for img in photos] for _ in range(2))
    for a, b in zip(detect(model, first), detect(model, second), strict=True):
        assert_same(a, b)


def test_positions_tell_moved_patches_apart():
    """The tests above see a backbone that is not equivariant."""
    model, _, patch = model_of('plain')
    first, second = (
        detect(model, [parts.sample(pictures(patch)[0], 'shuffle', patch)])[0] for _ in range(2)
    )
    with pytest.raises(AssertionError):
        assert_same(first, second)


@of_all
def test_the_token_that_predicts_a_box_gets_it_back(name):
    """Each slot holds the centres of as many boxes as its token predicts, rescaled or not."""
    model, cipher, patch = model_of(name)
    pair = parts.sample(pictures(patch)[0], cipher, patch)
    model.eval()
    with torch.no_grad():
        (result,) = model.test_step(collate([pair]))
    layout = result.patch_layout
    boxes = result.pred_instances.bboxes.double().numpy() * np.tile(result.scale_factor, 2)
    counts = np.bincount(layout.cells(boxes), minlength=layout.num_patches)
    assert counts.tolist() == [2 * 3] * layout.num_patches


@of_all
@pytest.mark.parametrize('with_cp', [False, True])
def test_losses_do_not_know_the_order(name, with_cp):
    """One permutation or another, alone or in the batch; and every parameter learns."""
    model, cipher, patch = model_of(name, with_cp=with_cp)
    model.train()
    values = []
    for _ in range(2):
        data = model.data_preprocessor(training_batch(cipher, patch), True)
        losses = model(**data, mode='loss')
        model.zero_grad()
        sum(loss for many in losses.values() for loss in many).backward()
        values.append([many[0].item() for many in losses.values()])
        for key, param in model.named_parameters():
            assert param.grad is not None and param.grad.any(), key
    assert values[0] == pytest.approx(values[1], abs=1e-4)
    # The sum over the images alone, where each has three objects.
    alone = np.zeros(2)
    for i, size in enumerate(SIZES):
        pair = parts.sample(parts.picture(*size, patch, i), cipher, patch, truth(*size, patch))
        data = model.data_preprocessor(collate([pair]), True)
        alone += [many[0].item() for many in model(**data, mode='loss').values()]
    np.testing.assert_allclose(alone / 3, values[0], atol=1e-4)


def test_no_objects_at_all():
    model, cipher, patch = model_of('PEViT')
    pairs = [parts.sample(img, cipher, patch) for img in pictures(patch)]
    losses = model(**model.data_preprocessor(collate(pairs), True), mode='loss')
    assert losses['loss_bbox'][0] == 0 and losses['loss_cls'][0].isfinite()
    sum(loss for many in losses.values() for loss in many).backward()
    assert all(param.grad is not None for param in model.parameters())


def test_three_modes():
    """The interface of the stock detector, with the data samples and without."""
    model, cipher, patch = model_of('PEViT')
    model.eval()
    data = model.data_preprocessor(training_batch(cipher, patch), False)
    with torch.no_grad():
        (scores,), (coded,) = model(**data, mode='tensor')
        without = model(data['inputs'], mode='tensor')
        named = dict(batch_inputs=data['inputs'], batch_data_samples=data['data_samples'])
        for item in data['data_samples']:
            item.set_metainfo(dict(scale_factor=(0.5, 2.0)))
        plain = model.predict(**named, rescale=False)[0].pred_instances.bboxes.clone()
        scaled = model.predict(**named)[0].pred_instances.bboxes
    assert scores.shape == (3, 2 * 3, 3, 5) and coded.shape == (3, 2 * 4, 3, 5)
    # What is padding matters to all but the first, which fills the batch.
    gaps = (scores - without[0][0]).abs().amax((1, 2, 3))
    assert gaps[0] < 1e-5 and gaps[1:].min() > 1e-4
    torch.testing.assert_close(scaled * torch.tensor([0.5, 2, 0.5, 2]), plain)
    assert 'gt_instances' in data['data_samples'][0]


def test_names_in_checkpoints():
    names = {name for name in build().state_dict() if name.startswith('bbox_head')}
    layers = [f'{tower}.{i}.conv' for tower in ('cls_convs', 'reg_convs') for i in (0, 1)]
    layers += ['conv_cls', 'conv_reg']
    assert names == {f'bbox_head.{n}.{p}' for n in layers for p in ('weight', 'bias')}


@pytest.mark.parametrize('name', ['PEViT', 'MI', 'TIMMPEViT'])
def test_initialised_scores_are_one_percent(name):
    model, cipher, patch = model_of(name)
    torch.manual_seed(0)
    model.init_weights()
    pairs = [parts.sample(img, cipher, patch) for img in pictures(patch)]
    for boxes in detect(model, pairs):
        assert boxes[:, 4].mean() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize('backbone', [PEVIT, TIMM], ids=lambda cfg: cfg['type'])
def test_layer_wise_decay(backbone):
    from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor as Constructor

    model = build(backbone, dict(patch_size=16 if backbone is PEVIT else 14))
    init_default_scope('mmpretrain')
    wrapper = Constructor(
        optim_wrapper_cfg=dict(
            type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.0)
        ),
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )(model)
    rates = {g['param_name']: g['lr'] for g in wrapper.optimizer.param_groups}
    stem, blocks = ('', 'layers') if backbone is PEVIT else ('timm_model.', 'timm_model.blocks')
    depth = 3 if backbone is PEVIT else 2
    assert rates[f'backbone.{stem}cls_token'] == 0.5 ** (depth + 1)
    assert rates['backbone.rpe.reference'] == 1
    for i in range(depth):
        found = [rate for name, rate in rates.items() if name.startswith(f'backbone.{blocks}.{i}.')]
        assert set(found) == {0.5 ** (depth - i)}
    assert {rate for name, rate in rates.items() if name.startswith('bbox_head')} == {1}


@pytest.mark.parametrize(
    ('backbone', 'head', 'words'),
    [
        (dict(out_type='cls_token'), {}, "'cls_token'.*out_type='featmap'"),
        (dict(out_type='raw'), {}, "'raw'.*out_type='featmap'"),
        (dict(out_type='det_tokens', num_det_tokens=2), {}, "'det_tokens'.*out_type='featmap'"),
        ({}, dict(patch_size=8), 'each 16 pixels.*patch_size=16'),
        (dict(patch_size=12), {}, 'each 12 pixels.*patch_size=12'),
        (MI, {}, 'each 8 pixels.*patch_size=8'),
        (TIMM, {}, 'each 14 pixels.*patch_size=14'),
        ({}, dict(in_channels=64), '32 wide.*64.*in_channels=32'),
        (dict(out_indices=[0, -1]), {}, 'one feature map.* 2.*out_indices=-1'),
        (
            dict(_delete_=True, type='mmpretrain.VisionTransformer', out_type='featmap'),
            {},
            "VisionTransformer.*hime_mm.PEViT.*pos_encoding='learned'",
        ),
        (dict(_delete_=True, type='mmdet.ResNet', depth=18), {}, 'ResNet.*hime_mm.PEViT'),
    ],
    ids=lambda value: re.sub(r'\W+', '-', str(value))[:40],
)
def test_parts_that_do_not_fit(backbone, head, words):
    whole = backbone.pop('_delete_', False) or 'type' in backbone
    with pytest.raises(ConfigError, match=words):
        build(backbone if whole else dict(PEVIT, **backbone), head)


def test_image_that_outgrew_its_shape():
    model, cipher, patch = model_of('PEViT')
    inputs, data = parts.sample(pictures(patch)[0], cipher, patch)
    with pytest.raises(ConfigError, match='img_shape'):
        model(inputs[None, :, :32].float(), [data], mode='predict')


def test_nms_of_moved_patches_is_refused():
    cfg = dict(nms=dict(type='nms', iou_threshold=0.5))
    model, cipher, patch = model_of('PEViT', test_cfg=cfg)
    with pytest.raises(ConfigError, match='nms=None'):
        detect(model, [parts.sample(pictures(patch)[0], cipher, patch)])
    plain = parts.sample(pictures(patch)[0], 'center', patch)
    (boxes,) = detect(model, [plain])
    assert 0 < len(boxes) < 90 and boxes[:, :4].min() >= 0 and boxes[:, 2].max() <= 80


@pytest.mark.parametrize(
    'neck', [None, dict(type='mmdet.ChannelMapper', in_channels=[32], out_channels=16)]
)
def test_necks_and_heads_of_mmdetection(neck):
    """On images whose patches stay in place, padding known to the backbone."""
    width = 32 if neck is None else 16
    head = dict(
        type='mmdet.FCOSHead', num_classes=3, in_channels=width, feat_channels=8, stacked_convs=1
    )
    head.update(strides=[8], regress_ranges=[(-1, 1e8)], norm_cfg=None)
    model = build_with(MI, head, neck)
    batch = training_batch('mix2', 16)
    losses = model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')
    assert set(losses) == {'loss_cls', 'loss_bbox', 'loss_centerness'}
    model.eval()
    with torch.no_grad():
        assert all(len(result.pred_instances) for result in model.test_step(batch))
    if neck is not None:
        # Which mixes neighbours, as the one who sets it knows; here it does not.
        token = dict(type='hime_mm.PatchTokenHead', num_classes=3, in_channels=16, patch_size=8)
        model = build_with(MI, token, dict(neck, kernel_size=1))
        assert len(detect(model, [parts.sample(pictures(16)[0], 'mix2', 16)])[0]) > 0


def build_with(backbone, head, neck):
    from mmdet.registry import MODELS

    init_default_scope('mmdet')
    cfg = dict(
        type='hime_mm.PESingleStageDetector',
        data_preprocessor=dict(type='DetDataPreprocessor'),
        backbone=backbone,
        neck=neck,
        bbox_head=head,
        test_cfg=dict(
            score_thr=0, nms_pre=100, nms=dict(type='nms', iou_threshold=0.5), max_per_img=9
        ),
    )
    return MODELS.build(Config(cfg)._cfg_dict)


@pytest.mark.filterwarnings('ignore')
def test_inferencer(tmp_path):
    """Of MMDetection: a resized picture, a permutation for each call, the same boxes."""
    from mmdet.apis import DetInferencer

    meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'patch_layout')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(80, 48), keep_ratio=False),
        dict(type='hime_mm.Encrypt', cipher='shuffle', keep_permutation=True),
        dict(type='PackDetInputs', meta_keys=meta_keys),
    ]
    cfg = Config(
        dict(
            default_scope='mmdet',
            model=dict(
                type='hime_mm.PESingleStageDetector',
                data_preprocessor=dict(type='DetDataPreprocessor', mean=[128] * 3, std=[64] * 3),
                backbone=PEVIT,
                bbox_head=dict(
                    type='hime_mm.PatchTokenHead', num_classes=3, in_channels=32, feat_channels=24
                ),
                test_cfg=dict(score_thr=0),
            ),
            visualizer=dict(type='DetLocalVisualizer', vis_backends=[], name='token_head'),
            test_dataloader=dict(dataset=dict(type='CocoDataset', pipeline=pipeline)),
        )
    )
    path = tmp_path / 'picture.png'
    cv2.imwrite(str(path), parts.picture(6, 9, 16))
    inferencer = DetInferencer(cfg, device='cpu', scope='mmdet', show_progress=False)
    inferencer.model.load_state_dict(build().state_dict())
    results = [
        inferencer(str(path), no_save_vis=True, return_datasamples=True)['predictions'][0]
        for _ in range(2)
    ]
    perms = [result.patch_layout.permutation for result in results]
    assert not np.array_equal(*perms)
    first, second = (parts.in_original(result, (80 / 144, 48 / 96)) for result in results)
    assert len(first) == 90
    assert_same(first, second)
    assert first[:, :4].max() > 100


@pytest.mark.parametrize(
    'outer, inner, limit', [(None, 7, 7), (5, 7, 5), (5, None, 5), (None, None, 300)]
)
def test_whose_test_cfg_counts(outer, inner, limit):
    """The detector's, as in the host; where it has none, the head keeps its own."""
    head, own = (
        None if value is None else dict(test_cfg=dict(max_per_img=value))
        for value in (inner, outer)
    )
    model = build(head=head, **(own or dict(test_cfg=None)))
    assert model.bbox_head.test_cfg.max_per_img == limit


def test_whose_train_cfg_counts():
    head = dict(train_cfg=dict(pos_weight=3))
    assert build(head=head).bbox_head.train_cfg.pos_weight == 3
    assert build(head=head, train_cfg=dict(pos_weight=2)).bbox_head.train_cfg.pos_weight == 2
