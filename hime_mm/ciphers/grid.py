# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Images as grids of square patches, and back."""

from typing import Tuple

import numpy as np

#: Pixel types a cipher takes.
PIXEL_DTYPES = (np.uint8, np.uint16, np.float32, np.float64)


def check_image(img: np.ndarray) -> np.ndarray:
    """Refuse what the ciphers cannot encrypt.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C) with dtype
            uint8, uint16, float32 or float64.

    Returns:
        np.ndarray: ``img`` itself.

    Raises:
        TypeError: If ``img`` is no array or has another dtype.
        ValueError: If it has another number of dimensions or is empty.
    """
    if not isinstance(img, np.ndarray):
        raise TypeError('an image must be a numpy array of shape (H, W), '
                        f'(H, W, C) or (B, H, W, C), got {type(img).__name__}')
    if img.dtype not in PIXEL_DTYPES:
        names = ', '.join(np.dtype(t).name for t in PIXEL_DTYPES)
        raise TypeError(f'cannot encrypt pixels of dtype {img.dtype}: convert '
                        f'the image to one of {names} first')
    if img.ndim not in (2, 3, 4):
        raise ValueError('an image must have shape (H, W), (H, W, C) or '
                         f'(B, H, W, C), got {img.shape}')
    if img.size == 0:
        raise ValueError(f'the image is empty: shape {img.shape}')
    return img


def spatial_shape(img: np.ndarray) -> Tuple[int, int]:
    """Height and width of an image or a batch of images in pixels.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C).

    Returns:
        tuple[int, int]: (H, W).
    """
    return img.shape[:2] if img.ndim < 4 else img.shape[1:3]


def grid_shape(shape: Tuple[int, int], patch_size: int) -> Tuple[int, int]:
    """Rows and columns of the patch grid of an image.

    Args:
        shape (tuple[int, int]): Height and width in pixels.
        patch_size (int): Side of a patch in pixels.

    Returns:
        tuple[int, int]: (rows, cols).

    Raises:
        ValueError: If a side is no multiple of ``patch_size``, or that is not
            positive.
    """
    h, w = shape
    if patch_size < 1:
        raise ValueError(f'the patch size must be positive, got {patch_size}')
    if h < 1 or w < 1 or h % patch_size or w % patch_size:
        raise ValueError(
            f'the image is {h}x{w} (height x width), its sides are no '
            f'multiples of the patch size {patch_size}: resize or pad it to '
            f'such a size first')
    return h // patch_size, w // patch_size


def split_patches(img: np.ndarray, patch_size: int) -> np.ndarray:
    """Cut an image into its patches, row by row.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C).
        patch_size (int): Side of a patch in pixels, dividing H and W.

    Returns:
        np.ndarray: Shape (N, P, P), (N, P, P, C) or (B, N, P, P, C) with
        N = HW/P² patches, slots numbered row-major. A copy.
    """
    check_image(img)
    rows, cols = grid_shape(spatial_shape(img), patch_size)
    p, batch = patch_size, img.shape[:-3] if img.ndim == 4 else ()
    channels = img.shape[2:] if img.ndim == 3 else img.shape[3:]
    axis = len(batch)
    cut = img.reshape(*batch, rows, p, cols, p, *channels)
    cut = cut.swapaxes(axis + 1, axis + 2)
    return cut.reshape(*batch, rows * cols, p, p, *channels).copy()


def join_patches(patches: np.ndarray, grid: Tuple[int, int]) -> np.ndarray:
    """Put patches together again: the exact inverse of :func:`split_patches`.

    Args:
        patches (np.ndarray): Shape (N, P, P), (N, P, P, C) or
            (B, N, P, P, C). A four-dimensional array is one image.
        grid (tuple[int, int]): Rows and columns, rows x cols = N.

    Returns:
        np.ndarray: Shape (H, W), (H, W, C) or (B, H, W, C). A copy.

    Raises:
        ValueError: If the number of patches is not rows x cols, or they are
            not square.
    """
    rows, cols = grid
    axis = 1 if patches.ndim == 5 else 0
    if patches.ndim not in (3, 4, 5) or (patches.shape[axis + 1] !=
                                         patches.shape[axis + 2]):
        raise ValueError('patches must have shape (N, P, P), (N, P, P, C) or '
                         f'(B, N, P, P, C), got {patches.shape}')
    if patches.shape[axis] != rows * cols:
        raise ValueError(f'{patches.shape[axis]} patches do not fill a grid '
                         f'of {rows}x{cols}')
    batch, p = patches.shape[:axis], patches.shape[axis + 1]
    channels = patches.shape[axis + 3:]
    laid = patches.reshape(*batch, rows, cols, p, p, *channels)
    laid = laid.swapaxes(axis + 1, axis + 2)
    return laid.reshape(*batch, rows * p, cols * p, *channels).copy()
