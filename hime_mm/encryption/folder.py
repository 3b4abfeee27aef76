# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A tree of pictures to encrypt, such as ImageNet's, or a flat folder."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from hime_mm.datasets.lists import read_list
from hime_mm.datasets.originals import new_name
from hime_mm.datasets.stores import Store
from hime_mm.errors import EncryptionError
from hime_mm.images.codec import EXTENSIONS

from .catalog import packed, unpacked
from .cataloged import Cataloged
from .source import path_inside


class FolderSource(Cataloged):
    """A tree of pictures; folders keep their names, the classes' names.

    Args:
        store (Store): Where it lies.
        names (str): As of the recipe.
        lists (Sequence[str]): As of :func:`~hime_mm.encryption.run.encrypt_folder`.
    """

    kind = 'folder'
    options: dict[str, Any] = {}
    dropped: list[str] = []

    def __init__(self, store: Store, names: str, lists: Sequence[str]) -> None:
        super().__init__(store)
        #: Each picture gets a name that is made when the run has an id.
        self.renames = names == 'ids'
        self._renamed = False
        lists = [path_inside(store, path) for path in lists]
        self.classes: dict[str, list[str]] | None = self.walk('').folders
        self.catalog.run(
            'INSERT INTO items (n, path, target, low) SELECT row_number() OVER '
            '(ORDER BY rank, name) - 1, path, target, low FROM entries ORDER BY rank, name'
        )
        self.catalog.run('DROP TABLE entries')
        if not self.num:
            raise EncryptionError(
                f'no pictures in {store.place("")}: looked for {", ".join(EXTENSIONS)} in it and '
                'its folders'
            )
        self.use(lists)  # they may lie in a hidden folder
        for folder in self.folders:
            try:
                folder.encode()
            except UnicodeEncodeError:
                raise EncryptionError(
                    f'the name of the folder {folder!r} is not UTF-8: rename it'
                ) from None
        self.texts = [self._read_list(i, path) for i, path in enumerate(lists)]
        self._digest = self._told()

    def _read_list(self, number: int, path: str) -> dict:
        self.catalog.run('CREATE INDEX IF NOT EXISTS item_of ON items (path)')

        def find(name: str) -> int | None:
            row = self.catalog.first('SELECT n FROM items WHERE path = ?', packed(name))
            return None if row is None else row[0]

        folder, rows = read_list(self.store, path, find)
        self.catalog.insert(
            'INSERT INTO lines VALUES (?, ?, ?, ?)',
            ((number, i, item, packed(rest)) for i, (item, rest) in enumerate(rows)),
        )
        return dict(kind='list', path=path, folder=folder)

    def _told(self) -> str:
        digest = hashlib.sha256()
        for (path,) in self.catalog.run('SELECT path FROM items ORDER BY n'):
            digest.update(path + b'\0')
        for row in self.catalog.run('SELECT * FROM lines ORDER BY text, i'):
            digest.update(repr(row).encode())
        digest.update(json.dumps([self.texts, self.classes]).encode())
        return digest.hexdigest()

    @property
    def folders(self) -> list[str]:
        """list[str]: All folders but the source itself, which the result has, too."""
        return [
            str(PurePosixPath(parent, name))
            for parent, names in (self.classes or {}).items()
            for name in names
        ]

    def lines(self, text: int) -> Iterator[tuple[int, str, str]]:
        """Of a list, each line: number of the picture, its target, what is behind the name."""
        # The order of the plain names is told by nothing.
        order = 'item, rest' if self._renamed else 'i'
        rows = self.catalog.run(
            'SELECT item, target, rest FROM lines JOIN items ON n = item '
            f'WHERE text = ? ORDER BY {order}',
            text,
        )
        for item, target, rest in rows:
            yield item, unpacked(target), unpacked(rest)

    def rename(self, secret: bytes) -> None:
        """Give all pictures new names, and have all done and listed in the order of these.

        Rows of the manifest, lines of lists and times of files would tell the plain names' order.

        Raises:
            EncryptionError: If two of them get one name.
        """
        self.catalog.function('new_name', lambda path: packed(new_name(unpacked(path), secret)))
        self.catalog.run('UPDATE items SET target = new_name(path)')
        self.catalog.run('UPDATE items SET low = target')
        if self.catalog.first('SELECT 1 FROM items GROUP BY target HAVING count(*) > 1'):
            raise EncryptionError(
                'two pictures would get one name: choose another id of the data set'
            )
        self.catalog.renumber('target')
        self._renamed = True
