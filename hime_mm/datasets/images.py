# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Reading, fitting and writing of pictures, with OpenCV."""

import hashlib
import os
import re
import tempfile
from contextlib import contextmanager
from typing import BinaryIO, Iterator, Optional, Sequence, Tuple, Union

import cv2
import numpy as np

from hime_mm.errors import UnreadableImage

#: How a file is decoded, with the names and the meaning of ``mmcv.imread``.
COLOR_TYPES = {
    'color': cv2.IMREAD_COLOR,
    'grayscale': cv2.IMREAD_GRAYSCALE,
    'unchanged': cv2.IMREAD_UNCHANGED,
    'color_ignore_orientation':
    cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_COLOR,
}
#: Names of ``mmcv.imresize``.
INTERPOLATIONS = {
    'nearest': cv2.INTER_NEAREST,
    'bilinear': cv2.INTER_LINEAR,
    'bicubic': cv2.INTER_CUBIC,
    'area': cv2.INTER_AREA,
    'lanczos': cv2.INTER_LANCZOS4,
}
#: How the names of unfinished files begin and end.
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = '.hime-', '.part'
FITS = ('resize', 'pad', 'error')
FORMATS = ('png', 'webp')
#: File names that are taken for pictures, in lower case.
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff',
              '.ppm', '.pgm')
# Coded data holds 0xff followed by zero or as one of eight restart markers.
_JPEG_MARKER = re.compile(rb'\xff+([^\x00\xff\xd0-\xd7])')


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
    if data[:2] == b'\xff\xd8' and not _is_whole_jpeg(data):
        raise UnreadableImage('the JPEG file is truncated')
    if data[:4] == b'\x89PNG' and b'IEND' not in data[-1024:]:
        raise UnreadableImage('the PNG file is truncated')
    try:
        img = cv2.imdecode(
            np.frombuffer(data, np.uint8), COLOR_TYPES[color_type])
    except cv2.error as error:
        raise UnreadableImage(
            f'OpenCV cannot decode it: {error.err}') from None
    if img is None:
        raise UnreadableImage('OpenCV cannot decode it')
    if img.dtype not in (np.uint8, np.uint16):
        raise UnreadableImage(
            f'its pixels are {img.dtype}, only 8 and 16 bits can be stored '
            "without loss: read it with the color type 'color'")
    return img


def _is_whole_jpeg(data: bytes) -> bool:
    """Whether the end of the picture is there, whatever may follow."""
    at = 2
    while True:
        match = _JPEG_MARKER.search(data, at)
        if match is None:
            return False
        if match[1] == b'\xd9':
            return True
        # A segment begins with its length; coded data follow some.
        at = match.end() + int.from_bytes(
            data[match.end():match.end() + 2], 'big')


def read_image(path: str, color_type: str = 'color') -> np.ndarray:
    """Read and decode a picture, see :func:`decode_image`.

    Raises:
        UnreadableImage: If it cannot be read or decoded.
    """
    try:
        with open(path, 'rb') as file:
            data = file.read()
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from None
    return decode_image(data, color_type)


def check_encoding(fmt: str, compression: Optional[int]) -> None:
    """Refuse an unknown file format or compression level.

    Args:
        fmt (str): ``'png'`` or ``'webp'``.
        compression (int, optional): For PNG, 0 (large) to 9 (small).

    Raises:
        ValueError: Names what is wrong.
    """
    if fmt not in FORMATS:
        raise ValueError(f'unknown image format {fmt!r}, choose from '
                         f'{FORMATS}; others would lose pixels')
    if compression is not None and (fmt != 'png'
                                    or not 0 <= compression <= 9):
        raise ValueError(f'a compression level of {compression} does not fit '
                         f'{fmt!r}: PNG takes 0 to 9, WebP none')


def encode_image(img: np.ndarray,
                 fmt: str = 'png',
                 compression: Optional[int] = None) -> bytes:
    """Encode a picture without loss and without metadata.

    Args:
        img (np.ndarray): Shape (H, W) or (H, W, C), BGR, uint8 or uint16.
        fmt (str): ``'png'`` or ``'webp'``. Defaults to 'png'.
        compression (int, optional): For PNG, 0 (large) to 9 (small). None
            is OpenCV's fast setting. Defaults to None.

    Returns:
        bytes: The file.

    Raises:
        ValueError: If the format cannot hold these pixels.
    """
    check_encoding(fmt, compression)
    if fmt == 'png':
        # OpenCV's own setting takes half the time of level 1.
        params = ([] if compression is None else
                  [cv2.IMWRITE_PNG_COMPRESSION, compression])
        holds = img.ndim == 2 or img.shape[2] in (1, 3, 4)
    else:
        params = [cv2.IMWRITE_WEBP_QUALITY, 101]  # above 100: lossless
        # Gray files come back in colour, and alpha may change hidden pixels.
        holds = (img.dtype == np.uint8 and img.ndim == 3 and img.shape[2] == 3
                 and max(img.shape) < 16384)
    if not holds or img.dtype not in (np.uint8, np.uint16):
        raise ValueError(f'{fmt!r} cannot hold {img.dtype} pixels of shape '
                         f'{img.shape} without loss' +
                         (": use 'png'" if fmt == 'webp' else ''))
    try:
        done, data = cv2.imencode(f'.{fmt}', img, params)
    except cv2.error as error:
        raise ValueError(f'OpenCV cannot write {fmt!r}: {error.err}') from None
    if not done:
        raise ValueError(f'OpenCV cannot write {fmt!r}')
    return data.tobytes()


