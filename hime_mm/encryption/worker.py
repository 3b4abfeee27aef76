# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What becomes of one picture."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from hime_mm.ciphers import Key
from hime_mm.datasets.coco import steps_of
from hime_mm.datasets.entries import FileEntry
from hime_mm.datasets.stores import Store, open_store
from hime_mm.errors import HimeError, PictureError, UnreadableImage
from hime_mm.images import Sealed as SealedPicture
from hime_mm.images import seal
from hime_mm.images.codec import encode_image, read_bytes
from hime_mm.images.guard import take_said
from hime_mm.images.levels import add_levels, count_levels
from hime_mm.images.reading import Picture, follows_orientation, read_picture

from .job import Item, Job, add_counts
from .texts import encrypted_listings


class Sealed(NamedTuple):
    """An encrypted picture.

    Attributes:
        outcome (dict): What a record is to hold: ``rows`` of the manifest,
            ``levels`` of grey, ``clipped``, the ``source``'s stamp, the ``listings`` of
            annotation files and how many objects are ``tiny``, what was
            ``noticed`` and the number of ``telling`` boxes if there is any; or
            why it is left out, as ``error``; and what the decoder ``said``, if
            anything.
        files (list[bytes]): The file of each view; none where it is left out.
    """

    outcome: dict
    files: list[bytes]


def seal_item(job: Job, key: Key | None, task: tuple[Item, bytes | OSError | None]) -> Sealed:
    """Encrypt all views of one picture.

    Args:
        job (Job): The run.
        key (Key, optional): The owner's key.
        task (tuple[Item, bytes | OSError | None]): The picture and its file,
            or why it cannot be read; None to read it here.
    """
    item, data = task
    source = open_store(job.src)
    stamp = source.stamp(item.path)
    try:
        sealed = _seal(job, key, item, read_source(source, item.path) if data is None else data)
    except HimeError as error:
        sealed = Sealed(dict(error=str(error)), [])
    sealed.outcome['source'] = stamp
    said = take_said()
    if said:
        sealed.outcome['said'] = said
    return sealed


def read_source(source: Store, path: str) -> bytes:
    """The file of a picture.

    Raises:
        UnreadableImage: If there is none, or nothing may be read of it.
        OSError: If a server does not answer, which is no fault of the picture.
    """
    if source.local is not None:
        return read_bytes(source.place(path))
    return _readable(next(iter(source.read_many([path]))))


def _readable(data: bytes | OSError) -> bytes:
    if isinstance(data, (FileNotFoundError, PermissionError, IsADirectoryError)):
        raise UnreadableImage(data.strerror or str(data))
    if isinstance(data, OSError):
        raise data
    return data


def _seal(job: Job, key: Key | None, item: Item, data: bytes | OSError) -> Sealed:
    picture = read_picture(_readable(data), job.recipe.preprocess)
    if item.shape is not None:
        _check_shape(picture, item.shape, job.recipe.preprocess.color_type)
    views = [_seal_view(job, key, item, picture.img, path) for path in job.targets(item)]
    clipped: dict[str, tuple[int, int]] = {}
    for view in views:
        add_counts(clipped, view.clipped)
    outcome: dict[str, Any] = dict(
        rows=[view.row for view in views], levels=add_levels(*(view.levels for view in views))
    )
    found: dict[str, Any] = dict(
        clipped=clipped, noticed=picture.noticed, telling=sum(view.telling for view in views)
    )
    if item.listings is not None:
        written = dict(outcome, boxes=[view.boxes for view in views])
        outcome['listings'], found['tiny'] = encrypted_listings(job, item, written)
    outcome |= {name: value for name, value in found.items() if value}
    return Sealed(outcome, [view.data for view in views])


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


class _View(NamedTuple):
    row: dict
    data: bytes
    boxes: dict
    clipped: dict
    telling: int
    levels: list[int]


def _seal_view(job: Job, key: Key | None, item: Item, img: np.ndarray, path: str) -> _View:
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
    written: dict[str, list] = dict(kept=[], boxes=[])
    telling = 0
    if item.boxes:
        written, telling = _written_boxes(job, item, sealed)
    return _View(row, data, written, sealed.clipped, telling, count_levels(sealed.img))


def _written_boxes(job: Job, item: Item, sealed: SealedPicture) -> tuple[dict, int]:
    """Boxes as they are handed over, and how many of them tell where they were."""
    layout, boxes, sizes = sealed.layout, sealed.boxes, sealed.sizes
    steps = steps_of(np.array(item.boxes))[sealed.kept]
    if job.round_boxes and layout.shuffled:
        # Numbers of no step that is found may have another, such as normalized ones.
        boxes = layout.round_boxes(boxes, np.maximum(steps, 0.01))
        sizes = boxes[:, 2:] - boxes[:, :2]
    written = dict(kept=sealed.kept.tolist(), boxes=np.hstack([boxes[:, :2], sizes]).tolist())
    return written, layout.count_telling(boxes, steps)
