# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Compare an encrypted data set with its manifest."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from tqdm import tqdm

from hime_mm.ciphers import Key
from hime_mm.datasets import coco as coco_format
from hime_mm.datasets.entries import FileEntry
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import UnreadableImage
from hime_mm.images.codec import EXTENSIONS, decode_image, read_bytes
from hime_mm.images.files import file_sha256

from .engines import run_tasks
from .journal import WORK_NAME

_CHANGED = 'it was changed: its SHA-256 is not the one in the manifest'


def read_entry(root: str, entry: FileEntry) -> np.ndarray:
    """Pixels of an encrypted file, shape (H, W) or (H, W, C).

    Raises:
        UnreadableImage: If the file is missing or not what the manifest says.
    """
    data = read_bytes(os.path.join(root, entry.path))
    if len(data) != entry.size:
        raise UnreadableImage(
            f'it has {len(data)} bytes, {entry.size} were written: it is truncated or was changed'
        )
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise UnreadableImage(_CHANGED)
    img = decode_image(data, 'unchanged')
    channels = 1 if img.ndim == 2 else img.shape[2]
    if img.shape[:2] != entry.shape or channels != entry.channels:
        raise UnreadableImage(
            'it is {}x{} with {} channels, the manifest says {}x{} with {}'.format(
                *img.shape[:2], channels, *entry.shape, entry.channels
            )
        )
    return img


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


def _verify_entry(root: str, key: Key | None, entry: FileEntry) -> str | None:
    try:
        read_entry(root, entry)
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
            yield entries[i].path, problem


def verify_dataset(
    path: str, key: Key | None = None, workers: int = 1, progress: bool = True
) -> Report:
    """Compare an encrypted data set with its manifest.

    Every file is read and decoded. With the key, the manifest itself is
    authenticated; without it, only changes by accident are found there.

    Args:
        path (str): The folder.
        key (Key, optional): The owner's key. Defaults to None.
        workers (int): Number of processes. Defaults to 1.
        progress (bool): Show a progress bar. Defaults to True.

    Returns:
        Report: What is wrong.

    Raises:
        ManifestError: If there is no manifest, or it was changed.
        InvalidKey: If the key is another one.
    """
    manifest = Manifest.load(path)
    root = str(manifest.root)
    report = Report(files=len(manifest.files))
    if key is not None and manifest.key_id is not None:
        manifest.check_key(key)
        report.authenticated = True
    elif key is not None:
        # Else whoever takes the key's id out would pass for the owner.
        report.problems.append(
            (
                MANIFEST_NAME,
                'it names no key, so the key that was given '
                'cannot authenticate it: encrypted without a key, or changed',
            )
        )
    entries = list(manifest.files.values())
    report.problems += find_problems(
        _verify_entry, root, None, entries, workers, 'verify' if progress else None
    )
    for row in manifest.skipped:
        report.problems.append((row['path'], f'left out when encrypting: {row["reason"]}'))
    for row in manifest.annotations:
        problem = _verify_annotations(manifest, row)
        if problem is not None:
            report.problems.append((row['path'], problem))
    _find_unlisted(manifest, report)
    report.problems.sort()
    return report


def _verify_annotations(manifest: Manifest, row: dict) -> str | None:
    path = manifest.root / row['path']
    try:
        digest = file_sha256(str(path))
    except OSError as error:
        return error.strerror
    if digest != row.get('sha256'):
        return _CHANGED
    if row.get('kind', 'coco') != 'coco':
        return None
    coco = coco_format.load_coco(str(path))
    for image in coco['images']:
        name = str(PurePosixPath(row.get('images_folder', ''), image['file_name']))
        entry = manifest.files.get(name)
        if entry is None:
            return f'{image["file_name"]} is not in the manifest'
        if (image.get('height'), image.get('width')) != entry.shape:
            return f"the size of {image['file_name']} is not the manifest's"
    return None


def _find_unlisted(manifest: Manifest, report: Report) -> None:
    """Pictures that the manifest does not list may be plain ones."""
    known = set(manifest.files) | {MANIFEST_NAME}
    known |= {row['path'] for row in manifest.annotations}
    num_others = 0
    for folder, folders, names in os.walk(manifest.root):
        if WORK_NAME in folders:
            folders.remove(WORK_NAME)
            report.notes.append(
                f'{WORK_NAME} is there: pictures are missing. Encrypt again '
                'once they are repaired, or delete it before handing over'
            )
        for name in names:
            file = os.path.join(folder, name)
            path = os.path.relpath(file, manifest.root).replace(os.sep, '/')
            if path in known:
                continue
            if os.path.splitext(name)[1].lower() in EXTENSIONS:
                report.problems.append(
                    (path, 'a picture that the manifest does not list: it may not be encrypted')
                )
            else:
                num_others += 1
    if num_others:
        report.notes.append(f'{num_others} further files are not part of it')
