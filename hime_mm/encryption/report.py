# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What became of every file of a source, as a table for its owner."""

import csv
import os
import tempfile
from collections.abc import Iterable, Iterator
from io import TextIOWrapper

from hime_mm.errors import EncryptionError
from hime_mm.images.files import atomic_file

from .job import Item
from .walk import lies_in

_COLUMNS = ('path', 'file', 'status', 'reason')


def check_report(path: str, out: str, begun: bool) -> None:
    """Refuse a place for a report that it must not have.

    Args:
        path (str): Where it is to be written.
        out (str): Folder of the output.
        begun (bool): Whether the run goes on or has finished before, so that its own report may
            be there.

    Raises:
        EncryptionError: If it lies in the output, something else is there, or
            no file can be written beside it.
    """
    if '://' not in out and lies_in(os.path.realpath(path), os.path.realpath(out)):
        raise EncryptionError(
            f'the report {path} would lie in {out}: it holds the names of the originals, so write '
            'it to another place'
        )
    if not os.path.basename(path):
        raise EncryptionError(f'the report needs the name of a file, got {path!r}')
    if os.path.lexists(path) and not (begun and _is_report(path)):
        raise EncryptionError(f'{path} is there already: choose a new file for the report')
    try:
        tempfile.TemporaryFile(dir=os.path.dirname(path) or '.').close()
    except OSError as error:
        raise EncryptionError(f'the report {path} cannot be written: {error.strerror}') from None


def _is_report(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    with open(path, 'rb') as file:
        return file.readline() == ','.join(_COLUMNS).encode() + b'\n'


def write_report(
    path: str,
    texts: Iterable[str],
    outcomes: Iterable[tuple[Item, dict]],
    left_out: Iterable[tuple[str, str]],
) -> None:
    """Write a report, as a whole or not at all.

    Args:
        path (str): Where to.
        texts (Iterable[str]): Annotation files and lists.
        outcomes (Iterable[tuple[Item, dict]]): Each picture, and what became of it.
        left_out (Iterable[tuple[str, str]]): What else the source has, and why it is left out.
    """
    with atomic_file(path) as file:
        # Half a character in a name is written as an escape.
        text = TextIOWrapper(file, 'utf-8', errors='backslashreplace', newline='')
        writer = csv.writer(text, lineterminator='\n')
        writer.writerow(_COLUMNS)
        writer.writerows(_rows(texts, outcomes, left_out))
        text.detach()  # flushes, and leaves the file open


def _rows(
    texts: Iterable[str],
    outcomes: Iterable[tuple[Item, dict]],
    left_out: Iterable[tuple[str, str]],
) -> Iterator[tuple[str, str, str, str]]:
    for item, outcome in outcomes:
        if 'error' in outcome:
            yield item.path, '', 'missing', outcome['error']
        for row in outcome.get('rows', ()):
            yield item.path, row['path'], 'encrypted', ', '.join(outcome.get('noticed', ()))
        if 'said' in outcome:
            yield item.path, '', 'warning', outcome['said']
    for text in texts:
        yield text, text, 'rewritten', ''
    for path, reason in left_out:
        yield path, '', 'left out', reason
