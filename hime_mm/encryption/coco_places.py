# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Where the annotation files and the pictures of a COCO data set lie, as several tools put them."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from hime_mm.errors import EncryptionError

#: Annotation files where none are named: those of the first line of which there are some.
_PATTERNS = (
    ('annotations/instances_*.json',),  # COCO itself, CVAT
    ('_annotations.coco.json', '*/_annotations.coco.json'),  # Roboflow
    ('labels.json', '*/labels.json'),  # FiftyOne
    ('result.json',),  # Label Studio
)
#: So many pictures of a file tell where all of them are.
_FIRST = 20


def find_annotations(src: str) -> list[str]:
    """Annotation files of a source, relative to it.

    Raises:
        EncryptionError: If there are none under the names that tools give them.
    """
    for patterns in _PATTERNS:
        found = [path.relative_to(src) for pattern in patterns for path in Path(src).glob(pattern)]
        visible = [path.as_posix() for path in found if not path.as_posix().startswith('.')]
        if visible:
            return sorted(visible)
    names = ', '.join(pattern for patterns in _PATTERNS for pattern in patterns)
    raise EncryptionError(f'no annotation file in {src} ({names}): name it with `annotations=...`')


def find_folder(src: str, ann_file: str, names: Sequence[str]) -> str:
    """The folder that the file names of an annotation file are relative to, relative to the source.

    It is named like the split, as ``train2017`` of ``instances_train2017.json``, or the first of
    the places where tools put pictures in which there are any. Where the pictures are gone, their
    folder tells.
    """
    places = _places(ann_file)

    def fits(place: str) -> tuple[bool, bool]:
        inside = str(PurePosixPath(names[0]).parent) if names else ''
        return _holds(src, place, names[:_FIRST]), os.path.isdir(os.path.join(src, place, inside))

    return max(places, key=fits)


def check_pictures(src: str, folders: dict[str, str], names: dict[str, list[str]]) -> None:
    """Refuse annotation files of which no picture is there, and say where they are.

    Args:
        src (str): The source.
        folders (dict[str, str]): The folder of the pictures of each annotation file.
        names (dict[str, list[str]]): The pictures of each annotation file, relative to it.

    Raises:
        EncryptionError: Names one of the pictures, and the remedy.
    """
    for path, folder in folders.items():
        if not names[path] or _holds(src, folder, names[path]):
            continue
        fault = (
            f'none of the {len(names[path])} pictures of {path}, such as {names[path][0]}, '
            f'is in the folder {folder} of {src}'
        )
        raise EncryptionError(f'{fault}: {_remedy(src, path, folders, names[path])}')


def _remedy(src: str, path: str, folders: dict[str, str], names: list[str]) -> str:
    places = _places(path)
    others = sorted(entry.name for entry in os.scandir(src) if entry.is_dir())
    found = [place for place in (*places, *others) if _holds(src, place, names[:_FIRST])]
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


def _holds(src: str, folder: str, names: Sequence[str]) -> bool:
    """Whether any of the pictures is in a folder."""
    return any(os.path.exists(os.path.join(src, folder, name)) for name in names)
