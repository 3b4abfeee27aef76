# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The store of a path or an URL."""

import os
from typing import Any
from urllib.parse import unquote

from .base import Store
from .local import LocalStore
from .remote import FsspecStore


def open_store(url: Any) -> Store:
    """The store of a path or an URL, which need not be there yet.

    Args:
        url (str | Path): A path, ``file://`` and a path, or an URL that fsspec knows, such as
            ``s3://bucket/data``, ``gs://bucket/data``, ``memory://data`` or
            ``zip://folder::/data/pictures.zip``.

    Raises:
        StoreError: If the scheme is unknown, or what it needs is not installed.
    """
    url = os.fspath(url)
    scheme, mark, rest = url.partition('://')
    if not mark:
        return LocalStore(url)
    if scheme == 'file' and '::' not in rest:
        return LocalStore(unquote(rest))
    return FsspecStore(url)
