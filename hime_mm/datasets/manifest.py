# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The manifest ``hime.json`` of an encrypted data set; no secret is in it.

``docs/format.md`` specifies the file.
"""

import hashlib
import hmac
import json
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, Optional, Tuple, Union

import numpy as np

from hime_mm.ciphers import Cipher, ImageSource, InvalidKey, Key, PatchLayout
from hime_mm.errors import ManifestError

from .images import atomic_file

MANIFEST_NAME = 'hime.json'
FORMAT_NAME = 'hime_mm encrypted data set'
FORMAT_VERSION = 1
#: What a change of cannot be told from a fresh manifest: left out of both.
_SEALS = ('checksum', 'mac')


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says of one encrypted image.

    Args:
        path (str): Relative to the manifest, with forward slashes. Also the
            image id that keys are derived for.
        sha256 (str): Of the file, in hexadecimal.
        size (int): Of the file in bytes.
        shape (tuple[int, int]): Height and width of the encrypted image.
        channels (int): Number of channels; 1 is stored as grayscale.
        ori_shape (tuple[int, int]): Height and width of the original in
            pixels.
        scale (tuple[float, float]): Encrypted pixels per original pixel,
            (x, y).
    """

    path: str
    sha256: str
    size: int
    shape: Tuple[int, int]
    channels: int
    ori_shape: Tuple[int, int]
    scale: Tuple[float, float]

    def to_dict(self) -> dict:
        """As plain lists, strings and numbers."""
        return dict(
            path=self.path,
            sha256=self.sha256,
            size=self.size,
            shape=list(self.shape),
            channels=self.channels,
            ori_shape=list(self.ori_shape),
            scale=list(self.scale))

    @classmethod
    def from_dict(cls, state: dict) -> 'FileEntry':
        """The inverse of :meth:`to_dict`."""
        return cls(
            path=str(state['path']),
            sha256=str(state['sha256']),
            size=int(state['size']),
            shape=(int(state['shape'][0]), int(state['shape'][1])),
            channels=int(state['channels']),
            ori_shape=(int(state['ori_shape'][0]),
                       int(state['ori_shape'][1])),
            scale=(float(state['scale'][0]), float(state['scale'][1])))


