# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How the annotations of a sample follow its image, and which cannot."""

from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np

from hime_mm.ciphers import PatchLayout

MASKS = ('gt_masks', 'gt_seg_map')
# Entries that are kept right. A table of boxes may happen to have the image's
# shape, so these are not searched for further pictures.
MOVED = (
    *MASKS,
    'img',
    'gt_bboxes',
    'gt_bboxes_labels',
    'gt_ignore_flags',
    'proposals',
    'homography_matrix',
)
# Entries in image coordinates that no transform here knows how to move:
# passing them on would be wrong, or leak.
UNSUPPORTED = ('gt_keypoints', 'gt_instances_ids', 'mix_results')


def find_unmovable(results: dict, extra_keys: Sequence[str] = ()) -> str | None:
    """The first entry of a sample that cannot follow its image.

    It is one of those in image coordinates, or an unknown one that looks like the image.
    """
    shape = results['img'].shape[:2]
    for key, value in results.items():
        if key in UNSUPPORTED or key in extra_keys:
            if value is not None:
                return key
        elif key not in MOVED and isinstance(value, np.ndarray) and value.shape[:2] == shape:
            return key
    return None


def move_boxes(results: dict, layout: PatchLayout, name: str) -> None:
    """Move ``gt_bboxes`` and ``proposals`` with their patches.

    The boxes handed in stay as they are; new ones take their place in the
    sample. Those of a kind that cannot be moved raise a ``TypeError`` in the
    ``name`` of the transform.
    """
    for key in ('gt_bboxes', 'proposals'):
        boxes = results.get(key)
        if boxes is None:
            continue
        if isinstance(boxes, np.ndarray) and (boxes.size == 0 or boxes.shape[1:] == (4,)):
            results[key] = _moved(boxes.reshape(-1, 4), layout)
        elif _is_horizontal(boxes):
            # The base class's copy, so that the caller's box stays.
            moved = boxes.clone()
            moved.tensor = moved.tensor.new_tensor(_moved(moved.tensor.numpy(), layout))
            results[key] = moved
        elif hasattr(boxes, 'rescale_') and not layout.shuffled:
            moved = boxes.clone()
            moved.rescale_(layout.scale)
            results[key] = moved
        else:
            shape = getattr(boxes, 'shape', None)
            raise TypeError(
                f'{name} cannot move `{key}` of type '
                f'{type(boxes).__name__} and shape {shape}: it '
                'takes arrays of shape (n, 4) or horizontal boxes'
            )


def _is_horizontal(boxes: Any) -> bool:
    """Whether these are corners; four numbers of another type may mean anything."""
    if not hasattr(boxes, 'tensor'):
        return False
    from mmdet.structures.bbox import HorizontalBoxes

    return isinstance(boxes, HorizontalBoxes) and boxes.box_dim == 4


def _moved(boxes: np.ndarray, layout: PatchLayout) -> np.ndarray:
    """In their own type, so that rounding to it takes no centre out of its slot."""
    dtype = boxes.dtype if np.issubdtype(boxes.dtype, np.floating) else np.float32
    return layout.map_boxes(boxes, dtype).astype(dtype)


def resize_masks(results: dict, layout: PatchLayout, fitted: tuple[int, int], pad: bool) -> None:
    """Give ``gt_masks`` and ``gt_seg_map`` the size of the encrypted image.

    Its height and width were ``fitted`` to whole patches before, by padding
    or by scaling.
    """
    masks, seg_map = (results.get(key) for key in MASKS)
    if masks is not None:
        if pad and (masks.height, masks.width) != fitted:
            masks = masks.pad(fitted)
        if (masks.height, masks.width) != layout.shape:
            masks = masks.resize(layout.shape)
        results['gt_masks'] = masks
    if seg_map is not None:
        if pad and seg_map.shape[:2] != fitted:
            seg_map = mmcv.impad(seg_map, shape=fitted, pad_val=255)
        for shape in (fitted, layout.shape):
            if seg_map.shape[:2] != shape:
                seg_map = mmcv.imresize(seg_map, shape[::-1], interpolation='nearest')
        results['gt_seg_map'] = seg_map
