# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Reading and writing of pictures, with OpenCV.

The door of pictures: whatever a decoder or a file name throws comes out as a
:class:`~hime_mm.errors.PictureError`, since the reason lies in that picture.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from hime_mm.errors import HimeError, PictureError, UnreadableImage

from .files import check_regular
from .guard import guarded

#: How a file is decoded, with the names and the meaning of ``mmcv.imread``.
COLOR_TYPES = {
    'color': cv2.IMREAD_COLOR,
    'grayscale': cv2.IMREAD_GRAYSCALE,
    'unchanged': cv2.IMREAD_UNCHANGED,
    'color_ignore_orientation': cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_COLOR,
}
FORMATS = ('png', 'webp')
#: File names that are taken for pictures, in lower case.
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
# More are refused by OpenCV.
_MOST_PIXELS = 1 << 30
# Coded data holds 0xff followed by zero or as one of eight restart markers.
_JPEG_MARKER = re.compile(rb'\xff+([^\x00\xff\xd0-\xd7])')


@contextmanager
def opencv_errors(what: str, kind: type[PictureError] = PictureError) -> Iterator[None]:
    """What OpenCV throws for one picture, as an error about that picture."""
    try:
        yield
    except cv2.error as error:
        raise kind(f'OpenCV cannot {what}: {error.err}') from None
    except MemoryError:
        raise kind(f'the memory is too small to {what}') from None


def decode_image(data: bytes, color_type: str = 'color') -> np.ndarray:
    """Decode a picture as MMCV's loading does, but refuse half a file.

    Args:
        data (bytes): The file.
        color_type (str): One of :data:`COLOR_TYPES`; ``'color'`` gives three
            channels of 8 bits and follows the EXIF orientation. Defaults to
            'color'.

    Returns:
        np.ndarray: Shape (H, W) or (H, W, C), BGR, uint8 or uint16.

    Raises:
        UnreadableImage: If the file is empty or truncated, or OpenCV does not
            read it. It does read some damaged ones, with wrong pixels.
    """
    if not data:
        raise UnreadableImage('the file is empty')
    # Not every version of OpenCV notices; what is missing is grey then.
    if data[:2] == b'\xff\xd8' and not _is_complete_jpeg(data):
        raise UnreadableImage('the JPEG file is truncated')
    pixels = 0
    if data[:4] == b'\x89PNG':
        if not _is_complete_png(data):
            raise UnreadableImage('the PNG file is truncated')
        width, height = (int.from_bytes(data[at : at + 4], 'big') for at in (16, 20))
        pixels = min(width * height, _MOST_PIXELS)
    with opencv_errors('decode it', UnreadableImage), guarded(len(data), pixels):
        img = cv2.imdecode(np.frombuffer(data, np.uint8), COLOR_TYPES[color_type])
    if img is None:
        raise UnreadableImage('OpenCV cannot decode it')
    if img.dtype not in (np.uint8, np.uint16):
        raise UnreadableImage(
            f'its pixels are {img.dtype}, only 8 and 16 bits can be stored '
            'without loss: convert it to one of these'
        )
    return img


def _is_complete_jpeg(data: bytes) -> bool:
    """Whether the end of the picture is there, whatever may follow."""
    at = 2
    while True:
        match = _JPEG_MARKER.search(data, at)
        if match is None:
            return False
        if match[1] == b'\xd9':
            return True
        # A segment begins with its length; coded data follow some.
        at = match.end() + int.from_bytes(data[match.end() : match.end() + 2], 'big')


def _is_complete_png(data: bytes) -> bool:
    """Whether the last chunk is there to its last byte, whatever may follow."""
    at = 8
    while at + 12 <= len(data):
        if data[at + 4 : at + 8] == b'IEND':
            return True
        # Length, name and checksum beside what the chunk holds.
        at += 12 + int.from_bytes(data[at : at + 4], 'big')
    return False


def read_bytes(path: str) -> bytes:
    """All of a picture's file, if it is a regular one.

    Raises:
        UnreadableImage: If it cannot be read; the reason names no file.
    """
    with reading():
        check_regular(path)
        with open(path, 'rb') as file:
            return file.read()


@contextmanager
def reading() -> Iterator[None]:
    """Say of whatever reads a picture's file why it cannot.

    Raises:
        UnreadableImage: If it cannot be read; the reason names no file.
    """
    try:
        yield
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from None
    except MemoryError:
        raise UnreadableImage('it does not fit into the memory') from None
    except ValueError as error:  # such as a NUL in the name
        # A reason that quotes a part of the name has one that does not.
        reason = getattr(error, 'reason', error)
        raise UnreadableImage(f'its name is impossible: {reason}') from None


def read_image(path: str, color_type: str = 'color') -> np.ndarray:
    """Read and decode a picture, see :func:`decode_image`.

    Raises:
        UnreadableImage: If it cannot be read or decoded.
    """
    return decode_image(read_bytes(path), color_type)


def check_encoding(fmt: str, compression: int | None) -> None:
    """Refuse an unknown file format or compression level."""
    if fmt not in FORMATS:
        raise HimeError(
            f'unknown image format {fmt!r}, choose from {FORMATS}; others would lose pixels'
        )
    if compression is not None and (fmt != 'png' or not 0 <= compression <= 9):
        raise HimeError(
            f'a compression level of {compression} does not fit '
            f'{fmt!r}: PNG takes 0 to 9, WebP none'
        )


def encode_image(img: np.ndarray, fmt: str = 'png', compression: int | None = None) -> bytes:
    """Encode a picture without loss and without metadata.

    Args:
        img (np.ndarray): Shape (H, W) or (H, W, C), BGR, uint8 or uint16.
        fmt (str): ``'png'`` or ``'webp'``. Defaults to 'png'.
        compression (int, optional): For PNG, 0 (large) to 9 (small). None
            is OpenCV's fast setting. Defaults to None.

    Returns:
        bytes: The file.

    Raises:
        PictureError: If the format cannot hold these pixels.
    """
    check_encoding(fmt, compression)
    if fmt == 'png':
        # OpenCV's own setting takes half the time of level 1.
        params = [] if compression is None else [cv2.IMWRITE_PNG_COMPRESSION, compression]
        holds = img.ndim == 2 or img.shape[2] in (1, 3, 4)
    else:
        params = [cv2.IMWRITE_WEBP_QUALITY, 101]  # above 100: lossless
        # Gray files come back in colour, and alpha may change hidden pixels.
        holds = (
            img.dtype == np.uint8 and img.ndim == 3 and img.shape[2] == 3 and max(img.shape) < 16384
        )
    if not holds or img.dtype not in (np.uint8, np.uint16):
        raise PictureError(
            f'{fmt!r} cannot hold {img.dtype} pixels of shape '
            f'{img.shape} without loss' + (": use `fmt='png'`" if fmt == 'webp' else '')
        )
    with opencv_errors(f'write {fmt!r}'):
        done, data = cv2.imencode(f'.{fmt}', img, params)
    if not done:
        raise PictureError(f'OpenCV cannot write {fmt!r}')
    return data.tobytes()


def as_loaded(img: np.ndarray, color_type: str) -> np.ndarray:
    """The pixels that loading this picture from a file would give.

    The same array, uint8 or uint16, where that changes nothing.
    """
    colour = img.ndim == 3 and img.shape[2] == 3
    if color_type == 'unchanged' or (
        img.dtype == np.uint8 and (img.ndim == 2 if color_type == 'grayscale' else colour)
    ):
        return img[..., 0] if img.ndim == 3 and img.shape[2] == 1 else img
    return decode_image(encode_image(img), color_type)
