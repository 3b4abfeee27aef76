# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A tree of pictures to encrypt, such as ImageNet's, or a flat folder."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from hime_mm.datasets.lists import read_list, write_list
from hime_mm.datasets.originals import is_picture
from hime_mm.errors import EncryptionError
from hime_mm.images.codec import EXTENSIONS
from hime_mm.images.files import write_atomic

from .job import Item, Job, Summary
from .names import renamed
from .source import path_inside
from .walk import NO_PICTURE, Tree


class FolderSource:
    """A tree of pictures; folders keep their names, the classes' names.

    Its arguments are those of :func:`~hime_mm.encryption.run.encrypt_folder`,
    and the ``names`` of its recipe.
    """

    kind = 'folder'
    options: dict[str, Any] = {}

    def __init__(self, src: str, names: str, lists: Sequence[str]) -> None:
        #: Each picture gets a name that is made when the run has an id.
        self.renames = names == 'ids'
        tree = Tree(src)
        lists = [path_inside(src, path) for path in lists]
        self.items = [
            Item(path, os.path.splitext(path)[0]) for path in tree.files if is_picture(path)
        ]
        if not self.items:
            raise EncryptionError(
                f'no pictures in {src}: looked for {", ".join(EXTENSIONS)} in it and its folders'
            )
        others = [(path, NO_PICTURE) for path in tree.files if not is_picture(path)]
        # Lists may lie in a hidden folder.
        used = {str(part) for path in lists for part in (path, *PurePosixPath(path).parents)}
        self.left_out: Sequence[tuple[str, str]] = sorted(
            (path, reason) for path, reason in tree.left_out + others if path not in used
        )
        self.real, self.linked = tree.real, tree.linked
        self.classes: dict[str, list[str]] | None = tree.folders
        for folder in self.folders:
            try:
                folder.encode()
            except UnicodeEncodeError:
                raise EncryptionError(
                    f'the name of the folder {folder!r} is not UTF-8: rename it'
                ) from None
        index = {item.path: i for i, item in enumerate(self.items)}
        self.lists = [(path, *read_list(src, path, index)) for path in lists]

    @property
    def folders(self) -> list[str]:
        """list[str]: All folders but the source itself, which the result has, too."""
        return [
            str(PurePosixPath(parent, name))
            for parent, names in (self.classes or {}).items()
            for name in names
        ]

    @property
    def texts(self) -> list[tuple[str, str]]:
        """list[tuple[str, str]]: Lists, and the folders of their images."""
        return [(path, folder) for path, folder, _ in self.lists]

    def check_pictures(self, src: str) -> None:
        """Nothing to refuse: the folder itself says which pictures there are."""

    def digest(self) -> Iterable[str]:
        yield from (item.path for item in self.items)
        for path, folder, rows in self.lists:
            yield json.dumps([path, folder, rows])
        yield json.dumps(self.classes)

    def rename(self, secret: bytes) -> None:
        """Give all pictures new names, and have all done and listed in the order of these.

        Rows of the manifest, lines of lists and times of files would tell the plain names' order.
        """
        before = {item.path: i for i, item in enumerate(self.items)}
        self.items = renamed(self.items, secret)
        places = {before[item.path]: i for i, item in enumerate(self.items)}
        self.lists = [
            (path, folder, sorted((places[i], rest) for i, rest in rows))
            for path, folder, rows in self.lists
        ]

    def report(self, summary: Summary) -> None:
        pass

    def write(
        self, job: Job, outcomes: Callable[[int], dict | None], summary: Summary
    ) -> list[dict]:
        """Make all folders, and write the lists, of the encrypted files."""
        for folder in self.folders:
            os.makedirs(os.path.join(job.out, folder), exist_ok=True)
        written = []
        for path, folder, rows in self.lists:

            def files(number: int) -> list[str]:
                outcome = outcomes(number) or {}
                return [row['path'] for row in outcome.get('rows', ())]

            text = write_list(folder, rows, files)
            write_atomic(os.path.join(job.out, path), text)
            written.append(
                dict(
                    kind='list',
                    path=path,
                    sha256=hashlib.sha256(text.encode()).hexdigest(),
                    images_folder=folder,
                    images=text.count('\n'),
                )
            )
        return written
