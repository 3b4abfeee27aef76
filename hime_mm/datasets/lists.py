# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Text files that list pictures and labels, as ImageNet's ``val.txt``."""

import os
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from hime_mm.errors import ListError
from hime_mm.images.files import check_regular


def read_list(src: str, path: str, numbers: dict[str, int]) -> tuple[str, list[tuple[int, str]]]:
    """Read a list as MMPretrain does: a name, a blank, a label per line.

    Names are relative to the folder that is named like the list
    (``val`` for ``meta/val.txt``), to the source folder, or to the list's.

    Args:
        src (str): The source folder.
        path (str): The list, relative to it.
        numbers (dict[str, int]): Number of each picture by its path relative
            to the source folder.

    Returns:
        tuple: The folder that names are relative to, and of each line the
        number of its picture and what stands behind the name.
    """
    try:
        check_regular(os.path.join(src, path))
        with open(os.path.join(src, path), encoding='utf-8-sig') as file:
            lines = [line.strip() for line in file]
    except OSError as error:
        raise ListError(f'cannot read the list {path}: {error.strerror}') from None
    except UnicodeDecodeError:
        raise ListError(f'the list {path} is no UTF-8 text') from None
    lines = [line for line in lines if line]
    folders = (PurePosixPath(path).stem, '', str(PurePosixPath(path).parent))
    furthest: tuple[int, str] = (-1, '')
    for folder in folders:
        rows: list[tuple[int, str]] = []
        for line in lines:
            found = _find(line, folder, numbers)
            if found is None:
                if len(rows) > furthest[0]:
                    furthest = (len(rows), line)
                break
            rows.append(found)
        else:
            return folder, rows
    raise ListError(
        f'the list {path} names {furthest[1]!r} in line {furthest[0] + 1}, but there '
        'is no such picture in any of the folders '
        + ', '.join(repr(folder or '.') for folder in folders)
    )


def _find(line: str, folder: str, numbers: dict[str, int]) -> tuple[int, str] | None:
    # A name may hold blanks, and need not have a label.
    head, _, label = line.rpartition(' ')
    for name, rest in ((line, ''), (head, f' {label}')):
        number = numbers.get(str(PurePosixPath(folder, name.strip())))
        if number is not None and name:
            return number, rest
    return None


def write_list(
    folder: str, rows: Sequence[tuple[int, str]], files: Callable[[int], Sequence[str]]
) -> str:
    """The text of the same list, with a line for each encrypted file.

    ``folder`` and ``rows`` are :func:`read_list`'s; ``files`` gives those of
    a picture, none where it could not be encrypted.
    """
    return ''.join(
        f'{os.path.relpath(path, folder or ".")}{rest}\n'.replace(os.sep, '/')
        for number, rest in rows
        for path in files(number)
    )
