# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""CocoMetric in coordinates of the originals."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.evaluation import CocoMetric

from hime_mm.ciphers import Key, PatchLayout
from hime_mm.datasets.entries import FileEntry
from hime_mm.datasets.manifest import Manifest
from hime_mm.errors import BoxError, CocoError, ConfigError
from hime_mm.evaluation.coco import check_copy, check_image
from hime_mm.mapping.boxes import nms_threshold, suppress, unmap_boxes
from hime_mm.registry import METRICS
from hime_mm.run_check import check_current_run

from .places import META_KEYS, check_masks, encrypted_boxes, find_entry, with_boxes


@METRICS.register_module()
class OriginalCocoMetric(CocoMetric):
    """MMDetection's ``CocoMetric`` for boxes that travelled with their patches.

    Predicted boxes are mapped to the original, cut to it and suppressed there
    class by class; the rest is the host's, against the annotations of the
    originals. Whoever runs it may see them: the owner, or a simulation that
    encrypts in its pipeline.

    - In a simulation the permutation comes from the pipeline:
      ``Encrypt(keep_permutation=True)``, and ``'patch_layout'`` among the
      ``meta_keys`` of ``PackDetInputs``.
    - For a folder that ``hime encrypt`` made, it comes from the owner's key.
      ``ann_file`` is the owner's annotation file then.
    - Where patches stay in their places it is the host's metric, and
      suppresses if it is told to.

    The permutation stays in the process that reads a sample: ranks exchange
    boxes of the originals. Those, beside the encrypted predictions, tell the
    permutation, so files of ``outfile_prefix`` are the owner's alone. Masks
    cannot follow patches that moved: they are left out, and ``'segm'`` raises.

    Args:
        *args: As of ``CocoMetric``.
        nms (float, optional): IoU of the class-wise non-maximum suppression
            in the original, from 0 to 1; 1 keeps all boxes. None is 0.5 where
            patches were moved, else 1. Defaults to None.
        key (str, optional): The owner's key file, for a folder of which
            patches were moved. Defaults to None.
        key_env (str, optional): The environment variable that holds the key,
            in place of a file. Defaults to None.
        **kwargs: As of ``CocoMetric``.

    Raises:
        BoxError: If ``nms`` is no IoU; at the first sample whose boxes cannot
            be mapped back.
        ConfigError: If ``key`` and ``key_env`` are both given.
        InvalidKey: If there is no key there, or it is another data set's.
    """

    def __init__(
        self,
        *args: Any,
        nms: float | None = None,
        key: str | None = None,
        key_env: str | None = None,
        **kwargs: Any,
    ) -> None:
        nms_threshold(nms, True)
        if key is not None and key_env is not None:
            raise ConfigError(f'{type(self).__name__}: give one of `key` and `key_env`')
        self.nms = nms
        self._key: Key | None = None
        if key is not None:
            self._key = Key.from_file(key)
        elif key_env is not None:
            self._key = Key.from_env(key_env)
        # In a run whose config was checked, an image without a layout is plain.
        self._checked = check_current_run()
        self._ann_file = args[0] if args else kwargs.get('ann_file')
        # Data sets of which it is known to be no copy of what was handed over.
        self._own_of: set[str] = set()
        super().__init__(*args, **kwargs)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Take over the predictions of a batch, in pixels of the originals.

        Raises:
            BoxError: If boxes of a sample cannot be mapped back; it names the
                sample and says what is missing.
            InvalidKey: If the key is another data set's.
        """
        super().process(data_batch, [self._named(sample) for sample in data_samples])

    def _named(self, sample: dict) -> dict:
        try:
            return self._original(sample)
        except (BoxError, CocoError) as error:
            name = sample.get('img_path') or f'the image {sample.get("img_id")}'
            raise BoxError(f'{type(self).__name__}: {name}: {error}') from None

    def _original(self, sample: dict) -> dict:
        layout = sample.get('patch_layout')
        found = find_entry(sample.get('img_path'), self.backend_args)
        entry = None if found is None else found[1]
        if found is not None:
            layout = self._layout_of(*found, layout)
            self._check_truth(sample, *found)
        elif layout is None:
            if not self._checked:
                raise BoxError(
                    'the sample has no `patch_layout`, so nothing says where its boxes are: '
                    f'{META_KEYS}; for images that are not encrypted there is `CocoMetric`'
                )
            return self._suppressed(sample, None, False)
        if layout.obstacle:
            raise BoxError(layout.obstacle + self._remedy(layout, found))
        if entry is None and not layout.shuffled:
            return self._suppressed(sample, None, False)
        boxes = unmap_boxes(layout, encrypted_boxes(sample, entry), clip=False)
        shape = sample['ori_shape'][:2]
        if entry is None:
            # What was resized before the encryption.
            boxes *= np.tile(np.divide(layout.scale, sample.get('scale_factor', layout.scale)), 2)
        else:
            shape = entry.ori_shape
        h, w = shape
        sample = dict(sample, ori_shape=shape)
        return self._suppressed(sample, boxes.clip(0, [w, h, w, h]), layout.shuffled)

    def _suppressed(self, sample: dict, boxes: np.ndarray | None, moved: bool) -> dict:
        """The sample with the boxes that stay; without boxes, its own are right already."""
        pred, threshold = sample['pred_instances'], nms_threshold(self.nms, moved)
        masks = boxes is None
        if boxes is None:
            if threshold is None:
                return sample
            boxes = pred['bboxes'].detach().cpu().double().numpy()
        elif 'masks' in pred:
            check_masks(self.metrics, 'since they are in pixels of the encrypted image')
            warnings.warn(
                f'{type(self).__name__} leaves predicted masks out: they are in pixels of the '
                'encrypted image',
                stacklevel=2,
            )
        keep = None
        if threshold is not None:
            scores, labels = (pred[name].detach().cpu().numpy() for name in ('scores', 'labels'))
            keep = suppress(boxes, scores, labels, threshold)
        return with_boxes(sample, boxes, keep, masks)

    def _layout_of(
        self, manifest: Manifest, entry: FileEntry, known: PatchLayout | None
    ) -> PatchLayout:
        """The layout of an image of a folder, with the permutation if the key is here."""
        if known is not None and known.reshuffled:
            return known
        if self._key is not None and manifest.key_id is not None:
            manifest.check_key(self._key)
            return manifest.secret_layout(entry, self._key)
        return manifest.layout(entry)

    def _check_truth(self, sample: dict, manifest: Manifest, entry: FileEntry) -> None:
        """Refuse annotations of encrypted images."""
        if self._coco_api is None:
            raise BoxError(
                'annotations from the pipeline are in pixels of the encrypted images: name the '
                "owner's annotation file, `ann_file=...`"
            )
        image = self._coco_api.imgs.get(sample['img_id'])
        if image is None:
            raise BoxError(
                f'the image id {sample["img_id"]} is not in `ann_file`: name the annotation file '
                'from which the data set was made'
            )
        check_image(image, entry, '`ann_file`', manifest)
        if manifest.dataset_id not in self._own_of:
            check_copy(self._ann_file, manifest)
            self._own_of.add(manifest.dataset_id)

    @staticmethod
    def _remedy(layout: PatchLayout, found: tuple[Manifest, FileEntry] | None) -> str:
        if not layout.needs_key:
            return ''
        if found is None:
            return f'. Set `keep_permutation=True` in the pipeline, and {META_KEYS}'
        if found[0].key_id is None:
            return ', and no key was used: encrypt the images to predict on with a key'
        return (
            f'. Name the file of the key {found[0].key_id} as `key`, or its variable as `key_env`'
        )
