# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Encrypt a data set: read, augment, encrypt, write, and be resumable."""

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from hime_mm.ciphers import Key
from hime_mm.ciphers.cipher import CipherLike
from hime_mm.ciphers.keys import looks_like_key
from hime_mm.datasets.writing import write_manifest
from hime_mm.errors import EncryptionError, InvalidKey, WorkerDied
from hime_mm.images import Recipe
from hime_mm.images.files import remove_leftovers
from hime_mm.version import __version__

from .coco import CocoSource
from .engines import run_tasks
from .folder import FolderSource
from .job import Item, Job, Summary, add_counts
from .journal import WORK_NAME, Journal, locked
from .resume import check_resumable, finished_summary
from .source import Source, check_targets
from .worker import encrypt_item


def encrypt_coco(
    src: str,
    out: str,
    cipher: CipherLike,
    *,
    annotations: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    licenses: bool = True,
    segmentation: bool = False,
    key: Key | None = None,
    dataset_id: str | None = None,
    workers: int = 1,
    progress: bool = True,
    **settings: Any,
) -> Summary:
    """Encrypt a COCO data set into a folder that can be handed over.

    The folder has the same tree: ``annotations/instances_train2017.json`` and
    ``train2017/*.png``, and the manifest ``hime.json``. The annotations are
    valid COCO whose sizes and boxes are in pixels of the encrypted images.
    Of images and annotations only the fields of COCO's format are kept.

    Killed at any moment and started again with the same arguments, it goes
    on, and ends with the same bytes as without the interruption (one-way:
    with the files that were finished).

    Args:
        src (str): Folder that holds images and annotations.
        out (str): Folder to write to: new, empty, or of an unfinished run.
        cipher (str | dict | Sequence | Cipher): The cipher or a preset.
        annotations (Sequence[str], optional): Annotation files relative to
            ``src``. None takes all ``annotations/instances_*.json``. Defaults
            to None.
        images (Sequence[str], optional): For each annotation file the folder
            of its images, relative to ``src``. None takes the folder named
            like the split, as of ``instances_train2017.json`` ``train2017``.
            Defaults to None.
        licenses (bool): Hand over the licences. Defaults to True.
        segmentation (bool): Hand over segmentations, outlines of the objects,
            where the cipher leaves pixels in place. Defaults to False.
        key (Key, optional): All randomness is derived from it. Defaults to
            None.
        dataset_id (str, optional): Identifies the data set in the derivation
            of its randomness, and is public. None draws one. Never use one
            twice with the same key for different pictures. Defaults to None.
        workers (int): Number of processes. More than one need the caller's
            ``if __name__ == '__main__':``. Defaults to 1.
        progress (bool): Show a progress bar. Defaults to True.
        **settings: ``patch_size``, ``preprocess`` and all others of
            :class:`~hime_mm.apis.Recipe`: ``one_way``, ``views``,
            ``names``, ``fmt`` and ``compression``.

    Returns:
        Summary: What was done, and what is missing and why.

    Raises:
        EncryptionError: If the options contradict each other, or the output
            folder holds something else.
        CocoError: If an annotation file is not valid.
        InvalidKey: If an unfinished run was started with another key.
        OSError: If the output cannot be written, such as on a full disk.
    """
    job = _job(src, out, Recipe.build(cipher, **settings), key, dataset_id)
    recipe = job.recipe
    if recipe.preprocess.center_crop is not None:
        raise EncryptionError('`center_crop` is for classification: boxes would be cut off')
    if segmentation and (recipe.cipher.moves_pixels or recipe.preprocess.augment):
        raise EncryptionError(
            f'segmentations cannot follow the cipher {str(recipe.cipher)!r} '
            'or augmentation: leave them out'
        )
    source = CocoSource(src, recipe.names, annotations, images, licenses, segmentation)
    return _run(source, job, key, workers, progress)


def encrypt_folder(
    src: str,
    out: str,
    cipher: CipherLike,
    *,
    lists: Sequence[str] = (),
    key: Key | None = None,
    dataset_id: str | None = None,
    workers: int = 1,
    progress: bool = True,
    **settings: Any,
) -> Summary:
    """Encrypt a folder of pictures, such as ImageNet's tree or a flat one.

    Folders keep their names, since they are the classes' names.

    Args:
        src (str): Folder that holds the pictures, at any depth.
        out (str): As of :func:`encrypt_coco`.
        cipher (str | dict | Sequence | Cipher): The cipher or a preset.
        lists (Sequence[str]): Text files of names and labels, relative to
            ``src``, such as ``meta/val.txt``; they are handed over with the
            names of the encrypted files. Defaults to none.
        key (Key, optional): As of :func:`encrypt_coco`. Defaults to None.
        dataset_id (str, optional): As of :func:`encrypt_coco`. Defaults to
            None.
        workers (int): As of :func:`encrypt_coco`. Defaults to 1.
        progress (bool): Show a progress bar. Defaults to True.
        **settings: As of :func:`encrypt_coco`.

    Returns:
        Summary: What was done, and what is missing and why.

    Raises:
        EncryptionError: If the options contradict each other, the output
            folder holds something else, or a list is not as it has to be.
        InvalidKey: If an unfinished run was started with another key.
        OSError: If the output cannot be written, such as on a full disk.
    """
    job = _job(src, out, Recipe.build(cipher, **settings), key, dataset_id)
    source = FolderSource(src, job.recipe.names, lists)
    return _run(source, job, key, workers, progress)


