# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What goes into annotation files, on disk until it is written in its order."""

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 2000


class Spool:
    """An SQLite database in a temporary folder, which :meth:`close` deletes."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix='hime-texts-')
        self._db = sqlite3.connect(str(Path(self._folder, 'spool')), isolation_level=None)
        self._db.executescript(
            'PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16000;'
            'CREATE TABLE missing (number INTEGER PRIMARY KEY);'
            'CREATE TABLE listings (file INTEGER, place INTEGER, images TEXT, annotations TEXT,'
            ' PRIMARY KEY (file, place)) WITHOUT ROWID;'
        )
        self._waiting: list[tuple] = []

    def close(self) -> None:
        """Delete it."""
        self._db.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def miss(self, number: int) -> None:
        """Note that a picture is missing."""
        self._db.execute('INSERT INTO missing VALUES (?)', (number,))

    def is_missing(self, number: int) -> bool:
        """Whether a picture is."""
        row = self._db.execute('SELECT 1 FROM missing WHERE number = ?', (number,)).fetchone()
        return row is not None

    def add(self, file: int, place: int, images: list[dict], annotations: list[dict]) -> None:
        """Take what a file has to say of a picture."""
        self._waiting.append((file, place, json.dumps(images), json.dumps(annotations)))
        if len(self._waiting) >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        self._db.execute('BEGIN')
        self._db.executemany('INSERT INTO listings VALUES (?, ?, ?, ?)', self._waiting)
        self._db.execute('COMMIT')
        self._waiting.clear()

    def entries(self, name: str, file: int) -> Iterator[dict]:
        """Images or annotations of a file, in their order there."""
        self._flush()
        rows = self._db.execute(
            f'SELECT {name} FROM listings WHERE file = ? ORDER BY place', (file,)
        )
        for (text,) in rows:
            yield from json.loads(text)
