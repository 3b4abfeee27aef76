# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""COCO results of an encrypted data set in pixels of the originals."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from hime_mm.ciphers import Key, PatchLayout
from hime_mm.ciphers.keys import looks_like_key
from hime_mm.datasets.coco import as_json, from_corners, is_id, is_number, to_corners
from hime_mm.datasets.entries import FileEntry
from hime_mm.datasets.manifest import Manifest
from hime_mm.errors import BoxError
from hime_mm.images.files import read_json, write_atomic

from .boxes import nms_threshold, suppress, unmap_boxes
from .image_ids import image_entries
from .masks import unmap_segmentation
from .view import BoxView, find_originals, write_view

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
    nms: float | None


def check_mappable(manifest: Manifest, key: Key | None) -> None:
    """Refuse a data set whose boxes nobody here can map, with this key."""
    root, layout = manifest.root, manifest.overview
    moved = f'{root} was encrypted with {str(manifest.cipher)!r}, which moves patches'
    if layout.needs_key and manifest.key_id is None:
        raise BoxError(
            f'{moved}, and one-way: nothing was kept that could map its boxes '
            'back. Encrypt the pictures to predict on with a key'
        )
    if layout.needs_key and key is None:
        raise BoxError(
            f'{moved}: mapping its boxes back needs the key {manifest.key_id}: give it as `key`'
        )
    if layout.obstacle and not layout.needs_key:
        raise BoxError(f'{root}: {layout.obstacle}')
    if manifest.recipe.views > 1:
        raise BoxError(
            f'{root} has {manifest.recipe.views} files for each picture, so '
            "its image ids are not the originals': predict on a data set with "
            'one view'
        )
    if key is not None and manifest.key_id is not None:
        manifest.check_key(key)


def map_results(
    results: Any,
    manifest: Manifest,
    images: dict[int, FileEntry | list[str]],
    key: Key | None = None,
    nms: float | None = None,
    clip: bool = True,
    progress: bool = False,
) -> tuple[list[dict], BoxSummary]:
    """Map COCO results from encrypted images to their originals.

    Args:
        results (list[dict]): Each with ``image_id``, ``category_id``,
            ``bbox`` [x, y, width, height] in pixels of the encrypted image,
            and ``score``. A ``segmentation`` follows where pixels stay in
            place, and is left out where they do not.
        manifest (Manifest): Of the data set.
        images (dict): From :func:`image_entries`.
        key (Key, optional): As of :func:`map_coco_results`, as are the others.
        nms (float, optional): IoU of the non-maximum suppression.
        clip (bool): Cut boxes to the originals.
        progress (bool): Show a progress bar.

    Returns:
        tuple[list[dict], BoxSummary]: New results in the order of the old
        ones, and what was done.

    Raises:
        BoxError: If the data set or a result is not as it has to be.
        InvalidKey: If the key is another one.
    """
    check_mappable(manifest, key)
    moved = manifest.overview.needs_key
    threshold = nms_threshold(nms, moved)
    groups = _grouped(results, images)
    new: list[dict | None] = [None] * len(results)
    kept = masks = 0
    with tqdm(total=len(results), desc='boxes', unit='box', disable=not progress) as bar:
        for image_id, indices in groups.items():
            entry = images[image_id]
            assert isinstance(entry, FileEntry)
            layout = (
                manifest.secret_layout(entry, key)
                if moved and key is not None
                else manifest.layout(entry)
            )
            rows = [results[i] for i in indices]
            boxes = np.array(to_corners([row['bbox'] for row in rows]))
            for j in layout.find_strays(boxes)[:1]:
                raise BoxError(
                    f'`results[{indices[j]}]`, of the image id {image_id}, is in no slot: '
                    f'{layout.describe_stray(boxes[j])}'
                )
            boxes = unmap_boxes(layout, boxes, clip)
            keep: Any = range(len(rows))
            if threshold is not None:
                keep = suppress(
                    boxes,
                    [row['score'] for row in rows],
                    [row['category_id'] for row in rows],
                    threshold,
                ).tolist()
            coco_boxes = from_corners(boxes)
            for j in keep:
                row = dict(rows[j], bbox=coco_boxes[j])
                if 'area' in row:
                    row['area'] /= layout.scale[0] * layout.scale[1]
                if 'segmentation' in row:
                    if manifest.cipher.moves_pixels:
                        del row['segmentation']
                        masks += 1
                    else:
                        row['segmentation'] = _segmentation(row['segmentation'], layout, indices[j])
                new[indices[j]] = row
            kept += len(keep)
            bar.update(len(rows))
    return [row for row in new if row is not None], BoxSummary(
        len(results), kept, len(groups), masks, threshold
    )


def _grouped(results: Any, images: dict[int, Any]) -> dict[int, list[int]]:
    """Indices of the results of each image; refuses what is malformed."""
    if not isinstance(results, list):
        got = 'a string' if isinstance(results, str) else repr(results)[:99]
        if isinstance(results, dict):
            got = 'an object: an annotation file is no results file'
        raise BoxError(f'COCO results are a list of detections, got {got}')
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(results):
        fault = _fault(row, f'`results[{i}]`', images)
        if fault:
            raise BoxError(fault)
        groups.setdefault(row['image_id'], []).append(i)
    return groups


