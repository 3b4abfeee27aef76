# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Data sets of version 1, whose manifests have no shards, as released programs wrote them."""

import hashlib
import json
from pathlib import Path

from hime_mm.datasets.writing import manifest_mac


def sealed(state, key=None):
    """What anybody can compute anew, and with a key its authentication code."""
    body = {k: v for k, v in state.items() if k not in ('checksum', 'mac')}
    text = json.dumps(body, sort_keys=True, separators=(',', ':'))
    state['checksum'] = hashlib.sha256(text.encode()).hexdigest()
    if key is not None:
        state['mac'] = manifest_mac(key, state['dataset_id'], state['checksum'])
    return state


def as_version_1(folder, key=None):
    """Rewrite the manifests of a data set of version 2, with plain files, as one of version 1.

    Args:
        folder (str | Path): The data set.
        key (Key, optional): To authenticate it with. Defaults to None.

    Returns:
        Path: The same.
    """
    folder = Path(folder)
    state = json.loads((folder / 'hime.json').read_text())
    assert state.pop('storage') == 'files'
    paths = [folder / row['path'] for row in state.pop('shards')]
    shards = [json.loads(path.read_text()) for path in paths]
    state['format_version'] = 1
    for name in ('skipped', 'files'):
        state[name] = [row for shard in shards for row in shard[name]]
    for path in paths:
        path.unlink()
    (folder / 'hime.json').write_text(json.dumps(sealed(state, key)))
    return folder


def write_version_1(folder, head, rows, key=None):
    """Write a manifest of version 1."""
    state = dict(format='hime_mm encrypted data set', format_version=1, **head, files=[*rows])
    Path(folder, 'hime.json').write_text(json.dumps(sealed(state, key)))
