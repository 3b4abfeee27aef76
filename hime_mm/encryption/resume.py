# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What an earlier run left: a finished data set, or one to go on with."""

import json
import os

from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import EncryptionError, InvalidKey
from hime_mm.images.files import file_sha256

from .job import Job, Summary
from .journal import WORK_NAME
from .source import Source


def finished_summary(job: Job, head: dict, source: Source, journal: str) -> Summary | None:
    """What is there where an earlier run finished it; None where there is something to do.

    There is with the journal of an unfinished run.

    Raises:
        EncryptionError: If the folder holds something else.
    """
    out = job.out
    if os.path.exists(journal) or not os.path.exists(out):
        return None
    if not os.path.isdir(out):
        raise EncryptionError(f'{out} is a file: choose a folder')
    present = set(os.listdir(out)) - {WORK_NAME}
    if not present:
        return None
    if MANIFEST_NAME not in present:
        raise EncryptionError(
            f'{out} is not empty and holds no data set that hime_mm began: choose a new folder'
        )
    manifest = Manifest.load(out)
    if not _is_same(manifest, job, head, source):
        raise EncryptionError(f'{out} holds another encrypted data set: choose a new folder')
    if manifest.skipped:
        raise EncryptionError(
            f'{out} was finished without {len(manifest.skipped)} pictures, '
            f'and {WORK_NAME}, which it takes to add them, was deleted: '
            'encrypt into a new folder'
        )
    sizes = {entry.path: entry.size for entry in manifest.files.values()}
    digests = {row['path']: row['sha256'] for row in manifest.annotations}
    for path in (*sizes, *digests):
        file = os.path.join(out, path)
        if not os.path.isfile(file):
            state = 'is missing'
        elif (
            os.path.getsize(file) != sizes[path]
            if path in sizes
            else file_sha256(file) != digests[path]
        ):
            state = 'was changed since'
        else:
            continue
        raise EncryptionError(f'{out} was finished, but {path} {state}: encrypt into a new folder')
    num = len(source.items)
    return Summary(out, manifest.dataset_id, num, len(sizes), num, finished_before=True)


def _is_same(manifest: Manifest, job: Job, head: dict, source: Source) -> bool:
    """Whether a manifest is what this run would write."""
    paths = {path for item in source.items for path in job.targets(item)}
    texts = [(row['path'], row['images_folder']) for row in manifest.annotations]
    left_out = len(manifest.skipped) * job.recipe.views
    return (
        not _changed_settings(manifest.state, head)
        and texts == list(source.texts)
        and job.dataset_id in ('', manifest.dataset_id)
        and paths.issuperset(manifest.files)
        and len(paths) == len(manifest.files) + left_out
    )


def _changed_settings(old: dict, new: dict) -> list[str]:
    """Settings that are not what they were."""
    new = json.loads(json.dumps(new))
    # What a release computes has versions of its own.
    return sorted(k for k, v in new.items() if old.get(k) != v and k != 'tool_version')


def check_resumable(job: Job, old: dict, header: dict) -> None:
    """Refuse to go on with an unfinished run that had other settings.

    Raises:
        InvalidKey: If it has another key.
        EncryptionError: If it has other settings; names them.
    """
    if old.get('key_id') != header['key_id']:
        raise InvalidKey(
            f'{job.out} holds an unfinished data set with the key '
            f'{old.get("key_id")}, this is the key {header["key_id"]}: use '
            'the same key, or another folder'
        )
    requested = dict(dataset_id=job.dataset_id) if job.dataset_id else {}
    names = _changed_settings(old, {**header, **requested})
    if names:
        raise EncryptionError(
            f'{job.out} holds an unfinished data set with other settings '
            f'({", ".join(names)}): start it again as it was, or choose '
            'another folder'
        )
