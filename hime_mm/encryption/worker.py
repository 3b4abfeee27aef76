# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a worker does with one picture."""

import errno
import hashlib
import os
from contextlib import suppress
from typing import Any

import numpy as np

from hime_mm.ciphers import Key
from hime_mm.datasets.coco import steps_of
from hime_mm.datasets.entries import FileEntry
from hime_mm.errors import HimeError, PictureError
from hime_mm.images import seal
from hime_mm.images.codec import encode_image, read_bytes
from hime_mm.images.files import file_sha256, write_atomic
from hime_mm.images.guard import take_said
from hime_mm.images.reading import Picture, follows_orientation, read_picture

from .job import Item, Job, add_counts


def encrypt_item(job: Job, key: Key | None, task: tuple[Item, dict | None]) -> dict:
    """Encrypt all views of one picture.

    Args:
        job (Job): The run.
        key (Key, optional): The owner's key.
        task (tuple[Item, dict | None]): The picture, and what the journal
            holds of it already, if anything: files that are whole stay.

    Returns:
        dict: What the journal is to hold: ``rows`` of the manifest,
        ``boxes``, ``clipped`` and the ``source``'s stamp, what was
        ``noticed`` and the number of ``telling`` boxes if there is any; or
        why it is left out, as ``error``; and what the decoder ``said``, if
        anything.
    """
    outcome = _outcome(job, key, *task)
    said = take_said()
    if said:
        outcome['said'] = said
    return outcome


def _outcome(job: Job, key: Key | None, item: Item, done: dict | None) -> dict:
    stamp = _stamp(job, item)
    # Of a source that is gone by now, what was made of it stays.
    if (
        done is not None
        and 'rows' in done
        and stamp in (None, done['source'])
        and all(_is_complete(job.out, row) for row in done['rows'])
    ):
        return dict(done, reused=True)
    try:
        data = read_bytes(os.path.join(job.src, item.path))
        picture = read_picture(data, job.recipe.preprocess)
        if item.shape is not None:
            _check_shape(picture, item.shape, job.recipe.preprocess.color_type)
        views = [_encrypt_view(job, key, item, picture.img, path) for path in job.targets(item)]
    except HimeError as error:
        return leave_out(job, item, error)
    clipped: dict[str, tuple[int, int]] = {}
    for _, _, counts, _ in views:
        add_counts(clipped, counts)
    outcome: dict[str, Any] = dict(rows=[row for row, *_ in views], source=stamp)
    if item.boxes is not None:
        outcome['boxes'] = [boxes for _, boxes, *_ in views]
    found = dict(
        clipped=clipped, noticed=picture.noticed, telling=sum(telling for *_, telling in views)
    )
    return outcome | {name: value for name, value in found.items() if value}


def leave_out(job: Job, item: Item, error: HimeError) -> dict:
    """The outcome of a picture that is left out, with what was made of it before."""
    for path in job.targets(item):
        with suppress(OSError, ValueError):
            os.unlink(os.path.join(job.out, path))
    return dict(error=str(error))


def _check_shape(picture: Picture, shape: tuple[int, int], color_type: str) -> None:
    """Refuse a picture whose size is not what the annotations say."""
    found = picture.img.shape[:2]
    if shape == found:
        return
    advice = ''
    if shape == found[::-1] and picture.header.orientation >= 5:
        if 'turned' not in picture.noticed:
            if not follows_orientation(color_type):
                advice = "; its EXIF orientation would turn it: `color_type='color'` follows it"
        elif picture.header.kind == 'tiff':
            advice = '; its orientation tag turned it: store it turned, without the tag'
        else:
            advice = (
                '; its EXIF orientation turned it: '
                "`color_type='color_ignore_orientation'` reads it as it is stored"
            )
    raise PictureError(
        f'it is {found[0]}x{found[1]} (height x width), but the annotations say '
        f'{shape[0]}x{shape[1]}{advice}'
    )


def _encrypt_view(
    job: Job, key: Key | None, item: Item, img: np.ndarray, path: str
) -> tuple[dict, dict, dict, int]:
    """Encrypt and write one view: its row, its boxes, what was clipped, how many boxes tell."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise PictureError(
            "its name is not UTF-8: rename it, or replace the names by ids (`names='ids'`)"
        ) from None
    rng = None if key is None else key.image_rng(job.dataset_id, path)
    sealed = seal(img, job.recipe, rng, item.boxes)
    data = encode_image(sealed.img, job.recipe.fmt, job.recipe.compression)
    row = FileEntry(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        shape=sealed.img.shape[:2],
        channels=1 if sealed.img.ndim == 2 else sealed.img.shape[2],
        ori_shape=sealed.layout.ori_shape,
        scale=sealed.layout.scale,
    ).to_dict()
    _write(job, path, data)
    layout, boxes, sizes = sealed.layout, sealed.boxes, sealed.sizes
    steps = steps_of(np.reshape(item.boxes or [], (-1, 4)))[sealed.kept]
    if job.round_boxes and layout.shuffled:
        # Numbers of no step that is found may have another, such as normalized ones.
        boxes = layout.round_boxes(boxes, np.maximum(steps, 0.01))
        sizes = boxes[:, 2:] - boxes[:, :2]
    written = dict(kept=sealed.kept.tolist(), boxes=np.hstack([boxes[:, :2], sizes]).tolist())
    return row, written, sealed.clipped, layout.count_telling(boxes, steps)


def _write(job: Job, path: str, data: bytes) -> None:
    """Write a picture's file; what lies in its name is no matter of the output."""
    try:
        write_atomic(os.path.join(job.out, path), data, sync=False)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            remedy = 'rename it'
            if job.recipe.names != 'ids':
                remedy += ", or replace the names by ids (`names='ids'`)"
            longest = max(len(part.encode()) for part in path.split('/'))
            raise PictureError(
                f'its encrypted file cannot have that name, of {longest} bytes in a path of '
                f'{len(path.encode())} ({error.strerror}): {remedy}'
            ) from None
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP):
            raise PictureError(
                f'something else is where its encrypted file belongs ({error.strerror})'
            ) from None
        raise


def _stamp(job: Job, item: Item) -> list[int] | None:
    """What tells whether a picture was replaced since it was encrypted."""
    try:
        info = os.stat(os.path.join(job.src, item.path))
    except (OSError, ValueError):  # such as a NUL in the name
        return None
    return [info.st_size, info.st_mtime_ns]


def _is_complete(out: str, row: dict) -> bool:
    """Whether a file is there as it was written."""
    path = os.path.join(out, row['path'])
    try:
        return os.path.getsize(path) == row['size'] and file_sha256(path) == row['sha256']
    except OSError:
        return False
