# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Tar files of pictures, the same bytes each time, as ``docs/format.md`` specifies them."""

import hashlib
import posixpath
import struct
from collections.abc import Iterable
from typing import BinaryIO

from hime_mm.errors import ManifestError

_BLOCK = 512
#: Characters of a name that needs no header of its own.
_LONGEST = 100


def member_name(path: str) -> str:
    """The name of a picture in its tar.

    Readers of WebDataset take what follows the first dot of a file's name for its kind, so that
    other dots are written as ``%2E``. Folders and the extension stay.
    """
    folder, name = posixpath.split(path)
    stem, extension = posixpath.splitext(name)
    stem = stem.replace('%', '%25').replace('.', '%2E')
    return posixpath.join(folder, stem + extension)


def picture_path(member: str) -> str:
    """The path of a picture from its name in a tar: what :func:`member_name` was given."""
    folder, name = posixpath.split(member)
    stem, extension = posixpath.splitext(name)
    stem = stem.replace('%2E', '.').replace('%25', '%')
    return posixpath.join(folder, stem + extension)


class TarWriter:
    """Write pictures into a tar: POSIX ustar, pax headers only where a name needs them.

    Nothing of this machine, of its user or of the time is in it.

    Args:
        file (BinaryIO): Where to; it stays open.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        #: Bytes that were written.
        self.size = 0

    @property
    def sha256(self) -> str:
        """str: Of all that was written."""
        return self._hash.hexdigest()

    def add(self, path: str, data: bytes) -> int:
        """Write a picture.

        Args:
            path (str): Of the picture in the data set.
            data (bytes): Its file.

        Returns:
            int: Where its bytes begin in the tar.

        Raises:
            ManifestError: If no tar holds such a name.
        """
        self._write(tar_header(path, len(data)))
        offset = self.size
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return offset

    def close(self) -> None:
        """Write the end: two blocks of zeros."""
        self._write(bytes(2 * _BLOCK))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)


def tar_header(path: str, size: int) -> bytes:
    """What stands before the bytes of a picture: its header, behind one for its name if need be.

    Raises:
        ManifestError: If no tar holds such a name, or so many bytes.
    """
    name = member_name(path)
    try:
        data = name.encode()
    except UnicodeEncodeError:
        raise ManifestError(
            f'{path!r} cannot be in a tar, its name is no UTF-8: rename the picture, or '
            'write files with `--format files`'
        ) from None
    if size >= 8**11:
        raise ManifestError(f'{path!r} cannot be in a tar, it has {size} bytes')
    before = b''
    if not name.isascii() or len(name) > _LONGEST:
        record = b' path=' + data + b'\n'
        length = len(record)
        while length != len(record) + len(str(length)):
            length = len(record) + len(str(length))
        record = str(length).encode() + record
        before = _block('././@PaxHeader', b'x', 0, length) + record + bytes(-length % _BLOCK)
    return before + _block(name, b'0', 0o644, size)


def _block(name: str, kind: bytes, mode: int, size: int) -> bytes:
    """A header of POSIX ustar, of nobody and no time."""
    head = struct.pack(
        '100s8s8s8s12s12s',
        name.encode('ascii', 'replace'),
        b'%07o' % mode,
        b'%07o' % 0,
        b'%07o' % 0,
        b'%011o' % size,
        b'%011o' % 0,
    )
    tail = struct.pack('s100s8s', kind, b'', b'ustar\x0000').ljust(_BLOCK - len(head) - 8, b'\0')
    total = sum(head) + 8 * ord(' ') + sum(tail)
    return head + b'%06o\0 ' % total + tail


def tar_problem(file: BinaryIO, size: int, rows: Iterable[tuple[str, int]]) -> str | None:
    """What is wrong with a tar, None if nothing is; what its pictures hold is not asked.

    Args:
        file (BinaryIO): The tar.
        size (int): Its bytes.
        rows (Iterable): Path and size of each picture, in order.
    """
    at = 0
    for path, length in rows:
        try:
            header = tar_header(path, length)
        except ManifestError as error:
            return str(error)
        file.seek(at)
        if file.read(len(header)) != header:
            return f'the header of {path!r:.999} is not the one that the format has'
        at += len(header) + length
        file.seek(at)
        pad = -length % _BLOCK
        if file.read(pad) != bytes(pad):
            return f'{path!r:.999} is cut off, or something stands behind it'
        at += pad
    file.seek(at)
    if size != at + 2 * _BLOCK or file.read(2 * _BLOCK) != bytes(2 * _BLOCK):
        return 'it does not end with two blocks of zeros behind its last picture'
    return None
