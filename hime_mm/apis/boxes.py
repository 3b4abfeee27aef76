# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Detections in pixels of the originals again.

Needs NumPy, OpenCV, cryptography and tqdm only.
"""

import json
import os
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from tqdm import tqdm

from hime_mm.ciphers import Key, PatchLayout
from hime_mm.datasets import coco as coco_format
from hime_mm.datasets.images import file_sha256, write_atomic
from hime_mm.datasets.manifest import FileEntry, Manifest
from hime_mm.errors import BoxError

#: IoU above which, of two boxes of one class, the one with the lower score is
#: left out where patches were moved. There a model cannot do it itself.
SHUFFLED_NMS = 0.6
#: Fields of a result in image coordinates that nothing here maps.
_UNSUPPORTED = ('keypoints', 'rbbox', 'polygon')


@dataclass
class BoxSummary:
    """What a mapping did.

    Attributes:
        results (int): Detections that came in.
        kept (int): Those that remain after non-maximum suppression.
        images (int): Images they belong to.
        masks (int): Segmentations that were left out.
        nms (float, optional): The IoU that was used.
    """

    results: int
    kept: int
    images: int
    masks: int
    nms: Optional[float]


def nms_threshold(nms: Optional[float], shuffled: bool) -> Optional[float]:
    """The IoU to suppress by, None for not at all.

    Args:
        nms (float, optional): What was asked for, from 0 to 1; None is
            :data:`SHUFFLED_NMS` where patches were moved.
        shuffled (bool): Whether they were.

    Returns:
        float | None: The threshold.

    Raises:
        BoxError: If it is no such number.
    """
    if nms is None:
        return SHUFFLED_NMS if shuffled else None
    if isinstance(nms, bool) or not isinstance(
            nms, (int, float)) or not 0 <= nms <= 1:
        raise BoxError('the IoU of a non-maximum suppression is a number from '
                       f'0 to 1, 1 to keep all boxes, got {nms!r}')
    return float(nms) if nms < 1 else None


def suppress(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray,
             iou: float) -> np.ndarray:
    """Non-maximum suppression within each class.

    Args:
        boxes (np.ndarray): Shape (n, 4), (x1, y1, x2, y2).
        scores (np.ndarray): Shape (n, ).
        labels (np.ndarray): Shape (n, ).
        iou (float): A box goes if it overlaps more than this with one of a
            higher score.

    Returns:
        np.ndarray: int64, indices of the boxes that stay, in their order.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    scores, labels = np.asarray(scores), np.asarray(labels)
    area = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)
    kept: List[int] = []
    for label in np.unique(labels):
        rest = np.flatnonzero(labels == label)
        rest = rest[np.argsort(-scores[rest], kind='stable')]
        while rest.size:
            best, rest = rest[0], rest[1:]
            kept.append(best)
            low = np.maximum(boxes[best, :2], boxes[rest, :2])
            high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
            both = (high - low).clip(0).prod(axis=1)
            # Without a division, as both areas may be zero.
            rest = rest[both <= iou * (area[best] + area[rest] - both)]
    return np.sort(np.array(kept, np.int64))


def unmap_boxes(layout: PatchLayout,
                boxes: np.ndarray,
                clip: bool = True) -> np.ndarray:
    """Boxes of an encrypted image in original coordinates.

    Args:
        layout (PatchLayout): Of the image, with its permutation where patches
            were moved.
        boxes (np.ndarray): Shape (n, 4), (x1, y1, x2, y2) in pixels of the
            encrypted image.
        clip (bool): Cut them to the original. Defaults to True.

    Returns:
        np.ndarray: float64, shape (n, 4), in pixels of the original.
    """
    boxes = layout.unmap_boxes(boxes)
    if clip:
        h, w = layout.ori_shape
        boxes = boxes.clip(0, [w, h, w, h])
    return boxes


def unmap_masks(layout: PatchLayout, masks: np.ndarray) -> np.ndarray:
    """Masks of an encrypted image as masks of its original.

    Args:
        layout (PatchLayout): Of an image whose pixels stayed in place.
        masks (np.ndarray): bool or uint8, shape (n, H, W) of the encrypted
            image.

    Returns:
        np.ndarray: bool, shape (n, H, W) of the original.

    Raises:
        BoxError: If they have another shape.
    """
    if masks.ndim != 3 or masks.shape[1:] != layout.shape:
        raise BoxError(f'masks of the shape {masks.shape} are not those of an '
                       f'encrypted image of {layout.shape[0]}x'
                       f'{layout.shape[1]} (height x width)')
    h, w = layout.ori_shape
    # From the centres of the original's pixels; padding is left behind.
    affine = np.array([[s, 0, (s - 1) / 2] for s in layout.scale])
    affine[1, :2] = affine[1, 1::-1]
    found = np.empty((len(masks), h, w), bool)
    for new, old in zip(found, masks):
        new[:] = cv2.warpAffine(
            np.where(old, np.uint8(255), np.uint8(0)), affine, (w, h),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE) > 127
    return found


