# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import math

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes, bbox_overlaps
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from hime_mm.ciphers.layout import PatchLayout
from hime_mm.errors import ConfigError
from hime_mm.models.dense_heads import PatchTokenHead
from hime_mm.models.task_modules import PatchTokenCoder

FOCAL = dict(type='mmdet.FocalLoss', use_sigmoid=True)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def build(num_classes=3, width=16, **kwargs):
    torch.manual_seed(0)
    kwargs = {'patch_size': 8, 'feat_channels': 12, **kwargs}
    head = PatchTokenHead(num_classes, width, **kwargs)
    head.init_weights()
    with torch.no_grad():
        for conv in (head.conv_cls, head.conv_reg):
            conv.weight.normal_(std=0.3)
    return head


def gt(boxes=(), labels=None):
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([0] * len(boxes) if labels is None else labels, dtype=torch.long),
    )


#: Of a batch of 24x40 pixels, 3x5 tokens; of the second one, 2x3 show something.
METAS = [
    dict(img_shape=(24, 40), pad_shape=(24, 40), scale_factor=(0.5, 2.0)),
    dict(img_shape=(16, 20), pad_shape=(24, 40), scale_factor=(1.0, 1.0)),
]
#: Two centres in one slot; one box that is larger than the image; one in the second.
TRUTH = [
    gt([[9, 10, 14, 13], [2, 0, 21, 23], [-9, -30, 80, 70]], [0, 2, 1]),
    gt([[4, 4, 9, 15]], [2]),
]
IGNORED = [gt([[30, 10, 34, 14], [10, 10, 12, 12]]), gt()]


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


def giou(a, b):
    ix = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    iy = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    inter = ix * iy
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inter / union - (hull - union) / hull, inter / union


def straightforward(scores, coded, quality):
    """Focal or quality focal loss and GIoU, by loops over images, tokens and predictions."""
    # By image, row, column and prediction: its object, None where it is ignored.
    held = {
        (0, 1, 1, 0): 1,
        (0, 1, 1, 1): 0,
        (0, 2, 4, 0): 2,
        (0, 1, 4, 0): None,
        (0, 1, 4, 1): None,
        (1, 1, 0, 0): 0,
    }
    cls_sum = box_sum = 0.0
    num = sum(value is not None for value in held.values())
    for b, grid in ((0, (3, 5)), (1, (2, 3))):
        for row in range(grid[0]):
            for col in range(grid[1]):
                for k in range(2):
                    p = scores[b, k * 3 : k * 3 + 3, row, col].sigmoid().tolist()
                    object_ = held.get((b, row, col, k), -1)
                    if object_ is None:
                        continue
                    overlap, label = 0.0, -1
                    if object_ >= 0:
                        t = coded[b, k * 4 : k * 4 + 4, row, col].double()
                        cx = (col + 0.001 + 0.998 * t[0].sigmoid().item()) * 8
                        cy = (row + 0.001 + 0.998 * t[1].sigmoid().item()) * 8
                        w, h = (8 * t[2:].exp()).tolist()
                        box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                        value, overlap = giou(box, TRUTH[b].bboxes[object_].tolist())
                        box_sum += 1 - value
                        label = TRUTH[b].labels[object_].item()
                    for c, q in enumerate(p):
                        if quality:
                            y = overlap if c == label else 0.0
                            ce = -y * math.log(q) - (1 - y) * math.log(1 - q)
                            cls_sum += ce * abs(y - q) ** 2
                        elif c == label:
                            cls_sum -= 0.25 * (1 - q) ** 2 * math.log(q)
                        else:
                            cls_sum -= 0.75 * q**2 * math.log(1 - q)
    return cls_sum / num, 2 * box_sum / num


@pytest.mark.parametrize('boxed', [False, True])
@pytest.mark.parametrize('quality', [False, True])
def test_losses_against_straightforward_ones(quality, boxed):
    """Padding, ignored boxes, two objects in one slot; what is no object's is background."""
    head = build(**({} if quality else dict(loss_cls=FOCAL)))
    scores, coded = torch.randn(2, 6, 3, 5), torch.randn(2, 8, 3, 5)
    truth, ignored = [[t.clone() for t in many] for many in (TRUTH, IGNORED)]
    if boxed:
        for instances in truth + ignored:
            instances.bboxes = HorizontalBoxes(instances.bboxes)
    losses = head.loss_by_feat([scores], [coded], truth, METAS, ignored)
    assert sorted(losses) == ['loss_bbox', 'loss_cls']
    loss_cls, loss_bbox = straightforward(scores, coded, quality)
    assert losses['loss_cls'][0].item() == pytest.approx(loss_cls, 1e-4)
    assert losses['loss_bbox'][0].item() == pytest.approx(loss_bbox, 1e-4)


def total(losses):
    return sum(loss for many in losses.values() for loss in many)


LOSSES = [
    {},
    dict(loss_cls=FOCAL),
    dict(loss_cls=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=False)),
    dict(loss_bbox=dict(type='mmdet.DIoULoss')),
    dict(loss_bbox=dict(type='mmdet.L1Loss')),
]


@pytest.mark.parametrize('kwargs', LOSSES, ids=str)
@pytest.mark.parametrize(
    'truth', [TRUTH, [TRUTH[0], gt()], [gt(), gt()]], ids=['all', 'one', 'none']
)
def test_every_parameter_has_a_gradient(truth, kwargs):
    """Whatever the batch holds: DDP waits for all of them."""
    head = build(**kwargs)
    losses = head.loss_by_feat(*head([torch.randn(2, 16, 3, 5)]), truth, METAS)
    if not any(map(len, truth)):
        assert losses['loss_bbox'][0] == 0
    total(losses).backward()
    for name, param in head.named_parameters():
        assert param.grad is not None and param.grad.isfinite().all(), name
        assert param.grad.any() or 'reg' in name and not any(map(len, truth)), name


