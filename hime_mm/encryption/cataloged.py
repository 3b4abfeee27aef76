# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What both kinds of sources do with the catalog of their pictures."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from hime_mm.datasets.originals import is_picture
from hime_mm.datasets.stores import LocalStore, Store

from .catalog import Catalog, packed, unpacked
from .door import check_source
from .job import Item, Job
from .walk import NO_PICTURE, Found, Walk


class Cataloged:
    """A source whose pictures are in a catalog on disk; see :class:`~.source.Source`.

    Args:
        store (Store): Where it lies.

    Attributes:
        real (set[str]): Where the folders of its pictures really lie, if on
            this machine.
        linked (set[str]): Folders that pictures really lie in which are
            links.
    """

    renames: bool
    texts: list[dict]

    def __init__(self, store: Store) -> None:
        self.store = store
        # Whoever does the shards may be at home in another folder.
        self.url = os.path.abspath(store.url) if isinstance(store, LocalStore) else store.url
        self.catalog = Catalog()
        self.real: set[str] = set()
        self.linked: set[str] = set()
        self._digest = ''

    @property
    def num(self) -> int:
        """int: Number of its pictures."""
        return self.catalog.count('items')

    @property
    def folders(self) -> Sequence[str]:
        """Sequence[str]: Folders that the result has, whatever is in them."""
        return ()

    @property
    def num_left_out(self) -> int:
        """int: Number of files and folders that are no part of it."""
        return self.catalog.count('left_out')

    def left_out(self) -> Iterator[tuple[str, str]]:
        """Files and folders that are no part of it, and why."""
        return self.catalog.left_out()

    def digest(self) -> str:
        """SHA-256 of all that tells this source from another, in hexadecimal."""
        return self._digest

    def items(self) -> Iterator[Item]:
        """Its pictures, in their order."""
        for path, target in self.catalog.run('SELECT path, target FROM items ORDER BY n'):
            yield Item(unpacked(path), unpacked(target))

    def lines(self, text: int) -> Iterator[tuple[int, str, str]]:
        """It has no lists."""
        return iter(())

    def rename(self, secret: bytes) -> None:
        """Its names are in the annotation files."""

    def drop_known(self, targets: Iterable[str]) -> None:
        """Forget the pictures whose target is among these; the others get new numbers."""
        self.catalog.drop_known(targets)

    def check(self, job: Job, strict: bool, begun: bool) -> None:
        """See :class:`~.source.Source`."""
        check_source(self, job, strict, begun)

    def check_pictures(self) -> None:
        """Refuse annotation files of which no picture is there."""

    def close(self) -> None:
        """Delete the catalog."""
        self.catalog.close()

    def walk(self, inside: str, other: str | None = None) -> Walk:
        """Put pictures below a folder into the catalog's entries, and all else to what is left out.

        Args:
            inside (str): The folder, relative to the source.
            other (str, optional): Why pictures are left out, too. Defaults to
                None: they are not.
        """
        walk = Walk(self.store, inside)
        pictures: list[Found] = []
        left_out: list[tuple[bytes, str]] = []

        def put() -> None:
            rows = ((p.rank, packed(p.name), packed(p.path), *_target(p.path)) for p in pictures)
            self.catalog.insert('INSERT INTO entries VALUES (?, ?, ?, ?, ?)', rows)
            self.catalog.insert('INSERT OR REPLACE INTO left_out VALUES (?, ?)', left_out)
            pictures.clear()
            left_out.clear()

        for found in walk:
            picture = found.reason is None and is_picture(found.path)
            if picture and other is None:
                pictures.append(found)
            else:
                reason = found.reason or (other if picture else NO_PICTURE)
                left_out.append((packed(found.path), str(reason)))
            if len(pictures) + len(left_out) >= 10_000:
                put()
        put()
        self.real |= walk.real
        self.linked |= walk.linked
        return walk

    def use(self, paths: Iterable[str]) -> None:
        """Take files, and the folders that they lie in, out of what is left out."""
        self.catalog.use(
            str(part) for path in paths for part in (path, *PurePosixPath(path).parents)
        )


def _target(path: str) -> tuple[bytes, bytes]:
    target = os.path.splitext(path)[0]
    return packed(target), packed(target.lower())