def unmap_rle(layout: PatchLayout, rle: dict) -> dict:
    """:func:`unmap_masks` for a mask in COCO's run-length encoding.

    Args:
        layout (PatchLayout): As :func:`unmap_masks`.
        rle (dict): The keys ``size`` and ``counts``, compressed or not.

    Returns:
        dict: The same keys; ``counts`` as a compressed string, the only form
        that is read in results.

    Raises:
        BoxError: If it is a mask of another size.
        ValueError: If it is damaged.
    """
    counts, size = rle['counts'], tuple(rle['size'])
    if isinstance(counts, bytes):
        counts = counts.decode('ascii')
    mask = unmap_masks(layout,
                       coco_format.decode_rle(counts, size)[None])[0]
    new = coco_format.encode_rle(mask.astype(np.uint8))
    return dict(size=new['size'], counts=coco_format.compress_rle(new['counts']))


# COCO results of a data set.


def image_entries(manifest: Manifest,
                  annotations: Optional[str] = None
                  ) -> Dict[int, Union[FileEntry, List[str]]]:
    """Which encrypted file each image id stands for.

    Args:
        manifest (Manifest): Of the data set.
        annotations (str, optional): The annotation file, relative to the data
            set or not. None takes all those that the manifest lists. Defaults
            to None.

    Returns:
        dict: The entry of each id, or the annotation files that do not agree
        about it.

    Raises:
        BoxError: If there is no such file, one was changed, or it lists an
            image that is not part of the data set.
    """
    rows = [
        row for row in manifest.state.get('annotations') or ()
        if row.get('kind', 'coco') == 'coco'
    ]
    if annotations is not None:
        rows = [_named_row(manifest, rows, annotations)]
    elif not rows:
        raise BoxError(f'{manifest.root} has no annotation files that say '
                       'which image an id stands for: name one')
    found: Dict[int, Any] = {}
    places: Dict[int, List[str]] = {}
    by_name: Dict[str, List[FileEntry]] = {}
    for row in rows:
        path = str(manifest.root / row['path'])
        _check_unchanged(path, row)
        coco = coco_format.load_coco(path)
        for image in coco['images']:
            name = image['file_name'].replace('\\', '/')
            if 'images_folder' in row:
                entry = manifest.files.get(
                    str(PurePosixPath(row['images_folder'], name)))
            else:
                entry = _by_name(manifest, by_name, path, name)
            if entry is None:
                raise BoxError(
                    f'{path} lists {name}, which is not part of '
                    f'{manifest.root}: name the annotation file that was '
                    'handed over with this data set')
            places.setdefault(image['id'], []).append(row['path'])
            if found.setdefault(image['id'], entry) != entry:
                found[image['id']] = places[image['id']]
    return found


def _named_row(manifest: Manifest, rows: Sequence[dict], path: str) -> dict:
    """What the manifest says of an annotation file, or just its path."""
    inside = manifest.root / path
    full = os.path.realpath(path if os.path.exists(path) else inside)
    for row in rows:
        if os.path.realpath(manifest.root / row['path']) == full:
            return row
    return dict(path=full)


def _check_unchanged(path: str, row: dict) -> None:
    if 'sha256' not in row:
        return
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise BoxError(f'cannot read the annotation file {path}: '
                       f'{error.strerror}') from None
    if digest != row['sha256']:
        raise BoxError(f'{path} was changed since the data set was encrypted: '
                       'its SHA-256 is not the one in the manifest. Get it '
                       'again, or name a copy elsewhere if the change is '
                       'meant')


def _by_name(manifest: Manifest, by_name: Dict[str, List[FileEntry]],
             path: str, name: str) -> Optional[FileEntry]:
    """The entry of a file whose folder is not known."""
    if name in manifest.files:
        return manifest.files[name]
    if not by_name:
        for entry in manifest.files.values():
            parts = entry.path.split('/')
            for i in range(1, len(parts)):
                by_name.setdefault('/'.join(parts[i:]), []).append(entry)
    found = by_name.get(name, [])
    if len(found) > 1:
        raise BoxError(
            f'{path} lists {name}, which may be '
            f'{" or ".join(entry.path for entry in found[:3])}: name the '
            'annotation file that was handed over with this data set')
    return found[0] if found else None


