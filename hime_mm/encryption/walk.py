# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What lies in the folders of a source, and where it really lies."""

import os

from hime_mm.datasets.originals import is_picture
from hime_mm.errors import EncryptionError
from hime_mm.images.codec import EXTENSIONS

NO_PICTURE = f'its extension is none of {", ".join(EXTENSIONS)}'


class Tree:
    """All that lies below a folder of the source; hidden folders are not entered.

    Args:
        src (str): The source.
        inside (str): Path of the folder in it. Defaults to '', the source itself.

    Attributes:
        files (list[str]): Paths relative to the source, without hidden ones: those of a folder,
            sorted, before those of its folders.
        folders (dict[str, list[str]]): Of each folder that has any, ``'.'`` for the source, the
            names of its folders in the order in which MMPretrain numbers classes: hidden ones and
            links count.
        left_out (list[tuple[str, str]]): What is hidden or a link that leads back, and the reason.
        real (set[str]): Where the folders really lie.
        linked (set[str]): Folders that pictures really lie in which are links.

    Raises:
        EncryptionError: If a folder cannot be listed.
    """

    def __init__(self, src: str, inside: str = '') -> None:
        self.files: list[str] = []
        self.folders: dict[str, list[str]] = {}
        self.left_out: list[tuple[str, str]] = []
        self.real: set[str] = set()
        self.linked: set[str] = set()
        self._walk(src, '' if inside == '.' else inside, ())

    def _walk(self, src: str, inside: str, above: tuple[str, ...]) -> None:
        folder = os.path.join(src, inside)
        above = (*above, os.path.realpath(folder))
        self.real.add(above[-1])
        names, entered = [], []
        for entry in _entries(folder):
            path = f'{inside}/{entry.name}' if inside else entry.name
            hidden, link = entry.name.startswith('.'), entry.is_symlink()
            # `DirEntry.is_dir` raises for a link to itself.
            if os.path.isdir(entry.path) if link else entry.is_dir():
                names.append(entry.name)
                if hidden:
                    self.left_out.append((path, 'it is a hidden folder'))
                elif link and _leads_back(entry.path, above):
                    self.left_out.append((path, 'it is a link that leads back'))
                else:
                    entered.append(path)
            elif hidden:
                self.left_out.append((path, 'it is a hidden file'))
            else:
                self.files.append(path)
                if link and is_picture(path):
                    self.linked.add(os.path.dirname(os.path.realpath(entry.path)))
        if names:
            self.folders[inside or '.'] = names
        for path in entered:
            self._walk(src, path, above)


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as scan:
            return sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise EncryptionError(f'cannot list the folder {folder}: {error.strerror}') from None


def _leads_back(link: str, above: tuple[str, ...]) -> bool:
    """Whether a link is to a folder around one of those above it, perhaps around the source."""
    real = os.path.realpath(link)
    return any(lies_in(folder, real) for folder in above)


def lies_in(path: str, folder: str) -> bool:
    """Whether a real path is a folder or inside of it."""
    return os.path.join(path, '').startswith(os.path.join(folder, ''))
