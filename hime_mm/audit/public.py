# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Plain pictures of others, which an adversary learns from."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from hime_mm.encryption.walk import lies_in
from hime_mm.errors import AuditError, HimeError
from hime_mm.images.codec import read_image

from .settings import AuditSettings
from .subject import eight_bits, pictures_in, sample

#: Photos that come with scikit-image.
_SKIMAGE = ('astronaut', 'chelsea', 'coffee', 'rocket')


@dataclass(frozen=True, eq=False, repr=False)
class Public:
    """What an adversary learns from.

    Attributes:
        pictures (list[np.ndarray]): uint8, grey or BGR.
        labels (list[int]): Their classes, where known; else empty.
        classes (dict[str, int]): Number of each folder of the source that is
            a class of theirs, too.
    """

    pictures: list[np.ndarray]
    labels: list[int] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)


def check_public(places: Sequence[str], public: str, name: str = 'public') -> None:
    """Refuse the owner's own pictures as those that an adversary has, in a setting of this name.

    Raises:
        AuditError: If they are, or lie around these or among them.
    """
    real = os.path.realpath(public)
    for place in places:
        there = os.path.realpath(place)
        if lies_in(real, there) or lies_in(there, real):
            raise AuditError(
                f'{public} and {place} lie in each other: name other pictures as `{name}`, '
                'since an adversary learns from these'
            )


def public_pictures(settings: AuditSettings, src: str, color_type: str) -> Public:
    """Read them.

    Args:
        settings (AuditSettings): Of the audit: where they are, how many, the seed.
        src (str): Folder of the originals, which are not public.
        color_type (str): As pictures are read for encryption.

    Raises:
        AuditError: If no picture of the folder can be read.
    """
    grey = color_type == 'grayscale'
    if settings.public is None:
        return Public(
            [cv2.cvtColor(one, cv2.COLOR_BGR2GRAY) if grey else one for one in _shipped()]
        )
    names = pictures_in(settings.public)
    folders = sorted({os.path.dirname(name) for name in names} & _folders(src))
    classes = {name: i for i, name in enumerate(folders)} if len(folders) > 1 else {}
    if classes:
        names = [name for name in names if os.path.dirname(name) in classes]
    chosen = sample(names, settings.num_public, settings.seed)
    pictures, labels = [], []
    for name in chosen:
        try:
            img = read_image(os.path.join(settings.public, name), color_type)
            pictures.append(eight_bits(img))
        except HimeError:
            continue  # of others' pictures, any will do
        labels.append(classes.get(os.path.dirname(name), 0))
    if not pictures:
        raise AuditError(f'no picture in {settings.public} can be read: name others as `public`')
    return Public(pictures, labels if classes else [], classes)


def _folders(src: str) -> set[str]:
    return {os.path.dirname(name) for name in pictures_in(src)} if os.path.isdir(src) else set()


def _shipped() -> Sequence[np.ndarray]:
    from skimage import data

    found = [getattr(data, name)() for name in _SKIMAGE]
    found += data.stereo_motorcycle()[:2]
    # They come as RGB.
    return [np.ascontiguousarray(one[..., ::-1]) for one in found]
