# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a data set to encrypt is made of, whatever its kind."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import (
    Any,
    Protocol,
)

from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import EncryptionError

from .job import Item, Job, Summary
from .journal import WORK_NAME


class Source(Protocol):
    """A data set to encrypt.

    Attributes:
        kind (str): What the manifest calls it.
        options (dict): Settings of this kind, for the manifest.
        items (list[Item]): Its pictures.
        texts (Sequence[tuple[str, str]]): Annotation files or lists, and the
            folder that the names in each are relative to.
        renames (bool): Whether names are made for the run, in place of the
            targets of ``items``.
        left_out (Sequence[tuple[str, str]]): Files and folders that are no
            part of it, and why.
        classes (dict[str, list[str]] | None): Of each folder that has any,
            its folders in the order of their names; None for COCO.
        folders (Sequence[str]): Folders that the result has, whatever is in
            them.
        real (set[str]): Where the folders of its pictures really lie.
        linked (set[str]): Folders that pictures really lie in which are
            links.
    """

    kind: str
    options: dict[str, Any]
    items: list[Item]
    renames: bool
    left_out: Sequence[tuple[str, str]]
    classes: dict[str, list[str]] | None
    real: set[str]
    linked: set[str]

    @property
    def folders(self) -> Sequence[str]:
        """Sequence[str]: See above."""

    @property
    def texts(self) -> Sequence[tuple[str, str]]:
        """Sequence[tuple[str, str]]: See above."""

    def check_pictures(self, src: str) -> None:
        """Refuse texts of which no picture is in the source folder."""

    def digest(self) -> Iterable[str]:
        """What tells this source from another, in parts."""

    def rename(self, secret: bytes) -> None:
        """Give its pictures the names that are made for the run, if it `renames`."""

    def report(self, summary: Summary) -> None:
        """Put what reading it has found on a run's summary."""

    def write(
        self, job: Job, outcomes: Callable[[int], dict | None], summary: Summary
    ) -> list[dict]:
        """Write the texts of the encrypted files.

        Args:
            job (Job): The run.
            outcomes (Callable): Gives what the journal holds of an item.
            summary (Summary): Gets what is found on the way.

        Returns:
            list[dict]: What the manifest is to say of each.
        """


def path_inside(src: str, path: str) -> str:
    """A path relative to the source, with forward slashes; refuses one that leads out.

    One that is absolute, or is there from the working directory only, may lead to the source by
    way of links.
    """
    inside = Path(path)
    if '..' not in inside.parts and not os.path.exists(os.path.join(src, path)):
        inside = inside.absolute() if os.path.exists(path) else inside
    if inside.is_absolute():
        roots = (os.path.abspath(src), inside), (os.path.realpath(src), os.path.realpath(path))
        for root, target in roots:
            if Path(target).is_relative_to(root):
                inside = Path(target).relative_to(root)
                break
    if inside.is_absolute() or '..' in inside.parts:
        raise EncryptionError(f'{path} is not inside {src}: give paths relative to it')
    return inside.as_posix()


def check_targets(job: Job, source: Source) -> None:
    """Refuse two things that would be written to one place, naming both."""
    seen: dict[str, str] = {}
    folders: set[str] = set()

    def add(path: str, what: str) -> None:
        # Lower case: some file systems do not tell the difference.
        low = path.lower()
        other = seen.setdefault(low, what)
        if other != what or low in folders:
            raise EncryptionError(
                f'{other if other != what else "a folder"} and {what} would both become {path}: '
                + (
                    'give their images different ids in the annotation files, '
                    "or keep the names (`names='keep'`)"
                    if job.recipe.names == 'ids'
                    else "rename one of them, or replace the names by ids (`names='ids'`)"
                )
            )
        while '/' in low:
            low = low.rpartition('/')[0]
            if low in seen:
                raise EncryptionError(
                    f'{seen[low]} would become the file {low}, but {what} '
                    'lies in a folder of that name: rename one of them'
                )
            if low in folders:
                return
            folders.add(low)

    add(MANIFEST_NAME, 'the manifest')
    folders.add(WORK_NAME)
    for path, _ in source.texts:
        add(path, path)
    # Names that are made for the run come later, and fall together with nothing.
    for item in () if source.renames else source.items:
        for path in job.targets(item):
            add(path, item.path)
    for folder in source.folders:
        if folder.lower() in seen:
            raise EncryptionError(
                f'{seen[folder.lower()]} would become the file {folder}, but there is a folder '
                'of that name: rename one of them'
            )
