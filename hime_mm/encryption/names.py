# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Names of encrypted files that tell nothing of those of their originals."""

import posixpath
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter

from hime_mm.datasets.originals import new_name
from hime_mm.errors import EncryptionError

from .job import Item


def draw_secret() -> str:
    """What random names of a run are made with, which keeps it nowhere."""
    return secrets.token_hex(32)


def renamed(items: Sequence[Item], secret: bytes) -> list[Item]:
    """Pictures with new names in the same folders, in the order of these.

    Each name depends on its own path only.

    Raises:
        EncryptionError: If two of them get one name.
    """
    named = [item._replace(target=new_name(item.path, secret)) for item in items]
    if len({item.target for item in named}) != len(named):
        raise EncryptionError('two pictures would get one name: choose another id of the data set')
    return sorted(named, key=attrgetter('target'))


def folder_counts(paths: Iterable[str]) -> Counter:
    """How many of some files lie in each folder."""
    return Counter(posixpath.dirname(path) for path in paths)
