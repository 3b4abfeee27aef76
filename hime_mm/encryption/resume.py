# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What an earlier run left: a finished data set, or one to go on with."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from hime_mm.ciphers import Key
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.originals import name_secret
from hime_mm.datasets.stores import LocalStore, Store
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import EncryptionError, InvalidKey
from hime_mm.version import __version__

from .job import Job, Summary
from .lock import WORK_NAME
from .names import folder_counts
from .plan import Plan
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


def finished_manifest(store: Store) -> Manifest | None:
    """The manifest that is there where an earlier run finished, None where there is nothing.

    Raises:
        EncryptionError: If the output is something else.
        ManifestError: If the manifest is damaged.
    """
    try:
        present = {entry.name for entry in store.list()} - {WORK_NAME}
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        if store.size('') is None:  # something above it is
            raise
        raise EncryptionError(f'{store.place("")} is a file: choose a folder') from None
    if not present:
        return None
    if MANIFEST_NAME not in present:
        raise EncryptionError(
            f'{store.url} is not empty and holds no data set that hime_mm began: choose a new '
            'folder'
        )
    return Manifest.load(store.url)


def check_finished(
    store: Store, manifest: Manifest, job: Job, head: dict, source: Source, key: Key | None
) -> None:
    """Refuse a finished data set that is not of these settings, or not as it was written.

    The source gives its pictures the names that they have there.

    Raises:
        EncryptionError: If it is another one, or is damaged.
    """
    if (
        _changed_settings(dict(manifest.state, storage=manifest.storage), head)
        or [row['path'] for row in manifest.annotations] != [text['path'] for text in source.texts]
        or job.dataset_id not in ('', manifest.dataset_id)
    ):
        raise _another(store)
    _check_whole(store, manifest)
    if source.renames:
        secret = name_secret(key, manifest.dataset_id)
        if secret is not None:
            source.rename(secret)


def _another(store: Store) -> EncryptionError:
    return EncryptionError(f'{store.url} holds another encrypted data set: choose a new folder')


def drop_known(store: Store, manifest: Manifest, job: Job, source: Source, key: Key | None) -> int:
    """Have a source forget what is part of a finished data set.

    Returns:
        int: Pictures that are part of it.

    Raises:
        EncryptionError: If it is of other pictures, or nothing tells which they are.
    """
    if source.renames and key is None:
        return _drop_by_number(store, manifest, source)
    images = source.num
    source.drop_known(_targets(manifest, job))
    known = images - source.num
    if known * job.recipe.views != manifest.state['counts']['files'] or (
        not source.num and source.classes != manifest.state.get('classes', source.classes)
    ):
        raise _another(store)
    return known


def _drop_by_number(store: Store, manifest: Manifest, source: Source) -> int:
    """Of random names, only how many lie in each folder is known."""
    views = manifest.recipe.views
    there = folder_counts(entry.path for entry in manifest.entries())
    for _ in range(views):
        there += folder_counts(row['path'] for row in manifest.skipped)
    asked = folder_counts(item.target for item in source.items())
    if there != Counter({folder: num * views for folder, num in asked.items()}):
        raise _another(store)
    if manifest.state['counts']['skipped']:
        raise EncryptionError(
            f'{store.url} was finished with {len(manifest.files) // views} of the {source.num} '
            'pictures, and of random names nothing tells which they are: encrypt into a new folder'
        )
    num = source.num
    source.drop_known(item.target for item in [*source.items()])
    return num


def _targets(manifest: Manifest, job: Job) -> Iterator[str]:
    last = f'_v{job.recipe.views - 1}' if job.recipe.views > 1 else ''
    for entry in manifest.entries():
        target = str(PurePosixPath(entry.path).with_suffix(''))
        if target.endswith(last):
            yield target.removesuffix(last)


def _check_whole(store: Store, manifest: Manifest) -> None:
    """Refuse a data set of which something is missing, or was changed by its size."""
    whole = {row['path']: row['sha256'] for row in (*manifest.annotations, *manifest.shards)}
    sizes = {row['tar']['path']: row['tar']['size'] for row in manifest.shards if 'tar' in row}
    pictures: Iterator[tuple[str, int]] = iter(())
    if manifest.storage == 'files' and isinstance(store, LocalStore):  # of others it takes long
        pictures = ((entry.path, entry.size) for entry in manifest.entries())
    for path, size in (*sizes.items(), *((path, None) for path in whole), *pictures):
        found = store.size(path)
        if found is None:
            state = 'is missing'
        elif found != size if size is not None else not store.is_whole(path, found, whole[path]):
            state = 'was changed since'
        else:
            continue
        raise EncryptionError(
            f'{store.url} was finished, but {path} {state}: encrypt into a new folder'
        )
    for folder in _class_folders(manifest):
        # Without it, classes have other numbers.
        if isinstance(store, LocalStore) and not _has_folder(store, folder):
            raise EncryptionError(
                f'{store.url} was finished, but the folder {folder} is missing: make it again'
            )


def _class_folders(manifest: Manifest) -> Iterator[str]:
    if manifest.storage == 'files':
        for parent, names in manifest.classes.items():
            yield from (name if parent == '.' else f'{parent}/{name}' for name in names)


def _has_folder(store: Store, folder: str) -> bool:
    try:
        next(store.list(folder), None)
    except OSError:
        return False
    return True


def finished_summary(manifest: Manifest, job: Job, known: int) -> Summary:
    """What a run tells that had nothing to do."""
    files = manifest.state['counts']['files']
    return Summary(job.out, manifest.dataset_id, known, files, reused=known, finished_before=True)


def _changed_settings(old: dict, new: dict) -> list[str]:
    """Settings that are not what they were."""
    new = json.loads(json.dumps(new))
    # What a release computes has versions of its own.
    changed = {k for k, v in new.items() if old.get(k) != v} - {'tool_version'}
    if 'cipher' in changed:
        changed.discard('cipher_text')
    return sorted(name.replace('_', ' ') for name in changed)


def check_resumable(job: Job, plan: Plan, head: dict, sources: str) -> None:
    """Refuse to go on with an unfinished run that had other settings.

    Raises:
        InvalidKey: If it has another key.
        EncryptionError: If it has other settings; names them.
    """
    old, key_id = plan.head['key_id'], head['key_id']
    if old != key_id:
        raise InvalidKey(
            f'{job.out} holds an unfinished data set with the key {old}, this is the key '
            f'{key_id}: use the same key, or another folder'
        )
    known = dict(plan.head, dataset_id=plan.dataset_id, sources=plan.sources)
    requested = dict(dataset_id=job.dataset_id) if job.dataset_id else {}
    names = _changed_settings(known, {**head, **requested, 'sources': sources})
    if names:
        raise EncryptionError(
            f'{job.out} holds an unfinished data set with other settings '
            f'({", ".join(names)}): start it again as it was, or choose '
            'another folder'
        )
