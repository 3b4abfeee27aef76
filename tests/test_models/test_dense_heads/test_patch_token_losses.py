# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The losses of the token head, and its number types."""

import math

import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes, bbox_overlaps
from mmengine.registry import init_default_scope
from patch_token_parts import FOCAL, IGNORED, METAS, TRUTH, build, gt, perfect, total


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


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
