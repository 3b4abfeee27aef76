# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Encrypt a data set: read, augment, encrypt, write, and be resumable."""

import errno
import hashlib
import os
import secrets
import shutil
import time
from contextlib import closing
from dataclasses import replace
from typing import Any, Iterator, Optional, Sequence

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
from .job import Job, Summary, add_counts
from .journal import WORK_NAME, Journal, locked
from .resume import check_same, finished_summary
from .source import Source, check_targets
from .worker import encrypt_item


def encrypt_coco(src: str,
                 out: str,
                 cipher: CipherLike,
                 *,
                 annotations: Optional[Sequence[str]] = None,
                 images: Optional[Sequence[str]] = None,
                 licenses: bool = True,
                 segmentation: bool = False,
                 key: Optional[Key] = None,
                 dataset_id: Optional[str] = None,
                 workers: int = 1,
                 progress: bool = True,
                 **settings: Any) -> Summary:
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
            :class:`~hime_mm.images.Recipe`: ``one_way``, ``views``,
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
        raise EncryptionError('`center_crop` is for classification: boxes '
                              'would be cut off')
    if segmentation and (recipe.cipher.moves_pixels
                         or recipe.preprocess.augment):
        raise EncryptionError(
            f'segmentations cannot follow the cipher {str(recipe.cipher)!r} '
            'or augmentation: leave them out')
    source = CocoSource(src, recipe.names, annotations, images, licenses,
                        segmentation)
    return _run(source, job, key, workers, progress)


def encrypt_folder(src: str,
                   out: str,
                   cipher: CipherLike,
                   *,
                   lists: Sequence[str] = (),
                   key: Optional[Key] = None,
                   dataset_id: Optional[str] = None,
                   workers: int = 1,
                   progress: bool = True,
                   **settings: Any) -> Summary:
    """Encrypt a folder of pictures, such as ImageNet's tree or a flat one.

    Folders keep their names, since they are the classes' names.

    Args:
        src (str): Folder that holds the pictures, at any depth.
        out (str): As of :func:`encrypt_coco`, and so are all others.
        lists (Sequence[str]): Text files of names and labels, relative to
            ``src``, such as ``meta/val.txt``; they are handed over with the
            names of the encrypted files. Defaults to none.

    Returns:
        Summary: What was done, and what is missing and why.

    Raises:
        EncryptionError, InvalidKey, OSError: As :func:`encrypt_coco`.
    """
    job = _job(src, out, Recipe.build(cipher, **settings), key, dataset_id)
    source = FolderSource(src, job.recipe.names, lists)
    return _run(source, job, key, workers, progress)


def _job(src: str, out: str, recipe: Recipe, key: Optional[Key],
         dataset_id: Optional[str]) -> Job:
    """What is asked for, where nothing speaks against it."""
    recipe.check(key)
    if dataset_id is not None and looks_like_key(dataset_id):
        raise InvalidKey('a key was given as the id of the data set, which '
                         'is handed over: make a new key if others may have '
                         'seen this one')
    _check_folders(src, out)
    return Job(src, out, recipe, dataset_id or '')


def _check_folders(src: str, out: str) -> None:
    if not os.path.isdir(src):
        raise EncryptionError(f'there is no folder {src}')
    one, other = os.path.realpath(src), os.path.realpath(out)
    if one == other or other.startswith(one + os.sep) or one.startswith(
            other + os.sep):
        raise EncryptionError(
            f'{out} and {src} lie in each other: the plain pictures must not '
            'be handed over with the encrypted ones')


def _run(source: Source, job: Job, key: Optional[Key], workers: int,
         progress: bool) -> Summary:
    start = time.monotonic()
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise EncryptionError('`workers` must be a positive whole number, got '
                              f'{workers!r}')
    mode = 'keyed'
    if key is None:
        mode = 'one-way' if job.recipe.one_way else 'keyless'
    head = dict(
        tool_version=__version__,
        kind=source.kind,
        mode=mode,
        key_id=None if key is None else key.id,
        **job.recipe.to_dict(),
        options=source.options)
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
                    run = _Run(source, job, key, journal, head)
                    summary = run.go_on(workers, progress)
                    # What is missing can be repaired, and then it goes on.
                    if summary.complete:
                        os.unlink(journal.path)
            finally:
                if not os.path.exists(journal.path):
                    shutil.rmtree(work, ignore_errors=True)
    elif os.path.exists(work):  # killed while it deleted this
        shutil.rmtree(work, ignore_errors=True)
    summary.seconds = time.monotonic() - start
    return summary


