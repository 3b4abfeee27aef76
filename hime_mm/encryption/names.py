# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Names of encrypted files that tell nothing of those of their originals."""

import hmac
import posixpath
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter

from hime_mm.ciphers import Key
from hime_mm.errors import EncryptionError

from .job import Item

_DIGITS = 16


def name_secret(key: Key | None, dataset_id: str, kept: str | None = None) -> bytes | None:
    """What the names of a data set are made with.

    Args:
        key (Key, optional): The owner's key; they are derived from it where there is one.
        dataset_id (str): The data set's id.
        kept (str, optional): What :func:`draw_secret` gave for this run. Defaults
            to None.

    Returns:
        bytes | None: None where names were random and it was not kept.
    """
    if key is not None:
        return key.derive('name', dataset_id)
    return None if kept is None else bytes.fromhex(kept)


def draw_secret() -> str:
    """What random names of a run are made with, for its journal and for nothing else."""
    return secrets.token_hex(32)


def renamed(items: Sequence[Item], secret: bytes) -> list[Item]:
    """Pictures with new names in the same folders, in the order of these.

    Each name depends on its own path only.

    With a key it is the authentication code of the path under the label ``name``, cut short:
    ``docs/format.md`` specifies it.

    Raises:
        EncryptionError: If two of them get one name.
    """
    named = []
    for item in items:
        # Names of files need not be UTF-8.
        path = item.path.encode(errors='surrogateescape')
        name = hmac.digest(secret, path, 'sha256').hex()[:_DIGITS]
        named.append(item._replace(target=posixpath.join(posixpath.dirname(item.path), name)))
    if len({item.target for item in named}) != len(named):
        raise EncryptionError('two pictures would get one name: choose another id of the data set')
    return sorted(named, key=attrgetter('target'))


def folder_counts(paths: Iterable[str]) -> Counter:
    """How many of some files lie in each folder."""
    return Counter(posixpath.dirname(path) for path in paths)
