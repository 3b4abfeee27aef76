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
from hime_mm.datasets.originals import name_secret
from hime_mm.errors import EncryptionError, WorkerDied
from hime_mm.images import Recipe
from hime_mm.images.files import remove_leftovers

from .coco import CocoSource
from .door import check_source, make_job
from .engines import run_tasks
from .finish import finish
from .folder import FolderSource
from .job import Item, Job, Summary
from .journal import WORK_NAME, Journal, locked
from .names import draw_secret
from .report import check_report
from .resume import check_resumable, finished_summary, manifest_head
from .source import Source
from .worker import encrypt_item, leave_out


def encrypt_coco(
    src: str,
    out: str,
    cipher: CipherLike,
    *,
    annotations: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    licenses: bool = True,
    segmentation: bool = False,
    round_boxes: bool = False,
    key: Key | None = None,
    dataset_id: str | None = None,
    workers: int = 0,
    progress: bool = True,
    strict: bool = False,
    report: str | None = None,
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
            ``src``, or absolute. None takes all
            ``annotations/instances_*.json``, or else those that Roboflow,
            FiftyOne or Label Studio write. Defaults to None.
        images (Sequence[str], optional): For each annotation file the folder
            of its images, relative to ``src``. None takes the folder named
            like the split, as of ``instances_train2017.json`` ``train2017``,
            or else where such tools put pictures: ``images``, ``data``, the
            folder of the annotation file, ``src`` itself. Defaults to None.
        licenses (bool): Hand over the licences. Defaults to True.
        segmentation (bool): Hand over segmentations, outlines of the objects,
            where the cipher leaves pixels in place. Defaults to False.
        round_boxes (bool): Where patches move, round boxes as coarsely as the
            annotations are, or to hundredths: round numbers would tell from
            which rows and columns patches came. An edge moves by at most one
            and a half times what is rounded to, and areas are those of the
            boxes. Defaults to False.
        key (Key, optional): All randomness is derived from it. Defaults to
            None.
        dataset_id (str, optional): Identifies the data set in the derivation
            of its randomness, and is public. None draws one. Never use one
            twice with the same key for different pictures. Defaults to None.
        workers (int): Number of processes that read and encrypt; a picture
            that ends one of them is left out like others that cannot be read.
            With 0 all is done in this process, which such a picture ends.
            More than none need the caller's ``if __name__ == '__main__':``.
            Defaults to 0.
        progress (bool): Show a progress bar. Defaults to True.
        strict (bool): Refuse a source of which files would be left out, which
            the summary names. Defaults to False.
        report (str, optional): File outside of ``out`` that gets a row for
            each file of the source, as CSV: ``path``, the encrypted ``file``,
            ``status`` and ``reason``. It holds names of originals, and with
            ``names='ids'`` it is the way from new names back to old ones.
            Defaults to None.
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
    job = make_job(src, out, Recipe.build(cipher, **settings), key, dataset_id)
    recipe = job.recipe
    if recipe.preprocess.center_crop is not None:
        raise EncryptionError('`center_crop` is for classification: boxes would be cut off')
    if segmentation and (recipe.cipher.moves_pixels or recipe.preprocess.augment):
        raise EncryptionError(
            f'segmentations cannot follow the cipher {str(recipe.cipher)!r} '
            'or augmentation: leave them out (`segmentation=False`)'
        )
    source = CocoSource(src, recipe.names, annotations, images, licenses, segmentation, round_boxes)
    return _run(
        source, replace(job, round_boxes=round_boxes), key, workers, progress, strict, report
    )


def encrypt_folder(
    src: str,
    out: str,
    cipher: CipherLike,
    *,
    lists: Sequence[str] = (),
    key: Key | None = None,
    dataset_id: str | None = None,
    workers: int = 0,
    progress: bool = True,
    strict: bool = False,
    report: str | None = None,
    **settings: Any,
) -> Summary:
    """Encrypt a folder of pictures, such as ImageNet's tree or a flat one.

    Folders keep their names, since they are the classes' names. All of them
    are in the result, whatever is in them, so that the numbers of the classes
    stay.

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
        workers (int): As of :func:`encrypt_coco`. Defaults to 0.
        progress (bool): Show a progress bar. Defaults to True.
        strict (bool): As of :func:`encrypt_coco`. Defaults to False.
        report (str, optional): As of :func:`encrypt_coco`. Defaults to None.
        **settings: As of :func:`encrypt_coco`.

    Returns:
        Summary: What was done, and what is missing and why.

    Raises:
        EncryptionError: If the options contradict each other, the output
            folder holds something else, or a list is not as it has to be.
        InvalidKey: If an unfinished run was started with another key.
        OSError: If the output cannot be written, such as on a full disk.
    """
    job = make_job(src, out, Recipe.build(cipher, **settings), key, dataset_id)
    source = FolderSource(src, job.recipe.names, lists)
    return _run(source, job, key, workers, progress, strict, report)


def _run(
    source: Source,
    job: Job,
    key: Key | None,
    workers: int,
    progress: bool,
    strict: bool,
    report: str | None,
) -> Summary:
    start = time.monotonic()
    if not isinstance(workers, int) or workers < 0:
        raise EncryptionError(f'`workers` must be a whole number, 0 or more, got {workers!r}')
    check_source(source, job, strict)
    head = manifest_head(source, job, key)
    work = os.path.join(job.out, WORK_NAME)
    journal = Journal(os.path.join(work, 'journal'), len(source.items))
    # Asked before anything is written, so that a folder of others stays as it
    # is, and again with the lock, since another run may just have ended.
    summary = finished_summary(job, head, source, journal.path, key, report)
    if summary is None:
        if report is not None:
            check_report(report, job.out, os.path.exists(journal.path))
        with locked(work):
            try:
                summary = finished_summary(job, head, source, journal.path, key, report)
                if summary is None:
                    summary = _resume(source, job, key, journal, head, workers, progress, report)
                    # What is missing can be repaired, and then it goes on.
                    if summary.complete:
                        os.unlink(journal.path)
            finally:
                if not os.path.exists(journal.path):
                    shutil.rmtree(work, ignore_errors=True)
    else:  # killed while it deleted this
        shutil.rmtree(work, ignore_errors=True)
    summary.left_out = list(source.left_out)
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
    report: str | None,
) -> Summary:
    """Begin a data set, or go on where the last run was."""
    digest = hashlib.sha256()
    for text in source.digest():
        # Names of files need not be UTF-8.
        digest.update(text.encode(errors='surrogateescape') + b'\0')
    # Which pictures these are is not said in what is handed over.
    header = dict(head, sources=digest.hexdigest())
    drawn = dict(dataset_id=job.dataset_id or secrets.token_hex(8))
    if source.renames and key is None:
        drawn['name_secret'] = draw_secret()
    old = journal.open(dict(header, **drawn), lambda old: check_resumable(job, old, header))
    job = replace(job, dataset_id=old['dataset_id'])
    if source.renames:
        secret = name_secret(key, job.dataset_id, old.get('name_secret'))
        assert secret is not None  # a key's, or drawn when the journal was begun
        source.rename(secret)
    summary = Summary(job.out, job.dataset_id, len(source.items))
    source.report(summary)
    try:
        remove_leftovers(job.out)
        tasks = ((item, journal[i]) for i, item in enumerate(source.items))
        outcomes = run_tasks(encrypt_item, job, key, tasks, workers)
        _encrypt(job, source.items, outcomes, journal, summary, progress)
        remove_leftovers(job.out)  # of a worker that died
        finish(source, job, key, journal, head, summary, report, progress)
    except WorkerDied:
        raise
    except OSError as error:
        finished = len(journal) - len(summary.skipped)
        raise OSError(
            error.errno or errno.EIO,
            f'{error.strerror or error}: {error.filename or job.out}; {finished} of '
            f'{summary.images} pictures are finished and stay: mend it and start again',
        ) from None
    finally:
        journal.close()
    return summary


def _encrypt(
    job: Job,
    items: Sequence[Item],
    outcomes: Generator,
    journal: Journal,
    summary: Summary,
    progress: bool,
) -> None:
    """Write down what comes of each picture."""
    with (
        tqdm(
            total=len(items), desc='encrypt', unit='image', disable=not progress, smoothing=0.1
        ) as bar,
        closing(outcomes),
    ):
        for i, outcome in outcomes:
            if isinstance(outcome, WorkerDied):
                outcome = leave_out(job, items[i], outcome)
            if outcome.pop('reused', False):
                summary.reused += 1
            else:
                journal.append(i, outcome)
            if 'error' in outcome:
                summary.skipped.append((items[i].path, outcome['error']))
                bar.set_postfix(skipped=len(summary.skipped))
            if 'said' in outcome:
                summary.warnings.append((items[i].path, outcome['said']))
            bar.update()
    summary.skipped.sort()
    summary.warnings.sort()
