# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""COCO annotation files, read and written without pycocotools."""

import json
import os
from collections.abc import Callable, Container, Sequence
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
_ANNOTATION_SET = frozenset(ANNOTATION_FIELDS)
_IMAGE_SET = frozenset(('id', 'file_name', 'width', 'height', 'license'))
_LISTS = {
    'categories': ('id', 'name', 'supercategory'),
    'licenses': ('id', 'name', 'url'),
}
#: Whole numbers that some tools write as 1.0.
_WHOLE = ('id', 'image_id', 'category_id', 'license', 'height', 'width')
#: A larger coordinate is a mistake, and its square would not be finite.
_LARGEST = 1e9


def _fault(path: str, what: str) -> CocoError:
    return CocoError(f'{path} is no valid COCO detection file: {what}')


def _require(ok: bool, path: str, what: str) -> None:
    if not ok:
        raise _fault(path, what)


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
    return check_coco(read_json(path, 'annotation file', CocoError), path, segmentation)


def check_coco(coco: Any, path: str, segmentation: bool = False) -> dict:
    """Check what a file holds, see :func:`load_coco`; it is changed to what is meant."""
    _require(isinstance(coco, dict), path, 'it holds no object')
    _normalize(coco)
    check_keys(path, coco)
    images: dict[int, dict] = {}
    for i, image in enumerate(coco['images']):
        check_image(path, i, image, images.__contains__)
        images[image['id']] = image
    categories = check_lists(path, coco)
    seen: set[int] = set()
    for i, ann in enumerate(coco['annotations']):
        check_annotation(path, i, ann, seen.__contains__, images.get, categories, segmentation)
        seen.add(ann['id'])
    return coco


def check_keys(path: str, coco: dict) -> None:
    """Refuse a file without the lists that it has to have."""
    for key in ('images', 'annotations', 'categories'):
        _require(isinstance(coco.get(key), list), path, f'it has no list `{key}`')


def check_image(path: str, i: int, image: Any, seen: Callable[[int], bool]) -> None:
    """Refuse an image that is none.

    Args:
        path (str): The file.
        i (int): Its number there.
        image (dict): From :func:`normal_entry`.
        seen (Callable): Whether an image before has an id.

    Raises:
        CocoError: Names the entry.
    """
    name: Any = isinstance(image, dict) and image.get('file_name')
    _require(isinstance(name, str) and bool(name), path, f'`images[{i}]` has no `file_name`')
    _require(is_id(image.get('id')), path, f'the `id` of `images[{i}]` ({name}) is no whole number')
    _require(not seen(image['id']), path, f'the image id {image["id"]} occurs twice')
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


def check_lists(path: str, coco: dict) -> set[int]:
    """Refuse categories and licences that are none; the ids of the categories."""
    for name in _LISTS:
        _require(isinstance(coco.get(name) or [], list), path, f'its `{name}` are no list')
        for i, entry in enumerate(coco.get(name) or ()):
            _require(
                isinstance(entry, dict)
                and all(isinstance(entry.get(k, ''), (str, int, float)) for k in _LISTS[name]),
                path,
                f'`{name}[{i}]` is no object of texts and numbers',
            )
    return {c['id'] for c in coco['categories'] if isinstance(c, dict) and is_id(c.get('id'))}


def check_annotation(
    path: str,
    i: int,
    ann: Any,
    seen: Callable[[int], bool],
    find_image: Callable[[int], dict | None],
    categories: Container[int],
    segmentation: bool,
) -> None:
    """Refuse an annotation that is none.

    Args:
        path (str): The file.
        i (int): Its number there.
        ann (dict): From :func:`normal_entry`.
        seen (Callable): Whether an annotation before has an id.
        find_image (Callable): The image of an id; it gets a size from run lengths where it has
            none.
        categories (Container[int]): Their ids.
        segmentation (bool): Check segmentations, too.

    Raises:
        CocoError: Names the entry.
    """
    place = f'`annotations[{i}]`'
    _require(isinstance(ann, dict), path, f'{place} is no object')
    _require(
        is_id(ann.get('id')) and not seen(ann['id']),
        path,
        f'the `id` of {place} is no whole number or occurs twice',
    )
    image = find_image(ann['image_id']) if is_id(ann.get('image_id')) else None
    if image is None:
        raise _fault(
            path, f'{place} is of the image {as_json(ann.get("image_id"))}, which is not listed'
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
        or _is_segmentation(ann['segmentation'], image),
        path,
        f'the `segmentation` of {place} is neither polygons nor run '
        'lengths of the size of its image',
    )


def _normalize(coco: dict) -> None:
    """Make what is written in another way what COCO itself writes."""
    _drop_nulls(coco)
    add_missing(coco)
    for name in ('images', 'annotations', *_LISTS):
        entries = coco.get(name)
        for entry in entries if isinstance(entries, list) else ():
            normal_entry(entry)


def add_missing(coco: dict) -> None:
    """Give a file without annotations an empty list of them, as COCO's image_info_*.json."""
    if 'annotations' not in coco:
        coco['annotations'] = []
        coco.setdefault('categories', [])


def normal_entry(entry: Any) -> Any:
    """An entry of a list, made what COCO itself would have written."""
    if not isinstance(entry, dict):
        return entry
    if None in entry.values():
        _drop_nulls(entry)
    for key in _WHOLE:
        value = entry.get(key)
        if isinstance(value, float) and value.is_integer():
            entry[key] = int(value)
    return entry


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


def dropped_of_lists(coco: dict) -> set[str]:
    """Those of categories and licences."""
    return {
        f'{name}.{k}'
        for name, known in _LISTS.items()
        for entry in coco.get(name) or ()
        for k in set(entry) - set(known)
    }


def dropped_of_annotation(ann: dict, segmentation: bool) -> set[str]:
    """Those of one annotation."""
    names = {f'annotations.{k}' for k in set(ann) - _ANNOTATION_SET}
    if 'segmentation' in ann and not segmentation:
        names.add('annotations.segmentation')
    return names


def dropped_of_image(image: dict) -> set[str]:
    """Those of one image."""
    return {f'images.{k}' for k in set(image) - _IMAGE_SET}


def handed_lists(coco: dict, licenses: bool) -> dict:
    """The licences, unless they are kept back, and the categories, with COCO's fields only."""
    lists = {
        name: [{k: entry[k] for k in known if k in entry} for entry in coco.get(name) or ()]
        for name, known in _LISTS.items()
    }
    return dict(
        **(dict(licenses=lists['licenses']) if licenses else {}), categories=lists['categories']
    )
