# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Boxes seen from the one token whose slot holds their centre."""

import math

import torch
from mmdet.models.task_modules import AssignResult, BaseAssigner, BaseBBoxCoder
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh, get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor

from hime_mm.ciphers.travel import BORDER
from hime_mm.registry import TASK_UTILS

#: Share of a slot's side that a predicted centre keeps from its edges.
MARGIN = 1e-3
#: Larger and smaller boxes, in slots, are not predicted.
MAX_RATIO = 2000.0


@TASK_UTILS.register_module()
class PatchTokenCoder(BaseBBoxCoder):
    """Boxes whose centres lie strictly inside the slots that predict them.

    The centre is squashed into the slot, all but a margin of 1e-3 of its
    side; width and height are the exponentials of what is predicted, in
    sides of the slot. So a predicted box returns to the patch of the token
    that predicted it, whatever the model says. Nothing is clipped: a box may
    stick out of the image.
    """

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """What would have to be predicted, the inverse of :meth:`decode`.

        Args:
            bboxes (Tensor): Slots, shape (n, 4), (x1, y1, x2, y2) in pixels.
            gt_bboxes (Tensor): Boxes, shape (n, 4), in pixels.

        Returns:
            Tensor: Shape (n, 4), logits of the centre's place in the slot and
            logarithms of width and height. Centres outside the slot are those
            nearest to them inside.
        """
        slots, boxes = get_box_tensor(bboxes), bbox_xyxy_to_cxcywh(get_box_tensor(gt_bboxes))
        side = slots[:, 2:] - slots[:, :2]
        place = ((boxes[:, :2] - slots[:, :2]) / side - MARGIN) / (1 - 2 * MARGIN)
        size = (boxes[:, 2:] / side).clamp(1 / MAX_RATIO, MAX_RATIO)
        return torch.cat((torch.logit(place, eps=1e-6), size.log()), dim=-1)

    def decode(self, bboxes: Tensor, bboxes_pred: Tensor, max_shape: object = None) -> Tensor:
        """Boxes that are predicted.

        Args:
            bboxes (Tensor): Slots, shape (n, 4), (x1, y1, x2, y2) in pixels.
            bboxes_pred (Tensor): Of any value, shape (n, 4), as
                :meth:`encode` has them.
            max_shape: Ignored: clipping would move centres to other slots.

        Returns:
            Tensor: float32 or wider, shape (n, 4), (x1, y1, x2, y2) in pixels.
        """
        # Half precision would round centres out of their slots.
        wide = torch.promote_types(bboxes_pred.dtype, torch.float)
        slots, pred = get_box_tensor(bboxes).to(wide), bboxes_pred.to(wide)
        side = slots[:, 2:] - slots[:, :2]
        place = MARGIN + (1 - 2 * MARGIN) * pred[:, :2].sigmoid()
        limit = math.log(MAX_RATIO)
        size = pred[:, 2:].clamp(-limit, limit).exp()
        return bbox_cxcywh_to_xyxy(torch.cat((slots[:, :2] + place * side, size * side), dim=-1))


@TASK_UTILS.register_module()
class PatchTokenAssigner(BaseAssigner):
    """Gives each object to the one token whose slot holds its centre.

    One positive per object is what shuffled images allow: whoever has no key
    does not know which slots were neighbours. Of the predictions of a token
    the first has its largest object, the second the next, and so on; objects
    beyond them go without. Where an ignored box has its centre, the
    predictions that have no object are ignored.
    """

    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        **kwargs,
    ) -> AssignResult:
        """Assign objects to predictions.

        Args:
            pred_instances (:obj:`InstanceData`): ``priors``, the slot of each
                prediction, shape (n, 4), (x1, y1, x2, y2) in pixels; the
                predictions of one token follow each other.
            gt_instances (:obj:`InstanceData`): ``bboxes``, shape (k, 4), and
                ``labels``, shape (k, ).
            gt_instances_ignore (:obj:`InstanceData`, optional): ``bboxes``.
                Defaults to None.
            **kwargs: Not used.

        Returns:
            :obj:`AssignResult`: Of each prediction the object from 1 on, 0
            for none, -1 where it is ignored.
        """
        slots = get_box_tensor(pred_instances.priors)
        boxes, labels = get_box_tensor(gt_instances.bboxes), gt_instances.labels
        found = slots.new_zeros(len(slots), dtype=torch.long)
        # Largest first; the order of the annotations decides between equals.
        order = (boxes[:, 2:] - boxes[:, :2]).prod(1).argsort(descending=True, stable=True)
        held = _holds(slots, boxes[order])
        order, held = order[held.any(0)], held[:, held.any(0)]
        first = held.int().argmax(0)
        rank = (first[:, None] == first).tril(-1).sum(1)
        fits = rank < held.sum(0)
        found[(first + rank)[fits]] = order[fits] + 1
        if gt_instances_ignore is not None and len(gt_instances_ignore):
            ignored = _holds(slots, get_box_tensor(gt_instances_ignore.bboxes)).any(1)
            found[ignored & (found == 0)] = -1
        classes = found.new_full((len(slots),), -1)
        classes[found > 0] = labels[found[found > 0] - 1]
        return AssignResult(len(boxes), found, (found > 0).to(slots.dtype), classes)


def _holds(slots: Tensor, boxes: Tensor) -> Tensor:
    """Which slots hold the centres of which boxes, bool, (n, k).

    A border has the owner that :meth:`PatchLayout.cells` gives it.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 + BORDER
    return ((centres >= slots[:, None, :2]) & (centres < slots[:, None, 2:])).all(-1)
