# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A folder of this machine."""

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from typing import BinaryIO

from hime_mm.images.files import atomic_file, check_regular, file_sha256, write_atomic

from .base import Entry


class LocalStore:
    """A folder of this machine, which need not be there yet; see :class:`~.base.Store`.

    Args:
        folder (str): Its path.
    """

    def __init__(self, folder: str) -> None:
        self.url = self.local = folder

    def place(self, path: str) -> str:
        return os.path.join(self.local, path) if path else self.local

    def read(self, path: str) -> bytes:
        place = self.place(path)
        check_regular(place)
        with open(place, 'rb') as file:
            return file.read()

    def read_many(self, paths: Sequence[str]) -> Iterator[bytes | OSError]:
        for path in paths:
            try:
                yield self.read(path)
            except OSError as error:
                yield error

    def read_range(self, path: str, start: int, size: int) -> bytes:
        with self.open(path) as file:
            file.seek(start)
            return file.read(size)

    def open(self, path: str) -> BinaryIO:
        place = self.place(path)
        check_regular(place)
        return open(place, 'rb')

    def write(self, path: str, data: bytes, sync: bool = True) -> None:
        write_atomic(self.place(path), data, sync)

    def write_many(self, files: Sequence[tuple[str, bytes]]) -> None:
        for path, data in files:
            self.write(path, data, sync=False)

    def writing(self, path: str, sync: bool = True) -> AbstractContextManager[BinaryIO]:
        return atomic_file(self.place(path), sync)

    def size(self, path: str) -> int | None:
        try:
            info = os.stat(self.place(path))
        except (OSError, ValueError):  # such as a NUL in the name
            return None
        return info.st_size if stat.S_ISREG(info.st_mode) else None

    def is_whole(self, path: str, size: int, sha256: str) -> bool:
        try:
            return self.size(path) == size and file_sha256(self.place(path)) == sha256
        except OSError:
            return False

    def stamp(self, path: str) -> list[int] | None:
        try:
            info = os.stat(self.place(path))
        except (OSError, ValueError):
            return None
        return [info.st_size, info.st_mtime_ns]

    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(self.place(path))

    def remove_tree(self, path: str) -> None:
        shutil.rmtree(self.place(path), ignore_errors=True)

    def list(self, folder: str = '') -> Iterator[Entry]:
        with os.scandir(self.place(folder)) as scan:
            for entry in scan:
                link = entry.is_symlink()
                # `DirEntry.is_dir` raises for a link to itself.
                inside = os.path.isdir(entry.path) if link else entry.is_dir()
                regular = link or inside or entry.is_file(follow_symlinks=False)
                yield Entry(entry.name, inside, link, regular)

    def make_folder(self, path: str) -> None:
        os.makedirs(self.place(path), exist_ok=True)

    def sync(self) -> None:
        if hasattr(os, 'sync'):
            os.sync()
