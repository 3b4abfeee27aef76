# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Annotation files of COCO, read entry by entry into a catalog."""

import json
from collections.abc import Callable, Container, Iterator
from typing import Any, BinaryIO

from hime_mm.datasets import coco as coco_format
from hime_mm.datasets.json_stream import stream_json
from hime_mm.errors import CocoError

from .catalog import Catalog, number, packed

_KEPT_OF_IMAGE = ('id', 'file_name', 'height', 'width', 'license')
#: Values of an annotation file that are held whole: few, and handed over.
_VALUES = ('categories', 'licenses', 'info')
_TABLES = ('images', 'annotations')
_CHUNK = 5000


class _Everything(Container):
    def __contains__(self, item: object) -> bool:
        return True


class Intake:
    """One annotation file on its way into a catalog.

    What an entry tells by itself is checked as it comes, what takes others afterwards, in SQL. Of
    all faults the one of the first entry is told, as if they were checked one after the other.

    Args:
        catalog (Catalog): Gets what is handed over of images and annotations.
        file (int): Number of the file.
        place (str): What messages call it.
        segmentation (bool): Whether segmentations are handed over.

    Attributes:
        dropped (set[str]): Names of fields that are not handed over.
    """

    def __init__(self, catalog: Catalog, file: int, place: str, segmentation: bool) -> None:
        self._catalog, self._file, self._place = catalog, file, place
        self._segmentation = segmentation
        self._faults: dict[str, tuple[int, CocoError]] = {}
        self._waiting: dict[str, list[tuple]] = {name: [] for name in _TABLES}
        self.dropped: set[str] = set()

    def read(self, stream: BinaryIO) -> dict:
        """Read and check it.

        Returns:
            dict: Its keys. Lists of images and annotations, which are in the catalog, are empty.

        Raises:
            CocoError: If it is not valid; names the entry.
            ValueError, RecursionError: If it is no JSON.
        """
        coco: dict[str, Any] = {}
        for key, i, value in stream_json(stream, _TABLES, _VALUES):
            if key is None:
                raise CocoError(
                    f'{self._place} is no valid COCO detection file: it holds no object'
                )
            if i is not None:
                self._take(key, i, coco_format.normal_entry(value))
                continue
            coco.pop(key, None)
            if key in _TABLES:  # the last of two counts
                self._forget(key)
            if value is not None or key not in (*_VALUES, *_TABLES):
                coco[key] = value
        for name in _TABLES:
            self._put(name)
        self.dropped |= set(coco) - {*_VALUES, *_TABLES}
        coco = {key: value for key, value in coco.items() if key in (*_VALUES, *_TABLES)}
        coco_format.add_missing(coco)
        for name in ('categories', 'licenses'):
            entries = coco.get(name)
            for entry in entries if isinstance(entries, list) else ():
                coco_format.normal_entry(entry)
        self._check(coco)
        self.dropped |= coco_format.dropped_of_lists(coco)
        return coco

    def _forget(self, name: str) -> None:
        self._waiting[name].clear()
        self._faults.pop(name, None)
        self._catalog.run(f'DELETE FROM {name} WHERE file = ?', self._file)

    def _put(self, name: str) -> None:
        columns = dict(images='id, name', annotations='id, image, category')[name]
        marks = ', ?' * (columns.count(',') + 1)
        self._catalog.insert(
            f'INSERT INTO {name} (file, place, json, {columns}) VALUES (?, ?, ?{marks})',
            self._waiting[name],
        )
        self._waiting[name].clear()

    def _take(self, name: str, i: int, entry: Any) -> None:
        if name in self._faults:
            return
        try:
            row = self._image(i, entry) if name == 'images' else self._annotation(i, entry)
        except CocoError as error:
            self._faults[name] = i, error
            return
        self._waiting[name].append((self._file, i, *row))
        if len(self._waiting[name]) >= _CHUNK:
            self._put(name)

    def _image(self, i: int, image: Any) -> tuple:
        coco_format.check_image(self._place, i, image, lambda image_id: False)
        self.dropped |= coco_format.dropped_of_image(image)
        kept = {key: image[key] for key in _KEPT_OF_IMAGE if key in image}
        name = packed(image['file_name'].replace('\\', '/'))
        return json.dumps(kept), number(image['id']), name

    def _annotation(self, i: int, ann: Any) -> tuple:
        coco_format.check_annotation(
            self._place, i, ann, lambda ann_id: False, lambda image_id: {}, _Everything(), False
        )
        self.dropped |= coco_format.dropped_of_annotation(ann, self._segmentation)
        kept = {
            key: ann[key]
            for key in coco_format.ANNOTATION_FIELDS
            if key in ann and (self._segmentation or key != 'segmentation')
        }
        ids = (number(ann[key]) for key in ('id', 'image_id', 'category_id'))
        return json.dumps(kept), *ids

    # --- What takes other entries -----------------------------------------------------------------

    def _check(self, coco: dict) -> None:
        coco_format.check_keys(self._place, coco)
        for index in (
            'image_of ON images (file, id)',
            'annotation_of ON annotations (file, id)',
            'annotated ON annotations (file, image, place)',
        ):
            self._catalog.run(f'CREATE INDEX IF NOT EXISTS {index}')
        self._raise_first('images', [self._twice('images')], self._check_image)
        categories = coco_format.check_lists(self._place, coco)
        suspects = [self._twice('annotations'), self._unlisted(), self._unknown(categories)]

        def check(i: int, ann: dict) -> None:
            coco_format.check_annotation(
                self._place, i, ann, self._seen(i, 'annotations'), self._find, categories, False
            )

        if self._segmentation:
            places = (place for place in suspects if place is not None)
            self._check_segmentations(categories, min(places, default=None))
        self._raise_first('annotations', suspects, check)

    def _raise_first(
        self, name: str, suspects: list[int | None], check: Callable[[int, dict], None]
    ) -> None:
        """Raise what is wrong with the first entry of which anything is."""
        places = [place for place in suspects if place is not None]
        fault = self._faults.get(name)
        if places and (fault is None or min(places) < fault[0]):
            check(min(places), self._entry(name, min(places)))
        if fault is not None:
            raise fault[1]

    def _check_image(self, i: int, image: dict) -> None:
        coco_format.check_image(self._place, i, image, self._seen(i, 'images'))

    def _entry(self, name: str, place: int) -> dict:
        query = f'SELECT json FROM {name} WHERE file = ? AND place = ?'
        return json.loads(self._catalog.first(query, self._file, place)[0])

    def _seen(self, i: int, name: str) -> Callable[[int], bool]:
        """Whether an entry before the i-th has an id."""
        query = f'SELECT 1 FROM {name} WHERE file = ? AND place < ? AND id = ?'
        return lambda value: self._catalog.first(query, self._file, i, number(value)) is not None

    def _find(self, image_id: int) -> dict | None:
        row = self._catalog.first(
            'SELECT json FROM images INDEXED BY image_of WHERE file = ? AND id = ?',
            self._file,
            number(image_id),
        )
        return None if row is None else json.loads(row[0])

    def _twice(self, name: str) -> int | None:
        """The first entry whose id one before it has."""
        index = dict(images='image_of', annotations='annotation_of')[name]
        row = self._catalog.first(
            'SELECT min(place) FROM (SELECT place, row_number() OVER '
            f'(PARTITION BY id ORDER BY place) AS k FROM {name} INDEXED BY {index} '
            'WHERE file = ?) WHERE k > 1',
            self._file,
        )
        return row[0]

    def _unlisted(self) -> int | None:
        """The first annotation whose image is not listed."""
        row = self._catalog.first(
            'SELECT min(a.place) FROM annotations AS a WHERE a.file = ? AND NOT EXISTS '
            '(SELECT 1 FROM images INDEXED BY image_of '
            'WHERE images.file = a.file AND images.id = a.image)',
            self._file,
        )
        return row[0]

    def _unknown(self, categories: set[int]) -> int | None:
        """The first annotation whose category is not listed."""
        known = {number(category) for category in categories}
        rows = self._catalog.run(
            'SELECT category, min(place) FROM annotations WHERE file = ? GROUP BY category',
            self._file,
        )
        return min((place for category, place in rows if category not in known), default=None)

    def _check_segmentations(self, categories: set[int], before: int | None) -> None:
        """Refuse a segmentation that is none, of an entry before that of another fault."""
        for i, ann in self._entries():
            if before is not None and i >= before:
                return
            self._check_segmentation(i, ann, categories)

    def _check_segmentation(self, i: int, ann: dict, categories: set[int]) -> None:
        """Refuse it; an image without a size gets that of its run lengths."""
        image = self._find(ann['image_id'])
        found = json.dumps(image)
        coco_format.check_annotation(
            self._place, i, ann, lambda ann_id: False, lambda image_id: image, categories, True
        )
        if json.dumps(image) != found:
            self._catalog.run(
                'UPDATE images INDEXED BY image_of SET json = ? WHERE file = ? AND id = ?',
                json.dumps(image),
                self._file,
                number(ann['image_id']),
            )

    def _entries(self) -> Iterator[tuple[int, dict]]:
        """Annotations of the file, which may be changed meanwhile."""
        query = 'SELECT place, json FROM annotations WHERE file = ? AND place > ? ORDER BY place'
        last = -1
        while some := self._catalog.run(f'{query} LIMIT 1000', self._file, last).fetchall():
            for last, text in some:
                yield last, json.loads(text)
