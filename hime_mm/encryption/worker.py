# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a worker does with one picture."""

import hashlib
import os
from contextlib import suppress
from typing import Any

import numpy as np

from hime_mm.ciphers import Key
from hime_mm.datasets.coco import from_corners
from hime_mm.datasets.entries import FileEntry
from hime_mm.errors import HimeError, PictureError
from hime_mm.images import seal
from hime_mm.images.codec import encode_image, read_image
from hime_mm.images.files import file_sha256, write_atomic

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
        ``boxes``, ``clipped`` and the ``source``'s stamp; or why it is left
        out, as ``error``.
    """
    item, done = task
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
        img = read_image(os.path.join(job.src, item.path), job.recipe.preprocess.color_type)
        if item.shape not in (None, img.shape[:2]):
            raise PictureError(
                f'it is {img.shape[0]}x{img.shape[1]} (height x width), but '
                'the annotations say {}x{}; if the sides are swapped, an EXIF '
                'orientation may be the reason: try the color type '
                "'color_ignore_orientation'".format(*item.shape)
            )
        views = [_encrypt_view(job, key, item, img, path) for path in job.targets(item)]
    except HimeError as error:
        # With what was made of it before.
        for path in job.targets(item):
            with suppress(OSError, ValueError):
                os.unlink(os.path.join(job.out, path))
        return dict(error=str(error))
    clipped: dict[str, tuple[int, int]] = {}
    for _, _, counts in views:
        add_counts(clipped, counts)
    outcome: dict[str, Any] = dict(rows=[row for row, _, _ in views], source=stamp)
    if item.boxes is not None:
        outcome['boxes'] = [boxes for _, boxes, _ in views]
    if clipped:
        outcome['clipped'] = clipped
    return outcome


def _encrypt_view(
    job: Job, key: Key | None, item: Item, img: np.ndarray, path: str
) -> tuple[dict, dict, dict]:
    """Encrypt and write one view: its row, its boxes and what was clipped."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise PictureError(
            "its name is not UTF-8: rename it, or replace the names by ids (names='ids')"
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
    write_atomic(os.path.join(job.out, path), data, sync=False)
    boxes = dict(kept=sealed.kept.tolist(), boxes=from_corners(sealed.boxes))
    return row, boxes, sealed.clipped


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
