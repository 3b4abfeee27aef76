# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What an earlier run left: a finished data set, or one to go on with."""

import json
import os
from collections.abc import Sequence

from hime_mm.ciphers import Key
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.originals import name_secret
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import EncryptionError, InvalidKey
from hime_mm.images.files import file_sha256
from hime_mm.version import __version__

from .job import Item, Job, Summary
from .journal import WORK_NAME
from .names import folder_counts, renamed
from .report import check_report, write_report
from .source import Source


def manifest_head(source: Source, job: Job, key: Key | None) -> dict:
    """What the manifest says of the settings of a run, and an unfinished run's have to be."""
    mode = 'keyed'
    if key is None:
        mode = 'one-way' if job.recipe.one_way else 'keyless'
    return dict(
        tool_version=__version__,
        kind=source.kind,
        mode=mode,
        key_id=None if key is None else key.id,
        **job.recipe.to_dict(),
        options=source.options,
    )


def finished_summary(
    job: Job, head: dict, source: Source, journal: str, key: Key | None, report: str | None
) -> Summary | None:
    """What is there where an earlier run finished it; None where there is something to do.

    There is with the journal of an unfinished run. A report that is gone is
    written again, except of random names, which nothing can be told of any more.

    Raises:
        EncryptionError: If the folder holds something else, or the report
            cannot be.
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
    items: Sequence[Item] | None = source.items
    if source.renames:
        secret = name_secret(key, manifest.dataset_id)
        items = None if secret is None else renamed(source.items, secret)
    if not _is_same(manifest, job, head, source, items):
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
    for path in source.folders:
        # Without it, classes have other numbers.
        if not os.path.isdir(os.path.join(out, path)):
            raise EncryptionError(
                f'{out} was finished, but the folder {path} is missing: make it again'
            )
    num = len(source.items)
    summary = Summary(out, manifest.dataset_id, num, len(sizes), num, finished_before=True)
    if report is not None:
        _report_again(report, job, source, items, summary)
    return summary


def _report_again(
    report: str, job: Job, source: Source, items: Sequence[Item] | None, summary: Summary
) -> None:
    check_report(report, job.out, True)
    if os.path.exists(report):
        return  # it has what was noticed of each picture, which went with the journal
    if items is None:
        raise EncryptionError(
            f'{job.out} was finished with random names, and which they are of was not kept: '
            'there can be no report any more'
        )
    outcomes = (dict(rows=[dict(path=path) for path in job.targets(item)]) for item in items)
    write_report(report, source, outcomes, summary)


def _is_same(
    manifest: Manifest, job: Job, head: dict, source: Source, items: Sequence[Item] | None
) -> bool:
    """Whether a manifest is what this run would write, of pictures whose names may be random."""
    texts = [(row['path'], row['images_folder']) for row in manifest.annotations]
    if (
        _changed_settings(manifest.state, head)
        or texts != list(source.texts)
        or job.dataset_id not in ('', manifest.dataset_id)
        or manifest.state.get('classes', source.classes) != source.classes
    ):
        return False
    paths = {path for item in items or source.items for path in job.targets(item)}
    if items is None:
        missing = [row['path'] for row in manifest.skipped] * job.recipe.views
        return folder_counts(paths) == folder_counts([*manifest.files, *missing])
    num_missing = len(manifest.skipped) * job.recipe.views
    return paths.issuperset(manifest.files) and len(paths) == len(manifest.files) + num_missing


def _changed_settings(old: dict, new: dict) -> list[str]:
    """Settings that are not what they were."""
    new = json.loads(json.dumps(new))
    # What a release computes has versions of its own.
    changed = {k for k, v in new.items() if old.get(k) != v} - {'tool_version'}
    if 'cipher' in changed:
        changed.discard('cipher_text')
    return sorted(name.replace('_', ' ') for name in changed)


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
