# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The forms in which a client takes a picture, and the pixels of each."""

import io
import os
from typing import Any

import numpy as np

from hime_mm.errors import ClientError, PictureError, UnreadableImage
from hime_mm.images.codec import read_bytes
from hime_mm.images.preprocess import Preprocess
from hime_mm.images.reading import follows_orientation, read_array, read_picture, turn

# Modes of PIL that a PNG file holds as they are.
_PNG_MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA')
_ORIENTATION = 0x0112


def describe_picture(picture: Any) -> str:
    """Type and size of a picture, or of what is none, in words."""
    if not isinstance(picture, np.ndarray):
        return type(picture).__name__
    return f'{"x".join(map(str, picture.shape))} {picture.dtype}'


def load_picture(picture: Any, preprocess: Preprocess, convert: bool = True) -> np.ndarray:
    """The pixels of a picture in one of several forms.

    Args:
        picture (str | PathLike | bytes | BinaryIO | PIL.Image | np.ndarray):
            A file, its content, or pixels: an array of shape (H, W) or
            (H, W, C), BGR, uint8 or uint16.
        preprocess (Preprocess): How files are read.
        convert (bool): Give of an array what reading it from a file would
            give. Defaults to True.

    Returns:
        np.ndarray: Shape (H, W) or (H, W, C), BGR, uint8 or uint16.

    Raises:
        TypeError: If it is none of these.
        PictureError: If it is empty, cannot be read, or is refused.
    """
    if isinstance(picture, (str, os.PathLike)):
        path = os.fspath(picture)
        try:
            return read_picture(read_bytes(path), preprocess).img
        except PictureError as error:
            raise type(error)(f'cannot read the picture {path}: {error}') from None
    if isinstance(picture, np.ndarray):
        return _from_array(picture, preprocess, convert)
    # As pictures of PIL have them, which need not be installed.
    if hasattr(picture, 'getbands') and hasattr(picture, 'getexif'):
        return _from_pil(picture, preprocess)
    if hasattr(picture, 'read'):
        picture = picture.read()
        if not isinstance(picture, bytes):
            raise TypeError(
                f'a file that is read must give bytes, got {describe_picture(picture)}: '
                "open it in binary mode, open(path, 'rb')"
            )
    if isinstance(picture, (bytes, bytearray, memoryview)):
        try:
            return read_picture(bytes(picture), preprocess).img
        except UnreadableImage as error:
            raise UnreadableImage(f'cannot read the picture: {error}') from None
    raise _no_picture(picture)


def _no_picture(picture: Any) -> TypeError:
    return TypeError(
        'a picture is a file name, the content of a file, a file that is open in binary mode, '
        'a PIL picture, or an array of shape (H, W) or (H, W, C), uint8 or uint16, '
        f'got {describe_picture(picture)}'
    )


def _from_array(img: np.ndarray, preprocess: Preprocess, convert: bool) -> np.ndarray:
    if img.dtype not in (np.uint8, np.uint16) or img.ndim not in (2, 3):
        raise _no_picture(img)
    if not img.size:
        raise PictureError(f'the picture is empty: {describe_picture(img)}')
    return read_array(img, preprocess) if convert else img


def _from_pil(picture: Any, preprocess: Preprocess) -> np.ndarray:
    """What reading it from a file without loss would give."""
    if not all(picture.size):
        raise PictureError(f'the picture is empty: {picture.size[0]}x{picture.size[1]} pixels')
    # A TIFF file is turned when PIL loads it. The frame that it shows is meant.
    try:
        picture.load()
    except Exception as error:  # its decoders raise whatever they like
        raise UnreadableImage(f'PIL cannot read the picture: {error}') from None
    orientation = picture.getexif().get(_ORIENTATION, 1)
    if picture.mode == 'F' or picture.mode.startswith('I'):
        img = read_array(_with_16_bits(picture), preprocess)
    else:
        data = io.BytesIO()
        _storable(picture).save(data, 'PNG', compress_level=1, exif=b'')
        img = read_picture(data.getvalue(), preprocess).img
    if orientation in range(2, 9) and follows_orientation(preprocess.color_type):
        img = turn(img, orientation)
    return img


def _with_16_bits(picture: Any) -> np.ndarray:
    """Pixels of a mode that may hold larger numbers, uint16 of shape (H, W)."""
    img = np.asarray(picture)
    if not np.issubdtype(img.dtype, np.integer) or img.min() < 0 or img.max() > 65535:
        raise ClientError(
            f'pixels of mode {picture.mode!r} need not fit into 16 bits: convert the picture '
            "to 'RGB', 'L' or 'I;16'"
        )
    return img.astype(np.uint16)


def _storable(picture: Any) -> Any:
    """The same picture in a mode that PNG has."""
    if picture.mode in _PNG_MODES:
        return picture
    if picture.mode == 'La':
        return picture.convert('LA')
    return picture.convert('RGBA' if picture.mode in ('PA', 'RGBa') else 'RGB')
