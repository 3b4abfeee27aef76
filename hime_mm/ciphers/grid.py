# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Images as grids of square patches, and back."""

import numpy as np

from hime_mm.errors import CipherError, PictureError

#: Pixel types a cipher takes.
PIXEL_DTYPES = (np.uint8, np.uint16, np.float32, np.float64)


def check_image(img: np.ndarray) -> np.ndarray:
    """Give back an image or batch that the ciphers can encrypt, and refuse others.

    Shapes are (H, W), (H, W, C) and (B, H, W, C); dtypes uint8, uint16, float32 and float64.

    Raises:
        TypeError: If ``img`` is no array or has another dtype.
        PictureError: If it has another number of dimensions or is empty.
    """
    if not isinstance(img, np.ndarray):
        raise TypeError(
            'an image must be a numpy array of shape (H, W), '
            f'(H, W, C) or (B, H, W, C), got {type(img).__name__}'
        )
    if img.dtype not in PIXEL_DTYPES:
        names = ', '.join(np.dtype(t).name for t in PIXEL_DTYPES)
        raise TypeError(
            f'cannot encrypt pixels of dtype {img.dtype}: convert the image to one of {names} first'
        )
    if img.ndim not in (2, 3, 4) or img.size == 0:
        raise PictureError(
            'an image must have shape (H, W), (H, W, C) or (B, '
            f'H, W, C) and not be empty, got {img.shape}'
        )
    return img


def cells_of(slots: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Rows and columns of slots, which are numbered row by row.

    Args:
        slots (np.ndarray): Integers of any shape.
        grid (tuple[int, int]): Rows and columns.

    Returns:
        np.ndarray: Of shape (..., 2).
    """
    return np.stack(np.divmod(slots, grid[1]), axis=-1)


def spatial_shape(img: np.ndarray) -> tuple[int, int]:
    """Height and width in pixels of an image or batch that :func:`check_image` passed."""
    start = int(check_image(img).ndim == 4)
    return img.shape[start], img.shape[start + 1]


def resized_shape(img: np.ndarray, height: int, width: int) -> tuple:
    """The shape of an image or batch with another height and width."""
    start = int(img.ndim == 4)
    return (*img.shape[:start], height, width, *img.shape[start + 2 :])


def grid_shape(shape: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of the patch grid of an image.

    Args:
        shape (tuple[int, int]): Height and width in pixels.
        patch_size (int): Side of a patch in pixels.

    Returns:
        tuple[int, int]: (rows, cols).

    Raises:
        CipherError: If ``patch_size`` is not positive.
        PictureError: If a side is no multiple of it.
    """
    h, w = shape
    if patch_size < 1:
        raise CipherError(f'the patch size must be positive, got {patch_size}')
    if h < 1 or w < 1 or h % patch_size or w % patch_size:
        raise PictureError(
            f'the image is {h}x{w} (height x width), its sides are no '
            f'multiples of the patch size {patch_size}: resize or pad it'
        )
    return h // patch_size, w // patch_size


def patch_view(img: np.ndarray, patch_size: int) -> np.ndarray:
    """The door of the steps: an image or batch in the shape (B, rows, P, cols, P, C).

    It is a view if the image is C-contiguous.
    """
    rows, cols = grid_shape(spatial_shape(img), patch_size)
    batch = len(img) if img.ndim == 4 else 1
    return np.ascontiguousarray(img).reshape(batch, rows, patch_size, cols, patch_size, -1)


def new_patches(img: np.ndarray, patch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A new image, and ``img`` and it as patches (B, rows, cols, P, P, C)."""
    patches = patch_view(img, patch_size).swapaxes(2, 3)
    out = np.empty(img.shape, img.dtype)
    return out, patches, patch_view(out, patch_size).swapaxes(2, 3)


def per_patch(values: np.ndarray, patches: np.ndarray, what: str, trailing: int = 0) -> np.ndarray:
    """What was drawn for each patch, in the shape (B, rows, cols, ...) that selects patches.

    ``patches`` are (B, rows, cols, P, P, C). ``values`` has the shape (N, ...),
    shared by the images of a batch, or (B, N, ...), with so many ``trailing``
    axes; it is never part of a message, since it is secret. ``what`` says what
    it is.
    """
    batch, rows, cols = patches.shape[:3]
    values = np.asarray(values)
    leading = values.shape[: values.ndim - trailing]
    if leading not in ((rows * cols,), (batch, rows * cols)):
        raise CipherError(
            f'{what} must be given for each of {rows * cols} patches, with '
            f'{trailing} further axes; got an array of shape {values.shape}'
        )
    value_shape = values.shape[values.ndim - trailing :]
    values = values.reshape(-1, rows, cols, *value_shape)
    return np.broadcast_to(values, (batch, rows, cols, *value_shape))


def split_patches(img: np.ndarray, patch_size: int) -> np.ndarray:
    """Cut an image into its patches, row by row.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C).
        patch_size (int): Side of a patch in pixels, dividing H and W.

    Returns:
        np.ndarray: Shape (N, P, P), (N, P, P, C) or (B, N, P, P, C) with
        N = HW/P² patches, slots numbered row-major. A copy.
    """
    patches = patch_view(img, patch_size).swapaxes(2, 3).copy(order='C')
    rows, cols = patches.shape[1:3]
    p, start = patch_size, int(img.ndim == 4)
    return patches.reshape(*img.shape[:start], rows * cols, p, p, *img.shape[start + 2 :])


def join_patches(patches: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Put patches together again: the exact inverse of :func:`split_patches`.

    Args:
        patches (np.ndarray): Shape (N, P, P), (N, P, P, C) or
            (B, N, P, P, C). A four-dimensional array is one image.
        grid (tuple[int, int]): Rows and columns, rows x cols = N.

    Returns:
        np.ndarray: Shape (H, W), (H, W, C) or (B, H, W, C). A copy.

    Raises:
        PictureError: If the number of patches is not rows x cols, or they
            are not square.
    """
    rows, cols = grid
    axis = 1 if patches.ndim == 5 else 0
    if (
        patches.ndim not in (3, 4, 5)
        or patches.shape[axis] != rows * cols
        or (patches.shape[axis + 1] != patches.shape[axis + 2])
    ):
        raise PictureError(
            f'patches of a grid of {rows}x{cols} have shape (N, P, P), (N, P, '
            f'P, C) or (B, N, P, P, C), got {patches.shape}'
        )
    batch, p = patches.shape[:axis], patches.shape[axis + 1]
    channels = patches.shape[axis + 3 :]
    img = patches.reshape(*batch, rows, cols, p, p, *channels)
    img = img.swapaxes(axis + 1, axis + 2).copy(order='C')
    return img.reshape(*batch, rows * p, cols * p, *channels)
