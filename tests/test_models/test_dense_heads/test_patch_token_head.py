# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import math

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from patch_token_parts import IGNORED, METAS, TRUTH, build, gt, perfect, total

from hime_mm.ciphers.layout import PatchLayout
from hime_mm.errors import ConfigError
from hime_mm.models.dense_heads import PatchTokenHead


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def test_towers_are_pointwise_mlps():
    head = build(stacked_convs=2)
    x = torch.randn(2, 16, 3, 5)
    outs = head([x])
    assert [len(out) for out in outs] == [1, 1]
    for tower, last, out in (
        (head.cls_convs, head.conv_cls, outs[0][0]),
        (head.reg_convs, head.conv_reg, outs[1][0]),
    ):
        tokens = x.permute(0, 2, 3, 1)
        for block in tower:
            tokens = tokens @ block.conv.weight[:, :, 0, 0].T + block.conv.bias
            tokens = 0.5 * tokens * (1 + torch.erf(tokens / math.sqrt(2)))
        tokens = tokens @ last.weight[:, :, 0, 0].T + last.bias
        torch.testing.assert_close(out.permute(0, 2, 3, 1), tokens, atol=1e-5, rtol=1e-5)
    assert outs[0][0].shape == (2, 2 * 3, 3, 5) and outs[1][0].shape == (2, 2 * 4, 3, 5)


@pytest.mark.parametrize('stacked_convs', [0, 1, 3])
def test_no_token_sees_another(stacked_convs):
    head = build(stacked_convs=stacked_convs)
    x = torch.randn(1, 16, 3, 5)
    perm = torch.randperm(15)
    moved = x.flatten(2)[..., perm].unflatten(2, (3, 5))
    for a, b in zip(head([x]), head([moved]), strict=True):
        torch.testing.assert_close(b[0].flatten(2), a[0].flatten(2)[..., perm])


@pytest.mark.parametrize('num_preds', [1, 2])
def test_scores_start_at_one_percent(num_preds):
    torch.manual_seed(0)
    head = PatchTokenHead(20, 64, num_preds=num_preds)
    head.init_weights()
    with torch.no_grad():
        (scores,), (coded,) = head([torch.randn(2, 64, 8, 8)])
    assert scores.sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)
    # Boxes start as squares of a patch at its middle.
    assert coded.abs().max() < 0.5


@pytest.mark.parametrize('rescale', [False, True])
def test_what_was_learnt_comes_back(rescale):
    """Two objects in one slot, boxes that stick out, and none of the padding."""
    outs = perfect(TRUTH, METAS)
    # Sure of itself, where there is no image.
    outs[0][0][1, :, 2] = outs[0][0][1, :, :, 3:] = 20
    results = build().predict_by_feat(*outs, batch_img_metas=METAS, rescale=rescale)
    for result, truth, meta in zip(results, TRUTH, METAS, strict=True):
        assert len(result) == len(truth) and (result.scores > 0.99).all()
        expected = (
            truth.bboxes / torch.tensor(meta['scale_factor']).repeat(2) if rescale else truth.bboxes
        )
        order = [(result.bboxes - box).abs().amax(1).argmin().item() for box in expected]
        assert sorted(order) == list(range(len(truth)))
        torch.testing.assert_close(result.bboxes[order], expected, atol=1e-3, rtol=1e-5)
        assert torch.equal(result.labels[order], truth.labels)


@pytest.mark.parametrize('num_preds', [1, 2, 3])
def test_as_many_objects_of_a_slot_as_predictions(num_preds):
    """They are assigned, and each has its own box; further ones are not."""
    head = build(num_preds=num_preds)
    truth = [gt([[9 + i, 9 + i, 15 - i, 15 - i] for i in range(3)], [0, 1, 2])]
    coded = torch.zeros(1, 4 * num_preds, 3, 5, requires_grad=True)
    scores = torch.zeros(1, 3 * num_preds, 3, 5)
    head.loss_by_feat([scores], [coded], truth, METAS[:1])['loss_bbox'][0].backward()
    learnt = coded.grad.unflatten(1, (num_preds, 4)).abs().amax(2)[0]
    assert learnt.flatten(1).ne(0).sum(1).tolist() == [1] * num_preds
    outs = perfect([truth[0][:num_preds]], METAS[:1], num_preds)
    (result,) = head.predict_by_feat(*outs, batch_img_metas=METAS[:1])
    assert sorted(result.labels.tolist()) == list(range(num_preds))


def layout(shuffled=False, permutation=None):
    return PatchLayout((24, 40), 8, (3, 5), shuffled=shuffled, permutation=permutation)


OVERLAPPING = gt([[0, 0, 14, 14], [0, 0, 18, 18], [30, 10, 48, 14]], [1, 1, 1])
NMS = dict(type='nms', iou_threshold=0.5)


@pytest.mark.parametrize('shuffled', [False, True])
def test_nothing_is_clipped_or_suppressed(shuffled):
    outs = perfect([OVERLAPPING], METAS)
    meta = dict(METAS[0], patch_layout=layout(shuffled))
    (result,) = build().predict_by_feat(*outs, batch_img_metas=[meta])
    assert len(result) == 3 and result.bboxes.max() > 47


