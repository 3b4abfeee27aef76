# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""CocoMetric for whoever has no key: within the slots of encrypted images."""

import warnings
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger

from hime_mm.ciphers import PatchLayout
from hime_mm.datasets.entries import FileEntry
from hime_mm.errors import BoxError, ConfigError
from hime_mm.mapping.boxes import nms_threshold, suppress
from hime_mm.registry import METRICS
from hime_mm.run_check import check_current_run

from .places import check_masks, encrypted_boxes, find_entry, pick, with_boxes

#: Slots lie so many times the largest annotation apart, that boxes of two of
#: them cannot match, however large a predicted one is.
_APART = 100


@METRICS.register_module()
class SlotCocoMetric(CocoMetric):
    """MMDetection's ``CocoMetric`` in encrypted coordinates, slot by slot.

    For the engineer, who has the handed-over folder and no key. A predicted
    box may match an annotation whose centre lies in the same slot only, and
    is suppressed by boxes of its class and slot only: what lies in the slots
    beside it has nothing to do with it. To that end all slots are moved far
    apart; the rest is the host's.

    What it cannot see: two detections of one object from patches that were
    neighbours. One of them counts as wrong, or as the object's miss where the
    annotation is in the other's slot, so it usually gives less than what the
    owner measures with :class:`OriginalCocoMetric` or ``hime eval``. Areas,
    and so small, medium and large, are in encrypted pixels. Where patches stay
    in their places it is the host's metric.

    Args:
        ann_file (str): The annotation file that was handed over.
        *args: As of ``CocoMetric``.
        nms (float, optional): IoU of the class-wise non-maximum suppression
            within a slot, from 0 to 1; 1 keeps all boxes. None is 0.5 where
            patches were moved, else 1. Defaults to None.
        **kwargs: As of ``CocoMetric``.

    Raises:
        BoxError: If ``nms`` is no IoU; at the first sample that is not of an
            encrypted folder, or of another one than ``ann_file``, or has a
            box in no slot, which its owner could not map back.
        ConfigError: If there is no ``ann_file``.
    """

    def __init__(
        self, ann_file: str | None = None, *args: Any, nms: float | None = None, **kwargs: Any
    ) -> None:
        nms_threshold(nms, True)
        if ann_file is None:
            raise ConfigError(
                f'{type(self).__name__}: name the annotation file that was handed over, `ann_file`'
            )
        self.nms = nms
        check_current_run()
        super().__init__(ann_file, *args, **kwargs)
        anns = self._coco_api.dataset.get('annotations', ())
        self._largest = max((side for ann in anns for side in ann['bbox'][2:]), default=1.0)
        self._placed: set[Any] = set()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Take over the predictions of a batch, each in its slot.

        Raises:
            BoxError: If a sample is not of the folder of ``ann_file``, or a
                box in no slot; it names the sample.
        """
        start, layouts, samples = len(self.results), [], []
        for sample in data_samples:
            try:
                entry, layout = self._place_of(sample)
                if 'masks' in sample['pred_instances'] and layout.shuffled:
                    check_masks(self.metrics, 'since masks cannot follow patches that moved')
                    warnings.warn(f'{type(self).__name__} leaves predicted masks out', stacklevel=2)
                boxes = encrypted_boxes(sample, entry)
                for i in layout.find_strays(boxes)[:1]:
                    raise BoxError(f'box {i} is in no slot: {layout.describe_stray(boxes[i])}')
                samples.append(with_boxes(sample, boxes, None, masks=not layout.shuffled))
                layouts.append(layout)
            except BoxError as error:
                name = sample.get('img_path') or f'the image {sample.get("img_id")}'
                raise BoxError(f'{type(self).__name__}: {name}: {error}') from None
        super().process(data_batch, samples)
        for (gt, _), layout in zip(self.results[start:], layouts, strict=True):
            # What places boxes, wherever results are gathered.
            gt['layout'] = layout.public()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The host's numbers, once boxes and annotations are in their slots.

        The files of ``outfile_prefix`` have the boxes as they were predicted.
        """
        prefix, self.outfile_prefix = self.outfile_prefix, None
        try:
            if prefix is not None:
                if self.cat_ids is None:
                    self.cat_ids = self._coco_api.get_cat_ids(self.dataset_meta['classes'])
                self.results2json([result for _, result in results], prefix)
                if self.format_only:
                    return {}
            for gt, _ in results:
                self._place_annotations(gt['img_id'], gt['layout'])
            if any(gt['layout'].shuffled for gt, _ in results):
                MMLogger.get_current_instance().info(
                    f'{type(self).__name__}: boxes are judged within the slots of encrypted '
                    'images, areas in their pixels; detections of one object from several patches '
                    'cannot be put together without the key, so the owner usually measures more'
                )
            placed = [(gt, self._in_slots(result, gt['layout'])) for gt, result in results]
            return super().compute_metrics(placed)
        finally:
            self.outfile_prefix = prefix

    def _place_of(self, sample: dict) -> tuple[FileEntry, PatchLayout]:
        found = find_entry(sample.get('img_path'), self.backend_args)
        layout = sample.get('patch_layout')
        if found is None:
            raise BoxError(
                'it is in no data set that `hime encrypt` made, so no annotation file was handed '
                'over with it: in a simulation use `hime_mm.OriginalCocoMetric`; for a folder keep '
                '`img_path` among the `meta_keys` of PackDetInputs'
            )
        if layout is not None and layout.reshuffled:
            raise BoxError(layout.obstacle)
        layout = found[0].layout(found[1])
        image = self._coco_api.imgs.get(sample['img_id'], {})
        size, name = (image.get('height'), image.get('width')), image.get('file_name', 'not there')
        # Sizes are often those of all images, and ids those of other files.
        if size != layout.shape or PurePath(name).name != PurePath(found[1].path).name:
            raise BoxError(
                f'it is {layout.shape[0]}x{layout.shape[1]} (height x width), in `ann_file` the '
                f'image {sample["img_id"]} is {name}, {size[0]}x{size[1]}: name the annotation '
                'file that was handed over with it'
            )
        return found[1], layout

    def _in_slots(self, result: dict, layout: PatchLayout) -> dict:
        """The boxes of an image in their slots, without those that others there suppress."""
        threshold = nms_threshold(self.nms, layout.shuffled)
        boxes, scores, labels = (result[name] for name in ('bboxes', 'scores', 'labels'))
        slots = layout.cells(boxes) if layout.shuffled else np.zeros(len(boxes), np.int64)
        new = dict(result, bboxes=boxes + self._offsets(boxes, layout))
        if threshold is not None:
            keep = suppress(boxes, scores, labels * layout.num_patches + slots, threshold)
            # Beside the image's id all is of one box each.
            new = {k: v if k == 'img_id' else pick(v, keep) for k, v in new.items()}
        return new

    def _place_annotations(self, image_id: Any, layout: PatchLayout) -> None:
        """Move the annotations of an image into their slots, once."""
        if image_id in self._placed:
            return
        self._placed.add(image_id)
        for ann in self._coco_api.imgToAnns[image_id]:
            x, y, w, h = ann['bbox']
            dx, dy = self._offsets(np.array([[x, y, x + w, y + h]]), layout)[0, :2].tolist()
            ann['bbox'] = [x + dx, y + dy, w, h]

    def _offsets(self, boxes: np.ndarray, layout: PatchLayout) -> np.ndarray:
        """How far boxes are moved with their slots, shape (n, 4)."""
        if not layout.shuffled:
            return np.zeros((len(boxes), 4))
        cells, cols = layout.cells(boxes), layout.grid[1]
        apart = _APART * max(self._largest, layout.patch_size)
        return np.tile(np.stack([cells % cols, cells // cols], axis=1) * apart, 2)