def check_mappable(manifest: Manifest, key: Optional[Key]) -> None:
    """Refuse a data set whose boxes nobody here can map.

    Args:
        manifest (Manifest): Of the data set.
        key (Key, optional): The owner's key, needed where patches were moved.

    Raises:
        BoxError: Names the reason and the remedy.
        InvalidKey: If the key is another one.
    """
    root, cipher = manifest.root, str(manifest.cipher)
    if manifest.augmented or manifest.preprocess.get('center_crop'):
        raise BoxError(
            f'the images of {root} were cropped, flipped or recoloured before '
            'they were encrypted, so their boxes have no place in the '
            'originals: predict on a data set without augmentation')
    if manifest.state.get('views', 1) > 1:
        raise BoxError(
            f'{root} has {manifest.state["views"]} files for each picture, so '
            "its image ids are not the originals': predict on a data set with "
            'one view')
    if not manifest.cipher.shuffles:
        if key is not None and manifest.key_id is not None:
            manifest.check_key(key)
        return
    if manifest.key_id is None:
        raise BoxError(
            f'{root} was encrypted one-way with {cipher!r}, which moves '
            'patches: nothing was kept that could map its boxes back. Encrypt '
            'the pictures to predict on with a key')
    if key is None:
        raise BoxError(
            f'{root} was encrypted with {cipher!r}, which moves patches: '
            f'mapping its boxes back needs the key {manifest.key_id}')
    manifest.check_key(key)


def map_results(results: Any,
                manifest: Manifest,
                images: Dict[int, Union[FileEntry, List[str]]],
                key: Optional[Key] = None,
                nms: Optional[float] = None,
                clip: bool = True,
                progress: bool = False) -> Tuple[List[dict], BoxSummary]:
    """Map COCO results from encrypted images to their originals.

    Args:
        results (list[dict]): Each with ``image_id``, ``category_id``,
            ``bbox`` [x, y, width, height] in pixels of the encrypted image,
            and ``score``. A ``segmentation`` follows where pixels stay in
            place, and is left out where they do not.
        manifest (Manifest): Of the data set.
        images (dict): From :func:`image_entries`.
        key (Key, optional): The owner's key, needed where patches were moved.
            Defaults to None.
        nms (float, optional): See :func:`nms_threshold`. Defaults to None.
        clip (bool): Cut boxes to the originals. Defaults to True.
        progress (bool): Show a progress bar. Defaults to False.

    Returns:
        tuple[list[dict], BoxSummary]: New results in the order of the old
        ones, and what was done.

    Raises:
        BoxError: If the data set or a result cannot be mapped; names it.
        InvalidKey: If the key is another one.
    """
    check_mappable(manifest, key)
    shuffles = manifest.cipher.shuffles
    threshold = nms_threshold(nms, shuffles)
    groups = _grouped(results, images)
    new: List[Optional[dict]] = [None] * len(results)
    kept = masks = 0
    with tqdm(
            total=len(results), desc='boxes', unit='box',
            disable=not progress) as bar:
        for image_id, indices in groups.items():
            entry = images[image_id]
            assert isinstance(entry, FileEntry)
            layout = manifest.layout(entry)
            if shuffles:
                assert key is not None  # `check_mappable` has seen to it
                layout = manifest.secret_layout(entry, key)
            rows = [results[i] for i in indices]
            boxes = unmap_boxes(
                layout, coco_format.to_corners([row['bbox'] for row in rows]),
                clip)
            stay: Any = range(len(rows))
            if threshold is not None:
                stay = suppress(boxes, [row['score'] for row in rows],
                                [row['category_id'] for row in rows],
                                threshold).tolist()
            coco_boxes = coco_format.from_corners(boxes)
            for j in stay:
                row = dict(rows[j], bbox=coco_boxes[j])
                if 'area' in row:
                    row['area'] /= layout.scale[0] * layout.scale[1]
                if 'segmentation' in row:
                    if manifest.cipher.moves_pixels:
                        del row['segmentation']
                        masks += 1
                    else:
                        row['segmentation'] = _original_segmentation(
                            row['segmentation'], layout, indices[j])
                new[indices[j]] = row
            kept += len(stay)
            bar.update(len(rows))
    summary = BoxSummary(
        len(results), kept, len(groups), masks, threshold)
    return [row for row in new if row is not None], summary