class Manifest:
    """The manifest of an encrypted data set.

    Args:
        state (dict): The content of ``hime.json``.
        root (str | Path): The folder that it lies in.

    Raises:
        ManifestError: If the content is not a manifest of this version, or
            was changed after it was written.
    """

    def __init__(self, state: dict, root: Any = '.') -> None:
        self.root = Path(root)
        place = self.root / MANIFEST_NAME
        if not isinstance(state, dict) or state.get('format') != FORMAT_NAME:
            raise ManifestError(f'{place} is no manifest of hime_mm')
        if state.get('format_version') != FORMAT_VERSION:
            raise ManifestError(
                f'{place} has the format version '
                f'{state.get("format_version")!r}, but this release of '
                f'hime_mm reads version {FORMAT_VERSION}: use the release '
                f'that wrote it ({state.get("tool_version")})')
        if not isinstance(state.get('files'), list):
            raise ManifestError(f'{place} is damaged: it has no list of files')
        if state.get('checksum') != checksum(state):
            raise ManifestError(
                f'{place} was changed after it was written: its checksum does '
                'not fit. Get it from the owner again')
        try:
            self.cipher = Cipher.build(state['cipher'])
            self.files: Union[Dict[str, FileEntry], 'CompactFiles'] = {
                row['path']: FileEntry.from_dict(row)
                for row in state['files']
            }
            self.dataset_id: str = state['dataset_id']
            self.key_id: Optional[str] = state['key_id']
            self.preprocess: dict = state['preprocess']
        except (LookupError, TypeError, ValueError) as error:
            raise ManifestError(f'{place} is damaged: '
                                f'{type(error).__name__}: {error}') from None
        self.state = {k: v for k, v in state.items() if k != 'files'}

    @classmethod
    def load(cls, path: Any) -> 'Manifest':
        """Read and check a manifest.

        Args:
            path (str | Path): The file, or the folder that it lies in.

        Returns:
            Manifest: The manifest.

        Raises:
            ManifestError: If it is missing, damaged or of another version.
        """
        path = Path(path)
        if path.is_dir():
            path = path / MANIFEST_NAME
        try:
            state = json.loads(path.read_bytes())
        except OSError as error:
            raise ManifestError(f'cannot read the manifest {path}: '
                                f'{error.strerror}') from None
        except ValueError as error:
            raise ManifestError(
                f'the manifest {path} is damaged: {error}') from None
        return cls(state, path.parent)

    @property
    def augmented(self) -> bool:
        """bool: Whether images were cropped or flipped before encryption."""
        return bool(self.preprocess.get('augment'))

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
        if found is None:
            # By folders as they are written first: `resolve` asks the disk.
            for root, full in ((os.path.abspath(self.root),
                                os.path.abspath(path)),
                               (os.path.realpath(self.root),
                                os.path.realpath(path))):
                relative = os.path.relpath(full, root).replace(os.sep, '/')
                found = self.files.get(relative)
                if found is not None:
                    break
        if found is None:
            raise ManifestError(f'{path} is not in the manifest '
                                f'{self.root / MANIFEST_NAME}')
        return found

    def layout(self, entry: FileEntry) -> PatchLayout:
        """The public layout of an image.

        Args:
            entry (FileEntry): From :meth:`entry`.

        Returns:
            PatchLayout: Without the permutation.
        """
        return replace(
            self.cipher.plan(self._plain_shape(entry)),
            ori_shape=entry.ori_shape,
            scale=entry.scale)

    def secret_layout(self, entry: FileEntry, key: Key) -> PatchLayout:
        """The layout of an image for the key holder.

        Args:
            entry (FileEntry): From :meth:`entry`.
            key (Key): The key; see :meth:`check_key`.

        Returns:
            PatchLayout: With the permutation, where patches were moved.
        """
        shape = self._plain_shape(entry)
        layout = self.cipher.secret_layout(shape, self.draw(entry, key))
        return replace(
            layout, ori_shape=entry.ori_shape, scale=entry.scale)

    def draw(self, entry: FileEntry, key: Key) -> list:
        """What the image was encrypted with, derived from the key again.

        Args:
            entry (FileEntry): From :meth:`entry`.
            key (Key): The key; see :meth:`check_key`.

        Returns:
            list: As :meth:`hime_mm.ciphers.Cipher.draw` gives it.
        """
        shape = self._plain_shape(entry)
        if entry.channels != 1:
            shape = (*shape, entry.channels)
        return self.cipher.draw(shape, self.source(entry, key))

    def source(self, entry: FileEntry, key: Key) -> ImageSource:
        """The randomness of an image under a key."""
        return key.source(self.dataset_id, entry.path)

    def _plain_shape(self, entry: FileEntry) -> Tuple[int, int]:
        side = self.cipher.encrypted_patch_size
        return (entry.shape[0] // side * self.cipher.patch_size,
                entry.shape[1] // side * self.cipher.patch_size)

    def check_key(self, key: Key) -> None:
        """Refuse a key that the data set was not encrypted with.

        Args:
            key (Key): The key.

        Raises:
            InvalidKey: If it is another one, or there was none.
            ManifestError: If the manifest was changed by someone without the
                key.
        """
        place = self.root / MANIFEST_NAME
        if self.key_id is None:
            raise InvalidKey(
                f'{self.root} was encrypted without a key: nothing was kept '
                'that could undo it or map the boxes of moved patches')
        if key.id != self.key_id:
            raise InvalidKey(
                f'wrong key: {self.root} was encrypted with the key '
                f'{self.key_id}, this is the key {key.id}')
        if not hmac.compare_digest(
                _mac(key, self.dataset_id, self.state['checksum']).encode(),
                str(self.state.get('mac')).encode()):
            raise ManifestError(
                f'{place} was changed by someone without the key: its '
                'authentication code does not fit')


def _mac(key: Key, dataset_id: str, checksum: str) -> str:
    return key.mac('manifest', dataset_id, checksum.encode())


def _body(head: dict, rows: Iterable[dict]) -> Iterator[bytes]:
    """What the checksum is computed over, in parts.

    The content without its seals as JSON, keys sorted, without blanks.
    """
    rest = {k: v for k, v in head.items() if k not in _SEALS}
    text = _compact({**rest, 'files': []})
    # `files` is the only key of that name, and quotes in strings are escaped.
    before, _, after = text.partition('"files":[]')
    yield f'{before}"files":['.encode()
    for i, row in enumerate(rows):
        yield f'{"," if i else ""}{_compact(row)}'.encode()
    yield f']{after}'.encode()


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(',', ':'))


def checksum(state: dict) -> str:
    """SHA-256 of a manifest's content without its seals, in hexadecimal."""
    digest = hashlib.sha256()
    for part in _body(state, state['files']):
        digest.update(part)
    return digest.hexdigest()


