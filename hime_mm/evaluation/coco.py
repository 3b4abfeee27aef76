# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""COCO's numbers of results on encrypted pictures, against the annotations of the originals."""

import contextlib
import io
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from hime_mm.ciphers import Key
from hime_mm.datasets.coco import is_id, is_number, load_coco
from hime_mm.datasets.entries import FileEntry
from hime_mm.datasets.manifest import Manifest
from hime_mm.errors import BoxError, CocoError, HimeError
from hime_mm.images.files import file_sha256, write_atomic
from hime_mm.mapping.results import BoxSummary, check_mappable, check_out, map_file

_AREAS = ('', '_small', '_medium', '_large')
Numbers = dict[str, float | None]


@dataclass
class CocoScores:
    """What an evaluation found.

    Attributes:
        numbers (dict[str, float | None]): AP, AP50, AP75, AP of small, medium
            and large objects, AR by numbers of detections, and by size. None
            where there is nothing to measure, as COCO's -1.
        classes (dict[str, float | None]): AP of each class.
        images (int): Images that were evaluated.
        left_out (int): Images of the original file that are no part of the
            data set.
        mapping (BoxSummary, optional): How results came back to the originals.
    """

    numbers: Numbers
    classes: Numbers
    images: int
    left_out: int = 0
    mapping: BoxSummary | None = None


def evaluate_results(
    results: str,
    data: str | Manifest,
    ann_file: str,
    annotations: str | None = None,
    key: Key | None = None,
    nms: float | None = None,
    *,
    classes: Sequence[str] | None = None,
    max_dets: Sequence[int] = (1, 10, 100),
    iou_thrs: Sequence[float] | None = None,
    out: str | None = None,
    force: bool = False,
    progress: bool = True,
) -> CocoScores:
    """Evaluate a COCO results file of encrypted images in pixels of their originals.

    Boxes are mapped back, cut to the originals and suppressed there, as
    :func:`map_coco_results` does, and judged by pycocotools. What counts are
    the images of ``ann_file`` that are part of the data set.

    Args:
        results (str): The file, such as MMDetection's ``CocoMetric`` writes
            it, with boxes in pixels of the encrypted images.
        data (str | Manifest): Folder of the encrypted data set.
        ann_file (str): Annotation file of the originals.
        annotations (str, optional): As of :func:`map_coco_results`, as are
            ``key`` and ``nms``. Defaults to None.
        key (Key, optional): The owner's key, needed where patches were moved.
            Defaults to None.
        nms (float, optional): IoU of the non-maximum suppression in the
            original, from 0 to 1. Defaults to None.
        classes (Sequence[str], optional): Names of those that count. None is
            all of ``ann_file``. Defaults to None.
        max_dets (Sequence[int]): Detections per image and class, ascending:
            AR is given for each, the rest for the last. MMDetection's
            ``CocoMetric`` has (100, 300, 1000) and takes AP for the first.
            Defaults to (1, 10, 100).
        iou_thrs (Sequence[float], optional): None is from 0.5 to 0.95 in
            steps of 0.05. Defaults to None.
        out (str, optional): File to write the mapped results to. It is the
            owner's: beside the encrypted results it tells where patches come
            from. Defaults to None.
        force (bool): Replace ``out`` if it is there. Defaults to False.
        progress (bool): Show a progress bar. Defaults to True.

    Returns:
        CocoScores: The numbers, and what was evaluated.

    Raises:
        BoxError: If a file, the data set or a result is not as it has to be.
        CocoError: If ``ann_file`` is not that of the originals.
        HimeError: If an option makes no sense or pycocotools is missing.
        InvalidKey: If the key is another one.
        ManifestError: If there is no manifest.
        OSError: If ``out`` is there or cannot be written.
    """
    check_options(max_dets, iou_thrs)
    _pycocotools()
    if not isinstance(data, Manifest):
        data = Manifest.load(data)
    check_mappable(data, key)
    if out is not None:
        check_out(out, data, [results, ann_file], force)
    check_original(ann_file, data)
    truth = load_coco(ann_file)
    _class_names(truth, classes, ann_file)
    mapped, summary, images = map_file(results, data, annotations, key, nms, progress=progress)
    shared = _shared_images(truth, images, ann_file, data)
    _check_results(mapped, truth, results, ann_file)
    scores = score(truth, mapped, shared, classes, max_dets, iou_thrs)
    scores.left_out = len(truth['images']) - len(shared)
    scores.mapping = summary
    if out is not None:
        write_atomic(out, json.dumps(mapped))
    return scores


