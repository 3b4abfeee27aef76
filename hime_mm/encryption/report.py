# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What became of every file of a source, as a table for its owner."""

import csv
import os
import tempfile
from collections.abc import Iterable, Iterator
from io import TextIOWrapper

from hime_mm.errors import EncryptionError
from hime_mm.images.files import atomic_file

from .job import Summary
from .source import Source
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
    if lies_in(os.path.realpath(path), os.path.realpath(out)):
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
    source: Source,
    outcomes: Iterable[dict],
    summary: Summary,
) -> None:
    """Write a report, as a whole or not at all.

    Args:
        path (str): Where to.
        source (Source): The source.
        outcomes (Iterable[dict]): What the journal holds of each of its pictures.
        summary (Summary): Of the run.
    """
    with atomic_file(path) as file:
        # Half a character in a name is written as an escape.
        text = TextIOWrapper(file, 'utf-8', errors='backslashreplace', newline='')
        writer = csv.writer(text, lineterminator='\n')
        writer.writerow(_COLUMNS)
        writer.writerows(_rows(source, outcomes, summary))
        text.detach()  # flushes, and leaves the file open


def _rows(
    source: Source,
    outcomes: Iterable[dict],
    summary: Summary,
) -> Iterator[tuple[str, str, str, str]]:
    missing = dict(summary.skipped)
    for item, outcome in zip(source.items, outcomes, strict=True):
        rows = outcome.get('rows')
        if not rows:
            yield item.path, '', 'missing', missing[item.path]
        for row in rows or ():
            yield item.path, row['path'], 'encrypted', ', '.join(outcome.get('noticed', ()))
    for path, said in summary.warnings:
        yield path, '', 'warning', said
    for text, _ in source.texts:
        yield text, text, 'rewritten', ''
    for path, reason in source.left_out:
        yield path, '', 'left out', reason
