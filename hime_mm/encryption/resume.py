# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What an earlier run left: a finished data set, or one to go on with."""

import json
import os
from typing import Optional

from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import EncryptionError, InvalidKey
from hime_mm.images.files import file_sha256

from .job import Job, Summary
from .journal import WORK_NAME
from .source import Source


def finished_summary(job: Job, head: dict, source: Source,
                     journal: str) -> Optional[Summary]:
    """What is there where an earlier run finished it.

    Args:
        job (Job): The run.
        head (dict): Of its manifest.
        source (Source): The data set.
        journal (str): Path of the journal of an unfinished run.

    Returns:
        Summary | None: None where there is something to do.

    Raises:
        EncryptionError: If the folder holds something else.
    """
    out = job.out
    if os.path.exists(journal) or not os.path.exists(out):
        return None
    if not os.path.isdir(out):
        raise EncryptionError(f'{out} is a file: choose a folder')
    there = set(os.listdir(out)) - {WORK_NAME}
    if not there:
        return None
    if MANIFEST_NAME not in there:
        raise EncryptionError(
            f'{out} is not empty and holds no data set that hime_mm began: '
            'choose a new folder')
    manifest = Manifest.load(out)
    if not _is_same(manifest, job, head, source):
        raise EncryptionError(
            f'{out} holds another encrypted data set: choose a new folder')
    if manifest.skipped:
        raise EncryptionError(
            f'{out} was finished without {len(manifest.skipped)} pictures, '
            f'and {WORK_NAME}, which it takes to add them, was deleted: '
            'encrypt into a new folder')
    changed = [
        entry.path for entry in manifest.files.values()
        if _size(os.path.join(out, entry.path)) != entry.size
    ] + [
        row['path'] for row in manifest.annotations
        if not os.path.isfile(os.path.join(out, row['path']))
        or file_sha256(os.path.join(out, row['path'])) != row['sha256']
    ]
    if changed:
        raise EncryptionError(
            f'{out} was finished, but {changed[0]} is missing or was changed '
            'since: encrypt into a new folder')
    num = len(source.items)
    return Summary(
        out,
        manifest.dataset_id,
        num,
        len(manifest.files),
        num,
        finished_before=True)


def _is_same(manifest: Manifest, job: Job, head: dict,
             source: Source) -> bool:
    """Whether a manifest is what this run would write."""
    paths = {path for item in source.items for path in job.targets(item)}
    texts = [(row['path'], row['images_folder'])
             for row in manifest.annotations]
    left_out = len(manifest.skipped) * job.recipe.views
    return (all(
        manifest.state.get(k) == v for k, v in _plain(head).items()
        if k != 'tool_version') and texts == list(source.texts)
            and job.dataset_id in ('', manifest.dataset_id)
            and paths.issuperset(manifest.files)
            and len(paths) == len(manifest.files) + left_out)


def _size(path: str) -> Optional[int]:
    return os.path.getsize(path) if os.path.isfile(path) else None


def _plain(state: dict) -> dict:
    """As it comes back from JSON."""
    return json.loads(json.dumps(state))


def check_same(out: str, old: dict, header: dict, dataset_id: str) -> None:
    """Refuse to go on with an unfinished run that had other settings.

    Args:
        out (str): The output folder.
        old (dict): Header of the journal that is there.
        header (dict): Header of this run.
        dataset_id (str): The id that was asked for, '' for any.

    Raises:
        InvalidKey: If it has another key.
        EncryptionError: If it has other settings; names them.
    """
    if old.get('key_id') != header['key_id']:
        raise InvalidKey(
            f'{out} holds an unfinished data set with the key '
            f'{old.get("key_id")}, this is the key {header["key_id"]}: use '
            'the same key, or another folder')
    new = _plain(header)
    if dataset_id:
        new['dataset_id'] = dataset_id
    # What a release computes has versions of its own.
    names = sorted(k for k, v in new.items()
                   if old.get(k) != v and k != 'tool_version')
    if names:
        raise EncryptionError(
            f'{out} holds an unfinished data set with other settings '
            f'({", ".join(names)}): start it again as it was, or choose '
            'another folder')
