# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import math

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment

from hime_mm.errors import ConfigError
from hime_mm.models.dense_heads import DetTokenHead


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def gt(boxes, labels):
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
    )


METAS = [
    dict(img_shape=(100, 200), scale_factor=(0.5, 0.5)),
    dict(img_shape=(80, 60), scale_factor=(2.0, 4.0)),
]


def test_mlps_are_plain_relu_mlps():
    torch.manual_seed(0)
    head = DetTokenHead(3, 16)
    tokens = torch.randn(2, 5, 16)
    logits, boxes = head((tokens,))
    assert logits.shape == (1, 2, 5, 4) and boxes.shape == (1, 2, 5, 4)
    for branch, out, width, last in (
        (head.cls_branch, logits, 4, None),
        (head.reg_branch, boxes, 4, torch.sigmoid),
    ):
        layers = [m for m in branch.modules() if isinstance(m, torch.nn.Linear)]
        assert [m.out_features for m in layers] == [16, 16, width]
        x = tokens
        for i, layer in enumerate(layers):
            x = torch.einsum('bqd,ed->bqe', x, layer.weight) + layer.bias
            if i < 2:
                x = torch.where(x > 0, x, torch.zeros(()))
        if last is not None:
            x = 1 / (1 + torch.exp(-x))
        torch.testing.assert_close(out[0], x, atol=1e-5, rtol=0)


def giou(a, b):
    ix = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    iy = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    inter = ix * iy
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inter / union - (hull - union) / hull


def test_set_loss_against_a_straightforward_one():
    """DETR's loss: match by 1·class + 5·L1 + 2·GIoU, no-object weight 0.1."""
    torch.manual_seed(0)
    head = DetTokenHead(3, 16)
    logits = torch.randn(1, 2, 6, 4)
    boxes = torch.rand(1, 2, 6, 4) * 0.5 + 0.2
    truth = [gt([[10, 20, 60, 70], [100, 10, 180, 90]], [0, 2]), gt([[5, 5, 30, 60]], [1])]
    got = head.loss_by_feat(logits, boxes, truth, METAS)

    ce_sum = weight_sum = l1 = giou_sum = 0.0
    num = sum(len(t) for t in truth)
    for b, (instances, meta) in enumerate(zip(truth, METAS, strict=True)):
        h, w = meta['img_shape']
        prob = torch.softmax(logits[0, b], -1)
        cxcywh = boxes[0, b]
        xyxy = [
            [
                (c[0] - c[2] / 2) * w,
                (c[1] - c[3] / 2) * h,
                (c[0] + c[2] / 2) * w,
                (c[1] + c[3] / 2) * h,
            ]
            for c in cxcywh.tolist()
        ]
        cost = np.zeros((6, len(instances)))
        targets = []
        for j, box in enumerate(instances.bboxes.tolist()):
            target = [
                (box[0] + box[2]) / 2 / w,
                (box[1] + box[3]) / 2 / h,
                (box[2] - box[0]) / w,
                (box[3] - box[1]) / h,
            ]
            targets.append(target)
            for i in range(6):
                cost[i, j] = (
                    -prob[i, instances.labels[j]].item()
                    + 5 * sum(abs(p - t) for p, t in zip(cxcywh[i].tolist(), target, strict=True))
                    - 2 * giou(xyxy[i], box)
                )
        classes = [3] * 6
        for i, j in zip(*linear_sum_assignment(cost), strict=True):
            classes[i] = int(instances.labels[j])
            l1 += sum(abs(p - t) for p, t in zip(cxcywh[i].tolist(), targets[j], strict=True))
            giou_sum += 1 - giou(xyxy[i], instances.bboxes[j].tolist())
        for i, label in enumerate(classes):
            weight = 0.1 if label == 3 else 1.0
            ce_sum -= weight * math.log(prob[i, label])
            weight_sum += weight
    assert got['loss_cls'].item() == pytest.approx(ce_sum / weight_sum, 1e-4)
    assert got['loss_bbox'].item() == pytest.approx(5 * l1 / num, 1e-4)
    assert got['loss_iou'].item() == pytest.approx(2 * giou_sum / num, 1e-4)


