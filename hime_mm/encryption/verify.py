# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Compare an encrypted folder with its manifest."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from hime_mm.ciphers import Key
from hime_mm.datasets.checks import (
    RowChecks,
    coco_problem,
    head_problems,
    list_problem,
    shard_files,
    shard_problem,
    unknown_keys,
)
from hime_mm.datasets.entries import CompactFiles, FileEntry
from hime_mm.datasets.manifest import Manifest, read_state, store_of
from hime_mm.datasets.tars import tar_header, tar_problem
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import ManifestError, UnreadableImage
from hime_mm.images.codec import decode_image, reading
from hime_mm.images.containers import check_container
from hime_mm.images.files import stream_sha256

from .engines import run_tasks
from .inventory import Inventory

#: Equal pictures that a note names.
_MOST_TWINS = 5
_CHANGED = 'it was changed: its SHA-256 is not the one in the manifest'


class _Files(NamedTuple):
    """What is the same for all files of a data set."""

    manifest: Manifest
    fmt: str
    deep: bool


def _read(manifest: Manifest, entry: FileEntry) -> bytes:
    """The bytes of an encrypted file, if they are those of the manifest."""
    pixels = entry.shape[0] * entry.shape[1] * entry.channels
    if entry.size > 3 * pixels + entry.shape[0] + 65536:
        raise UnreadableImage('so few pixels do not need so many bytes')
    # Asked first: nothing longer is read into the memory.
    _check_size(entry, manifest.picture_size(entry))
    with reading():
        data = manifest.read_picture(entry)
    _check_size(entry, len(data))
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise UnreadableImage(_CHANGED)
    return data


def _check_size(entry: FileEntry, size: int | None) -> None:
    if size not in (None, entry.size):
        raise UnreadableImage(
            f'it has {size} bytes, {entry.size} were written: it is truncated or was changed'
        )


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


def read_entry(manifest: Manifest, entry: FileEntry) -> np.ndarray:
    """Pixels of an encrypted file, shape (H, W) or (H, W, C).

    Raises:
        UnreadableImage: If the file is missing or not what the manifest says.
    """
    return _decode(_read(manifest, entry), entry)


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
        data = _read(files.manifest, entry)
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
    entries: Iterable[FileEntry],
    total: int,
    workers: int,
    title: str | None,
) -> Iterator[tuple[str, str]]:
    """Have `run_tasks` call a function with each entry, behind a progress bar if it has a title.

    Gives the path of each with which something is wrong, and what the function said of it. Entries
    are read as they are needed.
    """
    paths: dict[int, str] = {}

    def tasks() -> Iterator[FileEntry]:
        for i, entry in enumerate(entries):
            paths[i] = entry.path
            yield entry

    for i, problem in tqdm(
        run_tasks(function, context, key, tasks(), workers),
        title,
        total,
        unit='image',
        disable=title is None,
    ):
        path = paths.pop(i)
        if problem is not None:
            # Or the error of a file that ended its process twice.
            yield path, str(problem)


