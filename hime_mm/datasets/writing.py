# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How a manifest is written and sealed; ``docs/format.md`` specifies it."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from hime_mm.ciphers import Key
from hime_mm.images.files import atomic_file

MANIFEST_NAME = 'hime.json'
FORMAT_NAME = 'hime_mm encrypted data set'
FORMAT_VERSION = 1
#: What a change of cannot be told from a fresh manifest: left out of both.
_SEALS = ('checksum', 'mac')


def manifest_mac(key: Key, dataset_id: str, checksum: str) -> str:
    """The authentication code of a manifest with this checksum."""
    return key.mac('manifest', dataset_id, checksum.encode())


def _body(head: dict, rows: Iterable[dict]) -> Iterator[bytes]:
    """What the checksum is computed over, in parts.

    The content without its seals as JSON, keys sorted, without blanks.
    """
    rest = {k: v for k, v in head.items() if k not in _SEALS}
    text = compact({**rest, 'files': []})
    # `files` is the only key of that name, and quotes in strings are escaped.
    before, _, after = text.partition('"files":[]')
    yield f'{before}"files":['.encode()
    for i, row in enumerate(rows):
        yield f'{"," if i else ""}{compact(row)}'.encode()
    yield f']{after}'.encode()


def compact(value: Any) -> str:
    """A value as JSON, the same for equal ones: keys sorted, without blanks."""
    return json.dumps(value, sort_keys=True, separators=(',', ':'))


def checksum(state: dict) -> str:
    """SHA-256 of a manifest's content without its seals, in hexadecimal."""
    digest = hashlib.sha256()
    for part in _body(state, state['files']):
        digest.update(part)
    return digest.hexdigest()


def write_manifest(root: Any, head: dict, rows: Iterable[dict], key: Key | None = None) -> None:
    """Write ``hime.json``, as a whole or not at all.

    Args:
        root (str | Path): The folder of the data set.
        head (dict): All keys but ``format``, ``format_version``, ``files``
            and the seals.
        rows (Iterable[dict]): Of all files, each as
            :meth:`FileEntry.to_dict`; read once and not kept.
        key (Key, optional): To authenticate the manifest with. Defaults to
            None.
    """
    head = dict(format=FORMAT_NAME, format_version=FORMAT_VERSION, **head)
    digest = hashlib.sha256()

    with atomic_file(os.path.join(root, MANIFEST_NAME)) as file:
        # A line for each file, so that people can read and compare it.
        file.write(f'{json.dumps(head, indent=2)[:-2]},\n  "files": ['.encode())

        def written() -> Iterator[dict]:
            for i, row in enumerate(rows):
                file.write(f'{"," if i else ""}\n    {json.dumps(row)}'.encode())
                yield row

        for part in _body(head, written()):
            digest.update(part)
        seals = dict(checksum=digest.hexdigest())
        if key is not None:
            seals['mac'] = manifest_mac(key, head['dataset_id'], seals['checksum'])
        file.write(f'\n  ],\n{json.dumps(seals, indent=2)[2:]}\n'.encode())
