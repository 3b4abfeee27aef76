# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Results of one picture, in any form, in pixels of its original."""

import warnings
from typing import Any

import numpy as np

from hime_mm.ciphers import PatchLayout
from hime_mm.errors import BoxError, ClientError

from .boxes import nms_threshold, suppress, unmap_boxes
from .masks import unmap_masks, unmap_rle

# Geometry of the encrypted picture, which says nothing about the original.
_GEOMETRY = (
    'img_shape',
    'ori_shape',
    'pad_shape',
    'batch_input_shape',
    'scale_factor',
    'homography_matrix',
)
_SEG_MAPS = ('pred_sem_seg', 'pred_panoptic_seg')


def _numpy(value: Any) -> np.ndarray:
    """A tensor, box structure, array or list as an array."""
    value = getattr(value, 'tensor', value)
    if hasattr(value, 'detach'):
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def _to_type_of(value: np.ndarray, old: Any) -> Any:
    """An array as the kind that another value is."""
    old = getattr(old, 'tensor', old)
    if hasattr(old, 'new_tensor'):
        import torch

        floating = old.dtype.is_floating_point
        return old.new_tensor(value, dtype=old.dtype if floating else torch.float32)
    if isinstance(old, np.ndarray):
        floating = np.issubdtype(old.dtype, np.floating)
        return value.astype(old.dtype if floating else value.dtype)
    return value.tolist()


