# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a source is made of, on disk: its memory does not grow with the number of pictures."""

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

_CHUNK = 10_000
_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -16000;
CREATE TABLE entries (rank INTEGER, name BLOB, path BLOB, target BLOB, low BLOB);
CREATE TABLE items (
    n INTEGER PRIMARY KEY, path BLOB, target BLOB, low BLOB, height, width);
CREATE TABLE left_out (path BLOB PRIMARY KEY, reason TEXT) WITHOUT ROWID;
CREATE TABLE used (path BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE lines (text INTEGER, i INTEGER, item INTEGER, rest BLOB);
CREATE TABLE images (file INTEGER, place INTEGER, id, name BLOB, item INTEGER, json TEXT,
    PRIMARY KEY (file, place)) WITHOUT ROWID;
CREATE TABLE annotations (file INTEGER, place INTEGER, id, image, category, json TEXT,
    PRIMARY KEY (file, place)) WITHOUT ROWID;
"""


def packed(text: str) -> bytes:
    """A text as it is held: sorted as texts are, and any name of a file has one."""
    return text.encode('utf-8', 'surrogatepass')


def unpacked(data: bytes) -> str:
    """The inverse of :func:`packed`."""
    return data.decode('utf-8', 'surrogatepass')


def number(value: int) -> int | str:
    """A whole number as it is held: SQLite knows those of 64 bits."""
    return value if -(2**63) <= value < 2**63 else str(value)


class Catalog:
    """An SQLite database in a temporary folder, which :meth:`close` deletes."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix='hime-catalog-')
        self.db = sqlite3.connect(
            str(Path(self._folder, 'catalog')), isolation_level=None, check_same_thread=False
        )
        self.db.executescript(_SCHEMA)

    def close(self) -> None:
        """Delete it."""
        self.db.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __del__(self) -> None:
        if hasattr(self, 'db'):
            self.close()

    def run(self, query: str, *values: Any) -> sqlite3.Cursor:
        """Carry out a statement."""
        return self.db.execute(query, values)

    def first(self, query: str, *values: Any) -> Any:
        """The first row that a query gives, None without."""
        return self.db.execute(query, values).fetchone()

    def count(self, table: str) -> int:
        """Number of rows of a table."""
        return self.first(f'SELECT count(*) FROM {table}')[0]

    def insert(self, query: str, rows: Iterable[Sequence]) -> None:
        """Carry out a statement for each row."""
        rows = iter(rows)
        while chunk := list(islice(rows, _CHUNK)):
            self.db.execute('BEGIN')
            self.db.executemany(query, chunk)
            self.db.execute('COMMIT')

    def function(self, name: str, function: Callable[[bytes], bytes]) -> None:
        """Give statements a function of one value."""
        self.db.create_function(name, 1, function, deterministic=True)

    def renumber(self, order: str) -> None:
        """Number the items from 0 on in an order, and forget what was of others."""
        for statement in (
            'CREATE TABLE numbers (new INTEGER PRIMARY KEY, old INTEGER)',
            f'INSERT INTO numbers (old) SELECT n FROM items ORDER BY {order}',
            'CREATE UNIQUE INDEX number_of ON numbers (old)',
            'ALTER TABLE items RENAME TO items_before',
            'CREATE TABLE items ('
            'n INTEGER PRIMARY KEY, path BLOB, target BLOB, low BLOB, height, width)',
            'INSERT INTO items SELECT new - 1, path, target, low, height, width '
            'FROM numbers JOIN items_before ON n = old ORDER BY new',
            'DROP TABLE items_before',
            *(
                f'UPDATE {table} SET item = (SELECT new - 1 FROM numbers WHERE old = item)'
                for table in ('lines', 'images')
            ),
            'DELETE FROM lines WHERE item IS NULL',
            'DELETE FROM annotations WHERE EXISTS (SELECT 1 FROM images WHERE item IS NULL '
            'AND images.file = annotations.file AND images.id = annotations.image)',
            'DELETE FROM images WHERE item IS NULL',
            'DROP TABLE numbers',
        ):
            self.db.execute(statement)

    def drop_known(self, targets: Iterable[str]) -> None:
        """Forget the items whose target is among these."""
        self.run('CREATE TABLE known (target BLOB PRIMARY KEY) WITHOUT ROWID')
        self.insert('INSERT OR IGNORE INTO known VALUES (?)', ((packed(t),) for t in targets))
        self.run('DELETE FROM items WHERE target IN known')
        self.run('DROP TABLE known')
        self.renumber('n')

    def left_out(self) -> Iterator[tuple[str, str]]:
        """Files and folders that are no part of the source, and why."""
        for path, reason in self.run('SELECT path, reason FROM left_out ORDER BY path'):
            yield unpacked(path), reason

    def use(self, paths: Iterable[str]) -> None:
        """Take paths out of what is left out."""
        self.insert('DELETE FROM left_out WHERE path = ?', ((packed(path),) for path in paths))

    def parents(self, column: str) -> Iterator[tuple[str, str]]:
        """Folders of the paths or targets, with those above them, and a picture in each."""
        self.function('folder_of', lambda path: path.rpartition(b'/')[0])
        seen: set[str] = set()
        query = f'SELECT folder_of({column}) AS folder, min(path) FROM items GROUP BY folder'
        for folder, path in self.run(query).fetchall():
            inside = unpacked(folder)
            while inside and inside not in seen:
                seen.add(inside)
                yield inside, unpacked(path)
                inside = inside.rpartition('/')[0]