def check_options(max_dets: Sequence[int], iou_thrs: Sequence[float] | None) -> None:
    """Refuse numbers that mean nothing."""
    numbers = list(max_dets)
    if not (
        numbers
        and all(is_id(number) and number > 0 for number in numbers)
        and numbers == sorted(set(numbers))
    ):
        raise HimeError(f'`max_dets` are whole numbers above 0, ascending, got {numbers}')
    if iou_thrs is not None and not (
        len(iou_thrs) and all(is_number(one) and 0 < one <= 1 for one in iou_thrs)
    ):
        raise HimeError(f'`iou_thrs` are numbers above 0 and at most 1, got {list(iou_thrs)}')


def check_original(ann_file: str, data: Manifest) -> None:
    """Refuse an annotation file that was handed over: its boxes are in encrypted coordinates."""
    if data.holds(ann_file):
        raise CocoError(
            f'{ann_file} lies in {data.root}: it is in pixels of the encrypted images: name that '
            'of the originals'
        )
    check_copy(ann_file, data)


def check_copy(ann_file: str, data: Manifest) -> None:
    """Refuse a copy of an annotation file that was handed over."""
    handed_over = {row['sha256'] for row in data.annotations if 'sha256' in row}
    # What is no regular file is refused when it is read.
    if os.path.isfile(ann_file) and file_sha256(ann_file) in handed_over:
        raise CocoError(
            f'{ann_file} is a copy of one that was handed over with {data.place}, in pixels of '
            'the encrypted images: name that of the originals'
        )


def _shared_images(truth: dict, images: Mapping, ann_file: str, data: Manifest) -> list[int]:
    """Ids of the images of an original file that are part of the data set."""
    shared = []
    for image in truth['images']:
        entry = images.get(image['id'])
        if entry is None:
            continue
        if not isinstance(entry, FileEntry):
            raise BoxError(
                f'the image id {image["id"]} of {ann_file} stands for different images in '
                f'{" and ".join(entry)}: name the annotation file the results were made with '
                '(`annotations=...`)'
            )
        check_image(image, entry, ann_file, data)
        shared.append(image['id'])
    if not shared:
        raise CocoError(
            f'no image of {ann_file} is part of {data.root}: name the annotation file from which '
            'it was made'
        )
    return shared


def check_image(image: dict, entry: FileEntry, ann_file: str, data: Manifest) -> None:
    """Refuse an image of an original file that only has the id of one of the data set.

    Many tools count from 0 in each file, and scale all pictures to one size.
    """
    remedy = f'name the annotation file from which the data set of {data.place} was made'
    size = (image.get('height'), image.get('width'))
    if None not in size and size != entry.ori_shape:
        raise CocoError(
            f'the image {image["id"]} is {_size(size)} (height x width) in {ann_file}, but its '
            f'original was {_size(entry.ori_shape)}: {remedy}'
        )
    name = image.get('file_name', entry.path)
    stems = {PurePosixPath(one.replace('\\', '/')).stem for one in (name, entry.path)}
    if data.state.get('names') == 'keep' and len(stems) > 1:
        raise CocoError(
            f'the image {image["id"]} is {name} in {ann_file}, but the data set has {entry.path}: '
            f'{remedy}'
        )


def _size(shape: tuple) -> str:
    return f'{shape[0]}x{shape[1]}'


def _check_results(rows: Sequence[dict], truth: dict, results: str, ann_file: str) -> None:
    """Refuse results of what the original file does not know."""
    for key, name in (('image_id', 'images'), ('category_id', 'categories')):
        known = {one.get('id') for one in truth[name]}
        for row in rows:
            if row[key] not in known:
                raise BoxError(
                    f'{results}: the `{key}` {row[key]} of a result is not among the {name} '
                    f'of {ann_file}: name the original annotation file of these results'
                )


