# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The computation of each cipher step, with its randomness handed in.

Nothing here draws a random number: a function gives the same output for the
same arguments.  Randomness is drawn in :mod:`hime_mm.ciphers.randomness`.
"""

from typing import Optional

import numpy as np

from .grid import check_image, grid_shape, spatial_shape

#: Bytes of sums that `mix_patches` holds at a time.
_MIX_BLOCK = 1 << 19


def check_permutation(perm: np.ndarray, num_patches: int) -> np.ndarray:
    """Refuse what is no permutation of the patches.

    The entries are never part of the message: a permutation is a secret.

    Args:
        perm (np.ndarray): Integers of shape (N, ).
        num_patches (int): N.

    Returns:
        np.ndarray: int64, shape (N, ).

    Raises:
        ValueError: If ``perm`` does not hold each of 0 … N-1 once.
    """
    perm = np.asarray(perm)
    if perm.shape != (num_patches, ) or not np.issubdtype(
            perm.dtype, np.integer):
        raise ValueError(f'a permutation of {num_patches} patches must be '
                         f'integers of shape ({num_patches},), got '
                         f'{perm.dtype} of shape {perm.shape}')
    seen = np.zeros(num_patches, bool)
    in_range = perm.min() >= 0 and perm.max() < num_patches
    if in_range:
        seen[perm] = True
    if not in_range or not seen.all():
        raise ValueError(f'the permutation does not hold each of 0 to '
                         f'{num_patches - 1} exactly once')
    return perm.astype(np.int64, copy=False)


def invert_permutation(perm: np.ndarray) -> np.ndarray:
    """The permutation that undoes ``perm``.

    Args:
        perm (np.ndarray): Integers of shape (N, ), slot k holds patch
            ``perm[k]``.

    Returns:
        np.ndarray: int64, shape (N, ), patch p lies in slot ``inverse[p]``.
    """
    inverse = np.empty(len(perm), np.int64)
    inverse[perm] = np.arange(len(perm))
    return inverse


def shuffle_patches(img: np.ndarray,
                    perm: np.ndarray,
                    patch_size: int,
                    out: Optional[np.ndarray] = None) -> np.ndarray:
    """Random shuffling (RS): slot k of the result holds patch ``perm[k]``.

    This is a gather: with ``perm = [1, 2, 0]`` the first slot shows patch 1,
    the second patch 2 and the third patch 0.  Slots and patches are numbered
    row-major.  Whole patch rows (P·C values) are moved in one gather.

    Source: Hao et al., "Human-imperceptible, Machine-recognizable Images",
    IJCAI 2025, random shuffling.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C); uint8,
            uint16, float32 or float64.
        perm (np.ndarray): Integers of shape (N, ), or (B, N) for a batch with
            one permutation per image, N = HW/P².
        patch_size (int): Side of a patch in pixels, dividing H and W.
        out (np.ndarray, optional): C-contiguous array of ``img``'s shape and
            dtype to write to, not overlapping ``img``. Defaults to None.

    Returns:
        np.ndarray: Same shape and dtype as ``img``.

    Raises:
        TypeError: If the dtype is not supported.
        ValueError: If the patch size does not divide the sides, or ``perm``
            is no permutation of the patches.
    """
    check_image(img)
    rows, cols = grid_shape(spatial_shape(img), patch_size)
    if out is None:
        out = np.empty(img.shape, img.dtype)
    elif (out.shape != img.shape or out.dtype != img.dtype
          or not out.flags.c_contiguous or np.may_share_memory(out, img)):
        raise ValueError('`out` must be a C-contiguous array of the shape and '
                         'dtype of the image that does not overlap it')
    if img.ndim == 4:
        perm = np.asarray(perm)
        if perm.ndim == 1:
            perm = np.broadcast_to(perm, (len(img), len(perm)))
        if len(perm) != len(img):
            raise ValueError(f'{len(perm)} permutations for a batch of '
                             f'{len(img)} images')
        for image, image_perm, image_out in zip(img, perm, out):
            shuffle_patches(image, image_perm, patch_size, out=image_out)
        return out

    perm = check_permutation(perm, rows * cols)
    # Row y of patch p is patch row (p // cols · P + y) · cols + p % cols, and
    # p % cols = p - p // cols · cols.
    first = (perm + perm // cols * ((patch_size - 1) * cols)).reshape(
        rows, 1, cols)
    steps = np.arange(0, patch_size * cols, cols).reshape(1, patch_size, 1)
    index = (first + steps).ravel()
    img = np.ascontiguousarray(img)
    # One opaque item per patch row, so that one index moves P·C values.
    row_bytes = img.nbytes // index.size
    item = np.dtype((np.void, row_bytes))
    # The index is in range by construction; 'clip' spares numpy a buffer.
    np.take(img.reshape(-1).view(item), index, mode='clip',
            out=out.reshape(-1).view(item))
    return out


def unshuffle_patches(img: np.ndarray, perm: np.ndarray,
                      patch_size: int) -> np.ndarray:
    """Undo :func:`shuffle_patches` with the same ``perm``.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C).
        perm (np.ndarray): Integers of shape (N, ) or (B, N).
        patch_size (int): Side of a patch in pixels, dividing H and W.

    Returns:
        np.ndarray: Same shape and dtype as ``img``, patch ``perm[k]`` taken
        from slot k.
    """
    check_image(img)
    rows, cols = grid_shape(spatial_shape(img), patch_size)
    perms = np.atleast_2d(np.asarray(perm))
    inverse = np.stack([
        invert_permutation(check_permutation(one, rows * cols))
        for one in perms
    ])
    return shuffle_patches(img, inverse[0] if len(inverse) == 1 else inverse,
                           patch_size)


def mix_patches(img: np.ndarray,
                patch_size: int,
                num_splits: int = 2,
                form: str = 'compact') -> np.ndarray:
    """Mixing-up (MI): every patch becomes the average of its sub-patches.

    A patch is cut into g x g sub-patches of side P/g, y = (1/g²) Σ_m s_m.
    Integer pixels are rounded to the nearest value, halves upwards.

    Source: Hao et al., "Human-imperceptible, Machine-recognizable Images",
    IJCAI 2025, mixing-up.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C); uint8,
            uint16, float32 or float64.
        patch_size (int): Side P of a patch in pixels, dividing H and W.
        num_splits (int): g, dividing P. Defaults to 2.
        form (str): ``'compact'`` shrinks the image by g, each patch being
            (P/g) x (P/g) pixels; ``'tiled'`` repeats the mixed sub-patch g x g
            times, so that the image keeps its size. Defaults to 'compact'.

    Returns:
        np.ndarray: Same dtype as ``img``, (H/g, W/g) or (H, W) in size.

    Raises:
        TypeError: If the dtype is not supported.
        ValueError: If the patch size does not divide the sides, g does not
            divide the patch size, or ``form`` is unknown.
    """
    check_image(img)
    g = num_splits
    if g < 1 or patch_size % g:
        raise ValueError(f'patches of side {patch_size} cannot be cut into '
                         f'{g}x{g} sub-patches: choose a divisor of '
                         f'{patch_size}')
    if form not in ('compact', 'tiled'):
        raise ValueError(f"unknown form {form!r}: choose 'compact' or 'tiled'")
    rows, cols = grid_shape(spatial_shape(img), patch_size)
    batch = img.shape[:1] if img.ndim == 4 else ()
    channels = img.shape[2:] if img.ndim == 3 else img.shape[3:]
    depth = int(np.prod(channels, dtype=np.int64))
    p = patch_size // g
    n_rows = int(np.prod(batch, dtype=np.int64)) * rows
    integer = np.issubdtype(img.dtype, np.integer)
    if integer:
        # Wide enough for the sum of g² values and the rounding term.
        peak = np.iinfo(img.dtype).max * g * g + g * g // 2
        wide = next(t for t in (np.uint16, np.uint32, np.uint64)
                    if peak <= np.iinfo(t).max)
    else:
        wide = img.dtype

    if g == 1:
        return img.copy()

    # A few patch rows at a time, so that the sums stay in the cache.
    tall = img.reshape(n_rows, g, p, cols * patch_size * depth)
    block = max(_MIX_BLOCK // (tall[0, 0].size * np.dtype(wide).itemsize), 1)
    run = p * depth
    item = np.dtype((np.void, run * np.dtype(wide).itemsize))
    mixed = np.empty((n_rows, p * cols * run), img.dtype)
    for start in range(0, n_rows, block):
        rows_here = tall[start:start + block]
        # First down the columns ...
        total = np.add(rows_here[:, 0], rows_here[:, 1], dtype=wide)
        for k in range(2, g):
            np.add(total, rows_here[:, k], out=total)
        # ... then along the rows: all sums of g neighbouring runs, since a
        # long addition is cheap, of which every g-th one is a sub-patch row.
        total = total.reshape(-1)
        stop = total.size - (g - 1) * run
        across = total[:stop] + total[run:stop + run]
        for k in range(2, g):
            across += total[k * run:stop + k * run]
        average = np.ascontiguousarray(across.view(item)[::g]).view(wide)
        if integer:
            average += wide(g * g // 2)
            average //= wide(g * g)
        else:
            average *= img.dtype.type(1 / (g * g))
        mixed[start:start + block] = average.reshape(len(rows_here), -1)

    if form == 'tiled':
        tile = np.broadcast_to(
            mixed.reshape(n_rows, 1, p, cols, 1, p * depth),
            (n_rows, g, p, cols, g, p * depth))
        # Copied first: a reshape of a single patch may still be a read-only
        # view of one sub-patch.
        return tile.copy().reshape(*batch, rows * patch_size,
                                   cols * patch_size, *channels)
    return mixed.reshape(*batch, rows * p, cols * p, *channels)
