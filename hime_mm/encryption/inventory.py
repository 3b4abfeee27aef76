# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What lies in an encrypted folder, and what of it does not belong there."""

import errno
import os
import re
import stat
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from hime_mm.datasets.stores import Entry, Store
from hime_mm.images.codec import EXTENSIONS
from hime_mm.images.files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX

from .lock import WORK_NAME

_KEY = re.compile(rb'hime-key-v1:[0-9a-fA-F]{64}|\A\s*[0-9a-fA-F]{64}\s*\Z')
#: A key file has 77 bytes; one may be a line of a longer file, such as of settings.
_HEAD = 1 << 16


class Inventory(NamedTuple):
    """What lies in a folder, found without following a link or opening a file.

    Attributes:
        store (Store): The folder.
        files (set[str]): Regular files, relative to it, with forward slashes.
        folders (set[str]): Folders in it.
        others (dict[str, str]): What must not be there, whatever its name,
            and why.
    """

    store: Store
    files: set[str]
    folders: set[str]
    others: dict[str, str]

    @classmethod
    def take(cls, store: Store) -> 'Inventory':
        """Look at all that is in a folder."""
        found = cls(store, set(), set(), {})
        pending = ['']
        while pending:
            inside = pending.pop()
            try:
                for entry in store.list(inside):
                    path = f'{inside}/{entry.name}' if inside else entry.name
                    if found._add(path, entry):
                        pending.append(path)
            except OSError as error:
                found.others[inside or '.'] = f'the folder cannot be listed: {error.strerror}'
        return found

    def _add(self, path: str, entry: Entry) -> bool:
        """Whether it is a folder to look into."""
        if entry.link:
            self.others[path] = 'it is a link, and no part of the data set'
        elif entry.folder:
            if entry.name != WORK_NAME:
                self.folders.add(path)
                return True
            self.others[path] = (
                'the data set is unfinished, and must not be handed over: encrypt again once the '
                'pictures that are missing are repaired, or delete this folder'
            )
        elif entry.regular:
            self.files.add(path)
        else:
            self.others[path] = 'it is no regular file'
        return False

    def lacks(self, path: str) -> str | None:
        """Why a file that the manifest lists is not there as one, None if it is."""
        if path in self.files:
            return None
        if PurePosixPath(path).is_absolute() or set(path.split('/')) & {'', '.', '..'}:
            return 'the path leads out of the folder'
        return os.strerror(errno.EISDIR if path in self.folders else errno.ENOENT)

    def strangers(self, listed: set[str]) -> Iterator[tuple[str, str]]:
        """All files that are not among those that are listed, and what they seem to be."""
        for path in self.files - listed:
            yield path, self._stranger(path)

    def _stranger(self, path: str) -> str:
        name = path.rpartition('/')[2]
        if _KEY.search(self._head(path)):
            return 'it holds a key: take it away, and make a new one if somebody may have seen it'
        if os.path.splitext(name)[1].lower() in EXTENSIONS:
            return 'a picture that the manifest does not list: it may not be encrypted'
        if name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX):
            return 'part of a file that a run had begun: delete it'
        return 'it is no part of the data set: the manifest does not list it'

    def _head(self, path: str) -> bytes:
        """The first bytes of a file, none where it cannot be read."""
        try:
            if self.store.local is None:
                return self.store.read_range(path, 0, _HEAD)
            # Not a link or pipe that has just taken the file's place.
            flags = os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_NOFOLLOW', 0)
            with os.fdopen(os.open(self.store.place(path), flags), 'rb') as file:
                return file.read(_HEAD) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b''
        except OSError:
            return b''

    def class_problems(
        self, classes: Mapping[str, list[str]], listed: set[str]
    ) -> Iterator[tuple[str, str]]:
        """Folders that are missing or too many, by the subfolders that each is to have."""
        named = {
            name if folder == '.' else f'{folder}/{name}'
            for folder, names in classes.items()
            for name in names
        }
        for path in named - self.folders - self.others.keys():
            yield path, 'the folder is missing: classes would get other numbers'
        held = sorted(named | listed)
        for path in self.folders - named:
            at = bisect_left(held, f'{path}/')
            if at == len(held) or not held[at].startswith(f'{path}/'):
                yield path, 'the manifest names no such folder: classes would get other numbers'
