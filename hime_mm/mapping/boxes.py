# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Boxes of one encrypted image in pixels of its original."""

import numpy as np
from numpy.typing import ArrayLike

from hime_mm.ciphers import PatchLayout
from hime_mm.datasets.coco import is_number
from hime_mm.errors import BoxError

#: IoU above which, of two boxes of one class, the one with the lower score is
#: left out where patches were moved. There a model cannot do it itself.
SHUFFLED_NMS = 0.5


def nms_threshold(nms: float | None, shuffled: bool) -> float | None:
    """The IoU to suppress by, None for not at all.

    What was asked for is from 0 to 1; None is :data:`SHUFFLED_NMS` where
    patches were moved.
    """
    if nms is None:
        return SHUFFLED_NMS if shuffled else None
    if not is_number(nms) or not 0 <= nms <= 1:
        raise BoxError(
            'the IoU of a non-maximum suppression is a number from '
            f'0 to 1, 1 to keep all boxes, got {nms!r}'
        )
    return float(nms) if nms < 1 else None


def suppress(boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike, iou: float) -> np.ndarray:
    """Non-maximum suppression within each class.

    Args:
        boxes (array-like): Shape (n, 4), (x1, y1, x2, y2).
        scores (array-like): Shape (n, ).
        labels (array-like): Shape (n, ).
        iou (float): A box goes if it overlaps more than this with one of a
            higher score.

    Returns:
        np.ndarray: int64, indices of the boxes that stay, in their order.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    scores, labels = np.asarray(scores), np.asarray(labels)
    area = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)
    kept: list[int] = []
    for label in np.unique(labels):
        rest = np.flatnonzero(labels == label)
        rest = rest[np.argsort(-scores[rest], kind='stable')]
        while rest.size:
            best, rest = rest[0], rest[1:]
            kept.append(best)
            low = np.maximum(boxes[best, :2], boxes[rest, :2])
            high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
            intersection = (high - low).clip(0).prod(axis=1)
            # Without a division, as both areas may be zero.
            rest = rest[intersection <= iou * (area[best] + area[rest] - intersection)]
    return np.sort(np.array(kept, np.int64))


def unmap_boxes(layout: PatchLayout, boxes: ArrayLike, clip: bool = True) -> np.ndarray:
    """Boxes of an encrypted image in pixels of the original, cut to it if asked for.

    They are (x1, y1, x2, y2), shape (n, 4), and come back as float64. One in
    no slot raises a :class:`BoxError`.
    """
    boxes = layout.unmap_boxes(boxes)
    if clip:
        h, w = layout.ori_shape
        boxes = boxes.clip(0, [w, h, w, h])
    return boxes
