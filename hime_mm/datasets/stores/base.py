# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a run and the readers of a data set ask of the place where it lies."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, NamedTuple, Protocol


class Entry(NamedTuple):
    """What lies in a folder.

    Attributes:
        name (str): Its name there.
        folder (bool): Whether it is a folder, also by way of a link.
        link (bool): Whether it is a link.
        regular (bool): Whether it is a folder, a file, or a link; else a pipe or device.
    """

    name: str
    folder: bool
    link: bool = False
    regular: bool = True


class Store(Protocol):
    """A folder of this machine, or of a server or bucket.

    Paths are relative to it, with forward slashes. What fails raises :class:`OSError`, with the
    place in its ``filename``: ``FileNotFoundError`` where there is nothing, ``PermissionError``
    where it is not allowed.

    Attributes:
        url (str): As people write it: a path, or an URL such as ``s3://bucket/data``.
        local (str | None): The folder, where it is one of this machine.
    """

    url: str

    @property
    def local(self) -> str | None: ...

    def place(self, path: str) -> str:
        """A path as people write it."""

    def read(self, path: str) -> bytes:
        """All of a file; one that is no regular file is refused."""

    def read_many(self, paths: Sequence[str]) -> Iterator[bytes | OSError]:
        """All of some files, at the same time where that is faster; what failed as its error."""

    def read_range(self, path: str, start: int, size: int) -> bytes:
        """A part of a file."""

    def open(self, path: str) -> BinaryIO:
        """A file to read from, from its beginning on."""

    def write(self, path: str, data: bytes, sync: bool = True) -> None:
        """Write all of a file, as a whole or not at all; folders are made.

        Where it returns, the file is there for all readers. ``sync=False`` does not wait for the
        disk.
        """

    def write_many(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Write several, at the same time where that is faster; none waits for the disk."""

    def writing(self, path: str, sync: bool = True) -> AbstractContextManager[BinaryIO]:
        """Write a file piece by piece, so that it is there as a whole or not at all."""

    def size(self, path: str) -> int | None:
        """Bytes of a regular file, None where there is none."""

    def is_whole(self, path: str, size: int, sha256: str) -> bool:
        """Whether a file is there as it was written.

        On this machine it is read and hashed; of a server, which takes files as a whole, the size
        is asked for.
        """

    def stamp(self, path: str) -> list[int] | None:
        """What tells whether a file was replaced: size and time; None where nothing tells.

        Servers are not asked: it would be a request for every picture.
        """

    def remove(self, path: str) -> None:
        """Delete a file, if there is one."""

    def remove_tree(self, path: str) -> None:
        """Delete a folder and all that is in it, if there is one."""

    def list(self, folder: str = '') -> Iterator[Entry]:
        """What lies in a folder itself, in no order; ``FileNotFoundError`` if there is none."""

    def make_folder(self, path: str) -> None:
        """Make a folder, where such a thing can be without a file in it."""

    def sync(self) -> None:
        """Wait until all that was written is on the disk."""
