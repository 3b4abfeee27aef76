# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Resizing, and fitting of sides to whole patches, with OpenCV."""

from collections.abc import Sequence

import cv2
import numpy as np

from hime_mm.errors import PictureError

from .codec import opencv_errors

#: Names of ``mmcv.imresize``.
INTERPOLATIONS = {
    'nearest': cv2.INTER_NEAREST,
    'bilinear': cv2.INTER_LINEAR,
    'bicubic': cv2.INTER_CUBIC,
    'area': cv2.INTER_AREA,
    'lanczos': cv2.INTER_LANCZOS4,
}
FITS = ('resize', 'pad', 'error')


def resize_image(
    img: np.ndarray, shape: tuple[int, int], interpolation: str = 'bilinear'
) -> np.ndarray:
    """Resize to a height and width as ``mmcv.imresize`` with OpenCV does.

    Raises:
        PictureError: If OpenCV cannot resize it.
    """
    with opencv_errors(
        f'resize an image of shape {img.shape} to {shape[0]}x{shape[1]} (height x width)'
    ):
        resized = cv2.resize(img, shape[::-1], interpolation=INTERPOLATIONS[interpolation])
    # OpenCV drops a channel axis of length one.
    return resized.reshape(*shape, *img.shape[2:])


def fit_image(
    img: np.ndarray,
    patch_size: int,
    fit: str = 'resize',
    interpolation: str = 'bilinear',
    pad_val: float | Sequence[float] = 0,
) -> tuple[np.ndarray, bool]:
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
        PictureError: If the size does not fit with ``'error'``, or
            ``pad_val`` does not fit the image.
    """
    h, w = img.shape[:2]
    if h % patch_size == 0 and w % patch_size == 0:
        return img, False
    if fit == 'error':
        raise PictureError(
            f'the image is {h}x{w} (height x width), its sides are no '
            f"multiples of the patch size {patch_size}. Use `fit='resize'` or "
            "`fit='pad'`, or resize it before"
        )
    if fit == 'pad':
        shape = (-(-h // patch_size) * patch_size, -(-w // patch_size) * patch_size)
        padded = np.empty((*shape, *img.shape[2:]), img.dtype)
        # Not `cv2.copyMakeBorder`: it would pad only the first channel with
        # a single value, and takes at most four channels.
        padded[...] = _padding(img, pad_val)
        padded[:h, :w] = img
        return padded, False
    shape = (max(h // patch_size, 1) * patch_size, max(w // patch_size, 1) * patch_size)
    return resize_image(img, shape, interpolation), True


def _padding(img: np.ndarray, pad_val: float | Sequence[float]) -> np.ndarray:
    """The value of ``pad_val`` for each channel of an image."""
    try:
        value = np.broadcast_to(pad_val, img.shape[2:])
    except ValueError:
        raise PictureError(
            f'`pad_val` {pad_val} does not fit an image of shape {img.shape}: '
            'give one value, or one per channel'
        ) from None
    if np.issubdtype(img.dtype, np.integer):
        peak = np.iinfo(img.dtype).max
        if value.min() < 0 or value.max() > peak:
            raise PictureError(f'`pad_val` {pad_val} is beyond the 0 to {peak} of {img.dtype}')
    return value