def _class_names(truth: dict, classes: Collection[str] | None, place: str) -> dict[int, str]:
    """The names of the classes that count, by id, in the order of the file.

    Some tools write one name twice, and entries that nothing refers to.
    """
    names = {
        one['id']: str(one.get('name', one['id']))
        for one in truth['categories']
        if is_id(one.get('id'))
    }
    if classes is None:
        return names
    unknown = [name for name in classes if name not in names.values()]
    if unknown or not classes:
        raise CocoError(
            f'{place} has no class {", ".join(map(repr, unknown))}: `classes` are some of '
            f'{", ".join(names.values())}'
        )
    return {number: name for number, name in names.items() if name in classes}


def _pycocotools() -> tuple[type, type]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise HimeError(
            'evaluating needs pycocotools, which is not installed: pip install "hime_mm[eval]"'
        ) from None
    return COCO, COCOeval


def score(
    truth: dict,
    results: Sequence[dict],
    image_ids: Sequence[int],
    classes: Collection[str] | None = None,
    max_dets: Sequence[int] = (1, 10, 100),
    iou_thrs: Sequence[float] | None = None,
) -> CocoScores:
    """COCO's numbers of results that are in the coordinates of the annotations.

    Args:
        truth (dict): From :func:`hime_mm.datasets.coco.load_coco`.
        results (Sequence[dict]): COCO results of its images and categories.
        image_ids (Sequence[int]): Those that count.
        classes (Collection[str], optional): As of :func:`evaluate_results`,
            as are the others.
        max_dets (Sequence[int]): Detections per image and class.
        iou_thrs (Sequence[float], optional): Of a match.
    """
    COCO, COCOeval = _pycocotools()  # noqa: N806
    names = _class_names(truth, classes, 'the annotation file')
    anns = [dict(ann, area=_area(ann), iscrowd=_crowd(ann)) for ann in truth['annotations']]
    found = [
        dict(
            image_id=row['image_id'],
            category_id=row['category_id'],
            bbox=row['bbox'],
            score=row['score'],
            area=row['bbox'][2] * row['bbox'][3],
            iscrowd=0,
        )
        for row in results
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(*(_indexed(COCO, truth, rows) for rows in (anns, found)), 'bbox')
        judge.params.imgIds = list(image_ids)
        judge.params.catIds = list(names)
        judge.params.maxDets = list(max_dets)
        if iou_thrs is not None:
            judge.params.iouThrs = np.array(sorted(iou_thrs), np.float64)
        judge.evaluate()
        judge.accumulate()
    precision, recall = judge.eval['precision'], judge.eval['recall']
    numbers = {'AP': _mean(precision[:, :, :, 0, -1])}
    for percent in (50, 75):
        at = np.isclose(judge.params.iouThrs, percent / 100)
        numbers[f'AP{percent}'] = _mean(precision[at][:, :, :, 0, -1])
    for i, area in enumerate(_AREAS[1:], 1):
        numbers[f'AP{area}'] = _mean(precision[:, :, :, i, -1])
    for i, number in enumerate(max_dets):
        numbers[f'AR@{number}'] = _mean(recall[:, :, 0, i])
    for i, area in enumerate(_AREAS[1:], 1):
        numbers[f'AR{area}'] = _mean(recall[:, :, i, -1])
    # pycocotools sorts the ids.
    order = np.array([names[number] for number in sorted(names)])
    per_class = {name: _mean(precision[:, :, order == name, 0, -1]) for name in names.values()}
    return CocoScores(numbers, per_class, len(set(image_ids)))


def _area(ann: dict) -> float:
    """Its box's where it has none, as in what is handed over."""
    area: Any = ann.get('area')
    return area if is_number(area) else ann['bbox'][2] * ann['bbox'][3]


def _crowd(ann: dict) -> int:
    return int(ann.get('iscrowd', 0))


def _indexed(kind: Any, truth: dict, rows: list[dict]) -> Any:
    coco = kind()
    # An annotation of id 0 would never count as found.
    numbered = [dict(row, id=i) for i, row in enumerate(rows, 1)]
    # Which categories count is said to the judge.
    coco.dataset = dict(images=truth['images'], categories=[], annotations=numbered)
    coco.createIndex()
    return coco


def _mean(values: np.ndarray) -> float | None:
    """The mean of what there is, as COCO has it."""
    values = values[values > -1]
    return float(values.mean()) if values.size else None
