# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The manifest ``hime.json`` of an encrypted data set; no secret is in it.

``docs/format.md`` specifies the file.
"""

import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hime_mm.ciphers import Cipher, Key, PatchLayout
from hime_mm.errors import InvalidKey, ManifestError
from hime_mm.images.files import parse_json, read_json
from hime_mm.images.recipe import Recipe

from .entries import SHA256, CompactFiles, FileEntry
from .stores import Store, open_store
from .writing import (
    FORMAT_NAME,
    MANIFEST_NAME,
    SHARD_FORMAT_NAME,
    checksum,
    manifest_mac,
    shard_name,
    tar_name,
)

#: What is read.
FORMAT_VERSIONS = (1, 2)


class Manifest:
    """The manifest of an encrypted data set.

    Args:
        state (dict): The content of ``hime.json``.
        root (str | Path): The folder that it lies in.
        place (str, optional): Where it was read, if not in a local folder.
            Defaults to None.
        read (Callable, optional): Gives the content of a file by its path relative to the
            manifest. Defaults to None, of the store that the root is.

    Raises:
        ManifestError: If the content is not a manifest of this version, or
            was changed after it was written.
    """

    def __init__(
        self,
        state: dict,
        root: Any = '.',
        place: str | None = None,
        read: Callable[[str], bytes] | None = None,
    ) -> None:
        #: Where the data set lies.
        self.store: Store = open_store(root)
        #: The same as a path, or as an URL.
        self.root: Any = (
            self.store.place('') if self.store.local is None else Path(self.store.local)
        )
        self._read = read or self.store.read
        #: What messages call it.
        self.place = place = place or self.store.place(MANIFEST_NAME)
        if not isinstance(state, dict) or state.get('format') != FORMAT_NAME:
            raise ManifestError(f'{place} is no manifest of hime_mm')
        if state.get('format_version') not in FORMAT_VERSIONS:
            raise ManifestError(
                f'{place} has the format version '
                f'{state.get("format_version")!r}, this release reads the versions '
                f'{FORMAT_VERSIONS}: use the release of hime_mm that wrote it '
                f'({state.get("tool_version")})'
            )
        self.version: int = state['format_version']
        name = 'files' if self.version == 1 else 'shards'
        if not isinstance(state.get(name), list):
            raise ManifestError(f'{place} is damaged: it has no list of {name}')
        try:
            found = checksum(state)
        except RecursionError:
            raise ManifestError(f'{place} is damaged: it is nested too deeply') from None
        if state.get('checksum') != found:
            raise ManifestError(
                f'{place} was changed after it was written: its checksum does '
                'not fit. Get it from the owner again'
            )
        try:
            self.cipher = Cipher.build(state['cipher'])
            self._files: Any = None
            #: Rows of the shards, none in version 1.
            self.shards: list[dict] = state['shards'] if self.version > 1 else []
            #: ``'files'`` or ``'tar'``.
            self.storage: str = state['storage'] if self.version > 1 else 'files'
            if self.version == 1:
                self._files = {row['path']: FileEntry.from_dict(row) for row in state['files']}
            else:
                _check_shards(self.storage, self.shards)
            self.dataset_id: str = state['dataset_id']
            self.key_id: str | None = state['key_id']
            self.preprocess: dict = state['preprocess']
            _check_head(state)
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise ManifestError(f'{place} is damaged: {type(error).__name__}: {error}') from None
        self.state = {k: v for k, v in state.items() if k != 'files' or self.version > 1}

    @property
    def files(self) -> Any:
        """dict[str, FileEntry]: All files by their path, read when first asked for."""
        if self._files is None:
            self._files = {entry.path: entry for entry in self.entries()}
        return self._files

    @files.setter
    def files(self, files: Any) -> None:
        self._files = files

    @property
    def num_files(self) -> int:
        """int: How many files it lists; no shard is read for it."""
        if self.version == 1:
            return len(self._files)
        return sum(row['files'] for row in self.shards)

    def without_files(self) -> 'Manifest':
        """The same without what it says of each file, for processes that need no copy of that."""
        other = copy(self)
        other._files = {} if self.version == 1 else None
        return other

    def entries(self) -> Iterator[FileEntry]:
        """All files, in the memory of one shard.

        Raises:
            ManifestError: If the manifest of a shard is missing, or not the one that
                ``hime.json`` names.
        """
        if self.version == 1:
            yield from self._files.values()
            return
        for number in range(len(self.shards)):
            yield from self.shard_entries(number, self.read_shard(number))

    def shard_entries(self, number: int, state: dict) -> Iterator[FileEntry]:
        """The files of a shard, from what :meth:`read_shard` gave.

        Raises:
            ManifestError: If a row is none.
        """
        for row in state['files']:
            try:
                entry = FileEntry.from_dict(row)
                if (entry.offset is None) != (self.storage == 'files'):
                    raise TypeError('`offset` does not go with the storage')
            except (LookupError, TypeError, ValueError, OverflowError) as error:
                place = self.store.place(self.shards[number]['path'])
                raise ManifestError(
                    f'{place} is damaged: {type(error).__name__}: {error}'
                ) from None
            yield replace(entry, shard=number)

    def read_shard(self, number: int) -> dict:
        """The manifest of a shard, checked against ``hime.json``.

        Raises:
            ManifestError: If it is missing, or not the one that ``hime.json`` names.
        """
        row = self.shards[number]
        place = self.store.place(row['path'])
        try:
            data = self._read(row['path'])
        except OSError as error:
            raise ManifestError(
                f'cannot read {place}, a part of the manifest: {error.strerror}. Get it from '
                'the owner again'
            ) from None
        if hashlib.sha256(data).hexdigest() != row['sha256']:
            raise ManifestError(
                f'{place} is not the file that {self.place} names: its SHA-256 is another. Get '
                'both from the owner again'
            )
        state = parse_json(data, place, 'manifest', ManifestError, unique=True)
        expected = dict(
            format=SHARD_FORMAT_NAME,
            format_version=int(self.version),
            dataset_id=self.dataset_id,
            shard=number,
        )
        if not isinstance(state, dict) or any(
            (type(state.get(name)), state.get(name)) != (type(value), value)
            for name, value in expected.items()
        ):
            raise ManifestError(f'{place} is not shard {number} of {self.place}')
        for name in ('files', 'skipped'):
            rows = state.get(name)
            if not isinstance(rows, list) or len(rows) != row[name]:
                raise ManifestError(f'{place} has not the {row[name]} {name} of {self.place}')
        try:
            _check_rows('skipped', state['skipped'])
        except (TypeError, ValueError) as error:
            raise ManifestError(f'{place} is damaged: {error}') from None
        return state

    def picture_file(self, entry: FileEntry) -> str:
        """Path of the file that a picture lies in: its own, or a tar."""
        if entry.shard is None or entry.offset is None:
            return entry.path
        return self.shards[entry.shard]['tar']['path']

    def picture_size(self, entry: FileEntry) -> int | None:
        """Bytes of an encrypted picture that are there; None where it would be a request."""
        if self.store.local is None:
            return None
        size = self.store.size(self.picture_file(entry))
        if size is None or entry.offset is None:
            return size
        return max(0, min(entry.size, size - entry.offset))

    def read_picture(self, entry: FileEntry) -> bytes:
        """The bytes of an encrypted picture, as they are there.

        Raises:
            OSError: If they cannot be read.
        """
        path = self.picture_file(entry)
        if entry.offset is None:
            return self.store.read(path)
        return self.store.read_range(path, entry.offset, entry.size)

    @property
    def skipped(self) -> Sequence[dict]:
        """Sequence[dict]: ``path`` and ``reason`` of each picture that is missing."""
        if self.version == 1:
            return self.state.get('skipped') or ()
        return [
            row
            for number, shard in enumerate(self.shards)
            if shard['skipped']
            for row in self.read_shard(number)['skipped']
        ]

    @property
    def annotations(self) -> list[dict]:
        """list[dict]: What is said of each annotation file and list."""
        return self.state.get('annotations') or []

    @property
    def classes(self) -> dict[str, list[str]]:
        """dict[str, list[str]]: Names of the folders of each folder, as MMPretrain numbers them.

        The data set itself is ``'.'``. Empty where the manifest does not say.
        """
        return self.state.get('classes', {})

    @property
    def statistics(self) -> dict[str, list[float]]:
        """dict: ``mean`` and ``std`` of red, green and blue of all files, on the 0–255 scale.

        What models are to normalize by. Empty where the manifest does not say.
        """
        known = self.state.get('statistics', {})
        return {name: known[name] for name in ('mean', 'std') if known}

    @classmethod
    def load(cls, path: Any) -> 'Manifest':
        """Read and check a manifest.

        Args:
            path (str | Path): The file, or the folder that it lies in; or an URL of either, as
                of :func:`~hime_mm.datasets.stores.open_store`.

        Returns:
            Manifest: The manifest.

        Raises:
            ManifestError: If it is missing, damaged or of another version.
        """
        store = store_of(path)
        if '://' not in os.fspath(path) and not os.path.isdir(path):
            # One that is named may come through a pipe.
            return cls(read_json(path, 'manifest', ManifestError, regular=False), store.url)
        return cls(read_state(store), store.url)

    @property
    def recipe(self) -> Recipe:
        """Recipe: How its pictures were encrypted.

        Raises:
            ManifestError: If it has settings that this release does not know.
        """
        try:
            return Recipe.from_dict(self.state)
        except (LookupError, TypeError, ValueError) as error:
            raise ManifestError(f'{self.place}: {error}') from None

    @property
    def cropped(self) -> bool:
        """bool: Whether images show other views of the originals."""
        return bool(self.preprocess.get('augment') or self.preprocess.get('center_crop'))

    @property
    def overview(self) -> PatchLayout:
        """PatchLayout: Of an image of one patch.

        Its ``obstacle`` and ``needs_key`` say whether boxes of this data set come back.
        """
        side = self.cipher.patch_size
        return replace(self.cipher.plan((side, side)), cropped=self.cropped)

    def holds(self, path: str) -> bool:
        """Whether a file lies in the folder of the data set, links followed, or below its URL."""
        if self.store.local is None:
            return f'{path}/'.startswith(f'{self.store.url.rstrip("/")}/')
        return '://' not in path and os.path.realpath(path).startswith(
            os.path.join(os.path.realpath(self.root), '')
        )

    def entry(self, path: str) -> FileEntry:
        """What the manifest says of a file.

        Args:
            path (str): Relative to the manifest, or including its folder.

        Returns:
            FileEntry: The entry.

        Raises:
            ManifestError: If the file is not part of the data set.
        """
        found = self.files.get(path)
        # By folders as they are written first: `realpath` asks the disk.
        for full in (os.path.abspath, os.path.realpath):
            if found is None and self.store.local is not None:
                relative = os.path.relpath(full(path), full(self.root))
                found = self.files.get(relative.replace(os.sep, '/'))
        if found is None:
            raise ManifestError(f'{path} is not in the manifest {self.place}')
        return found

    def layout(self, entry: FileEntry) -> PatchLayout:
        """The public layout of an image, without the permutation."""
        return self._placed(self.cipher.plan(self._plain_shape(entry)), entry)

    def _placed(self, layout: PatchLayout, entry: FileEntry) -> PatchLayout:
        return replace(layout, ori_shape=entry.ori_shape, scale=entry.scale, cropped=self.cropped)

    def secret_layout(self, entry: FileEntry, key: Key) -> PatchLayout:
        """The layout of an image for the key holder, with the permutation if patches were moved.

        See :meth:`check_key` before.
        """
        drawn = self.draw(entry, key)
        return self._placed(self.cipher.secret_layout(self._plain_shape(entry), drawn), entry)

    def draw(self, entry: FileEntry, key: Key) -> list:
        """What :meth:`hime_mm.ciphers.Cipher.draw` gave for the image, derived from the key."""
        shape: tuple[int, ...] = self._plain_shape(entry)
        if entry.channels != 1:
            shape = (*shape, entry.channels)
        return self.cipher.draw(shape, key.image_rng(self.dataset_id, entry.path))

    def _plain_shape(self, entry: FileEntry) -> tuple[int, int]:
        side = self.cipher.encrypted_patch_size
        return (
            entry.shape[0] // side * self.cipher.patch_size,
            entry.shape[1] // side * self.cipher.patch_size,
        )

    def check_key(self, key: Key) -> None:
        """Refuse a key that the data set was not encrypted with.

        Raises:
            InvalidKey: If it is another one, or there was none.
            ManifestError: If the manifest was changed by someone without the
                key.
        """
        if self.key_id is None:
            raise InvalidKey(
                f'{self.root} was encrypted without a key: nothing was kept '
                'that could undo it or map the boxes of moved patches'
            )
        if key.id != self.key_id:
            raise InvalidKey(
                f'wrong key: {self.root} was encrypted with the key '
                f'{self.key_id}, this is the key {key.id}'
            )
        if not hmac.compare_digest(
            manifest_mac(key, self.dataset_id, self.state['checksum']).encode(),
            str(self.state.get('mac')).encode(errors='replace'),
        ):
            raise ManifestError(
                f'{self.place} was changed by someone without '
                'the key: its authentication code does not fit'
            )


#: Types in the head, and in the rows of its lists; what is missing may be.
_HEAD_TYPES = dict(
    tool_version=str,
    kind=str,
    mode=str,
    dataset_id=str,
    key_id=(str, type(None)),
    preprocess=dict,
    image_format=dict,
    views=int,
    counts=dict,
    clipped=dict,
    noticed=dict,
    skipped=(list, type(None)),
    annotations=(list, type(None)),
    classes=dict,
    statistics=dict,
)
#: Counts that are read. There may be others, of whatever type.
_COUNTS = ('images', 'files', 'bytes', 'skipped')
_ROW_TYPES = dict(
    kind=str, path=str, reason=str, sha256=str, images_folder=str, images=int, annotations=int
)


def _check_head(state: dict) -> None:
    """Refuse a head that its readers would stumble over.

    Raises:
        TypeError, ValueError: If something in it is not what it has to be.
    """
    _check_types(state, _HEAD_TYPES)
    state['dataset_id'].encode()  # a ValueError for half a character
    for name in ('skipped', 'annotations'):
        _check_rows(name, state.get(name) or ())
    for folder, names in state.get('classes', {}).items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError(f'`classes` holds {folder!r:.99}: {names!r:.99}')
    counts = state.get('counts', {})
    numbers = [counts[name] for name in _COUNTS if name in counts]
    for clipped, total in state.get('clipped', {}).values():
        numbers += [clipped, total]
    numbers += state.get('noticed', {}).values()
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise TypeError('`counts`, `clipped` and `noticed` are no counts')
    _check_statistics(state.get('statistics'))


def _check_statistics(statistics: dict | None) -> None:
    if statistics is None:
        return
    mean, std = statistics['mean'], statistics['std']
    lists = isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std) == 3
    numbers = [*mean, *std] if lists else []
    if (
        len(statistics) != 3
        or not lists
        or not all(type(number) in (int, float) and 0 <= number <= 255 for number in numbers)
        or type(statistics['pixels']) is not int
        or not 0 < statistics['pixels'] < 2**63
    ):
        raise TypeError(f'`statistics` is {statistics!r:.99}')


def _check_rows(name: str, rows: Iterable) -> None:
    for row in rows:
        if not isinstance(row, dict):
            raise TypeError(f'`{name}` holds {row!r:.99}')
        _check_types(row, _ROW_TYPES)
        if b'\0' in os.fsencode(row['path']):  # a ValueError for half a character
            raise TypeError(f'`{name}` has an impossible path')


def _check_shards(storage: Any, shards: list) -> None:
    """Refuse rows of shards that readers would stumble over.

    Raises:
        LookupError, TypeError: If something in them is not what it has to be.
    """
    if storage not in ('files', 'tar'):
        raise TypeError(f'`storage` is {storage!r:.99}')
    for number, row in enumerate(shards):
        parts = [(row, shard_name(number))]
        numbers = [row['files'], row['bytes'], row['skipped']]
        if storage == 'tar':
            parts.append((row['tar'], tar_name(number)))
            numbers.append(row['tar']['size'])
        elif 'tar' in row:
            raise TypeError(f'shard {number} has a tar')
        if not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise TypeError(f'the counts of shard {number} are none')
        for part, name in parts:
            if part['path'] != name or not SHA256.fullmatch(part['sha256']):
                raise TypeError(f'shard {number} has another path, or no SHA-256')


def _check_types(values: dict, types: Mapping[str, Any]) -> None:
    for name, kind in types.items():
        value = values.get(name, ...)
        if value is not ... and (isinstance(value, bool) or not isinstance(value, kind)):
            raise TypeError(f'`{name}` is {value!r:.99}')


def store_of(path: Any) -> Store:
    """Where a data set lies, by its folder or its manifest, or an URL of either."""
    path = os.fspath(path)
    if '://' in path:
        return open_store(path.rstrip('/').removesuffix(f'/{MANIFEST_NAME}'))
    return open_store(path if os.path.isdir(path) else os.path.dirname(path) or '.')


def read_state(store: Store, unique: bool = False) -> Any:
    """The content of the manifest of a data set.

    Args:
        store (Store): Where it lies.
        unique (bool): Refuse keys that occur twice. Defaults to False.

    Raises:
        ManifestError: If it is missing or no JSON.
    """
    place = store.place(MANIFEST_NAME)
    try:
        data = store.read(MANIFEST_NAME)
    except OSError as error:
        raise ManifestError(
            f'cannot read the manifest {place}: {error.strerror or error}'
        ) from None
    except MemoryError:
        raise ManifestError(f'the manifest {place} does not fit into the memory') from None
    return parse_json(data, place, 'manifest', ManifestError, unique=unique)


def find_manifest(path: Any) -> Path:
    """The nearest ``hime.json`` above a file or folder of a data set.

    Raises:
        ManifestError: If there is none.
    """
    path = Path(os.path.abspath(path))
    for folder in (path, *path.parents):
        if (folder / MANIFEST_NAME).is_file():
            return folder / MANIFEST_NAME
    raise ManifestError(
        f'no {MANIFEST_NAME} in {path.parent} or above: this is no data set '
        'that `hime encrypt` made, or its manifest was left behind'
    )


@lru_cache(maxsize=16)
def _load_cached(path: str, mtime: int, size: int) -> Manifest:
    return _compact(Manifest.load(path))


def _compact(manifest: Manifest) -> Manifest:
    # Only `get` is asked of them here, by `Manifest.entry`.
    manifest.files = CompactFiles(manifest.entries())
    return manifest


def parse_manifest(data: bytes, place: str, read: Callable[[str], bytes] | None = None) -> Manifest:
    """A manifest that lies elsewhere than in a local folder.

    Args:
        data (bytes): Its content.
        place (str): Where it was read, for messages.
        read (Callable): Gives the content of a file by its path relative to the manifest.

    Returns:
        Manifest: Its ``files`` are :class:`CompactFiles`.

    Raises:
        ManifestError: If it is damaged or of another version.
    """
    return _compact(
        Manifest(parse_json(data, place, 'manifest', ManifestError), place=place, read=read)
    )


def load_manifest(path: Any) -> Manifest:
    """Read a manifest once per process while the file stays as it is.

    Args:
        path (str | Path): The file, or the folder that it lies in.

    Returns:
        Manifest: Shared, and its ``files`` are :class:`CompactFiles`.

    Raises:
        ManifestError: If it is missing, damaged or of another version.
    """
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(path):
        path = os.path.join(path, MANIFEST_NAME)
    try:
        info = os.stat(path)
    except OSError as error:
        raise ManifestError(f'cannot read the manifest {path}: {error.strerror}') from None
    return _load_cached(path, info.st_mtime_ns, info.st_size)
