# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Encrypted data sets as MMEngine reads files: from folders, tar shards and buckets alike."""

import errno
import io
import os
import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

from mmengine.fileio import BaseStorageBackend, FileClient, register_backend

from hime_mm.datasets.entries import FileEntry
from hime_mm.datasets.manifest import Manifest, load_manifest, parse_manifest
from hime_mm.datasets.stores import Store, open_store
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import ConfigError

#: Schemes of fsspec that have a prefix, such as ``hime-s3``.
SCHEMES = ('s3', 'gs', 'gcs', 'abfs', 'az', 'memory', 'http', 'https', 'sftp', 'hdfs')
PREFIX = 'hime'


def store_url(path: Any) -> str:
    """The path or URL that a path of this backend stands for.

    Raises:
        ConfigError: If it is none.
    """
    scheme, mark, rest = os.fspath(path).partition('://')
    if not mark:
        return scheme
    if scheme == PREFIX:
        return rest
    name = scheme.removeprefix(f'{PREFIX}-')
    if name == scheme:
        raise ConfigError(f'{path}: `{PREFIX}://` and a path, or `{PREFIX}-{scheme}://{rest}`')
    return f'{name}://{rest}'


class _DataSet:
    """A data set: its names, and where each picture lies."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self.store, self.manifest = store, manifest
        self._folders: dict[str, dict[str, bool]] | None = None

    def read(self, entry: FileEntry) -> bytes:
        """A picture; a tar is opened each time, so that forked workers share nothing."""
        if entry.shard is None or entry.offset is None:
            return self.store.read(entry.path)
        tar = self.manifest.shards[entry.shard]['tar']['path']
        data = self.store.read_range(tar, entry.offset, entry.size)
        if len(data) != entry.size:
            raise OSError(
                errno.EIO,
                f'the tar ends before {entry.path}: get it from the owner again',
                self.store.place(tar),
            )
        return data

    @property
    def folders(self) -> dict[str, dict[str, bool]]:
        """Names in each folder, and whether they are folders themselves."""
        if self._folders is None:
            folders: dict[str, dict[str, bool]] = {'': {}}
            for entry in self.manifest.entries():
                _enter(folders, entry.path, False)
            for row in self.manifest.annotations:
                _enter(folders, row['path'], False)
            for folder, names in self.manifest.classes.items():
                for name in names:
                    _enter(folders, posixpath.normpath(posixpath.join(folder, name)), True)
            self._folders = folders
        return self._folders


def _enter(folders: dict[str, dict[str, bool]], path: str, folder: bool) -> None:
    if folder:
        folders.setdefault(path, {})
    while path:
        parent, _, name = path.rpartition('/')
        known = parent in folders and name in folders[parent]
        folders.setdefault(parent, {})[name] = folder
        if known:
            return
        path, folder = parent, True


#: Data sets that were found, by their folders.
_FOUND: dict[str, _DataSet] = {}


# One answer for each folder above a file that is read: a server is asked once.
@cache
def _data_set(folder: str) -> _DataSet | None:
    """The data set whose manifest lies in a folder, None where there is none."""
    store = open_store(folder)
    try:
        if store.local is not None:
            if store.size(MANIFEST_NAME) is None:
                return None
            manifest = load_manifest(store.place(MANIFEST_NAME))
        else:
            data = store.read(MANIFEST_NAME)
            manifest = parse_manifest(data, store.place(MANIFEST_NAME), store.read)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    _FOUND[folder] = _DataSet(store, manifest)
    return _FOUND[folder]


@cache
def _store(folder: str) -> Store:
    return open_store(folder)


def _split(url: str) -> tuple[str, list[str]]:
    """What stands before the path, and what is between its slashes."""
    scheme, mark, rest = url.partition('://')
    if mark:
        host, _, rest = rest.partition('/')
        return f'{scheme}://{host}/', [part for part in rest.split('/') if part not in ('', '.')]
    url = os.path.abspath(url).replace(os.sep, '/')
    head, _, rest = url.partition('/')
    return f'{head}/', [part for part in rest.split('/') if part]


def _nearest(head: str, parts: list[str], folder: bool) -> tuple[_DataSet | None, int]:
    """The nearest data set above a file or folder, or that is it, and its depth."""
    folders = [head + '/'.join(parts[:depth]) for depth in range(len(parts) + 1)]
    for depth, place in enumerate(folders):
        # Asked for first: not every folder of classes is looked into for a manifest.
        found = _FOUND.get(place)
        if found is not None and found.manifest.files.get('/'.join(parts[depth:])) is not None:
            return found, depth
    for depth in range(len(parts) if folder else len(parts) - 1, -1, -1):
        found = _data_set(folders[depth])
        if found is not None:
            return found, depth
    return None, 0


class HimeBackend(BaseStorageBackend):
    """Read what ``hime encrypt`` made as if it were a folder of files.

    For paths such as ``hime:///data/out`` and ``hime-s3://bucket/out``: the pictures of a data
    set with tar shards are read from the tars, all else as it lies. Nothing is written.
    """

    def _find(self, path: Any, is_folder: bool = False) -> tuple[_DataSet | None, str, str, str]:
        """The data set with tar shards, the path in it, and folder and name where it lies."""
        head, parts = _split(store_url(path))
        folder = head + '/'.join(parts[:-1])
        name = parts[-1] if parts else ''
        found, depth = _nearest(head, parts, is_folder)
        if found is not None and found.manifest.storage == 'tar':
            return found, '/'.join(parts[depth:]), folder, name
        return None, '', folder, name

    def find_manifest(self, path: Any) -> tuple[Manifest, str] | None:
        """The nearest manifest above a picture, and the picture's path in its data set.

        What reads pictures and what reads their manifest share it.
        """
        head, parts = _split(store_url(path))
        found, depth = _nearest(head, parts, folder=False)
        return None if found is None else (found.manifest, '/'.join(parts[depth:]))

    def get(self, filepath: Any) -> bytes:
        """All of a file."""
        data_set, path, folder, name = self._find(filepath)
        entry = data_set.manifest.files.get(path) if data_set else None
        if data_set is None or entry is None:
            return _store(folder).read(name)
        return data_set.read(entry)

    def get_text(self, filepath: Any, encoding: str = 'utf-8') -> str:
        """All of a file, as text."""
        with io.TextIOWrapper(io.BytesIO(self.get(filepath)), encoding=encoding) as file:
            return file.read()

    def isfile(self, filepath: Any) -> bool:
        """Whether there is such a file."""
        data_set, path, folder, name = self._find(filepath)
        if data_set and data_set.manifest.files.get(path) is not None:
            return True
        return bool(name) and _store(folder).size(name) is not None

    def isdir(self, filepath: Any) -> bool:
        """Whether there is such a folder."""
        data_set, path, folder, name = self._find(filepath, is_folder=True)
        if data_set:
            return path in data_set.folders
        try:
            next(_store(folder).list(name), None)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def exists(self, filepath: Any) -> bool:
        """Whether there is such a file or folder."""
        return self.isfile(filepath) or self.isdir(filepath)

    def join_path(self, filepath: Any, *filepaths: Any) -> str:
        """Paths joined by slashes."""
        return posixpath.join(os.fspath(filepath), *(os.fspath(path) for path in filepaths))

    @contextmanager
    def get_local_path(self, filepath: Any) -> Iterator[str]:
        """A file of this machine with the content of one, until the context ends."""
        data_set, path, folder, name = self._find(filepath)
        inside = data_set is not None and data_set.manifest.files.get(path) is not None
        if _store(folder).local is not None and not inside:
            yield _store(folder).place(name)
            return
        with tempfile.TemporaryDirectory(prefix='hime-') as temporary:
            copy = os.path.join(temporary, name)
            with open(copy, 'wb') as file:
                file.write(self.get(filepath))
            yield copy

    def list_dir_or_file(
        self,
        dir_path: Any,
        list_dir: bool = True,
        list_file: bool = True,
        suffix: str | tuple[str, ...] | None = None,
        recursive: bool = False,
    ) -> Iterator[str]:
        """What is in a folder, relative to it, sorted by name.

        Raises:
            TypeError: If folders are asked for with a suffix, as for the backends of MMEngine.
        """
        if list_dir and suffix is not None:
            raise TypeError('`suffix` should be None when `list_dir` is True')
        for name, folder in self._names(dir_path):
            if name.startswith('.') and not folder:
                continue
            if folder:
                if list_dir:
                    yield name
                if recursive:
                    inside = self.join_path(dir_path, name)
                    for one in self.list_dir_or_file(
                        inside, list_dir, list_file, suffix, recursive
                    ):
                        yield f'{name}/{one}'
            elif list_file and (suffix is None or name.endswith(suffix)):
                yield name

    def _names(self, dir_path: Any) -> list[tuple[str, bool]]:
        data_set, path, folder, name = self._find(dir_path, is_folder=True)
        if data_set:
            if path not in data_set.folders:
                raise FileNotFoundError(f'there is no folder {dir_path}')
            return sorted(data_set.folders[path].items())
        return sorted((entry.name, entry.folder) for entry in _store(folder).list(name))

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ConfigError(f'`{PREFIX}://` paths are only read: write to another place')

    put = put_text = copyfile = copytree = copyfile_from_local = _refuse
    copytree_from_local = remove = rmtree = copy_if_symlink_fails = _refuse


PREFIXES = [PREFIX, *(f'{PREFIX}-{scheme}' for scheme in SCHEMES)]


def register() -> None:
    """Make the backend known to MMEngine; again, where that is done twice."""
    register_backend(PREFIX, HimeBackend, force=True, prefixes=PREFIXES)
    FileClient.register_backend(PREFIX, HimeBackend, force=True, prefixes=PREFIXES)


register()
