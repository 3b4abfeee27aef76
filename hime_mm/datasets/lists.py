# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Text files that list pictures and labels, as ImageNet's ``val.txt``."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import TextIOWrapper
from pathlib import PurePosixPath
from tempfile import TemporaryFile
from typing import IO

from hime_mm.errors import ListError

from .stores import Store


def read_list(
    store: Store, path: str, find: Callable[[str], int | None]
) -> tuple[str, Iterator[tuple[int, str]]]:
    """Read a list as MMPretrain does: a name, a blank, a label per line.

    Names are relative to the folder that is named like the list
    (``val`` for ``meta/val.txt``), to the source folder, or to the list's.
    No more than a line of it is held.

    Args:
        store (Store): The source.
        path (str): The list, relative to it.
        find (Callable): Gives the number of a picture by its path relative to
            the source, None for none.

    Returns:
        tuple: The folder that names are relative to, and of each line the
        number of its picture and what stands behind the name.
    """
    copy = _copy(store, path)
    try:
        for _ in _lines(copy):
            pass
    except UnicodeDecodeError:
        raise ListError(f'the list {path} is no UTF-8 text') from None
    folders = (PurePosixPath(path).stem, '', str(PurePosixPath(path).parent))
    furthest: tuple[int, str] = (-1, '')
    for folder in folders:
        for i, line in enumerate(_lines(copy)):
            if _find(line, folder, find) is None:
                if i > furthest[0]:
                    furthest = (i, line)
                break
        else:
            return folder, _rows(copy, folder, find)
    raise ListError(
        f'the list {path} names {furthest[1]!r} in line {furthest[0] + 1}, but there '
        'is no such picture in any of the folders '
        + ', '.join(repr(folder or '.') for folder in folders)
    )


def _copy(store: Store, path: str) -> IO[bytes]:
    """A list, as a file that can be read again and again."""
    copy = TemporaryFile()  # noqa: SIM115
    try:
        with store.open(path) as file:
            shutil.copyfileobj(file, copy)
    except OSError as error:
        raise ListError(f'cannot read the list {path}: {error.strerror}') from None
    return copy


def _lines(copy: IO[bytes]) -> Iterator[str]:
    copy.seek(0)
    text = TextIOWrapper(copy, encoding='utf-8-sig')
    try:
        for line in text:
            if line := line.strip():
                yield line
    finally:
        text.detach()


def _rows(
    copy: IO[bytes], folder: str, find: Callable[[str], int | None]
) -> Iterator[tuple[int, str]]:
    with copy:
        for line in _lines(copy):
            found = _find(line, folder, find)
            assert found is not None  # as before
            yield found


def _find(line: str, folder: str, find: Callable[[str], int | None]) -> tuple[int, str] | None:
    # A name may hold blanks, and need not have a label.
    head, _, label = line.rpartition(' ')
    for name, rest in ((line, ''), (head, f' {label}')):
        number = find(str(PurePosixPath(folder, name.strip())))
        if number is not None and name:
            return number, rest
    return None


def write_list(folder: str, rows: Iterable[tuple[Sequence[str], str]]) -> Iterator[str]:
    """The lines of the same list, one for each encrypted file.

    Args:
        folder (str): As of :func:`read_list`.
        rows (Iterable): Of each line of the original the encrypted files, none where the picture
            could not be encrypted, and what stands behind the name.
    """
    for files, rest in rows:
        for path in files:
            yield f'{os.path.relpath(path, folder or ".")}{rest}\n'.replace(os.sep, '/')
