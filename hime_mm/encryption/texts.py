# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Annotation files and lists of an encrypted data set, written as streams."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, BinaryIO

from hime_mm.ciphers.travel import blunted
from hime_mm.datasets import coco as coco_format
from hime_mm.datasets.json_stream import stream_json
from hime_mm.datasets.lists import write_list
from hime_mm.datasets.segmentation import scale_segmentation
from hime_mm.datasets.stores import Store
from hime_mm.errors import EncryptionError

from .job import Item, Job, Listing
from .spool import Spool

#: Gives number, target and outcome of all pictures, in their order.
Records = Callable[[], Iterable[tuple[int, str, dict]]]


def encrypted_listings(job: Job, item: Item, outcome: dict) -> tuple[list, int]:
    """A picture in the annotation files, in encrypted coordinates.

    Args:
        job (Job): The run.
        item (Item): The picture.
        outcome (dict): Its ``rows``, and of each view as ``boxes`` the boxes,
            (x, y, width, height), and which of the item's they are: ``kept``.

    Returns:
        tuple[list, int]: For each listing the number of the file, the place
        in it, the images and the annotations; and the number of objects that
        are below 1x1 pixel now.
    """
    listings, tiny, first = [], 0, 0
    for listing in item.listings or ():
        images, annotations = [], []
        for view, (row, boxes) in enumerate(zip(outcome['rows'], outcome['boxes'], strict=True)):
            image = _encrypted_image(listing, row, view, job.recipe.views)
            images.append(image)
            for k, box in zip(boxes['kept'], boxes['boxes'], strict=True):
                # Boxes of other annotation files are there, too.
                if 0 <= k - first < len(listing.annotations):
                    ann = listing.annotations[k - first]
                    annotations.append(_annotation(job, ann, box, row, image['id'], view))
                    tiny += min(box[2:]) < 1 <= min(ann['bbox'][2:])
        listings.append([listing.file, listing.place, images, annotations])
        first += len(listing.annotations)
    return listings, tiny


def _encrypted_image(listing: Listing, row: dict, view: int, views: int) -> dict:
    # Ids stay where there is one view of each picture. The folder of the file is not known here.
    new = dict(
        id=listing.image['id'] * views + view,
        file_name=row['path'],
        height=row['shape'][0],
        width=row['shape'][1],
    )
    if 'license' in listing.image:
        new['license'] = listing.image['license']
    return new


def _annotation(job: Job, ann: dict, box: list[float], row: dict, image_id: int, view: int) -> dict:
    segmentation = None
    if ann.get('segmentation'):
        segmentation = scale_segmentation(
            ann['segmentation'], tuple(row['scale']), tuple(row['shape'])
        )
    moved = job.recipe.cipher.shuffles
    new = coco_format.encrypted_annotation(
        ann,
        box,
        tuple(row['scale']),
        # The area of the original would tell the sides that were rounded.
        job.recipe.preprocess.augment.crop is not None or (moved and job.round_boxes),
        segmentation,
    )
    if moved:
        new['area'] = float(blunted(new['area']))
    new['id'] = ann['id'] * job.recipe.views + view
    new['image_id'] = image_id
    return new


def write_texts(
    store: Store,
    job: Job,
    texts: Sequence[dict],
    records: Records,
    lines: Callable[[int], Iterable[tuple[int, str, str]]],
    existing: Store | None = None,
) -> list[dict]:
    """Write annotation files and lists, in the order of the source.

    Args:
        store (Store): The output.
        job (Job): The run.
        texts (Sequence[dict]): As of :class:`~.source.Source`.
        records (Callable): Gives what became of all pictures.
        lines (Callable): Of a list, by its number, each line: number of the
            picture, its target, and what stands behind its name.
        existing (Store, optional): Where the texts of a finished data set
            that is added to lie. Defaults to None.

    Returns:
        list[dict]: What the manifest is to say of each.

    Raises:
        EncryptionError: If a category or licence of the existing ones is
            missing.
    """
    if not texts:
        return []
    with closing(Spool()) as spool:
        for number, _, outcome in records():
            if 'error' in outcome:
                spool.miss(number)
            for file, place, images, annotations in outcome.get('listings', ()):
                spool.add(file, place, images, annotations)
        return [
            _write_list(store, job, text, lines(i), spool, existing)
            if text['kind'] == 'list'
            else _write_coco(store, job, text, i, spool, existing)
            for i, text in enumerate(texts)
        ]


class _Hashing:
    """A file of which size and SHA-256 are known at its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, text: str) -> None:
        """Write a text as UTF-8."""
        data = text.encode()
        self._file.write(data)
        self.digest.update(data)


def _write_list(
    store: Store,
    job: Job,
    text: dict,
    lines: Iterable[tuple[int, str, str]],
    spool: Spool,
    existing: Store | None,
) -> dict:
    def rows() -> Iterator[tuple[Sequence[str], str]]:
        for number, target, rest in lines:
            files = [] if spool.is_missing(number) else job.targets(Item('', target))
            yield files, rest

    num = 0
    with store.writing(text['path']) as file:
        out = _Hashing(file)
        if existing is not None:
            with existing.open(text['path']) as old:
                for data in old:
                    out.write(data.decode())
                    num += 1
        for line in write_list(text['folder'], rows()):
            out.write(line)
            num += 1
    return dict(
        kind='list',
        path=text['path'],
        sha256=out.digest.hexdigest(),
        images_folder=text['folder'],
        images=num,
    )


def _write_coco(
    store: Store, job: Job, text: dict, number: int, spool: Spool, existing: Store | None
) -> dict:
    description = f'encrypted with hime_mm, cipher {job.recipe.cipher}'
    if existing is not None:
        _check_categories(existing, text)
    head = dict(text['head'])
    categories = head.pop('categories')
    counts = dict(images=0, annotations=0)
    with store.writing(text['path']) as file:
        out = _Hashing(file)
        out.write(json.dumps(dict(info=dict(description=description), **head))[:-1])
        for name in counts:
            out.write(f', "{name}": [')
            for entry in _entries(name, number, text, spool, existing):
                out.write(f'{", " if counts[name] else ""}{json.dumps(entry)}')
                counts[name] += 1
            out.write(']')
        out.write(f', "categories": {json.dumps(categories)}}}')
    return dict(
        kind='coco',
        path=text['path'],
        sha256=out.digest.hexdigest(),
        images_folder=text['folder'],
        **counts,
    )


def _entries(
    name: str, number: int, text: dict, spool: Spool, existing: Store | None
) -> Iterator[Any]:
    if existing is not None:
        with existing.open(text['path']) as file:
            for key, i, value in stream_json(file, (name,)):
                if key == name and i is not None:
                    yield value
    for entry in spool.entries(name, number):
        if name == 'images':
            path = os.path.relpath(entry['file_name'], text['folder'])
            entry['file_name'] = path.replace(os.sep, '/')
        yield entry


def _check_categories(existing: Store, text: dict) -> None:
    """Refuse a source that lost a category or licence that annotations of before have."""
    lists = ('categories', 'licenses')
    with existing.open(text['path']) as file:
        for key, i, value in stream_json(file, lists):
            if i is not None and value not in text['head'].get(key, ()):
                raise EncryptionError(
                    f'{text["path"]} of the source has not the {key} any more that the data set '
                    f'has: {json.dumps(value)} is missing or was changed'
                )