def write_manifest(root: Any,
                   head: dict,
                   rows: Iterable[dict],
                   key: Optional[Key] = None) -> None:
    """Write ``hime.json``, as a whole or not at all.

    The rows are read once and not kept.

    Args:
        root (str | Path): The folder of the data set.
        head (dict): All keys but ``format``, ``format_version``, ``files``
            and the seals.
        rows (Iterable[dict]): Of all files, each as
            :meth:`FileEntry.to_dict`.
        key (Key, optional): To authenticate the manifest with. Defaults to
            None.

    Raises:
        OSError: If it cannot be written.
    """
    head = dict(format=FORMAT_NAME, format_version=FORMAT_VERSION, **head)
    digest = hashlib.sha256()

    with atomic_file(os.path.join(root, MANIFEST_NAME)) as file:
        # A line for each file, so that people can read and compare it.
        file.write(f'{json.dumps(head, indent=2)[:-2]},\n'
                   '  "files": ['.encode())

        def written() -> Iterator[dict]:
            for i, row in enumerate(rows):
                file.write(f'{"," if i else ""}\n    '
                           f'{json.dumps(row)}'.encode())
                yield row

        for part in _body(head, written()):
            digest.update(part)
        seals = dict(checksum=digest.hexdigest())
        if key is not None:
            seals['mac'] = _mac(key, head['dataset_id'], seals['checksum'])
        file.write(f'\n  ],\n{json.dumps(seals, indent=2)[2:]}\n'.encode())


def find_manifest(path: Any) -> Path:
    """The manifest of the data set that a file or folder is part of.

    Args:
        path (str | Path): Of the data set.

    Returns:
        Path: Of the nearest ``hime.json`` above it.

    Raises:
        ManifestError: If there is none.
    """
    path = Path(os.path.abspath(path))
    for folder in (path, *path.parents):
        if (folder / MANIFEST_NAME).is_file():
            return folder / MANIFEST_NAME
    raise ManifestError(
        f'no {MANIFEST_NAME} in {path.parent} or above: this is no data set '
        'that `hime encrypt` made, or its manifest was left behind')


class CompactFiles:
    """The files of a manifest in about 100 bytes each.

    Every worker of every data loader keeps the manifest. Python objects of
    ImageNet's 1.3 million files would take 1.7 GB in each of them; what is in
    these arrays stays shared after a fork.

    Args:
        entries (Iterable[:class:`FileEntry`]): All files.
    """

    _ROW = np.dtype([('name', 'S16'), ('sha256', 'V32'), ('size', '<i8'),
                     ('shape', '<i4', 2), ('channels', '<i4'),
                     ('ori_shape', '<i4', 2), ('scale', '<f8', 2)])

    def __init__(self, entries: Iterable[FileEntry]) -> None:
        rows = np.fromiter(
            ((self._hashed(one.path), bytes.fromhex(one.sha256), one.size,
              one.shape, one.channels, one.ori_shape, one.scale)
             for one in entries), self._ROW)
        self._rows = rows[np.argsort(rows['name'])]
        self._names = self._rows['name'].copy()

    @staticmethod
    def _hashed(path: str) -> bytes:
        data = path.encode('utf-8', 'surrogatepass')
        return hashlib.blake2b(data, digest_size=16).digest()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, path: str) -> Optional[FileEntry]:
        """The entry of a path relative to the manifest, None if there is none.
        """
        name = np.array(self._hashed(path), 'S16')
        at = int(np.searchsorted(self._names, name))
        if at == len(self) or self._names[at] != name:
            return None
        row = self._rows[at]
        return FileEntry(
            path=path,
            sha256=row['sha256'].tobytes().hex(),
            size=int(row['size']),
            shape=tuple(row['shape'].tolist()),
            channels=int(row['channels']),
            ori_shape=tuple(row['ori_shape'].tolist()),
            scale=tuple(row['scale'].tolist()))


@lru_cache(maxsize=16)
def _load_cached(path: str, mtime: int, size: int) -> Manifest:
    manifest = Manifest.load(path)
    # Only `get` is asked of them here, by `Manifest.entry`.
    manifest.files = CompactFiles(manifest.files.values())
    return manifest


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
        raise ManifestError(f'cannot read the manifest {path}: '
                            f'{error.strerror}') from None
    return _load_cached(path, info.st_mtime_ns, info.st_size)