def _job(src: str, out: str, recipe: Recipe, key: Key | None, dataset_id: str | None) -> Job:
    """What is asked for, where nothing speaks against it."""
    recipe.check(key)
    if dataset_id is not None and looks_like_key(dataset_id):
        raise InvalidKey(
            'a key was given as the id of the data set, which '
            'is handed over: make a new key if others may have '
            'seen this one'
        )
    try:
        (dataset_id or '').encode()
    except UnicodeEncodeError:
        raise EncryptionError('the id of the data set is not UTF-8: choose another one') from None
    if not os.path.isdir(src):
        raise EncryptionError(f'there is no folder {src}')
    src_path, out_path = (os.path.join(os.path.realpath(p), '') for p in (src, out))
    if src_path.startswith(out_path) or out_path.startswith(src_path):
        raise EncryptionError(
            f'{out} and {src} lie in each other: the plain pictures must not '
            'be handed over with the encrypted ones'
        )
    return Job(src, out, recipe, dataset_id or '')


def _run(source: Source, job: Job, key: Key | None, workers: int, progress: bool) -> Summary:
    start = time.monotonic()
    if not isinstance(workers, int) or workers < 1:
        raise EncryptionError(f'`workers` must be a positive whole number, got {workers!r}')
    mode = 'keyed'
    if key is None:
        mode = 'one-way' if job.recipe.one_way else 'keyless'
    head = dict(
        tool_version=__version__,
        kind=source.kind,
        mode=mode,
        key_id=None if key is None else key.id,
        **job.recipe.to_dict(),
        options=source.options,
    )
    check_targets(job, source)
    work = os.path.join(job.out, WORK_NAME)
    journal = Journal(os.path.join(work, 'journal'), len(source.items))
    # Asked before anything is written, so that a folder of others stays as it
    # is, and again with the lock, since another run may just have ended.
    summary = finished_summary(job, head, source, journal.path)
    if summary is None:
        with locked(work):
            try:
                summary = finished_summary(job, head, source, journal.path)
                if summary is None:
                    summary = _resume(source, job, key, journal, head, workers, progress)
                    # What is missing can be repaired, and then it goes on.
                    if summary.complete:
                        os.unlink(journal.path)
            finally:
                if not os.path.exists(journal.path):
                    shutil.rmtree(work, ignore_errors=True)
    else:  # killed while it deleted this
        shutil.rmtree(work, ignore_errors=True)
    summary.seconds = time.monotonic() - start
    return summary


def _resume(
    source: Source,
    job: Job,
    key: Key | None,
    journal: Journal,
    head: dict,
    workers: int,
    progress: bool,
) -> Summary:
    """Begin a data set, or go on where the last run was."""
    digest = hashlib.sha256()
    for text in source.digest():
        # Names of files need not be UTF-8.
        digest.update(text.encode(errors='surrogateescape') + b'\0')
    # Which pictures these are is not said in what is handed over.
    header = dict(head, sources=digest.hexdigest())
    old = journal.open(
        dict(header, dataset_id=job.dataset_id or secrets.token_hex(8)),
        lambda old: check_resumable(job, old, header),
    )
    job = replace(job, dataset_id=old['dataset_id'])
    summary = Summary(job.out, job.dataset_id, len(source.items))
    source.report(summary)
    try:
        remove_leftovers(job.out)
        tasks = ((item, journal[i]) for i, item in enumerate(source.items))
        outcomes = run_tasks(encrypt_item, job, key, tasks, workers)
        _encrypt(source.items, outcomes, journal, summary, progress)
        _finish(source, job, key, journal, head, summary)
    except WorkerDied:
        raise
    except OSError as error:
        where = f': {error.filename}' if error.filename else ''
        raise OSError(
            error.errno or errno.EIO,
            f'{error.strerror or error}{where} in {job.out}; {len(journal)} '
            f'of {summary.images} pictures are finished and stay: mend it and '
            'start again',
        ) from None
    finally:
        journal.close()
    return summary


def _encrypt(
    items: Sequence[Item], outcomes: Generator, journal: Journal, summary: Summary, progress: bool
) -> None:
    """Write down what comes of each picture."""
    with (
        tqdm(
            total=len(items), desc='encrypt', unit='image', disable=not progress, smoothing=0.1
        ) as bar,
        closing(outcomes),
    ):
        for i, outcome in outcomes:
            if outcome.pop('reused', False):
                summary.reused += 1
            else:
                journal.append(i, outcome)
            if 'error' in outcome:
                summary.skipped.append((items[i].path, outcome['error']))
                bar.set_postfix(skipped=len(summary.skipped))
            bar.update()
    summary.skipped.sort()


def _finish(
    source: Source, job: Job, key: Key | None, journal: Journal, head: dict, summary: Summary
) -> None:
    """Write the texts, then the manifest: it is there when all else is."""
    size, missing = 0, []
    for i, item in enumerate(source.items):
        outcome = journal[i]
        assert outcome is not None  # all are done
        if 'error' in outcome:
            missing.append(dict(path=job.target(item, 0), reason=outcome['error']))
            continue
        summary.files += len(outcome['rows'])
        size += sum(row['size'] for row in outcome['rows'])
        add_counts(summary.clipped, outcome.get('clipped', {}))
    head = dict(
        head,
        dataset_id=job.dataset_id,
        counts=dict(images=summary.images, files=summary.files, bytes=size, skipped=len(missing)),
        clipped={k: list(v) for k, v in summary.clipped.items()},
        skipped=missing,
        annotations=source.write(job, journal.__getitem__, summary),
    )
    if hasattr(os, 'sync'):
        os.sync()  # images were not waited for one by one
    rows = (row for i in range(summary.images) for row in (journal[i] or {}).get('rows', ()))
    write_manifest(job.out, head, rows, key)