@pytest.mark.parametrize('meta', [{}, dict(patch_layout=layout())], ids=['none', 'in place'])
@pytest.mark.parametrize('rescale', [False, True])
def test_nms_clips_and_suppresses(meta, rescale):
    """Where patches are in their places, as MMDetection's own heads do."""
    outs = perfect([OVERLAPPING], METAS)
    # Who suppresses whom is known.
    outs[0][0][0, 1, 1, 1] = 10
    head = build(test_cfg=dict(nms=NMS))
    (result,) = head.predict_by_feat(*outs, batch_img_metas=[{**METAS[0], **meta}], rescale=rescale)
    expected = torch.tensor([[0.0, 0, 18, 18], [30, 10, 40, 14]])
    if rescale:
        expected /= torch.tensor(METAS[0]['scale_factor']).repeat(2)
    torch.testing.assert_close(result.bboxes, expected, atol=1e-3, rtol=0)
    assert len(head.predict_by_feat(*outs, batch_img_metas=METAS[:1], with_nms=False)[0]) == 3


@pytest.mark.parametrize('known', [False, True])
@pytest.mark.parametrize('boxes', [OVERLAPPING, gt()], ids=len)
@pytest.mark.parametrize('nms', [NMS, dict(type='soft_nms')], ids=str)
def test_nms_of_moved_patches_is_refused(nms, boxes, known):
    """Whether the permutation is known here or not, and at the first image, be it empty."""
    perm = np.roll(np.arange(15), 1) if known else None
    meta = dict(METAS[0], patch_layout=layout(True, perm))
    outs = perfect([boxes], METAS)
    with pytest.raises(ConfigError, match=r'test_cfg\.nms.*moved.*nms=None') as error:
        build(test_cfg=dict(nms=nms)).predict_by_feat(*outs, batch_img_metas=[meta])
    assert '[' not in str(error.value)


def test_limits():
    torch.manual_seed(0)
    outs = [torch.randn(1, 6, 3, 5)], [torch.randn(1, 8, 3, 5)]
    scores = outs[0][0].sigmoid().flatten().sort(descending=True).values

    def predict(rescale=False, **test_cfg):
        head = build(test_cfg=test_cfg)
        return head.predict_by_feat(*outs, batch_img_metas=METAS[:1], rescale=rescale)[0]

    for cfg, expected in (
        (dict(score_thr=0), scores),
        ({}, scores[scores > 0.01]),
        (dict(score_thr=0.6), scores[scores > 0.6]),
        (dict(score_thr=0, nms_pre=11), scores[:11]),
        (dict(max_per_img=7), scores[:7]),
        (dict(score_thr=0.6, nms_pre=11, max_per_img=7), scores[:7]),
        (dict(score_thr=1), scores[:0]),
    ):
        result = predict(**cfg)
        torch.testing.assert_close(result.scores, expected)
        assert len(result.bboxes) == len(result.labels) == len(expected)
    for rescale in (False, True):
        every = predict(rescale, score_thr=0)
        w, h = (every.bboxes[:, 2:] - every.bboxes[:, :2]).T
        kept = (w > 8) & (h > 8)
        assert 0 < kept.sum() < len(kept)
        assert torch.equal(
            predict(rescale, score_thr=0, min_bbox_size=8).bboxes, every.bboxes[kept]
        )
    # Before it counts boxes, the head leaves small ones out.
    few = predict(score_thr=0, min_bbox_size=8, max_per_img=5)
    assert len(few) == 5


def test_through_data_samples():
    """`loss`, `predict` and `loss_and_predict`, with ignored instances and without."""
    head = build()
    x = [torch.randn(2, 16, 3, 5)]
    samples = []
    for meta, truth, ignored in zip(METAS, TRUTH, IGNORED, strict=True):
        sample = DetDataSample(metainfo=meta, gt_instances=truth)
        if len(ignored):
            sample.ignored_instances = ignored
        samples.append(sample)
    losses = head.loss(x, samples)
    expected = head.loss_by_feat(*head(x), TRUTH, METAS, IGNORED)
    assert torch.equal(total(losses), total(expected))
    results = head.predict(x, samples, rescale=True)
    assert len(results) == 2 and all(isinstance(result, InstanceData) for result in results)


@pytest.mark.parametrize('scope_', ['mmdet', 'mmpretrain', 'hime_mm'])
def test_builds_from_configs(scope_):
    init_default_scope(scope_)
    cfg = ConfigDict(
        type='hime_mm.PatchTokenHead',
        num_classes=3,
        in_channels=16,
        train_cfg=dict(pos_weight=3.0),
        test_cfg=dict(max_per_img=5),
    )
    for _ in range(2):
        head = MODELS.build(cfg)
        assert head.train_cfg.pos_weight == 3 and head.train_cfg.allowed_border == -1
        assert head.test_cfg == dict(score_thr=0.01, nms_pre=1000, max_per_img=5)
    assert head.num_base_priors == 2 and head.cls_out_channels == 3
    assert set(MODELS.build(dict(cfg, train_cfg=None, test_cfg=None)).test_cfg) == {
        'score_thr',
        'nms_pre',
        'max_per_img',
    }


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(patch_size=0), '`patch_size`.*0'),
        (dict(patch_size=(16, 16)), r'`patch_size`.*\(16, 16\)'),
        (dict(patch_size=16.0), '`patch_size`.*16.0'),
        (dict(num_preds=0), '`num_preds`.*0'),
        (dict(num_preds=None), '`num_preds`.*None'),
        (dict(loss_cls=dict(type='mmdet.QualityFocalLoss')), 'QualityFocalLoss.*use_sigmoid=True'),
        (dict(loss_cls=dict(type='mmdet.FocalLoss')), 'FocalLoss.*use_sigmoid=True'),
    ],
)
def test_refused(kwargs, words):
    with pytest.raises(ConfigError, match=words):
        PatchTokenHead(3, 16, **kwargs)