def verify_dataset(
    path: str, key: Key | None = None, workers: int = 0, progress: bool = True
) -> Report:
    """Compare an encrypted folder with its manifest.

    Every file is read and decoded, and nothing else may be there. With the
    key, the manifest itself is authenticated; without it, only changes by
    accident are found there. ``docs/format.md`` lists what is checked.

    Args:
        path (str): The folder, or its URL: all of it is read from there.
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
    store = store_of(path)
    stock = Inventory.take(store)
    if MANIFEST_NAME in stock.others:
        # It is not opened: a pipe would never end.
        raise ManifestError(f'{store.place(MANIFEST_NAME)}: {stock.others[MANIFEST_NAME]}')
    state = read_state(store, unique=True)
    manifest = Manifest(state, store.url)
    report = Report(files=manifest.num_files, authenticated=_authenticate(manifest, key))
    if key is not None and not report.authenticated:
        # Else whoever takes the key's id out would pass for the owner.
        report.problems.append(
            (
                MANIFEST_NAME,
                'it names no key, so the key that was given '
                'cannot authenticate it: encrypted without a key, or changed',
            )
        )
    report.problems += ((MANIFEST_NAME, what) for what in head_problems(state, manifest))
    rows = _Rows(state, manifest, stock)
    del state  # it may be as large as all that is read of it
    report.problems += rows.problems
    report.notes += _notes(manifest, rows.twins)
    report.problems += _folder_problems(manifest, stock, rows)
    report.problems += _tar_problems(manifest, stock, rows.whole)
    preprocess, image_format = (manifest.state.get(k, {}) for k in ('preprocess', 'image_format'))
    files = _Files(
        manifest.without_files(),
        image_format.get('format', 'png'),
        preprocess.get('color_type') == 'unchanged',
    )
    report.problems += find_problems(
        _verify_entry,
        files,
        None,
        _there(manifest, stock, rows.whole),
        manifest.num_files,
        workers,
        'verify' if progress else None,
    )
    for row in manifest.annotations:
        if row['path'] in stock.files and (problem := _verify_text(manifest, row)):
            report.problems.append((row['path'], problem))
    report.problems.sort()
    return report


class _Rows:
    """The rows of a manifest, each read and checked once; what is needed of them later.

    The files of the manifest are compact then, also where shards cannot be read: what these list
    is not listed.

    Attributes:
        problems (list[tuple[str, str]]): Paths, and what is wrong with them.
        listed (set[str]): Files that belong to the folder.
        skipped (list[dict]): Pictures that are missing.
        whole (list[int]): Shards whose manifests are as they should be.
        twins (list[str]): Equal pictures.
    """

    def __init__(self, state: dict, manifest: Manifest, stock: Inventory) -> None:
        self._manifest, self._stock = manifest, stock
        self.problems: list[tuple[str, str]] = []
        self.listed = {MANIFEST_NAME, *shard_files(manifest)}
        self.skipped: list[dict] = []
        self.whole: list[int] = []
        self.twins: list[str] = []
        self._first: dict[bytes, str] = {}
        self._checks = RowChecks(manifest.state, manifest)
        if manifest.version == 1:
            self.skipped += manifest.skipped
            for row in state['files']:  # also those that are there twice
                self._check(FileEntry.from_dict(row))
        else:
            manifest.files = CompactFiles(self._entries())
        for row in manifest.annotations:
            if self._checks.is_twice(row['path']):
                self.problems.append((row['path'], 'the manifest lists it twice'))
            self.listed.add(row['path'])
        self._first.clear()

    def _check(self, entry: FileEntry) -> None:
        self.problems += ((entry.path, what) for what in self._checks.problems(entry))
        other = self._first.setdefault(bytes.fromhex(entry.sha256), entry.path)
        if other != entry.path:
            self.twins.append(f'{entry.path} is {other}')
        if entry.offset is None:
            self.listed.add(entry.path)

    def _entries(self) -> Iterator[FileEntry]:
        for number, row in enumerate(self._manifest.shards):
            if row['path'] not in self._stock.files:
                continue  # as a file that is missing, or none
            try:
                state = self._manifest.read_shard(number)
                problem = shard_problem(state, self._manifest, number)
            except ManifestError as error:
                problem = str(error)
            if problem is not None:
                self.problems.append((row['path'], problem))
                continue
            self.whole.append(number)
            self.skipped += state['skipped']
            expected = _offsets(state) if self._manifest.storage == 'tar' else repeat(None)
            for entry, offset in zip(
                self._manifest.shard_entries(number, state), expected, strict=False
            ):
                self._check(entry)
                if offset is not None and entry.offset != offset:
                    self.problems.append((entry.path, 'it does not begin where its row says'))
                yield entry


def _offsets(state: dict) -> Iterator[int | None]:
    """Where each picture of a shard begins in its tar, None where no tar holds it."""
    at = 0
    for row in state['files']:
        try:
            at += len(tar_header(row['path'], row['size']))
        except ManifestError:
            yield from repeat(None)
        yield at
        at += row['size'] + -row['size'] % 512


def _there(manifest: Manifest, stock: Inventory, whole: list[int]) -> Iterator[FileEntry]:
    """The pictures that can be looked at."""
    if manifest.version == 1:
        yield from (entry for entry in manifest.entries() if entry.path in stock.files)
    for number in whole:
        for entry in manifest.shard_entries(number, manifest.read_shard(number)):
            if manifest.picture_file(entry) in stock.files:
                yield entry


def _tar_problems(
    manifest: Manifest, stock: Inventory, whole: list[int]
) -> Iterator[tuple[str, str]]:
    if manifest.storage != 'tar':
        return
    for number, row in enumerate(manifest.shards):
        path = row['tar']['path']
        if path in stock.files:
            try:
                problem = _tar_problem(manifest, number, number in whole)
            except OSError as error:
                problem = error.strerror or str(error)
            if problem is not None:
                yield path, problem


def _tar_problem(manifest: Manifest, number: int, whole: bool) -> str | None:
    row = manifest.shards[number]['tar']
    size = manifest.store.size(row['path'])
    if size is None or size != row['size']:
        return f'it has {size} bytes, {row["size"]} were written: it is truncated or was changed'
    with manifest.store.open(row['path']) as file:
        if stream_sha256(file) != row['sha256']:
            return _CHANGED
        if not whole:
            return None
        rows = manifest.read_shard(number)['files']
        return tar_problem(file, size, ((entry['path'], entry['size']) for entry in rows))


def _authenticate(manifest: Manifest, key: Key | None) -> bool:
    if key is None or manifest.key_id is None:
        return False
    manifest.check_key(key)
    return True


def _notes(manifest: Manifest, twins: Sequence[str]) -> Iterator[str]:
    """What is worth knowing, but no problem."""
    unknown = unknown_keys(manifest.state)
    if unknown:
        yield f'the manifest says what this release does not read: {", ".join(unknown)}'
    if twins:
        more = ', …' if len(twins) > _MOST_TWINS else ''
        yield (
            f'{len(twins)} pictures are the same as another one: '
            f'{", ".join(twins[:_MOST_TWINS])}{more}'
        )


def _folder_problems(
    manifest: Manifest, stock: Inventory, rows: _Rows
) -> Iterator[tuple[str, str]]:
    """What is in the folder and should not be, or the other way round."""
    yield from stock.others.items()
    yield from stock.strangers(rows.listed)
    for path in rows.listed - stock.others.keys():
        problem = stock.lacks(path)
        if problem is not None:
            yield path, problem
    for row in rows.skipped:
        yield row['path'], f'left out when encrypting: {row.get("reason")}'
    if (
        manifest.state.get('kind') == 'folder'
        and 'classes' in manifest.state
        and manifest.storage == 'files'
    ):
        yield from stock.class_problems(manifest.classes, rows.listed)


def _verify_text(manifest: Manifest, row: dict) -> str | None:
    """What is wrong with an annotation file or list."""
    try:
        data = manifest.store.read(row['path'])
    except OSError as error:
        return error.strerror or str(error)
    except MemoryError:
        return 'it does not fit into the memory'
    if hashlib.sha256(data).hexdigest() != row.get('sha256'):
        return _CHANGED
    check = dict(coco=coco_problem, list=list_problem).get(row.get('kind', 'coco'))
    return 'it is of no known kind' if check is None else check(data, row, manifest)
