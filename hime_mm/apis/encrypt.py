# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Encrypt a data set: read, augment, encrypt, write, and be resumable.

Needs NumPy, OpenCV, cryptography and tqdm only.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import (Any, Dict, Iterator, List, NamedTuple, Optional, Sequence,
                    Tuple, Union)

import cv2
from tqdm import tqdm

from hime_mm.ciphers import Cipher, InvalidKey, Key
from hime_mm.ciphers.cipher import CipherLike
from hime_mm.ciphers.keys import looks_like_key
from hime_mm.datasets import coco as coco_format
from hime_mm.datasets.images import (UnreadableImage, check_encoding,
                                     encode_image, file_sha256, read_image,
                                     write_atomic)
from hime_mm.datasets.manifest import (MANIFEST_NAME, FileEntry, Manifest,
                                       write_manifest)
from hime_mm.datasets.preprocess import Preprocess
from hime_mm.version import __version__

from .journal import (WORK_NAME, EncryptionError, Journal, locked,
                      remove_leftovers)
from .parallel import run_tasks
from .sources import Coco, Folder, Item, Job, check_targets

NAMES = ('keep', 'ids')


@dataclass
class Summary:
    """What an encryption did.

    Attributes:
        out (str): The folder of the encrypted data set.
        dataset_id (str): Its id.
        images (int): Pictures of the source.
        files (int): Encrypted files that are there.
        reused (int): Pictures that an earlier run had finished.
        skipped (list[tuple[str, str]]): Pictures that are missing in the
            result, by their source path, and why.
        clipped (dict[str, tuple[int, int]]): Values that each step clipped,
            and of how many.
        dropped (list[str]): Fields of annotations that were not handed over.
        tiny (int): Objects whose boxes shrank below 1x1 pixel, which
            MMDetection's ``CocoDataset`` leaves out.
        ignored (int): Files of the source that are no pictures.
        seconds (float): Time that it took.
        finished_before (bool): Whether there was nothing to do, since an
            earlier run had finished. What has changed in the source since
            then is not looked at.
    """

    out: str
    dataset_id: str
    images: int
    files: int = 0
    reused: int = 0
    skipped: List[Tuple[str, str]] = field(default_factory=list)
    clipped: Dict[str, Tuple[int, int]] = field(default_factory=dict)
    dropped: List[str] = field(default_factory=list)
    tiny: int = 0
    ignored: int = 0
    seconds: float = 0.
    finished_before: bool = False

    @property
    def complete(self) -> bool:
        """bool: Whether every picture of the source is in the result."""
        return not self.skipped


class _Fatal(NamedTuple):
    """An error after which going on is of no use."""

    code: int
    message: str


def _encrypt_item(job: Job, key: Optional[Key],
                  task: Tuple[Item, Optional[dict]]) -> Union[dict, _Fatal]:
    """Encrypt all views of one picture; what the journal is to hold of it.

    With what it holds already, if anything: files that are whole stay.
    """
    item, done = task
    stamp = _stamp(job, item)
    # Of a source that is gone by now, what was made of it stays.
    if done is not None and 'rows' in done and stamp in (
            None, done['source']) and all(
                _is_whole(job.out, row) for row in done['rows']):
        return dict(done, reused=True)
    try:
        img = read_image(
            os.path.join(job.src, item.source), job.preprocess.color_type)
        if item.shape is not None and img.shape[:2] != item.shape:
            raise UnreadableImage(
                f'it is {img.shape[0]}x{img.shape[1]} (height x width), but '
                f'the annotations say {item.shape[0]}x{item.shape[1]}; if the '
                'sides are swapped, an EXIF orientation may be the reason: '
                "try the color type 'color_ignore_orientation'")
        views = [
            _encrypt_view(job, key, item, img, view)
            for view in range(job.views)
        ]
    except UnicodeEncodeError:
        return _left_out(
            job, item, 'its name is not UTF-8: rename it, or replace the '
            "names by ids (names='ids')")
    except (ValueError, cv2.error) as error:
        return _left_out(job, item, str(error))
    except OSError as error:
        where = f': {error.filename}' if error.filename else ''
        return _Fatal(error.errno or errno.EIO,
                      f'{error.strerror or error}{where}')
    clipped: Dict[str, List[int]] = {}
    for _, _, stats in views:
        for step, (some, total) in stats.items():
            old = clipped.get(step, [0, 0])
            clipped[step] = [old[0] + some, old[1] + total]
    outcome: Dict[str, Any] = dict(
        rows=[row for row, _, _ in views], source=stamp)
    if item.boxes is not None:
        outcome['boxes'] = [boxes for _, boxes, _ in views]
    if clipped:
        outcome['clipped'] = clipped
    return outcome


