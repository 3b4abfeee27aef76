# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Where the boxes of a data sample are, and which of them stay."""

from typing import Any

import numpy as np
import torch

from hime_mm.datasets.entries import FileEntry
from hime_mm.datasets.manifest import Manifest, find_manifest, load_manifest
from hime_mm.errors import BoxError, ManifestError
from hime_mm.transforms.remote import backend_of, is_remote, remote_entry

META_KEYS = (
    "give PackDetInputs `meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', "
    "'scale_factor', 'patch_layout')`"
)


def find_entry(path: Any, backend_args: dict | None = None) -> tuple[Manifest, FileEntry] | None:
    """What the manifest of an encrypted folder says of an image; None for one of no such folder."""
    if path is None:
        return None
    path = str(path)
    try:
        if is_remote(path, backend_args):
            return remote_entry(path, None, backend_of(path, backend_args))
        place = find_manifest(path)
    except ManifestError:
        return None
    # A damaged one does not make the images plain.
    manifest = load_manifest(place)
    return manifest, manifest.entry(path)


def encrypted_boxes(sample: dict, entry: FileEntry | None) -> np.ndarray:
    """Predicted boxes in pixels of the encrypted image, float64 of shape (n, 4).

    The host has divided them by ``scale_factor``. Those of an encrypted folder are in pixels of the
    file, unless `coordinates='original'` was set there.
    """
    boxes = sample['pred_instances']['bboxes'].detach().cpu().double().numpy()
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise BoxError(f'boxes have the shape (n, 4), (x1, y1, x2, y2), got {boxes.shape}')
    factor = sample.get('scale_factor')
    factor = (1.0, 1.0) if factor is None else np.broadcast_to(factor, 2)
    if entry is not None and not np.allclose(factor, entry.scale):
        factor = (1.0, 1.0)
    return boxes * np.tile(factor, 2)


def check_masks(metrics: list[str], why: str) -> None:
    """Refuse to judge masks that cannot come along."""
    if 'segm' in metrics:
        raise BoxError(f"masks cannot be judged here, {why}: leave 'segm' out of `metric`")


def with_boxes(sample: dict, boxes: np.ndarray, keep: np.ndarray | None, masks: bool) -> dict:
    """A sample with other boxes, of which some stay, and nothing that its metric does not read."""
    pred = sample['pred_instances']
    names = ('scores', 'labels') + ('masks', 'mask_scores') * masks
    new = {name: pick(pred[name], keep) for name in names if name in pred}
    kept = {key: sample[key] for key in ('img_id', 'ori_shape', 'instances') if key in sample}
    return dict(kept, pred_instances=dict(new, bboxes=torch.from_numpy(pick(boxes, keep))))


def pick(value: Any, keep: np.ndarray | None) -> Any:
    """Of an array or a list those that stay; all of them for None."""
    if keep is None:
        return value
    return [value[i] for i in keep] if isinstance(value, list) else value[keep]
