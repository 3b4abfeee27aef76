# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""COCO annotation files, read and written without pycocotools."""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from hime_mm.errors import CocoError
from hime_mm.images.files import read_json

from .segmentation import run_lengths

#: What is handed over of an annotation; anything else may show the original.
ANNOTATION_FIELDS = (
    'id',
    'image_id',
    'category_id',
    'bbox',
    'area',
    'iscrowd',
    'segmentation',
    'ignore',
)
_LISTS = {
    'categories': ('id', 'name', 'supercategory'),
    'licenses': ('id', 'name', 'url'),
}
#: Whole numbers that some tools write as 1.0.
_WHOLE = ('id', 'image_id', 'category_id', 'license', 'height', 'width')
#: A larger coordinate is a mistake, and its square would not be finite.
_LARGEST = 1e9


def _require(ok: bool, path: str, what: str) -> None:
    if not ok:
        raise CocoError(f'{path} is no valid COCO detection file: {what}')


def load_coco(path: str, segmentation: bool = False) -> dict:
    """Read and check a COCO detection file.

    What other tools write is read as it is meant: ``null`` is as if the field were absent, ``1.0``
    is the id 1, a file without annotations has an empty list of them, and an image without a size
    has that of its run lengths.

    Args:
        path (str): The JSON file.
        segmentation (bool): Check segmentations, too. Defaults to False.

    Returns:
        dict: Its content.

    Raises:
        CocoError: If it cannot be read or is not valid; names the entry.
    """
    coco = read_json(path, 'annotation file', CocoError)
    _require(isinstance(coco, dict), path, 'it holds no object')
    _normalize(coco)
    for key in ('images', 'annotations', 'categories'):
        _require(isinstance(coco.get(key), list), path, f'it has no list `{key}`')
    images: dict[int, dict] = {}
    for i, image in enumerate(coco['images']):
        name: Any = isinstance(image, dict) and image.get('file_name')
        _require(isinstance(name, str) and bool(name), path, f'`images[{i}]` has no `file_name`')
        _require(
            is_id(image.get('id')), path, f'the `id` of `images[{i}]` ({name}) is no whole number'
        )
        _require(image['id'] not in images, path, f'the image id {image["id"]} occurs twice')
        parts = name.replace('\\', '/').split('/')
        _require(
            not os.path.isabs(name) and '..' not in parts,
            path,
            f'the file name {name!r} points out of the image folder',
        )
        for side in ('height', 'width'):
            _require(
                is_id(image.get(side, 1)) and image.get(side, 1) > 0,
                path,
                f'the `{side}` of `images[{i}]` ({name}) is no positive whole number',
            )
        _require(
            is_id(image.get('license', 0)),
            path,
            f'the `license` of `images[{i}]` ({name}) is no whole number',
        )
        images[image['id']] = image
    for name in _LISTS:
        _require(isinstance(coco.get(name) or [], list), path, f'its `{name}` are no list')
        for i, entry in enumerate(coco.get(name) or ()):
            _require(
                isinstance(entry, dict)
                and all(isinstance(entry.get(k, ''), (str, int, float)) for k in _LISTS[name]),
                path,
                f'`{name}[{i}]` is no object of texts and numbers',
            )
    seen = set()
    categories = {c['id'] for c in coco['categories'] if isinstance(c, dict) and is_id(c.get('id'))}
    for i, ann in enumerate(coco['annotations']):
        place = f'`annotations[{i}]`'
        _require(isinstance(ann, dict), path, f'{place} is no object')
        _require(
            is_id(ann.get('id')) and ann['id'] not in seen,
            path,
            f'the `id` of {place} is no whole number or occurs twice',
        )
        seen.add(ann['id'])
        _require(
            is_id(ann.get('image_id')) and ann['image_id'] in images,
            path,
            f'{place} is of the image {as_json(ann.get("image_id"))}, which is not listed',
        )
        _require(
            is_id(ann.get('category_id')) and ann['category_id'] in categories,
            path,
            f'{place} has the category {as_json(ann.get("category_id"))}, which is not listed',
        )
        box = ann.get('bbox')
        _require(
            isinstance(box, list) and len(box) == 4 and all(is_number(v) for v in box),
            path,
            f'the `bbox` of {place} is not [x, y, width, height]',
        )
        for name in ('iscrowd', 'ignore'):
            _require(ann.get(name, 0) in (0, 1), path, f'the `{name}` of {place} is not 0 or 1')
        _require(
            not segmentation
            or not ann.get('segmentation')
            or _is_segmentation(ann['segmentation'], images[ann['image_id']]),
            path,
            f'the `segmentation` of {place} is neither polygons nor run '
            'lengths of the size of its image',
        )
    return coco


def _normalize(coco: dict) -> None:
    """Make what is written in another way what COCO itself writes."""
    _drop_nulls(coco)
    if 'annotations' not in coco:  # as in COCO's image_info_*.json
        coco['annotations'] = []
        coco.setdefault('categories', [])
    for name in ('images', 'annotations', *_LISTS):
        entries = coco.get(name)
        for entry in entries if isinstance(entries, list) else ():
            if not isinstance(entry, dict):
                continue
            if None in entry.values():
                _drop_nulls(entry)
            for key in _WHOLE:
                value = entry.get(key)
                if isinstance(value, float) and value.is_integer():
                    entry[key] = int(value)


