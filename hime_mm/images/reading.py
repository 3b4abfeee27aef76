# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Reading a picture as its owner asks for, and noticing what may surprise.

The pixels are those of ``mmcv.imread``, unless hidden colours are to be painted over.
"""

from contextlib import suppress
from typing import NamedTuple

import numpy as np

from hime_mm.errors import PictureError, UnreadableImage

from .codec import as_loaded, decode_image
from .headers import Header, read_header
from .preprocess import Preprocess

#: What is noticed of pictures, see :class:`Picture`.
NOTICES = ('turned', 'dark', 'hidden', 'frames')
# Color types that follow the EXIF orientation. That of TIFF, every one follows.
_FOLLOWING = ('color', 'grayscale')
# 14 bits of 16, as the bound of the values; as 8 bits they stay below the other.
_DARK, _DARK_IN_8_BITS = 1 << 14, 1 << 6


class Picture(NamedTuple):
    """A picture that was read.

    Attributes:
        img (np.ndarray): Shape (H, W) or (H, W, C), BGR, uint8 or uint16.
        noticed (list[str]): Which of :data:`NOTICES` hold. ``turned``: the
            EXIF orientation turned or mirrored it; ``dark``: it has 16 bits,
            of which at most 14 are used, and was read into 8; ``hidden``:
            colours under alpha 0 are in it; ``frames``: the file holds
            several pictures, and this is the first.
        header (Header): What the file's header says.
    """

    img: np.ndarray
    noticed: list[str]
    header: Header


def read_picture(data: bytes, preprocess: Preprocess) -> Picture:
    """Decode a picture's file, of which nothing is sized yet.

    Args:
        data (bytes): The file.
        preprocess (Preprocess): Its ``color_type``, ``transparent`` and
            ``frames`` count here.

    Returns:
        Picture: Its pixels, and what was noticed.

    Raises:
        UnreadableImage: As of :func:`~hime_mm.images.codec.decode_image`.
        PictureError: If it holds several pictures and these are refused, or
            its transparency cannot be read and was to be painted black.
    """
    header, color_type = read_header(data), preprocess.color_type
    if header.several and preprocess.frames == 'refuse':
        raise PictureError(
            "the file holds several pictures: split it, or take the first one (`frames='first'`)"
        )
    img = decode_image(data, color_type)
    turned = _is_turned(data, header, color_type)
    found = dict(turned=turned, dark=_is_dark(data, header, img), frames=header.several)
    if header.alpha:
        transparent = _transparent(data, header, color_type, turned, img.shape[:2])
        if preprocess.transparent == 'black':
            img = _painted(img, transparent)
        else:
            found['hidden'] = _hides(img, transparent)
    return Picture(img, [name for name in NOTICES if found.get(name)], header)


def read_array(img: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """The pixels that reading this picture from a file would give.

    Args:
        img (np.ndarray): Shape (H, W) or (H, W, C), BGR, uint8 or uint16.
        preprocess (Preprocess): As of :func:`read_picture`.
    """
    if preprocess.transparent == 'black' and img.ndim == 3 and img.shape[2] == 4:
        img = _painted(img, img[..., 3] == 0)
    return as_loaded(img, preprocess.color_type)


def follows_orientation(color_type: str) -> bool:
    """Whether a color type turns pictures as their EXIF orientation says."""
    return color_type in _FOLLOWING


def turn(img: np.ndarray, orientation: int) -> np.ndarray:
    """Turn or mirror a picture as an EXIF orientation from 1 to 8 says."""
    if orientation >= 5:
        img = img.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    cols = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(img[::rows, ::cols])


def _is_turned(data: bytes, header: Header, color_type: str) -> bool:
    if header.orientation == 1:
        return False
    if header.sure:
        return header.kind == 'tiff' or follows_orientation(color_type)
    # Rare, and versions of OpenCV differ: it is asked.
    return follows_orientation(color_type) and not np.array_equal(
        decode_image(data, 'color'), decode_image(data, 'color_ignore_orientation')
    )


def _stored(data: bytes) -> np.ndarray | None:
    """The picture with the bits and the alpha that it is stored with, if OpenCV reads it so."""
    with suppress(UnreadableImage):
        return decode_image(data, 'unchanged')
    return None


def _is_dark(data: bytes, header: Header, img: np.ndarray) -> bool:
    """Whether its 16 bits are hardly used, and lost with 8."""
    if not header.deep or img.dtype != np.uint8 or img.max() >= _DARK_IN_8_BITS:
        return False
    stored = _stored(data)
    if stored is None or stored.dtype != np.uint16:
        return False
    colours = stored[..., :3] if stored.ndim == 3 else stored
    return 0 < colours.max() < _DARK


def _transparent(
    data: bytes, header: Header, color_type: str, turned: bool, shape: tuple[int, ...]
) -> np.ndarray | None:
    """Which pixels have alpha 0, bool of shape (H, W); None if that cannot be told."""
    stored = _stored(data)
    if stored is None or stored.ndim != 3 or stored.shape[2] != 4:
        # Where the header tells nothing, there is no alpha.
        return None if header.kind else np.zeros(shape, bool)
    transparent = stored[..., 3] == 0
    # TIFF is turned with every color type, so both are.
    if follows_orientation(color_type) and header.orientation > 1 and header.kind != 'tiff':
        stored, other = stored[..., :3], turn(transparent, header.orientation)
        if turned:
            transparent = other
        elif np.array_equal(turn(stored, header.orientation), stored):
            # Colours that look the same when they are turned hide whether they were.
            return transparent if np.array_equal(other, transparent) else None
    return transparent if transparent.shape == shape else None


def _hides(img: np.ndarray, transparent: np.ndarray | None) -> bool:
    """Whether transparent pixels are not all of one colour; they may be if that is unknown."""
    if transparent is None:
        return True
    colours = img[transparent]
    if colours.ndim == 2:
        colours = colours[:, :3]
    return bool((colours[1:] != colours[:1]).any())


def _painted(img: np.ndarray, transparent: np.ndarray | None) -> np.ndarray:
    """A copy with black where it is transparent; alpha stays."""
    if transparent is None:
        raise PictureError(
            'it cannot be told which pixels are transparent, so what is hidden cannot be painted '
            "over (`transparent='black'`): convert it to PNG without EXIF, or remove its alpha"
        )
    img = img.copy()
    if img.ndim == 2:
        img[transparent] = 0
    else:
        img[transparent, :3] = 0
    return img
