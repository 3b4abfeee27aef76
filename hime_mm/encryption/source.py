# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a data set to encrypt is made of, whatever its kind."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from hime_mm.datasets.stores import Store
from hime_mm.errors import EncryptionError

from .job import Item, Job


class Source(Protocol):
    """A data set to encrypt, whose memory does not grow with the number of its pictures.

    Attributes:
        kind (str): What the manifest calls it.
        url (str): Where it is, for those who do its shards.
        options (dict): Settings of this kind, for the manifest.
        renames (bool): Whether names are made for the run, in place of the
            targets of its items.
        num (int): Number of its pictures.
        classes (dict[str, list[str]] | None): Of each folder that has any,
            its folders in the order of their names; None for COCO.
        folders (Sequence[str]): Folders that the result has, whatever is in
            them.
        texts (list[dict]): Annotation files or lists, as JSON: ``kind`` (``'coco'`` or
            ``'list'``), ``path``, ``folder`` that names in it are relative to; of an annotation
            file ``head``, its categories and licences as they are handed over, and ``ordered``:
            whether its images come in the order of the items.
        dropped (list[str]): Fields of annotation files that are not handed over.
        num_left_out (int): Number of files and folders that are no part of it.
    """

    kind: str
    url: str
    options: dict[str, Any]
    renames: bool
    classes: dict[str, list[str]] | None
    texts: list[dict]
    dropped: list[str]

    @property
    def num(self) -> int:
        """int: See above."""

    @property
    def num_left_out(self) -> int:
        """int: See above."""

    @property
    def folders(self) -> Sequence[str]:
        """Sequence[str]: See above."""

    def left_out(self) -> Iterator[tuple[str, str]]:
        """Files and folders that are no part of it, and why."""

    def digest(self) -> str:
        """SHA-256 of all that tells this source from another, in hexadecimal."""

    def rename(self, secret: bytes) -> None:
        """Give its pictures the names that are made for the run, if it `renames`.

        They come in the order of these then.
        """

    def items(self) -> Iterator[Item]:
        """Its pictures, in their order."""

    def lines(self, text: int) -> Iterator[tuple[int, str, str]]:
        """Of a list, by its number among the texts, each line.

        Gives the number of the picture, its target and what stands behind the name.
        """

    def drop_known(self, targets: Iterable[str]) -> None:
        """Forget the pictures whose target is among these; the others get new numbers."""

    def check(self, job: Job, strict: bool, begun: bool) -> None:
        """Refuse what cannot be encrypted into the output.

        Args:
            job (Job): The run.
            strict (bool): Whether nothing may be left out.
            begun (bool): Whether an earlier run has begun or finished: what it did stays, even
                if the plain pictures are gone.

        Raises:
            EncryptionError: If it is encrypted already, none of its pictures is there, two of its
                files would become one, or the output lies among its pictures.
        """

    def close(self) -> None:
        """Give back what it holds; it cannot be used any more."""


def path_inside(store: Store, path: str) -> str:
    """A path relative to the source, with forward slashes; refuses one that leads out.

    One that is absolute, or is there from the working directory only, may lead to the source by
    way of links.
    """
    inside, src = Path(path), store.local
    if src is None:
        given = path.removeprefix(store.url.rstrip('/') + '/')
        inside = Path(given)
        if '://' in given or inside.is_absolute() or '..' in inside.parts:
            raise EncryptionError(f'{path} is not inside {store.place("")}: give it relative to it')
        return inside.as_posix()
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