def _drop_nulls(entry: dict) -> None:
    for key in [key for key, value in entry.items() if value is None]:
        del entry[key]


def as_json(value: Any) -> str:
    """A value as it is written in a file, for messages about it."""
    return json.dumps(value, ensure_ascii=False, default=repr)[:99]


def is_id(value: Any) -> bool:
    """Whether a value may be an id: a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value may be a coordinate, an area or a score."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and -_LARGEST <= value <= _LARGEST
    )


def _is_segmentation(value: Any, image: dict) -> bool:
    if isinstance(value, list):
        return all(
            isinstance(polygon, list)
            and len(polygon) % 2 == 0
            and all(is_number(v) for v in polygon)
            for polygon in value
        )
    if not isinstance(value, dict):
        return False
    counts, size = value.get('counts'), value.get('size')
    # Of an image without a size it is this one, which its picture is held to.
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(
            is_id(side) and 0 < side == image.setdefault(name, side)
            for side, name in zip(size, ('height', 'width'), strict=True)
        )
    ):
        return False
    try:
        return sum(run_lengths(counts)) == size[0] * size[1]
    except CocoError:
        return False


def to_corners(boxes: Sequence[Sequence[float]]) -> list[list[float]]:
    """(x, y, width, height) as (x1, y1, x2, y2)."""
    return [[x, y, x + w, y + h] for x, y, w, h in boxes]


def from_corners(boxes: np.ndarray) -> list[list[float]]:
    """(x1, y1, x2, y2) as (x, y, width, height)."""
    return [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes.tolist()]


def steps_of(boxes: np.ndarray) -> np.ndarray:
    """Of each box what its numbers are multiples of: the largest 1/n, with n a divisor of 10^6.

    Boxes have shape (n, 4), steps (n, ); 0 is for none.
    """
    unit = 10**6
    scaled = boxes * float(unit)
    whole = np.rint(scaled)
    # What sums of decimals round, 1e-9 pixels.
    exact = np.abs(scaled - whole) <= 1e-3 + 1e-15 * np.abs(scaled)
    steps = np.gcd.reduce(whole.astype(np.int64), axis=1, initial=unit) / unit
    return np.where(exact.all(axis=1), steps, 0)


def group_annotations(coco: dict) -> dict[int, list[dict]]:
    """The annotations of each image by its id."""
    groups: dict[int, list[dict]] = {}
    for ann in coco['annotations']:
        groups.setdefault(ann['image_id'], []).append(ann)
    return groups


def encrypted_annotation(
    ann: dict, box: list[float], scale: tuple[float, float], cut: bool, segmentation: Any
) -> dict:
    """An annotation as it is handed over, with fields of COCO's format only.

    Args:
        ann (dict): Of the original.
        box (list[float]): Its box in encrypted coordinates, (x, y, w, h).
        scale (tuple[float, float]): Encrypted per original pixels.
        cut (bool): Whether the box was cut or rounded, so that its own area counts.
        segmentation (list | dict, optional): In encrypted coordinates; None
            leaves it out.
    """
    new = {k: ann[k] for k in ANNOTATION_FIELDS if k in ann}
    new['bbox'] = box
    if cut or not is_number(ann.get('area')):
        new['area'] = box[2] * box[3]
    else:
        new['area'] = ann['area'] * scale[0] * scale[1]
    new.setdefault('iscrowd', 0)
    new.pop('segmentation', None)
    if segmentation is not None:
        new['segmentation'] = segmentation
    return new


def dropped_fields(coco: dict, segmentation: bool) -> list[str]:
    """Names of what a COCO file holds that is not handed over."""
    names = set(coco) - {'info', 'licenses', 'images', 'annotations', 'categories'}
    for list_name, known in _LISTS.items():
        for entry in coco.get(list_name) or ():
            names |= {f'{list_name}.{k}' for k in set(entry) - set(known)}
    for ann in coco['annotations']:
        names |= {f'annotations.{k}' for k in set(ann) - set(ANNOTATION_FIELDS)}
        if 'segmentation' in ann and not segmentation:
            names.add('annotations.segmentation')
    for image in coco['images']:
        names |= {
            f'images.{k}' for k in set(image) - {'id', 'file_name', 'width', 'height', 'license'}
        }
    return sorted(names)


def encrypted_coco(
    coco: dict, images: list[dict], annotations: list[dict], licenses: bool, description: str
) -> dict:
    """A COCO file as it is handed over.

    It has the original's lists, images and annotations of the encrypted ones, and of ``info`` a
    description only.
    """
    lists = {
        name: [{k: entry[k] for k in known if k in entry} for entry in coco.get(name) or ()]
        for name, known in _LISTS.items()
    }
    if not licenses:
        for image in images:
            image.pop('license', None)
    return dict(
        info=dict(description=description),
        **(dict(licenses=lists['licenses']) if licenses else {}),
        images=images,
        annotations=annotations,
        categories=lists['categories'],
    )