def _left_out(job: Job, item: Item, reason: str) -> dict:
    """Leave out a picture, with what was made of it before."""
    for view in range(job.views):
        with suppress(OSError, ValueError):
            os.unlink(os.path.join(job.out, job.target(item, view)))
    return dict(error=reason)


def _encrypt_view(job: Job, key: Optional[Key], item: Item, img: Any,
                  view: int) -> Tuple[dict, dict, dict]:
    """Encrypt and write one view: its row, its boxes and what was clipped."""
    path = job.target(item, view)
    path.encode()  # raises where the name is not UTF-8
    source = stream = None
    if key is not None:
        source = key.source(job.dataset_id, path)
        if job.preprocess.random:
            stream = source.augmentation(job.cipher.canonical)
    ready = job.preprocess.prepare(img, job.cipher.patch_size, item.boxes,
                                   stream)
    drawn = job.cipher.draw(ready.img.shape, source)
    stats: Dict[str, Tuple[int, int]] = {}
    encrypted = job.cipher.apply(ready.img, drawn, stats)
    layout = job.cipher.secret_layout(ready.img.shape[:2], drawn)
    scale = (ready.scale[0] * layout.scale[0],
             ready.scale[1] * layout.scale[1])
    layout = replace(layout, ori_shape=ready.ori_shape, scale=scale)
    data = encode_image(encrypted, job.fmt, job.compression)
    row = FileEntry(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        shape=encrypted.shape[:2],
        channels=1 if encrypted.ndim == 2 else encrypted.shape[2],
        ori_shape=ready.ori_shape,
        scale=scale).to_dict()
    write_atomic(os.path.join(job.out, path), data, sync=False)
    boxes = dict(
        kept=ready.kept.tolist(),
        boxes=coco_format.from_corners(layout.map_boxes(ready.boxes)))
    return row, boxes, stats


def _stamp(job: Job, item: Item) -> Optional[List[int]]:
    """What tells whether a picture was replaced since it was encrypted."""
    try:
        info = os.stat(os.path.join(job.src, item.source))
    except OSError:
        return None
    return [info.st_size, info.st_mtime_ns]


def _is_whole(out: str, row: dict) -> bool:
    """Whether a file is there as it was written."""
    path = os.path.join(out, row['path'])
    try:
        return (os.path.getsize(path) == row['size']
                and file_sha256(path) == row['sha256'])
    except OSError:
        return False


# What a person calls -----------------------------------------------------------


