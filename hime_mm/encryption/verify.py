# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Compare an encrypted folder with its manifest."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from hime_mm.ciphers import Key
from hime_mm.datasets.checks import coco_problem, list_problem, manifest_problems, unknown_keys
from hime_mm.datasets.entries import FileEntry
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import ManifestError, UnreadableImage
from hime_mm.images.codec import decode_image, read_bytes
from hime_mm.images.containers import check_container
from hime_mm.images.files import file_sha256, read_json

from .engines import run_tasks
from .inventory import Inventory

#: Equal pictures that a note names.
_MOST_TWINS = 5
_CHANGED = 'it was changed: its SHA-256 is not the one in the manifest'


class _Files(NamedTuple):
    """What is the same for all files of a data set."""

    root: str
    fmt: str
    deep: bool


def _read(root: str, entry: FileEntry) -> bytes:
    """The bytes of an encrypted file, if they are those of the manifest."""
    path = os.path.join(root, entry.path)
    pixels = entry.shape[0] * entry.shape[1] * entry.channels
    if entry.size > 3 * pixels + entry.shape[0] + 65536:
        raise UnreadableImage('so few pixels do not need so many bytes')
    size = entry.size
    with suppress(OSError, ValueError):
        info = os.stat(path)
        size = info.st_size if stat.S_ISREG(info.st_mode) else size
    # Asked first: nothing longer is read into the memory.
    if size != entry.size:
        raise UnreadableImage(
            f'it has {size} bytes, {entry.size} were written: it is truncated or was changed'
        )
    data = read_bytes(path)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise UnreadableImage(_CHANGED)
    return data


def _decode(data: bytes, entry: FileEntry) -> np.ndarray:
    img = decode_image(data, 'unchanged')
    channels = 1 if img.ndim == 2 else img.shape[2]
    if img.shape[:2] != entry.shape or channels != entry.channels:
        raise UnreadableImage(
            'it is {}x{} with {} channels, the manifest says {}x{} with {}'.format(
                *img.shape[:2], channels, *entry.shape, entry.channels
            )
        )
    return img


def read_entry(root: str, entry: FileEntry) -> np.ndarray:
    """Pixels of an encrypted file, shape (H, W) or (H, W, C).

    Raises:
        UnreadableImage: If the file is missing or not what the manifest says.
    """
    return _decode(_read(root, entry), entry)


@dataclass
class Report:
    """What was found in a data set.

    Attributes:
        files (int): Encrypted files that the manifest lists.
        problems (list[tuple[str, str]]): Paths in the data set, and what is
            wrong with them.
        notes (list[str]): What is worth knowing, but no problem.
        authenticated (bool): Whether a key vouches for the manifest.
    """

    files: int = 0
    authenticated: bool = False
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """bool: Whether nothing is wrong."""
        return not self.problems


def _verify_entry(files: _Files, key: Key | None, entry: FileEntry) -> str | None:
    try:
        data = _read(files.root, entry)
        # Before it is decoded: pixels that are not there take no memory.
        check_container(data, files.fmt, entry.shape, entry.channels, files.deep)
        _decode(data, entry)
    except UnreadableImage as error:
        return str(error)
    return None


def find_problems(
    function: Callable,
    context: Any,
    key: Key | None,
    entries: Sequence[FileEntry],
    workers: int,
    title: str | None,
) -> Iterator[tuple[str, str]]:
    """Have `run_tasks` call a function with each entry, behind a progress bar if it has a title.

    Gives the path of each with which something is wrong, and what the function said of it.
    """
    for i, problem in tqdm(
        run_tasks(function, context, key, entries, workers),
        title,
        len(entries),
        unit='image',
        disable=title is None,
    ):
        if problem is not None:
            # Or the error of a file that ended its process twice.
            problem = str(problem)
            yield entries[i].path, problem


