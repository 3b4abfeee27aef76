# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A tree of pictures to encrypt, such as ImageNet's, or a flat folder."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from hime_mm.datasets.lists import read_list, write_list
from hime_mm.errors import EncryptionError
from hime_mm.images.codec import EXTENSIONS
from hime_mm.images.files import write_atomic

from .job import Item, Job, Summary
from .source import path_inside, relative_files


class FolderSource:
    """A tree of pictures; folders keep their names, the classes' names.

    Its arguments are those of :func:`~hime_mm.encryption.run.encrypt_folder`,
    and the ``names`` of its recipe.
    """

    kind = 'folder'
    options: dict[str, Any] = {}

    def __init__(self, src: str, names: str, lists: Sequence[str]) -> None:
        self.items: list[Item] = []
        self.ignored = 0
        numbers: dict[str, int] = {}
        lists = [path_inside(src, path) for path in lists]
        for path in relative_files(src):
            stem, extension = os.path.splitext(path)
            if extension.lower() not in EXTENSIONS:
                self.ignored += path not in lists
                continue
            if names == 'ids':
                folder = os.path.dirname(path)
                numbers[folder] = number = numbers.get(folder, 0) + 1
                stem = str(PurePosixPath(folder, f'{number:08d}'))
            self.items.append(Item(path, stem))
        if not self.items:
            raise EncryptionError(
                f'no pictures in {src}: looked for {", ".join(EXTENSIONS)} in it and its folders'
            )
        index = {item.path: i for i, item in enumerate(self.items)}
        self.lists = [(path, *read_list(src, path, index)) for path in lists]

    @property
    def texts(self) -> list[tuple[str, str]]:
        """list[tuple[str, str]]: Lists, and the folders of their images."""
        return [(path, folder) for path, folder, _ in self.lists]

    def digest(self) -> Iterable[str]:
        yield from (item.path for item in self.items)
        for path, folder, rows in self.lists:
            yield json.dumps([path, folder, rows])

    def report(self, summary: Summary) -> None:
        summary.ignored = self.ignored

    def write(
        self, job: Job, outcomes: Callable[[int], dict | None], summary: Summary
    ) -> list[dict]:
        """Write the lists, of the encrypted files."""
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
