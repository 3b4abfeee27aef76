# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What lies in the folders of a source, and where it really lies."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from hime_mm.datasets.originals import is_picture
from hime_mm.datasets.stores import Entry, LocalStore, Store
from hime_mm.errors import EncryptionError
from hime_mm.images.codec import EXTENSIONS

NO_PICTURE = f'its extension is none of {", ".join(EXTENSIONS)}'


class Found(NamedTuple):
    """A file, or what is left out.

    Attributes:
        rank (int): Number of its folder, in the order in which folders are entered.
        name (str): Its name in that folder.
        path (str): Its path relative to the source.
        reason (str, optional): Why it is left out.
    """

    rank: int
    name: str
    path: str
    reason: str | None = None


class Walk:
    """All that lies below a folder of a store; hidden folders are not entered.

    Iterating over it gives what is found: folder by folder, that of a folder in no order. What it
    says is complete at the end.

    Args:
        store (Store): The source.
        inside (str): Path of the folder in it. Defaults to '', the source itself.

    Attributes:
        folders (dict[str, list[str]]): Of each folder that has any, ``'.'`` for the source, the
            names of its folders in the order in which MMPretrain numbers classes: hidden ones and
            links count.
        real (set[str]): Where the folders really lie, if it is on this machine.
        linked (set[str]): Folders that pictures really lie in which are links.
    """

    def __init__(self, store: Store, inside: str = '') -> None:
        self._store, self._inside = store, '' if inside == '.' else inside
        self._rank = -1
        self.folders: dict[str, list[str]] = {}
        self.real: set[str] = set()
        self.linked: set[str] = set()

    def __iter__(self) -> Iterator[Found]:
        """What is found.

        Raises:
            EncryptionError: If a folder cannot be listed.
        """
        return self._walk(self._inside, ())

    def _walk(self, inside: str, above: tuple[str, ...]) -> Iterator[Found]:
        if self._store.local is not None:
            above = (*above, os.path.realpath(self._store.place(inside)))
            self.real.add(above[-1])
        self._rank += 1
        rank = self._rank
        names, entered = [], set()
        for entry in self._entries(inside):
            path = f'{inside}/{entry.name}' if inside else entry.name
            hidden = entry.name.startswith('.')
            reason = None
            if entry.folder:
                names.append(entry.name)
                if hidden:
                    reason = 'it is a hidden folder'
                elif entry.link and _leads_back(self._store.place(path), above):
                    reason = 'it is a link that leads back'
                else:
                    entered.add(entry.name)
                    continue
            elif hidden:
                reason = 'it is a hidden file'
            elif entry.link and self._store.local is not None and is_picture(path):
                self.linked.add(os.path.dirname(os.path.realpath(self._store.place(path))))
            yield Found(rank, entry.name, path, reason)
        names.sort()
        if names:
            self.folders[inside or '.'] = names
        for name in names:
            if name in entered:
                yield from self._walk(f'{inside}/{name}' if inside else name, above)

    def _entries(self, inside: str) -> Iterator[Entry]:
        try:
            yield from self._store.list(inside)
        except OSError as error:
            place = self._store.place(inside)
            raise EncryptionError(f'cannot list the folder {place}: {error.strerror}') from None


class Tree:
    """All that lies below a folder of this machine, see :class:`Walk`, in memory.

    Args:
        src (str): The folder.
        inside (str): Path of a folder in it. Defaults to '', the folder itself.

    Attributes:
        files (list[str]): Paths relative to ``src``, without hidden ones: those of a folder,
            sorted, before those of its folders.
        folders (dict[str, list[str]]): As of :class:`Walk`.
        left_out (list[tuple[str, str]]): What is hidden or a link that leads back, and the reason.
    """

    def __init__(self, src: str, inside: str = '') -> None:
        walk = Walk(LocalStore(src), inside)
        found = sorted(walk)
        self.files = [entry.path for entry in found if entry.reason is None]
        self.left_out = [(entry.path, entry.reason) for entry in found if entry.reason is not None]
        self.folders = walk.folders


def _leads_back(link: str, above: tuple[str, ...]) -> bool:
    """Whether a link is to a folder around one of those above it, perhaps around the source."""
    real = os.path.realpath(link)
    return any(lies_in(folder, real) for folder in above)


def lies_in(path: str, folder: str) -> bool:
    """Whether a real path is a folder or inside of it."""
    return os.path.join(path, '').startswith(os.path.join(folder, ''))
