# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Which encrypted file each image id of a data set stands for."""

import hashlib
import os
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from hime_mm.datasets.coco import check_coco, is_id
from hime_mm.datasets.entries import FileEntry
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.stores import LocalStore
from hime_mm.errors import BoxError, CocoError
from hime_mm.images.files import parse_json

_HANDED_OVER = (
    'name the annotation file that was handed over with this data set (`annotations=...`)'
)


def image_entries(
    manifest: Manifest, annotations: str | None = None
) -> dict[int, FileEntry | list[str]]:
    """Which encrypted file each image id stands for.

    The entry of each id, or the annotation files that do not agree about it.
    The one that is named counts, relative to the data set or not, or all
    those that the manifest lists.
    """
    rows = annotation_rows(manifest, annotations)
    if not rows:
        raise BoxError(
            f'{manifest.root} has no annotation files that say '
            'which image an id stands for: name one with `annotations=...`'
        )
    found: dict[int, Any] = {}
    places: dict[int, list[str]] = {}
    backwards: list[str] = []
    for row in rows:
        path, coco = _load(manifest, row)
        for image in coco['images']:
            name = image['file_name'].replace('\\', '/')
            if 'images_folder' in row:
                entry = manifest.files.get(str(PurePosixPath(row['images_folder'], name)))
            else:
                entry = _by_name(manifest, backwards, path, name)
            if entry is None:
                raise BoxError(
                    f'{path} lists {name}, which is not part of {manifest.root}: {_HANDED_OVER}'
                )
            places.setdefault(image['id'], []).append(row['path'])
            if found.setdefault(image['id'], entry) != entry:
                found[image['id']] = places[image['id']]
    return found


def annotation_rows(manifest: Manifest, annotations: str | None = None) -> list[dict]:
    """What the manifest says of the annotation file that is named, or of all that it lists."""
    rows = [row for row in manifest.annotations if row.get('kind', 'coco') == 'coco']
    return rows if annotations is None else [_find_row(manifest, rows, annotations)]


def category_names(manifest: Manifest, annotations: str | None = None) -> dict[int, str]:
    """Names of classes by their ids, as the annotation files have them: all that they do."""
    found: dict[int, dict[str, None]] = {}
    for row in annotation_rows(manifest, annotations):
        for category in _load(manifest, row)[1]['categories']:
            if is_id(category.get('id')):
                name = str(category.get('name', category['id']))
                found.setdefault(category['id'], {})[name] = None
    return {category: ' or '.join(names) for category, names in found.items()}


def _find_row(manifest: Manifest, rows: Sequence[dict], path: str) -> dict:
    """What the manifest says of an annotation file, or just its path."""
    store = manifest.store

    def real(place: str) -> str:
        return place if '://' in place else os.path.realpath(place)

    file = real(path if os.path.exists(path) or '://' in path else store.place(path))
    for row in rows:
        if real(store.place(row['path'])) == file:
            return row
    if '://' in file:
        raise BoxError(
            f'{store.place("")} lists no annotation file {path}: name one of '
            f'{[row["path"] for row in rows]}, or a file of this machine'
        )
    return dict(path=file)


def _load(manifest: Manifest, row: dict) -> tuple[str, dict]:
    """Place and content of an annotation file."""
    # One that is no part of the data set is on this machine.
    store = LocalStore('') if os.path.isabs(row['path']) else manifest.store
    place = store.place(row['path'])
    try:
        data = store.read(row['path'])
    except OSError as error:
        raise BoxError(f'cannot read the annotation file {place}: {error.strerror}') from None
    if 'sha256' in row and hashlib.sha256(data).hexdigest() != row['sha256']:
        raise BoxError(
            f'{place} was changed since the data set was encrypted: '
            'get it again, or name a copy elsewhere if the change '
            'is meant'
        )
    return place, check_coco(parse_json(data, place, 'annotation file', CocoError), place)


def _by_name(manifest: Manifest, backwards: list[str], path: str, name: str) -> FileEntry | None:
    """The entry of a file whose folder is not known.

    ``backwards`` gets all paths from their end, in order, so that those of one end are neighbours.
    """
    if name in manifest.files:
        return manifest.files[name]
    if not backwards:
        backwards += sorted(other[::-1] for other in manifest.files)
    end = f'/{name}'[::-1]
    at = bisect_left(backwards, end)
    found = [other[::-1] for other in backwards[at : at + 3] if other.startswith(end)]
    if len(found) > 1:
        raise BoxError(
            f'{path} lists {name}, which may be {" or ".join(sorted(found))}: {_HANDED_OVER}'
        )
    return manifest.files[found[0]] if found else None
