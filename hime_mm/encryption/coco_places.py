# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Where the annotation files and the pictures of a COCO data set lie, as several tools put them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import PurePosixPath

from hime_mm.datasets.stores import Entry, Store
from hime_mm.errors import EncryptionError

#: Annotation files where none are named: those of the first line of which there are some.
_PATTERNS = (
    ('annotations/instances_*.json',),  # COCO itself, CVAT
    ('_annotations.coco.json', '*/_annotations.coco.json'),  # Roboflow
    ('labels.json', '*/labels.json'),  # FiftyOne
    ('result.json',),  # Label Studio
)
#: So many pictures of a file tell where all of them are.
FIRST = 20


def find_annotations(store: Store) -> list[str]:
    """Annotation files of a source, relative to it.

    Raises:
        EncryptionError: If there are none under the names that tools give them.
    """
    for patterns in _PATTERNS:
        found = {path for pattern in patterns for path in _matches(store, pattern)}
        if found:
            return sorted(found)
    names = ', '.join(pattern for patterns in _PATTERNS for pattern in patterns)
    raise EncryptionError(
        f'no annotation file in {store.place("")} ({names}): name it with `annotations=...`'
    )


def _matches(store: Store, pattern: str) -> Iterator[str]:
    """Files, of the source or of its folders, whose visible path matches a pattern."""
    folder, _, name = pattern.rpartition('/')
    folders = [folder]
    if folder == '*':
        folders = [e.name for e in _entries(store, '') if e.folder and e.name[0] != '.']
    for inside in folders:
        for entry in _entries(store, inside):
            if not entry.folder and entry.name[0] != '.' and fnmatchcase(entry.name, name):
                yield f'{inside}/{entry.name}' if inside else entry.name


def _entries(store: Store, folder: str) -> Iterator[Entry]:
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from store.list(folder)


def is_folder(store: Store, path: str) -> bool:
    """Whether a source has a folder."""
    if store.local is not None:
        return os.path.isdir(store.place(path))
    return next(_entries(store, path), None) is not None


def find_folder(store: Store, ann_file: str, names: Sequence[str]) -> str:
    """The folder that the file names of an annotation file are relative to, relative to the source.

    It is named like the split, as ``train2017`` of ``instances_train2017.json``, or the first of
    the places where tools put pictures in which there are any. Where the pictures are gone, their
    folder tells.
    """
    places = _places(ann_file)

    def fits(place: str) -> tuple[bool, bool]:
        inside = str(PurePosixPath(names[0]).parent) if names else ''
        return _holds(store, place, names[:FIRST]), is_folder(store, f'{place}/{inside}')

    return max(places, key=fits)


def check_pictures(
    store: Store, folders: dict[str, str], names_of: Callable[[str], Iterable[str]]
) -> None:
    """Refuse annotation files of which no picture is there, and say where they are.

    Args:
        store (Store): The source.
        folders (dict[str, str]): The folder of the pictures of each annotation file.
        names_of (Callable): The pictures of an annotation file, relative to its folder.

    Raises:
        EncryptionError: Names one of the pictures, and the remedy.
    """
    for path, folder in folders.items():
        names = [*islice(names_of(path), FIRST)]
        if not names or _holds(store, folder, names_of(path)):
            continue
        fault = (
            f'none of the {sum(1 for _ in names_of(path))} pictures of {path}, such as {names[0]}, '
            f'is in the folder {folder} of {store.place("")}'
        )
        raise EncryptionError(f'{fault}: {_remedy(store, path, folders, names)}')


def _remedy(store: Store, path: str, folders: dict[str, str], names: Sequence[str]) -> str:
    places = _places(path)
    others = sorted(entry.name for entry in store.list() if entry.folder)
    found = [place for place in (*places, *others) if _holds(store, place, names)]
    if found:
        fitting = list({**folders, path: found[0]}.values())
        return f'they are in {found[0]}, so give `images={fitting!r}`'
    if '://' in names[0]:
        return 'these are addresses, and no picture is fetched: export the pictures, too'
    return (
        f'nor is {names[0]} in any of the folders {", ".join(places)}: '
        'name the right one with `images=...`'
    )


def _places(ann_file: str) -> list[str]:
    """Folders where pictures may be, the likely ones first."""
    above = PurePosixPath(ann_file).parent
    split = PurePosixPath(ann_file).stem.split('_', 1)[-1]
    likely = (split, f'images/{split}', f'data/{split}', 'images', 'data')
    places = [PurePosixPath(base, name) for base in ('', above) for name in likely]
    return list(dict.fromkeys(map(str, (*places, above, PurePosixPath('.')))))


def _holds(store: Store, folder: str, names: Iterable[str]) -> bool:
    """Whether any of the pictures is in a folder."""
    if store.local is not None:
        return any(os.path.exists(os.path.join(store.local, folder, name)) for name in names)
    return any(store.size(str(PurePosixPath(folder, name))) is not None for name in names)