def _grouped(results: Any, images: Dict[int, Any]) -> Dict[int, List[int]]:
    """Indices of the results of each image; refuses what is malformed."""
    if not isinstance(results, list):
        raise BoxError('COCO results are a list of detections, got '
                       f'{_kind(results)}' + (
                           ': an annotation file is no results file'
                           if isinstance(results, dict) else ''))
    groups: Dict[int, List[int]] = {}
    for i, row in enumerate(results):
        place = f'`results[{i}]`'
        if not isinstance(row, dict):
            raise BoxError(f'{place} is {_kind(row)}, not an object with '
                           '`image_id`, `category_id`, `bbox` and `score`')
        box = row.get('bbox')
        if not (isinstance(box, list) and len(box) == 4
                and all(coco_format.is_number(v) for v in box)
                and box[2] >= 0 and box[3] >= 0):
            raise BoxError(f'the `bbox` of {place} is not [x, y, width, '
                           'height] in numbers')
        for name in ('image_id', 'category_id'):
            value = row.get(name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise BoxError(f'the `{name}` of {place} is no whole number: '
                               f'{value!r}')
        if not coco_format.is_number(row.get('score')):
            raise BoxError(f'the `score` of {place} is no number: '
                           f'{row.get("score")!r}')
        if 'area' in row and not coco_format.is_number(row['area']):
            raise BoxError(f'the `area` of {place} is no number: '
                           f'{row["area"]!r}')
        for name in _UNSUPPORTED:
            if name in row:
                raise BoxError(f'{place} has `{name}`, which cannot be '
                               'mapped: leave it out')
        entry = images.get(row['image_id'])
        if entry is None:
            raise BoxError(
                f'the image id {row["image_id"]} of {place} is in no '
                'annotation file that was looked at: name the one the results '
                'were made with')
        if not isinstance(entry, FileEntry):
            raise BoxError(
                f'the image id {row["image_id"]} of {place} stands for '
                f'different images in {" and ".join(entry)}: name the '
                'annotation file the results were made with')
        groups.setdefault(row['image_id'], []).append(i)
    return groups


def _kind(value: Any) -> str:
    return {dict: 'an object', list: 'a list', str: 'a string'}.get(
        type(value), type(value).__name__)


def _original_segmentation(segmentation: Any, layout: PatchLayout,
                           i: int) -> Any:
    """Run lengths or polygons in pixels of the original."""
    try:
        if isinstance(segmentation, dict):
            return unmap_rle(layout, segmentation)
        back = (1 / layout.scale[0], 1 / layout.scale[1])
        return coco_format.scale_segmentation(segmentation, back,
                                              layout.ori_shape)
    except (KeyError, TypeError, ValueError) as error:
        raise BoxError(f'the `segmentation` of `results[{i}]` is neither '
                       'polygons nor run lengths of the encrypted image: '
                       f'{error}') from None


def map_coco_results(results: str,
                     out: str,
                     data: Union[str, Manifest],
                     annotations: Optional[str] = None,
                     key: Optional[Key] = None,
                     nms: Optional[float] = None,
                     clip: bool = True,
                     force: bool = False,
                     progress: bool = True) -> BoxSummary:
    """Map a COCO results file from encrypted images to their originals.

    Args:
        results (str): The file, such as MMDetection's ``CocoMetric`` writes
            it, with boxes in pixels of the encrypted images.
        out (str): File to write the results to, with the same image ids and
            boxes in pixels of the originals.
        data (str | Manifest): Folder of the encrypted data set.
        annotations (str, optional): See :func:`image_entries`. Defaults to
            None.
        key (Key, optional): As :func:`map_results`, like ``nms``, ``clip``
            and ``progress``.
        force (bool): Replace ``out`` if it is there. Defaults to False.

    Returns:
        BoxSummary: What was done.

    Raises:
        BoxError: If a file, the data set or a result is not as it has to be.
        InvalidKey: If the key is another one.
        ManifestError: If there is no manifest.
        OSError: If ``out`` is there or cannot be written.
    """
    if not isinstance(data, Manifest):
        data = Manifest.load(data)
    check_mappable(data, key)
    nms_threshold(nms, True)
    _check_out(results, out, data, force)
    try:
        with open(results, 'rb') as file:
            content = json.load(file)
    except OSError as error:
        raise BoxError(f'cannot read the results file {results}: '
                       f'{error.strerror}') from None
    except (ValueError, RecursionError) as error:
        raise BoxError(f'{results} is no JSON file: {error}') from None
    images = image_entries(data, annotations)
    try:
        mapped, summary = map_results(content, data, images, key, nms, clip,
                                      progress)
    except BoxError as error:
        raise BoxError(f'{results}: {error}') from None
    write_atomic(out, json.dumps(mapped))
    return summary


def _check_out(results: str, out: str, data: Manifest, force: bool) -> None:
    if os.path.isdir(out):
        raise BoxError(f'{out} is a folder: name a file')
    if os.path.exists(out):
        if os.path.exists(results) and os.path.samefile(results, out):
            raise BoxError(f'{out} is the results file itself: choose another '
                           'file')
        if not force:
            raise FileExistsError(f'{out} is there already: choose another '
                                  'file, or replace it with --force')
    inside = os.path.realpath(data.root) + os.sep
    if data.cipher.shuffles and os.path.realpath(out).startswith(inside):
        raise BoxError(
            f'{out} lies in {data.root}, which is handed over: boxes in '
            'original pixels would tell where its patches come from')
