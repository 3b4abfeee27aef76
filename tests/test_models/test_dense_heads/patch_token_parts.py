# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A small token head, two images of a padded batch and their objects."""

import torch
from mmengine.structures import InstanceData

from hime_mm.models.dense_heads import PatchTokenHead
from hime_mm.models.task_modules import PatchTokenCoder

FOCAL = dict(type='mmdet.FocalLoss', use_sigmoid=True)


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


def total(losses):
    return sum(loss for many in losses.values() for loss in many)


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