def _fault(row: Any, place: str, images: dict[int, Any]) -> str | None:
    """What is wrong with a result, None for nothing."""
    if not isinstance(row, dict):
        return f'{place} is no object with `image_id`, `category_id`, `bbox` and `score`'
    box = row.get('bbox')
    if not (
        isinstance(box, list)
        and len(box) == 4
        and all(is_number(v) for v in box)
        and min(box[2:]) >= 0
    ):
        return (
            f'the `bbox` of {place} is not [x, y, width, height], numbers of pixels with no '
            f'negative size: {as_json(box)}'
        )
    for name in ('image_id', 'category_id'):
        if not is_id(row.get(name)):
            return f'the `{name}` of {place} is no whole number: {as_json(row.get(name))}'
    for name, value in (('score', row.get('score')), ('area', row.get('area', 0))):
        if not is_number(value):
            return f'the `{name}` of {place} is no number: {as_json(value)}'
    for name in _UNSUPPORTED:
        if name in row:
            return f'{place} has `{name}`, which cannot be mapped: leave it out'
    entry = images.get(row['image_id'])
    if entry is None:
        return (
            f'the image id {row["image_id"]} of {place} is in no '
            'annotation file that was looked at: name the one the results '
            'were made with (`annotations=...`)'
        )
    if not isinstance(entry, FileEntry):
        return (
            f'the image id {row["image_id"]} of {place} stands for '
            f'different images in {" and ".join(entry)}: name the '
            'annotation file the results were made with (`annotations=...`)'
        )
    return None


def _segmentation(segmentation: Any, layout: PatchLayout, i: int) -> Any:
    try:
        return unmap_segmentation(layout, segmentation)
    except (LookupError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise BoxError(
            f'the `segmentation` of `results[{i}]` is neither '
            'polygons nor run lengths of the encrypted image: '
            f'{error}'
        ) from None


def map_coco_results(
    results: str,
    out: str,
    data: str | Manifest,
    annotations: str | None = None,
    key: Key | None = None,
    nms: float | None = None,
    *,
    clip: bool = True,
    force: bool = False,
    view: BoxView | None = None,
    progress: bool = True,
) -> BoxSummary:
    """Map a COCO results file from encrypted images to their originals.

    Args:
        results (str): The file, such as MMDetection's ``CocoMetric`` writes
            it, with boxes in pixels of the encrypted images.
        out (str): File to write the results to, with the same image ids and
            boxes in pixels of the originals.
        data (str | Manifest): Folder of the encrypted data set.
        annotations (str, optional): The annotation file that the results were
            made with, relative to the data set or not. None takes all those
            that the manifest lists. Defaults to None.
        key (Key, optional): The owner's key, needed where patches were moved.
            Defaults to None.
        nms (float, optional): IoU of the non-maximum suppression in the
            original, from 0 to 1; 1 keeps all boxes. None is 0.5 where
            patches were moved, else 1. Defaults to None.
        clip (bool): Cut boxes to the originals. Defaults to True.
        force (bool): Replace ``out`` if it is there. Defaults to False.
        view (BoxView, optional): A page to write, too, with the boxes on the
            originals. Defaults to None.
        progress (bool): Show a progress bar. Defaults to True.

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
    check_out(out, data, [results], force)
    originals = None
    if view is not None:
        check_out(view.out, data, [results], force, plain=True)
        if os.path.realpath(view.out) == os.path.realpath(out):
            raise BoxError(f'{out} is for the mapped boxes: choose another file for the page')
        originals = find_originals(view, data, key)
    mapped, summary, images = map_file(results, data, annotations, key, nms, clip, progress)
    write_atomic(out, json.dumps(mapped))
    if view is not None and originals is not None:
        write_view(view, mapped, images, data, originals, annotations, results, progress)
    return summary


def map_file(
    results: str,
    data: Manifest,
    annotations: str | None = None,
    key: Key | None = None,
    nms: float | None = None,
    clip: bool = True,
    progress: bool = True,
) -> tuple[list[dict], BoxSummary, dict[int, FileEntry | list[str]]]:
    """What :func:`map_coco_results` writes, what was done, and the data set's images by id."""
    check_mappable(data, key)
    nms_threshold(nms, True)
    content = read_json(results, 'results file', BoxError, regular=False)
    images = image_entries(data, annotations)
    try:
        return *map_results(content, data, images, key, nms, clip, progress), images
    except BoxError as error:
        raise BoxError(f'{results}: {error}') from None


def check_out(
    out: str, data: Manifest, sources: Sequence[str], force: bool, plain: bool = False
) -> None:
    """Refuse a place for mapped results: what is there, what is read, a key, the data set.

    With ``plain``, plain pictures are to be written there.
    """
    if os.path.isdir(out):
        raise BoxError(f'{out} is a folder: name a file')
    if os.path.exists(out):
        for source in sources:
            if os.path.exists(source) and os.path.samefile(source, out):
                raise BoxError(f'{out} is the file {source} itself: choose another file')
        if _holds_key(out):
            raise BoxError(
                f'{out} holds a key, and a key is never overwritten: choose another file'
            )
        if not force:
            raise FileExistsError(
                f'{out} is there already: choose another file, or replace it with `force=True`'
            )
    if plain and data.holds(out):
        raise BoxError(
            f'{out} lies in {data.root}, which is handed over, and holds plain pictures: choose '
            'another folder'
        )
    if data.cipher.shuffles and data.holds(out):
        raise BoxError(
            f'{out} lies in {data.root}, which is handed over: boxes in '
            'original pixels would tell where its patches come from'
        )


def _holds_key(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    with open(path, 'rb') as file:
        return looks_like_key(file.read(256).decode(errors='replace'))