class Mapper:
    """Maps results of one picture, whatever their form.

    With its secret layout, whether masks can follow (``in_place``), and
    ``nms`` and ``clip`` as of :meth:`Client.predict`.
    """

    def __init__(self, layout: PatchLayout, in_place: bool, nms: float | None, clip: bool) -> None:
        self.layout = layout
        self.masks_follow = in_place and not layout.cropped
        self.requested_nms, self.clip = nms, clip
        self.nms = nms_threshold(nms, layout.shuffled)

    def __call__(self, predictions: Any) -> Any:
        if isinstance(predictions, dict):
            return self.dict(predictions)
        if hasattr(predictions, 'metainfo'):
            return self.sample(predictions)
        if hasattr(predictions, 'shape'):
            return self.array(predictions)
        raise ClientError(
            f'cannot map a {type(predictions).__name__} back: give an array '
            'of boxes, a `DetDataSample` or a prediction of `DetInferencer`'
        )

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        if boxes.size == 0:
            boxes = boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ClientError(
                'boxes have the shape (n, 4), (x1, y1, x2, y2), '
                f'got {boxes.shape}: rotated boxes cannot be '
                'mapped back'
            )
        try:
            return unmap_boxes(self.layout, boxes, self.clip)
        except BoxError as error:
            raise ClientError(str(error)) from None

    def kept(self, boxes: np.ndarray, scores: Any, labels: Any) -> Any:
        """Indices of the boxes that stay, None for all of them."""
        if self.nms is None:
            return None
        if scores is None or labels is None:
            if self.requested_nms is None:
                return None
            raise ClientError('a non-maximum suppression needs scores and labels of the boxes')
        return suppress(boxes, _numpy(scores), _numpy(labels), self.nms)

    def array(self, values: Any) -> Any:
        if values.ndim != 2 or values.shape[1] < 4:
            raise ClientError(
                f'an array of boxes has the shape (n, 4) or more, got {tuple(values.shape)}'
            )
        if self.requested_nms is not None:
            raise ClientError(
                'bare boxes have no labels for a non-maximum '
                'suppression: give a prediction with `bboxes`, '
                '`scores` and `labels`'
            )
        old = _numpy(values)
        boxes = self.boxes(old[:, :4])
        return _to_type_of(np.concatenate([boxes, old[:, 4:]], axis=1), values)

    def dict(self, result: dict) -> dict:
        if isinstance(result.get('predictions'), list):
            found = result['predictions']
            if len(found) != 1:
                raise ClientError(
                    f'the results of {len(found)} pictures came together: give those of one picture'
                )
            return dict(
                predictions=[
                    self.dict(found[0]) if isinstance(found[0], dict) else self.sample(found[0])
                ]
            )
        if 'bboxes' not in result:
            return result
        boxes = self.boxes(_numpy(result['bboxes']))
        kept = self.kept(boxes, result.get('scores'), result.get('labels'))
        kept = np.arange(len(boxes)) if kept is None else kept
        new, dropped = {}, []
        for name, value in result.items():
            if name == 'bboxes':
                new[name] = _to_type_of(boxes[kept], value)
            elif name == 'masks' and self.masks_follow:
                new[name] = [unmap_rle(self.layout, value[i]) for i in kept]
            elif (
                isinstance(value, (list, np.ndarray))
                and len(value) == len(boxes)
                and not _is_geometry(value)
            ):
                new[name] = (
                    value[kept] if isinstance(value, np.ndarray) else [value[i] for i in kept]
                )
            else:
                dropped.append(name)
        _warn_dropped(dropped)
        return new

    def sample(self, sample: Any) -> Any:
        instances = getattr(sample, 'pred_instances', None)
        maps = [name for name in _SEG_MAPS if name in sample]
        if instances is None and not maps:
            return sample
        shape = sample.metainfo.get('ori_shape')
        if shape is not None and tuple(shape[:2]) != self.layout.shape:
            raise ClientError(
                'these results are in pixels of a picture of {}x{} (height x '
                'width), not of the encrypted one of {}x{}: leave resizing, '
                "encryption and the original's coordinates out of the model's "
                'pipeline, or use `predict`'.format(*shape[:2], *self.layout.shape)
            )
        h, w = self.layout.ori_shape
        metainfo = {k: v for k, v in sample.metainfo.items() if k not in _GEOMETRY}
        new = type(sample)(
            metainfo=dict(metainfo, ori_shape=(h, w), img_shape=(h, w), scale_factor=(1.0, 1.0))
        )
        dropped: list[str] = []
        if instances is not None:
            new.pred_instances = self._instances(instances, dropped)
        for name in maps:
            if self.masks_follow:
                setattr(new, name, self._seg_map(getattr(sample, name)))
            else:
                dropped.append(name)
        _warn_dropped(dropped)
        return new

    def _instances(self, instances: Any, dropped: list[str]) -> Any:
        found = {}
        if 'bboxes' in instances:
            boxes = self.boxes(_numpy(instances.bboxes))
            found['bboxes'] = _to_type_of(boxes, instances.bboxes)
        for name, value in instances.items():
            if name == 'bboxes':
                continue
            if name == 'masks' and self.masks_follow:
                found[name] = self._masks(value)
            elif not _is_geometry(value):
                found[name] = value
            else:
                dropped.append(name)
        new = type(instances)(**found)
        kept = None
        if 'bboxes' in found:
            kept = self.kept(boxes, instances.get('scores'), instances.get('labels'))
        return new if kept is None else new[kept]

    def _masks(self, masks: Any) -> Any:
        found = unmap_masks(self.layout, _numpy(masks))
        if hasattr(masks, 'new_tensor'):
            import torch

            return torch.from_numpy(found).to(masks.device)
        return found

    def _seg_map(self, data: Any) -> Any:
        """A map of classes, the nearest pixel's for each original pixel."""
        sem_seg = data.sem_seg
        if tuple(sem_seg.shape[-2:]) != self.layout.shape:
            raise ClientError(
                f'a segmentation of {tuple(sem_seg.shape[-2:])} is not that '
                f'of an encrypted picture of {self.layout.shape}'
            )
        y, x = (
            ((np.arange(side) + 0.5) * scale).astype(np.int64).clip(0, end - 1)
            for side, scale, end in zip(
                self.layout.ori_shape, self.layout.scale[::-1], self.layout.shape, strict=True
            )
        )
        return type(data)(sem_seg=sem_seg[..., y[:, None], x])


def _is_geometry(value: Any) -> bool:
    """Whether a field may hold coordinates: it has more than one axis.

    Scores, labels and names have one.
    """
    if hasattr(value, 'shape'):
        return len(value.shape) > 1
    return not isinstance(value, (list, tuple)) or any(
        isinstance(item, (list, tuple, dict)) or len(getattr(item, 'shape', ())) > 0
        for item in value
    )


def _warn_dropped(names: list[str]) -> None:
    if names:
        warnings.warn(
            f'{", ".join(f"`{name}`" for name in names)} of the results '
            'cannot be mapped back to the original picture and is left out',
            stacklevel=5,
        )