def encrypt_coco(src: str,
                 out: str,
                 cipher: CipherLike,
                 patch_size: Optional[int] = None,
                 annotations: Optional[Sequence[str]] = None,
                 images: Optional[Sequence[str]] = None,
                 key: Optional[Key] = None,
                 one_way: bool = False,
                 preprocess: Union[None, dict, Preprocess] = None,
                 views: int = 1,
                 names: str = 'keep',
                 licenses: bool = True,
                 segmentation: bool = False,
                 fmt: str = 'png',
                 compression: Optional[int] = None,
                 dataset_id: Optional[str] = None,
                 workers: int = 1,
                 progress: bool = True) -> Summary:
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
        patch_size (int, optional): Side of a patch in pixels. None is the
            cipher's own, or 16. Defaults to None.
        annotations (Sequence[str], optional): Annotation files relative to
            ``src``. None takes all ``annotations/instances_*.json``. Defaults
            to None.
        images (Sequence[str], optional): For each annotation file the folder
            of its images, relative to ``src``. None takes the folder named
            like the split, as of ``instances_train2017.json`` ``train2017``.
            Defaults to None.
        key (Key, optional): All randomness is derived from it. Defaults to
            None.
        one_way (bool): Draw randomness from the operating system and keep
            nothing: nobody can undo it. Defaults to False.
        preprocess (Preprocess | dict, optional): How pictures are read,
            sized and augmented before. Defaults to None.
        views (int): Encrypted files per picture, each with its own
            augmentation and randomness. Defaults to 1.
        names (str): ``'keep'`` keeps file names, ``'ids'`` replaces them by
            image ids. Defaults to 'keep'.
        licenses (bool): Hand over the licences. Defaults to True.
        segmentation (bool): Hand over segmentations, outlines of the objects,
            where the cipher leaves pixels in place. Defaults to False.
        fmt (str): ``'png'`` or ``'webp'`` (lossless). Defaults to 'png'.
        compression (int, optional): For PNG, 0 (large) to 9 (small). None
            is OpenCV's fast setting. Defaults to None.
        dataset_id (str, optional): Identifies the data set in the derivation
            of its randomness, and is public. None draws one. Never use one
            twice with the same key for different pictures. Defaults to None.
        workers (int): Number of processes. More than one need the caller's
            ``if __name__ == '__main__':``. Defaults to 1.
        progress (bool): Show a progress bar. Defaults to True.

    Returns:
        Summary: What was done, and what is missing and why.

    Raises:
        EncryptionError: If the options contradict each other, or the output
            folder holds something else.
        CocoError: If an annotation file is not valid.
        InvalidKey: If an unfinished run was started with another key.
        OSError: If the output cannot be written, such as on a full disk.
    """
    cipher, preprocess = _checked(cipher, patch_size, key, one_way,
                                  preprocess, views, names, fmt, compression,
                                  workers, dataset_id)
    if preprocess.center_crop is not None:
        raise EncryptionError('`center_crop` is for classification: boxes '
                              'would be cut off')
    if segmentation and (cipher.moves_pixels or preprocess.augment):
        raise EncryptionError(
            f'segmentations cannot follow the cipher {str(cipher)!r} or '
            'augmentation: leave them out')
    _check_folders(src, out)
    data = Coco(src, annotations, images, names, licenses, segmentation)
    return _encrypt(
        data, src, out, cipher, preprocess, key, one_way,
        dict(licenses=licenses, segmentation=segmentation), views, names, fmt,
        compression, dataset_id, workers, progress)


def encrypt_folder(src: str,
                   out: str,
                   cipher: CipherLike,
                   patch_size: Optional[int] = None,
                   key: Optional[Key] = None,
                   one_way: bool = False,
                   preprocess: Union[None, dict, Preprocess] = None,
                   views: int = 1,
                   names: str = 'keep',
                   lists: Sequence[str] = (),
                   fmt: str = 'png',
                   compression: Optional[int] = None,
                   dataset_id: Optional[str] = None,
                   workers: int = 1,
                   progress: bool = True) -> Summary:
    """Encrypt a folder of pictures, such as ImageNet's tree or a flat one.

    Folders keep their names, since they are the classes' names.

    Args:
        src (str): Folder that holds the pictures, at any depth.
        out (str): As of :func:`encrypt_coco`, and so are all others.
        names (str): ``'keep'`` keeps file names, ``'ids'`` numbers the
            pictures of each folder in the order of their names. Defaults to
            'keep'.
        lists (Sequence[str]): Text files of names and labels, relative to
            ``src``, such as ``meta/val.txt``; they are handed over with the
            names of the encrypted files. Defaults to none.

    Returns:
        Summary: What was done, and what is missing and why.

    Raises:
        EncryptionError, InvalidKey, OSError: As :func:`encrypt_coco`.
    """
    cipher, preprocess = _checked(cipher, patch_size, key, one_way,
                                  preprocess, views, names, fmt, compression,
                                  workers, dataset_id)
    _check_folders(src, out)
    data = Folder(src, names, lists)
    return _encrypt(data, src, out, cipher, preprocess, key, one_way, {},
                    views, names, fmt, compression, dataset_id, workers,
                    progress)


def _checked(cipher: CipherLike, patch_size: Optional[int],
             key: Optional[Key], one_way: bool, preprocess: Any, views: int,
             names: str, fmt: str, compression: Optional[int],
             workers: int,
             dataset_id: Optional[str]) -> Tuple[Cipher, Preprocess]:
    cipher = Cipher.build(cipher, patch_size)
    if preprocess is None:
        preprocess = Preprocess()
    elif isinstance(preprocess, dict):
        preprocess = Preprocess.from_dict(preprocess)
    for name, value in (('views', views), ('workers', workers)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise EncryptionError(f'`{name}` must be a positive whole number, '
                                  f'got {value!r}')
    if names not in NAMES:
        raise EncryptionError(f'unknown `names` {names!r}, choose from '
                              f'{NAMES}')
    check_encoding(fmt, compression)
    if fmt == 'webp' and preprocess.color_type not in (
            'color', 'color_ignore_orientation'):
        raise EncryptionError(
            "'webp' stores three channels of 8 bits: it does not go with the "
            f'color type {preprocess.color_type!r}, use PNG')
    cipher.check_fit(preprocess.fit)
    random = cipher.random or preprocess.random
    if dataset_id is not None and looks_like_key(dataset_id):
        raise InvalidKey('a key was given as the id of the data set, which '
                         'is handed over: make a new key if others may have '
                         'seen this one')
    if key is not None and one_way:
        raise EncryptionError('give a key or `one_way`, not both')
    if random and key is None and not one_way:
        raise EncryptionError(
            f'the cipher {str(cipher)!r}, or the augmentation, draws '
            'randomness: give a key, or choose one-way, which keeps nothing '
            'that could undo it')
    if one_way and any(step.scope == 'dataset' for step in cipher.steps):
        raise EncryptionError(
            f'the cipher {str(cipher)!r} has a permutation that all images '
            'share, so it needs a key')
    if views > 1 and not random:
        raise EncryptionError(
            f'all {views} views of a picture would be equal: the cipher '
            f'{str(cipher)!r} draws no randomness, and there is no '
            'augmentation')
    return cipher, preprocess


def _check_folders(src: str, out: str) -> None:
    if not os.path.isdir(src):
        raise EncryptionError(f'there is no folder {src}')
    one, other = os.path.realpath(src), os.path.realpath(out)
    if one == other or other.startswith(one + os.sep) or one.startswith(
            other + os.sep):
        raise EncryptionError(
            f'{out} and {src} lie in each other: the plain pictures must not '
            'be handed over with the encrypted ones')


def _encrypt(data: Any, src: str, out: str, cipher: Cipher,
             preprocess: Preprocess, key: Optional[Key], one_way: bool,
             options: dict, views: int, names: str, fmt: str,
             compression: Optional[int], dataset_id: Optional[str],
             workers: int, progress: bool) -> Summary:
    start = time.monotonic()
    head = dict(
        tool_version=__version__,
        kind=data.kind,
        mode='one-way' if one_way else 'keyless' if key is None else 'keyed',
        key_id=None if key is None else key.id,
        cipher=cipher.to_dict(),
        cipher_text=str(cipher),
        preprocess=preprocess.to_dict(),
        image_format=dict(format=fmt, compression=compression),
        views=views,
        names=names,
        options=options)
    digest = hashlib.sha256()
    for text in data.digest():
        # Names of files need not be UTF-8.
        digest.update(text.encode(errors='surrogateescape') + b'\0')
    # Which pictures these are is not said in what is handed over.
    header = dict(head, sources=digest.hexdigest())
    job = Job(
        os.path.abspath(src), os.path.abspath(out), cipher, preprocess,
        dataset_id or '', views, names, fmt, compression)
    check_targets(job, data)
    work = os.path.join(out, WORK_NAME)
    journal = Journal(os.path.join(work, 'journal'), len(data.items))
    # Asked before anything is written, so that a folder of others stays as it
    # is, and again with the lock, since another run may just have ended.
    summary = _finished_summary(out, head, job, data, journal.path)
    if summary is None:
        with locked(work):
            try:
                summary = _finished_summary(out, head, job, data,
                                            journal.path)
                if summary is None:
                    summary = _go_on(job, key, data, journal, head, header,
                                     workers, progress)
                    summary.out = out
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


def _go_on(job: Job, key: Optional[Key], data: Any, journal: Journal,
           head: dict, header: dict, workers: int, progress: bool) -> Summary:
    """Begin a data set, or go on where the last run was."""
    old = journal.open(
        dict(header, dataset_id=job.dataset_id or secrets.token_hex(8)),
        lambda old: _check_same(job.out, old, header, job.dataset_id))
    remove_leftovers(job.out)
    try:
        job = replace(job, dataset_id=old['dataset_id'])
        summary = _encrypt_all(job, key, data, journal, workers, progress)
        try:
            _finish(job, key, data, journal,
                    dict(head, dataset_id=job.dataset_id), summary)
        except OSError as error:
            raise OSError(
                error.errno, f'{error.strerror} in {job.out}, with all '
                'pictures finished: mend it and start again') from None
    finally:
        journal.close()
    return summary


def _finished_summary(out: str, head: dict, job: Job, data: Any,
                      journal: str) -> Optional[Summary]:
    """What is there where an earlier run finished it, else None.

    Refuses a folder of others.
    """
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
    same = all(manifest.state.get(k) == v for k, v in _plain(head).items()
               if k != 'tool_version')
    left_out = len(manifest.state['skipped'])
    items = data.items
    paths = {
        job.target(item, view)
        for item in items for view in range(job.views)
    }
    texts = [(row['path'], row['images_folder'])
             for row in manifest.state['annotations']]
    if (not same or texts != data.texts
            or job.dataset_id not in ('', manifest.dataset_id)
            or not paths.issuperset(manifest.files)
            or len(paths) != len(manifest.files) + left_out * job.views):
        raise EncryptionError(
            f'{out} holds another encrypted data set: choose a new folder')
    if left_out:
        raise EncryptionError(
            f'{out} was finished without {left_out} pictures, and '
            f'{WORK_NAME}, which it takes to add them, was deleted: encrypt '
            'into a new folder')
    for entry in manifest.files.values():
        path = os.path.join(out, entry.path)
        if not os.path.isfile(path) or os.path.getsize(path) != entry.size:
            raise EncryptionError(
                f'{out} was finished, but {entry.path} is missing or was '
                'changed since: encrypt into a new folder')
    for row in manifest.state['annotations']:
        path = os.path.join(out, row['path'])
        if not os.path.isfile(path) or file_sha256(path) != row['sha256']:
            raise EncryptionError(
                f'{out} was finished, but {row["path"]} is missing or was '
                'changed since: encrypt into a new folder')
    return Summary(
        out,
        manifest.dataset_id,
        len(items),
        len(manifest.files),
        len(items),
        finished_before=True)


def _plain(state: dict) -> dict:
    """As it comes back from JSON."""
    return json.loads(json.dumps(state))


def _check_same(out: str, old: dict, header: dict, dataset_id: str) -> None:
    """Refuse to go on with an unfinished run that had other settings."""
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


def _encrypt_all(job: Job, key: Optional[Key], data: Any, journal: Journal,
                 workers: int, progress: bool) -> Summary:
    """Encrypt what the journal does not hold yet."""
    items = data.items
    summary = Summary(
        job.out,
        job.dataset_id,
        len(items),
        dropped=data.dropped,
        ignored=data.ignored)
    bar = tqdm(
        total=len(items), desc='encrypt', unit='image', disable=not progress,
        smoothing=0.1)
    with bar:
        tasks = ((item, journal[i]) for i, item in enumerate(items))
        outcomes = run_tasks(_encrypt_item, job, key, tasks, workers)
        for done, (i, outcome) in enumerate(outcomes):
            if not isinstance(outcome, _Fatal):
                if outcome.pop('reused', False):
                    summary.reused += 1
                else:
                    try:
                        journal.append(i, outcome)
                    except OSError as error:
                        outcome = _Fatal(error.errno, error.strerror)
            if isinstance(outcome, _Fatal):
                outcomes.close()
                raise OSError(
                    outcome.code,
                    f'{outcome.message} in {job.out}; {done} of '
                    f'{len(items)} pictures are finished and stay: mend it '
                    'and start again')
            if 'error' in outcome:
                summary.skipped.append((items[i].source, outcome['error']))
                bar.set_postfix(skipped=len(summary.skipped))
            bar.update()
    return summary


def _finish(job: Job, key: Optional[Key], data: Any, journal: Journal,
            head: dict, summary: Summary) -> None:
    """Write annotations, then the manifest: it is there when all else is."""
    size, missing = 0, []
    for i, item in enumerate(data.items):
        outcome = journal[i]
        if 'error' in outcome:
            missing.append(
                dict(path=job.target(item, 0), reason=outcome['error']))
            continue
        summary.files += len(outcome['rows'])
        size += sum(row['size'] for row in outcome['rows'])
        for step, (some, total) in outcome.get('clipped', {}).items():
            old = summary.clipped.get(step, (0, 0))
            summary.clipped[step] = (old[0] + some, old[1] + total)
    summary.skipped.sort()
    head.update(
        counts=dict(
            images=summary.images,
            files=summary.files,
            bytes=size,
            skipped=len(missing)),
        clipped={k: list(v) for k, v in summary.clipped.items()},
        skipped=missing,
        annotations=data.write(job, journal.__getitem__))
    summary.tiny = data.tiny
    if hasattr(os, 'sync'):
        os.sync()  # images were not waited for one by one

    def rows() -> Iterator[dict]:
        for i in range(len(data.items)):
            yield from journal[i].get('rows', ())

    write_manifest(job.out, head, rows(), key)