def test_images_without_boxes():
    head = DetTokenHead(3, 16)
    tokens = torch.randn(2, 6, 16, requires_grad=True)
    losses = head.loss_by_feat(*head((tokens,)), [gt([], []), gt([], [])], METAS)
    assert losses['loss_bbox'] == 0 and losses['loss_iou'] == 0
    assert losses['loss_cls'] > 0
    sum(losses.values()).backward()
    assert torch.isfinite(tokens.grad).all()


def test_more_boxes_than_tokens():
    head = DetTokenHead(3, 16)
    boxes = [[i, i, i + 20, i + 30] for i in range(9)]
    losses = head.loss_by_feat(*head((torch.randn(1, 4, 16),)), [gt(boxes, [0] * 9)], METAS[:1])
    assert all(torch.isfinite(v) for v in losses.values())
    targets = head.get_targets(
        [torch.randn(4, 4)], [torch.rand(4, 4)], [gt(boxes, [0] * 9)], METAS[:1]
    )
    assert targets[4] == 4 and targets[5] == 0


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_matching_and_losses_in_float32(dtype):
    """Areas of boxes in pixels overflow half precision."""
    head = DetTokenHead(3, 16)
    meta = dict(img_shape=(1344, 1344), scale_factor=(1.0, 1.0))
    truth = [gt([[0, 0, 1340, 1340], [3, 5, 700, 800]], [0, 1])]
    tokens = torch.randn(1, 6, 16)
    with torch.autocast('cpu', dtype=dtype):
        outs = head((tokens.to(dtype),))
        assert outs[0].dtype == outs[1].dtype == torch.float32
        losses = head.loss_by_feat(outs[0].to(dtype), outs[1].to(dtype), truth, [meta])
    exact = head.loss_by_feat(outs[0].to(dtype).float(), outs[1].to(dtype).float(), truth, [meta])
    for name, loss in losses.items():
        assert loss.dtype == torch.float32 and torch.isfinite(loss)
        torch.testing.assert_close(loss, exact[name], atol=1e-5, rtol=1e-5)


def test_several_layers_give_auxiliary_losses():
    head = DetTokenHead(3, 16)
    tokens = [torch.randn(2, 6, 16) for _ in range(3)]
    truth = [gt([[1, 2, 30, 40]], [0]), gt([], [])]
    losses = head.loss_by_feat(*head(tokens), truth, METAS)
    assert set(losses) == {
        f'{p}{n}' for p in ('', 'd0.', 'd1.') for n in ('loss_cls', 'loss_bbox', 'loss_iou')
    }
    alone = head.loss_by_feat(*head(tokens[:1]), truth, METAS)
    torch.testing.assert_close(losses['d0.loss_bbox'], alone['loss_bbox'])


def test_predictions_in_the_original():
    head = DetTokenHead(3, 16)
    logits = torch.full((1, 2, 3, 4), -5.0)
    logits[0, :, 0, 1] = 5
    logits[0, :, 1, 3] = 9
    boxes = torch.tensor([0.5, 0.25, 0.2, 0.1]).expand(1, 2, 3, 4)
    results = head.predict_by_feat(logits, boxes, METAS)
    for result, meta in zip(results, METAS, strict=True):
        (h, w), (sx, sy) = meta['img_shape'], meta['scale_factor']
        expected = [0.4 * w / sx, 0.2 * h / sy, 0.6 * w / sx, 0.3 * h / sy]
        assert len(result) == 3
        assert result.labels[0] == 1 and result.scores[0] > 0.9
        assert result.scores[-1] < 1e-3
        torch.testing.assert_close(result.bboxes[0], torch.tensor(expected))
    plain = head.predict_by_feat(logits, boxes, METAS, rescale=False)
    torch.testing.assert_close(plain[0].bboxes[0], torch.tensor([80.0, 20.0, 120.0, 30.0]))


def test_too_many_predictions_asked():
    head = DetTokenHead(3, 16, test_cfg=ConfigDict(max_per_img=7))
    with pytest.raises(ConfigError, match='max_per_img'):
        head.predict_by_feat(*head((torch.randn(1, 6, 16),)), METAS[:1])


def test_config_dicts_are_left_alone():
    cfg = dict(
        type='hime_mm.DetTokenHead',
        num_classes=3,
        embed_dims=16,
        loss_cls=dict(
            type='CrossEntropyLoss', bg_cls_weight=0.3, use_sigmoid=False, class_weight=2.0
        ),
    )
    for _ in range(2):
        head = MODELS.build(ConfigDict(cfg))
        assert head.loss_cls.class_weight == [2.0, 2.0, 2.0, 0.3]
        assert head.bg_cls_weight == 0.3
    # The defaults too: DETRHead writes into its own.
    for _ in range(2):
        assert DetTokenHead(3, 16).loss_cls.class_weight == [1.0, 1.0, 1.0, 0.1]


