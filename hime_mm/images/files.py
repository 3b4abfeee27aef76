# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Files: written as a whole or not at all, hashed, read as JSON."""

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from hime_mm.errors import HimeError

#: How the names of unfinished files begin and end.
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = '.hime-', '.part'


@contextmanager
def atomic_file(path: str, sync: bool = True, private: bool = False) -> Iterator[BinaryIO]:
    """Write a file so that it is there as a whole or not at all.

    Args:
        path (str): Where to; its folder is made where it is missing.
        sync (bool): Wait until it is on the disk, so that this also holds
            after a power cut. Defaults to True.
        private (bool): Let nobody but its owner read it. Defaults to False.

    Yields:
        file: To write bytes to.

    Raises:
        OSError: If it cannot be written, with its path; nothing is left then.
    """
    folder = os.path.dirname(path) or '.'
    os.makedirs(folder, exist_ok=True)
    try:
        fd, temporary = tempfile.mkstemp(
            prefix=TEMPORARY_PREFIX, suffix=TEMPORARY_SUFFIX, dir=folder
        )
        try:
            with os.fdopen(fd, 'wb') as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            # `mkstemp` makes files for their owner only.
            if not private:
                mask = os.umask(0o022)
                os.umask(mask)
                os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:  # without the name of the temporary file
        raise OSError(error.errno, error.strerror, path) from None


def write_atomic(path: str, data: bytes | str, sync: bool = True, private: bool = False) -> None:
    """Write all of a file at once, a string as UTF-8; see :func:`atomic_file`."""
    with atomic_file(path, sync, private) as file:
        file.write(data.encode() if isinstance(data, str) else data)


_KINDS = {
    stat.S_IFDIR: 'a folder',
    stat.S_IFIFO: 'a named pipe',
    stat.S_IFSOCK: 'a socket',
    stat.S_IFCHR: 'a device',
    stat.S_IFBLK: 'a device',
}


def check_regular(path: Any) -> None:
    """Refuse what is no regular file: to open or read it may wait for ever.

    Raises:
        OSError: If it is none, saying what it is, or if there is nothing.
    """
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind != stat.S_IFREG:
        what = _KINDS.get(kind, 'something else')
        number = errno.EISDIR if kind == stat.S_IFDIR else errno.EINVAL
        raise OSError(number, f'it is {what}, not a regular file', os.fspath(path))


def _unique(pairs: list[tuple[str, Any]]) -> dict:
    state = dict(pairs)
    if len(state) != len(pairs):
        raise json.JSONDecodeError('a key occurs twice in an object', '', 0)
    return state


def parse_json(
    data: bytes, place: Any, what: str, kind: type[HimeError], *, unique: bool = False
) -> Any:
    """What :func:`read_json` does with the content of a file."""
    try:
        return json.loads(data, object_pairs_hook=_unique if unique else None)
    except (ValueError, RecursionError) as error:
        raise kind(f'the {what} {place} is no JSON file, or damaged: {error}') from None


def read_json(
    path: Any, what: str, kind: type[HimeError], *, unique: bool = False, regular: bool = True
) -> Any:
    """The content of a JSON file; what is wrong with it as an error.

    ``unique`` refuses keys that occur twice: of them, one reader may see what another does not.
    With ``regular=False`` it may come through a pipe.
    """
    try:
        if regular:
            check_regular(path)
        with open(path, 'rb') as file:
            return parse_json(file.read(), path, what, kind, unique=unique)
    except OSError as error:
        raise kind(f'cannot read the {what} {path}: {error.strerror}') from None
    except MemoryError:
        raise kind(f'the {what} {path} does not fit into the memory') from None


def remove_leftovers(folder: str) -> None:
    """Delete files below a folder that a killed run had begun."""
    pending = [folder]
    while pending:
        leftovers = []
        with suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            # One by one: a folder may hold millions.
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.name.startswith(TEMPORARY_PREFIX) and entry.name.endswith(
                    TEMPORARY_SUFFIX
                ):
                    leftovers.append(entry.path)
        for path in leftovers:
            os.unlink(path)


def file_sha256(path: str) -> str:
    """SHA-256 of a regular file in lower-case hexadecimal."""
    check_regular(path)
    with open(path, 'rb') as file:
        return stream_sha256(file)


def stream_sha256(file: BinaryIO) -> str:
    """SHA-256 of what is left to read of a file."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