def verify_dataset(
    path: str, key: Key | None = None, workers: int = 0, progress: bool = True
) -> Report:
    """Compare an encrypted folder with its manifest.

    Every file is read and decoded, and nothing else may be there. With the
    key, the manifest itself is authenticated; without it, only changes by
    accident are found there. ``docs/format.md`` lists what is checked.

    Args:
        path (str): The folder.
        key (Key, optional): The owner's key. Defaults to None.
        workers (int): Number of processes, as of
            :func:`~hime_mm.apis.encrypt_coco`. Defaults to 0.
        progress (bool): Show a progress bar. Defaults to True.

    Returns:
        Report: What is wrong.

    Raises:
        ManifestError: If there is no manifest, or it was changed.
        InvalidKey: If the key is another one.
    """
    root = path if os.path.isdir(path) else os.path.dirname(path)
    stock = Inventory.take(root or '.')
    if MANIFEST_NAME in stock.others:
        # It is not opened: a pipe would never end.
        raise ManifestError(f'{os.path.join(root, MANIFEST_NAME)}: {stock.others[MANIFEST_NAME]}')
    place = Path(root, MANIFEST_NAME)
    state = read_json(place, 'manifest', ManifestError, unique=True)
    manifest = Manifest(state, root)
    report = Report(files=len(manifest.files), authenticated=_authenticate(manifest, key))
    if key is not None and not report.authenticated:
        # Else whoever takes the key's id out would pass for the owner.
        report.problems.append(
            (
                MANIFEST_NAME,
                'it names no key, so the key that was given '
                'cannot authenticate it: encrypted without a key, or changed',
            )
        )
    report.problems += manifest_problems(state, manifest)
    del state  # it is as large as all that is read of it
    report.notes += _notes(manifest)
    listed = set(manifest.files) | {row['path'] for row in manifest.annotations} | {MANIFEST_NAME}
    report.problems += _folder_problems(manifest, stock, listed)
    there = [entry for path, entry in manifest.files.items() if path in stock.files]
    preprocess, image_format = (manifest.state.get(k, {}) for k in ('preprocess', 'image_format'))
    files = _Files(
        str(manifest.root),
        image_format.get('format', 'png'),
        preprocess.get('color_type') == 'unchanged',
    )
    report.problems += find_problems(
        _verify_entry, files, None, there, workers, 'verify' if progress else None
    )
    for row in manifest.annotations:
        if row['path'] in stock.files and (problem := _verify_text(manifest, row)):
            report.problems.append((row['path'], problem))
    report.problems.sort()
    return report


def _authenticate(manifest: Manifest, key: Key | None) -> bool:
    if key is None or manifest.key_id is None:
        return False
    manifest.check_key(key)
    return True


def _notes(manifest: Manifest) -> Iterator[str]:
    """What is worth knowing, but no problem."""
    unknown = unknown_keys(manifest.state)
    if unknown:
        yield f'the manifest says what this release does not read: {", ".join(unknown)}'
    first: dict[str, str] = {}
    twins = []
    for entry in manifest.files.values():
        other = first.setdefault(entry.sha256, entry.path)
        if other != entry.path:
            twins.append(f'{entry.path} is {other}')
    if twins:
        more = ', …' if len(twins) > _MOST_TWINS else ''
        yield (
            f'{len(twins)} pictures are the same as another one: '
            f'{", ".join(twins[:_MOST_TWINS])}{more}'
        )


def _folder_problems(
    manifest: Manifest, stock: Inventory, listed: set[str]
) -> Iterator[tuple[str, str]]:
    """What is in the folder and should not be, or the other way round."""
    yield from stock.others.items()
    yield from stock.strangers(listed)
    for path in listed - stock.others.keys():
        problem = stock.lacks(path)
        if problem is not None:
            yield path, problem
    for row in manifest.skipped:
        yield row['path'], f'left out when encrypting: {row.get("reason")}'
    if manifest.state.get('kind') == 'folder' and 'classes' in manifest.state:
        yield from stock.class_problems(manifest.classes, listed)


def _verify_text(manifest: Manifest, row: dict) -> str | None:
    """What is wrong with an annotation file or list."""
    path = str(manifest.root / row['path'])
    try:
        digest = file_sha256(path)
    except OSError as error:
        return error.strerror
    if digest != row.get('sha256'):
        return _CHANGED
    check = dict(coco=coco_problem, list=list_problem).get(row.get('kind', 'coco'))
    return 'it is of no known kind' if check is None else check(path, row, manifest)