class _Run:
    """One run, from its journal to its manifest."""

    def __init__(self, source: Source, job: Job, key: Optional[Key],
                 journal: Journal, head: dict) -> None:
        self.source, self.job, self.key = source, job, key
        self.journal, self.head = journal, head

    def go_on(self, workers: int, progress: bool) -> Summary:
        """Begin a data set, or go on where the last run was."""
        digest = hashlib.sha256()
        for text in self.source.digest():
            # Names of files need not be UTF-8.
            digest.update(text.encode(errors='surrogateescape') + b'\0')
        # Which pictures these are is not said in what is handed over.
        header = dict(self.head, sources=digest.hexdigest())
        asked = self.job.dataset_id
        old = self.journal.open(
            dict(header, dataset_id=asked or secrets.token_hex(8)),
            lambda old: check_same(self.job.out, old, header, asked))
        try:
            remove_leftovers(self.job.out)
            self.job = replace(self.job, dataset_id=old['dataset_id'])
            summary = Summary(self.job.out, self.job.dataset_id,
                              len(self.source.items))
            self.source.report(summary)
            self._encrypt(summary, workers, progress)
            try:
                self._finish(summary)
            except OSError as error:
                raise OSError(
                    error.errno, f'{error.strerror} in {self.job.out}, with '
                    'all pictures finished: mend it and start again'
                ) from None
        finally:
            self.journal.close()
        return summary

    def _encrypt(self, summary: Summary, workers: int,
                 progress: bool) -> None:
        """Encrypt what the journal does not hold yet."""
        items, done = self.source.items, 0
        tasks = ((item, self.journal[i]) for i, item in enumerate(items))
        outcomes = run_tasks(encrypt_item, self.job, self.key, tasks, workers)
        bar = tqdm(
            total=len(items), desc='encrypt', unit='image',
            disable=not progress, smoothing=0.1)
        try:
            with bar, closing(outcomes):
                for i, outcome in outcomes:
                    if outcome.pop('reused', False):
                        summary.reused += 1
                    else:
                        self.journal.append(i, outcome)
                    if 'error' in outcome:
                        summary.skipped.append(
                            (items[i].source, outcome['error']))
                        bar.set_postfix(skipped=len(summary.skipped))
                    bar.update()
                    done += 1
        except WorkerDied:
            raise
        except OSError as error:
            where = f': {error.filename}' if error.filename else ''
            raise OSError(
                error.errno or errno.EIO,
                f'{error.strerror or error}{where} in {self.job.out}; {done} '
                f'of {len(items)} pictures are finished and stay: mend it and '
                'start again') from None

    def _finish(self, summary: Summary) -> None:
        """Write the texts, then the manifest: it is there when all else is."""
        job, journal = self.job, self.journal
        size, missing = 0, []
        for i, item in enumerate(self.source.items):
            outcome = journal[i]
            assert outcome is not None  # all are done
            if 'error' in outcome:
                missing.append(
                    dict(path=job.target(item, 0), reason=outcome['error']))
                continue
            summary.files += len(outcome['rows'])
            size += sum(row['size'] for row in outcome['rows'])
            add_counts(summary.clipped, outcome.get('clipped', {}))
        summary.skipped.sort()
        head = dict(
            self.head,
            dataset_id=job.dataset_id,
            counts=dict(
                images=summary.images,
                files=summary.files,
                bytes=size,
                skipped=len(missing)),
            clipped={k: list(v) for k, v in summary.clipped.items()},
            skipped=missing,
            annotations=self.source.write(job, journal.__getitem__, summary))
        if hasattr(os, 'sync'):
            os.sync()  # images were not waited for one by one

        def rows() -> Iterator[dict]:
            for i in range(len(self.source.items)):
                yield from (journal[i] or {}).get('rows', ())

        write_manifest(job.out, head, rows(), self.key)