@pytest.mark.parametrize('held', [False, True])
def test_a_box_out_of_bounds_leaves_the_losses_finite(held):
    """Half precision overflows now and then."""
    coded = torch.zeros(1, 8, 3, 5)
    coded[0, :4, 1, 1] = torch.tensor([torch.inf, -torch.inf, torch.inf, -torch.inf])
    truth = TRUTH[:1] if held else [gt()]
    losses = build().loss_by_feat([torch.zeros(1, 6, 3, 5)], [coded], truth, METAS[:1])
    assert total(losses).isfinite()


def test_tokens_of_padding_are_no_background():
    head = build()
    x = torch.randn(2, 16, 3, 5)
    outs = [out[0].detach().requires_grad_() for out in head([x])]
    total(head.loss_by_feat([outs[0]], [outs[1]], [gt(), gt()], METAS)).backward()
    grad = outs[0].grad
    assert grad[0].all() and grad[1, :, :2, :3].all()
    assert not grad[1, :, 2:].any() and not grad[1, :, :, 3:].any()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_automatic_mixed_precision(dtype):
    """Losses are float32, areas of boxes do not overflow and widths are not rounded."""
    head = build(patch_size=16)
    x = torch.randn(2, 16, 84, 84) * 3
    metas = [dict(img_shape=(1344, 1344), scale_factor=(1.0, 1.0))] * 2
    truth = [gt([[0, 0, 1340, 1340], [3, 5, 700, 800]], [0, 1]), gt()]
    expected = head([x])
    exact = head.loss_by_feat(*expected, truth, metas)
    with torch.autocast('cpu', dtype=dtype):
        outs = head([x.to(dtype)])
        losses = head.loss_by_feat(*outs, truth, metas)
        result = head.predict_by_feat(*outs, batch_img_metas=metas)[0]
    for (out,), (plain,) in zip(outs, expected, strict=True):
        assert out.dtype == torch.float32
        assert not torch.equal(out, out.to(dtype).float())
        torch.testing.assert_close(out, plain, atol=0.1, rtol=0)
    for name, (loss,) in losses.items():
        assert loss.dtype == torch.float32 and loss.isfinite()
        torch.testing.assert_close(loss, exact[name][0], atol=0, rtol=0.02)
    assert result.bboxes.dtype == result.scores.dtype == torch.float32
    total(losses).backward()
    assert all(param.grad.isfinite().all() for param in head.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_parameters_of_other_types(dtype):
    head, x = build(), torch.randn(2, 16, 3, 5)
    exact = head.loss_by_feat(*head([x]), TRUTH, METAS)
    head = head.to(dtype)
    outs = head([x.to(dtype)])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert outs[0][0].dtype == outs[1][0].dtype == wide
    losses = head.loss_by_feat(*outs, TRUTH, METAS)
    for name, (loss,) in losses.items():
        assert loss.dtype == wide
        torch.testing.assert_close(loss.float(), exact[name][0], atol=0, rtol=0.05)
    total(losses).backward()
    for param in head.parameters():
        assert param.grad.dtype == dtype and param.grad.isfinite().all()
    for result in head.predict_by_feat(*outs, batch_img_metas=METAS):
        assert result.bboxes.dtype == wide and result.bboxes.isfinite().all()


def perfect(truth, metas, num_preds=2, num_classes=3, grid=(3, 5), size=8):
    """What a head would have to give for some boxes: those of one slot one after another."""
    scores = torch.full((len(truth), num_preds, num_classes, *grid), -20.0)
    coded = torch.randn(len(truth), num_preds, 4, *grid)
    for b, instances in enumerate(truth):
        taken = {}
        for box, label in zip(instances.bboxes, instances.labels, strict=True):
            col, row = (((box[:2] + box[2:]) / 2) // size).long().tolist()
            k = taken[row, col] = taken.get((row, col), -1) + 1
            slot = torch.tensor([[col, row, col + 1, row + 1]]) * float(size)
            scores[b, k, label, row, col] = 9
            coded[b, k, :, row, col] = PatchTokenCoder().encode(slot, box[None])[0]
    return [scores.flatten(1, 2)], [coded.flatten(1, 2)]


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


def test_quality_scores_learn_how_well_boxes_fit():
    """The best score is the overlap, not one."""
    head = build()
    _, coded = perfect([TRUTH[1]], METAS[1:])
    coded[0][:, 2:4] += 0.3
    slot = torch.tensor([[0.0, 8, 8, 16]])
    box = head.bbox_coder.decode(slot, coded[0][0, :4, 1, 0][None])
    overlap = bbox_overlaps(box, TRUTH[1].bboxes).item()
    assert 0.3 < overlap < 0.9
    scores = torch.full((1, 6, 3, 5), -20.0)
    losses = []
    for value in (overlap, 0.999, overlap / 2):
        scores[0, 2, 1, 0] = torch.logit(torch.tensor(value))
        losses.append(
            head.loss_by_feat([scores], coded, TRUTH[1:], METAS[1:])['loss_cls'][0].item()
        )
    assert losses[0] == pytest.approx(0, abs=1e-6) and min(losses[1:]) > 0.01


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
