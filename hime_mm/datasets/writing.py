# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How a manifest is written and sealed; ``docs/format.md`` specifies it."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from hime_mm.ciphers import Key

from .stores import Store

MANIFEST_NAME = 'hime.json'
FORMAT_NAME = 'hime_mm encrypted data set'
#: Of what is written. Version 1, a manifest without shards, is read as well.
FORMAT_VERSION = 2
SHARD_FORMAT_NAME = 'hime_mm shard'
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
    if state.get('format_version') != 1:  # the shards have the files
        rest = {k: v for k, v in state.items() if k not in _SEALS}
        digest.update(compact(rest).encode())
        return digest.hexdigest()
    for part in _body(state, state['files']):
        digest.update(part)
    return digest.hexdigest()


def shard_name(number: int) -> str:
    """Name of the manifest of a shard."""
    return f'hime-{number:06d}.json'


def tar_name(number: int) -> str:
    """Name of the tar of a shard."""
    return f'hime-{number:06d}.tar'


def write_shard(
    store: Store,
    number: int,
    dataset_id: str,
    rows: Iterable[dict],
    skipped: Iterable[dict],
    tar: dict | None = None,
) -> dict:
    """Write the manifest of a shard, as a whole or not at all, without waiting for the disk.

    Args:
        store (Store): Where the data set lies.
        number (int): Of the shard, from 0 on.
        dataset_id (str): Of the data set.
        rows (Iterable[dict]): Of its files, each as :meth:`FileEntry.to_dict`.
        skipped (Iterable[dict]): ``path`` and ``reason`` of each picture that is missing.
        tar (dict, optional): ``size`` and ``sha256`` of the tar that the files lie in. Defaults
            to None, files of their own.

    Returns:
        dict: Its row for ``hime.json``.
    """
    rows, skipped = list(rows), list(skipped)
    head = dict(
        format=SHARD_FORMAT_NAME,
        format_version=FORMAT_VERSION,
        dataset_id=dataset_id,
        shard=number,
    )
    # A line for each file, so that people can read and compare it.
    text = json.dumps(head, indent=2)[:-2]
    text += f',\n  "files": {_lines(rows)},\n  "skipped": {_lines(skipped)}\n}}\n'
    data = text.encode()
    store.write(shard_name(number), data, sync=False)
    found = dict(
        path=shard_name(number),
        sha256=hashlib.sha256(data).hexdigest(),
        files=len(rows),
        bytes=sum(row['size'] for row in rows),
        skipped=len(skipped),
    )
    if tar is not None:
        found['tar'] = dict(path=tar_name(number), size=tar['size'], sha256=tar['sha256'])
    return found


def _lines(rows: list[dict]) -> str:
    if not rows:
        return '[]'
    return '[' + ','.join(f'\n    {json.dumps(row)}' for row in rows) + '\n  ]'


def write_manifest(
    store: Store, head: dict, shards: Iterable[dict], key: Key | None = None
) -> None:
    """Write ``hime.json``, as a whole or not at all.

    Args:
        store (Store): Where the data set lies.
        head (dict): All keys but ``format``, ``format_version``, ``shards`` and the seals.
        shards (Iterable[dict]): What :func:`write_shard` gave for each shard, in order.
        key (Key, optional): To authenticate the manifest with. Defaults to
            None.
    """
    head = dict(format=FORMAT_NAME, format_version=FORMAT_VERSION, **head)
    shards = list(shards)
    seals = dict(checksum=checksum(dict(head, shards=shards)))
    if key is not None:
        seals['mac'] = manifest_mac(key, head['dataset_id'], seals['checksum'])
    text = f'{json.dumps(head, indent=2)[:-2]},\n  "shards": {_lines(shards)},\n'
    store.write(MANIFEST_NAME, f'{text}{json.dumps(seals, indent=2)[2:]}\n'.encode())
