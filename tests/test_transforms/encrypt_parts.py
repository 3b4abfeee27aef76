# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy

import numpy as np
import pytest
import torch

CocoDataset = pytest.importorskip('mmdet.datasets').CocoDataset
DET_TRANSFORMS = pytest.importorskip('mmdet.registry').TRANSFORMS
box_types = pytest.importorskip('mmdet.structures.bbox')
BaseBoxes, HorizontalBoxes = box_types.BaseBoxes, box_types.HorizontalBoxes
mask_types = pytest.importorskip('mmdet.structures.mask')
BitmapMasks, PolygonMasks = mask_types.BitmapMasks, mask_types.PolygonMasks
LOAD = [dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True)]


class Quadrilaterals(HorizontalBoxes):
    """Stands for the box types of other packages."""

    box_dim = 8

    def rescale_(self, scale_factor) -> None:
        scale = self.tensor.new_tensor(scale_factor).repeat(4)
        self.tensor = self.tensor * scale


class Rotated(Quadrilaterals):
    """Centre, size and angle, as of MMRotate."""

    box_dim = 5


def other_type(dim):
    """A box type that is not derived from that of horizontal boxes."""
    kind = type(f'Boxes{dim}', (BaseBoxes,), dict(box_dim=dim))
    kind.__abstractmethods__ = frozenset()
    return kind(torch.full((2, dim), 9.0))


def make_results(img, boxes=((3, 4, 20, 30), (17, 1, 47, 31))) -> dict:
    """What the loading transforms of MMDetection leave, boxes included."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return dict(
        img=img,
        img_shape=img.shape[:2],
        ori_shape=img.shape[:2],
        img_id=1,
        gt_bboxes=HorizontalBoxes(boxes.copy()),
        gt_bboxes_labels=np.arange(len(boxes)),
        gt_ignore_flags=np.arange(len(boxes)) % 2 == 1,
    )


def rectangle_masks(boxes, shape) -> BitmapMasks:
    masks = np.zeros((len(boxes), *shape), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    return BitmapMasks(masks, *shape)


def coco_dataset(root, *transforms, load=LOAD) -> CocoDataset:
    return CocoDataset(
        data_root=str(root),
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        pipeline=[*load, *transforms],
    )


def snapshot(results: dict) -> dict:
    return {key: (value, copy.deepcopy(value)) for key, value in results.items()}


def assert_unchanged(results: dict, before: dict) -> None:
    assert list(results) == list(before)
    for key, (value, copied) in before.items():
        assert results[key] is value, key
        if isinstance(value, BaseBoxes):
            value, copied = value.tensor, copied.tensor
        elif isinstance(value, BitmapMasks):
            value, copied = value.masks, copied.masks
        if isinstance(value, (np.ndarray, torch.Tensor)):
            np.testing.assert_array_equal(value, copied, err_msg=key)