@contextmanager
def atomic_file(path: str, sync: bool = True) -> Iterator[BinaryIO]:
    """Write a file so that it is there as a whole or not at all.

    Args:
        path (str): Where to; its folder is made where it is missing.
        sync (bool): Wait until it is on the disk, so that this also holds
            after a power cut. Defaults to True.

    Yields:
        file: To write bytes to.

    Raises:
        OSError: If it cannot be written; nothing is left then.
    """
    folder = os.path.dirname(path) or '.'
    os.makedirs(folder, exist_ok=True)
    fd, temporary = tempfile.mkstemp(
        prefix=TEMPORARY_PREFIX, suffix=TEMPORARY_SUFFIX, dir=folder)
    try:
        with os.fdopen(fd, 'wb') as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        # `mkstemp` makes files for their owner only.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_atomic(path: str,
                 data: Union[bytes, str],
                 sync: bool = True) -> None:
    """Write all of a file at once, see :func:`atomic_file`.

    Args:
        path (str): Where to.
        data (bytes | str): The content, a string as UTF-8.
        sync (bool): Wait until it is on the disk. Defaults to True.
    """
    with atomic_file(path, sync) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def file_sha256(path: str) -> str:
    """SHA-256 of a file in lower-case hexadecimal.

    Args:
        path (str): The file.

    Returns:
        str: 64 digits.

    Raises:
        OSError: If it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def resize_image(img: np.ndarray,
                 shape: Tuple[int, int],
                 interpolation: str = 'bilinear') -> np.ndarray:
    """Resize as ``mmcv.imresize`` with OpenCV does.

    Args:
        img (np.ndarray): Shape (H, W) or (H, W, C).
        shape (tuple[int, int]): New height and width.
        interpolation (str): One of :data:`INTERPOLATIONS`. Defaults to
            'bilinear'.

    Returns:
        np.ndarray: Of the new size, same dtype and channels.
    """
    resized = cv2.resize(
        img, tuple(shape[::-1]), interpolation=INTERPOLATIONS[interpolation])
    # OpenCV drops a channel axis of length one.
    return resized.reshape(*shape, *img.shape[2:])


def fit_image(img: np.ndarray,
              patch_size: int,
              fit: str = 'resize',
              interpolation: str = 'bilinear',
              pad_val: Union[float, Sequence[float]] = 0
              ) -> Tuple[np.ndarray, bool]:
    """Give an image sides that are multiples of the patch size.

    Args:
        img (np.ndarray): Shape (H, W) or (H, W, C).
        patch_size (int): Side of a patch in pixels.
        fit (str): ``'resize'`` scales the sides down to the next multiple
            (sides smaller than a patch up to one), ``'pad'`` fills up below
            and right, ``'error'`` raises. Defaults to 'resize'.
        interpolation (str): For ``'resize'``. Defaults to 'bilinear'.
        pad_val (float | Sequence[float]): For ``'pad'``, a value or one per
            channel. Defaults to 0.

    Returns:
        tuple[np.ndarray, bool]: The image, and whether it was scaled.

    Raises:
        ValueError: If the size does not fit with ``'error'``, or ``pad_val``
            does not fit the image.
    """
    h, w = img.shape[:2]
    if h % patch_size == 0 and w % patch_size == 0:
        return img, False
    if fit == 'error':
        raise ValueError(
            f'the image is {h}x{w} (height x width), its sides are no '
            f"multiples of the patch size {patch_size}. Use fit='resize' or "
            "fit='pad', or resize it before")
    if fit == 'pad':
        shape = (-(-h // patch_size) * patch_size,
                 -(-w // patch_size) * patch_size)
        padded = np.empty((*shape, *img.shape[2:]), img.dtype)
        # Not `cv2.copyMakeBorder`: it would pad only the first channel with
        # a single value, and takes at most four channels.
        padded[...] = _padding(img, pad_val)
        padded[:h, :w] = img
        return padded, False
    shape = (max(h // patch_size, 1) * patch_size,
             max(w // patch_size, 1) * patch_size)
    return resize_image(img, shape, interpolation), True


def _padding(img: np.ndarray, pad_val: Union[float, Sequence[float]]
             ) -> np.ndarray:
    """The value of ``pad_val`` for each channel of an image."""
    try:
        value = np.broadcast_to(pad_val, img.shape[2:])
    except ValueError:
        raise ValueError(
            f'`pad_val` {pad_val} does not fit an image of shape {img.shape}: '
            'give one value, or one per channel') from None
    if np.issubdtype(img.dtype, np.integer):
        most = np.iinfo(img.dtype).max
        if value.min() < 0 or value.max() > most:
            raise ValueError(f'`pad_val` {pad_val} is beyond the 0 to {most} '
                             f'of {img.dtype}')
    return value