def loss_cls(**kwargs):
    return dict(type='CrossEntropyLoss', use_sigmoid=False, **kwargs)


@pytest.mark.parametrize(
    ('weights', 'expected'),
    [
        (dict(class_weight=2.0), [2, 2, 2, 2]),
        (dict(class_weight=2), [2, 2, 2, 2]),
        (dict(bg_cls_weight=0.3), [1, 1, 1, 0.3]),
        (dict(class_weight=None, bg_cls_weight=None), None),
        (dict(class_weight=2, bg_cls_weight=0), [2, 2, 2, 0]),
        (dict(class_weight=[1, 2, 3], bg_cls_weight=0.3), [1, 2, 3, 0.3]),
        (dict(class_weight=(1, 2, 3), bg_cls_weight=3), [1, 2, 3, 3]),
        (dict(class_weight=[1, 2, 3, 0.3]), [1, 2, 3, 0.3]),
        (dict(class_weight=[1, 2, 3, 0.3], bg_cls_weight=0.3), [1, 2, 3, 0.3]),
        (dict(class_weight=np.array([1, 2, 3]), bg_cls_weight=np.float32(0.5)), [1, 2, 3, 0.5]),
    ],
)
def test_weights_of_classes(weights, expected):
    """Of each class, and of no object, against a loop."""
    torch.manual_seed(0)
    head = DetTokenHead(3, 16, loss_cls=loss_cls(**weights))
    background = 0 if expected is None else expected[-1]
    assert head.loss_cls.class_weight == expected and head.bg_cls_weight == background
    tokens = torch.randn(1, 4, 16)
    logits, boxes = head([tokens])
    targets = gt([[10, 10, 60, 70], [120, 20, 180, 90]], [2, 0])
    got = head.loss_by_feat(logits, boxes, [targets], METAS[:1])['loss_cls']
    labels = head.get_targets([logits[0, 0]], [boxes[0, 0]], [targets], METAS[:1])[0][0]
    total = 0
    for label, row in zip(labels.tolist(), logits[0, 0], strict=True):
        weight = 1 if expected is None else expected[label]
        total -= weight * (row[label] - row.logsumexp(0))
    torch.testing.assert_close(got, total / (2 + 2 * background))


@pytest.mark.parametrize(
    ('weights', 'words'),
    [
        (dict(class_weight=[1, 2, 3]), '3 numbers, and `bg_cls_weight`'),
        (dict(class_weight=[1, 2], bg_cls_weight=0.1), r'\[1, 2\].*4 numbers'),
        (dict(class_weight=[1, 2, 3, 4, 5]), r'\[1, 2, 3, 4, 5\]'),
        (dict(class_weight=[1, 2, 3, 0.2], bg_cls_weight=0.1), r'0.2\].*0.1'),
        (dict(class_weight=[], bg_cls_weight=0.1), r'\[\]'),
        (dict(class_weight='abc', bg_cls_weight=0.1), "'abc'"),
        (dict(class_weight=[1, None, 3], bg_cls_weight=0.1), 'None'),
        (dict(class_weight=1.0, bg_cls_weight=[0.1]), r'\[0.1\]'),
    ],
)
def test_weights_that_do_not_fit(weights, words):
    with pytest.raises(ConfigError, match=f'3 classes .*{words}'):
        DetTokenHead(3, 16, loss_cls=loss_cls(**weights))


def test_weights_without_a_class_of_no_object():
    cfg = dict(type='CrossEntropyLoss', use_sigmoid=True)
    with pytest.raises(ConfigError, match='`bg_cls_weight`'):
        DetTokenHead(3, 16, loss_cls=dict(cfg, bg_cls_weight=0.1))
    head = DetTokenHead(3, 16, loss_cls=dict(cfg, class_weight=[1, 2, 3], bg_cls_weight=None))
    assert head.loss_cls.class_weight == [1, 2, 3] and head.cls_out_channels == 3
    logits, boxes = head([torch.randn(1, 4, 16)])
    head.loss_by_feat(logits, boxes, [gt([[10, 10, 60, 70]], [2])], METAS[:1])
