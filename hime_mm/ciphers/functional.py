# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The computation of each cipher step, with its randomness handed in.

Nothing here draws a random number: a function gives the same output for the
same arguments.  Randomness is drawn in :mod:`hime_mm.ciphers.randomness`.
"""

from typing import Optional, Tuple, Union

import numpy as np

from .grid import check_image, grid_shape, spatial_shape

#: Bytes of sums that `mix_patches` holds at a time.
_MIX_BLOCK = 1 << 19


def check_permutation(perm: np.ndarray,
                      num_patches: int,
                      what: str = 'patches') -> np.ndarray:
    """Refuse what is no permutation of the patches.

    The entries are never part of the message: a permutation is a secret.

    Args:
        perm (np.ndarray): Integers of shape (N, ).
        num_patches (int): N.
        what (str): What is permuted, for the message. Defaults to 'patches'.

    Returns:
        np.ndarray: int64, shape (N, ).

    Raises:
        ValueError: If ``perm`` does not hold each of 0 … N-1 once.
    """
    perm = np.asarray(perm)
    if perm.shape != (num_patches, ) or not np.issubdtype(
            perm.dtype, np.integer):
        raise ValueError(f'a permutation of {num_patches} {what} must be '
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


def peak_value(dtype: np.dtype) -> int:
    """The white of a pixel type: 65535 for uint16, 255 for all others.

    Floating-point images are taken on the 0–255 scale, as OpenMMLab's
    pipelines hold them.
    """
    return 65535 if dtype == np.uint16 else 255


def mid_grey(dtype: np.dtype) -> int:
    """The value that stands for zero in signed results: half of the range."""
    return (peak_value(dtype) + 1) // 2


def _patch_view(img: np.ndarray, patch_size: int) -> np.ndarray:
    """An image or batch as a view of shape (B, rows, P, cols, P, C)."""
    rows, cols = grid_shape(spatial_shape(img), patch_size)
    batch = len(img) if img.ndim == 4 else 1
    return np.ascontiguousarray(img).reshape(batch, rows, patch_size, cols,
                                             patch_size, -1)


def _per_patch(values: np.ndarray, view: np.ndarray, what: str,
               trailing: int = 0) -> np.ndarray:
    """Values of every patch, shaped (B, rows, cols, ...) for a patch view.

    One image's values may be shared by a batch. They are never part of a
    message: they are secret.
    """
    batch, rows, _, cols, _, _ = view.shape
    values = np.asarray(values)
    lead = values.shape[:values.ndim - trailing]
    if lead not in ((rows * cols, ), (batch, rows * cols)):
        raise ValueError(
            f'{what} must be given for each of {rows * cols} patches, with '
            f'{trailing} further axes; got an array of shape {values.shape}')
    tail = values.shape[values.ndim - trailing:]
    values = values.reshape(-1, rows, cols, *tail)
    return np.broadcast_to(values, (batch, rows, cols, *tail))


def erode_patches(img: np.ndarray,
                  patch_size: int,
                  border: int,
                  form: str = 'compact') -> np.ndarray:
    """Drop a border of every patch.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C); uint8,
            uint16, float32 or float64.
        patch_size (int): Side P of a patch in pixels, dividing H and W.
        border (int): Pixels k dropped at each side, 2k < P.
        form (str): ``'compact'`` leaves (P-2k) x (P-2k) pixels per patch, the
            image shrinks; ``'filled'`` paints the border in mid-grey, the
            image keeps its size. Defaults to 'compact'.

    Returns:
        np.ndarray: Same dtype as ``img``.

    Raises:
        TypeError: If the dtype is not supported.
        ValueError: If the patch size does not divide the sides, nothing of a
            patch would be left, or ``form`` is unknown.
    """
    check_image(img)
    if not 0 < 2 * border < patch_size:
        raise ValueError(f'cannot drop {border} pixels at each side of '
                         f'patches of side {patch_size}')
    if form not in ('compact', 'filled'):
        raise ValueError(
            f"unknown form {form!r}: choose 'compact' or 'filled'")
    view = _patch_view(img, patch_size)
    inner = slice(border, patch_size - border)
    kept = view[:, :, inner, :, inner]
    if form == 'filled':
        out = np.full(img.shape, mid_grey(img.dtype), img.dtype)
        _patch_view(out, patch_size)[:, :, inner, :, inner] = kept
        return out
    batch, rows, side, cols, _, _ = kept.shape
    shape = (rows * side, cols * side, *img.shape[2:])
    if img.ndim == 4:
        shape = (batch, *shape[:2], img.shape[3])
    return np.ascontiguousarray(kept).reshape(shape)


def drop_patches(img: np.ndarray,
                 dropped: np.ndarray,
                 patch_size: int,
                 value: Union[None, float, np.ndarray] = None) -> np.ndarray:
    """Leave out patches: they are painted in mid-grey, or another colour.

    The grid stays, and with it positions and boxes.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C).
        dropped (np.ndarray): bool, shape (N, ) or (B, N), N = HW/P².
        patch_size (int): Side P of a patch in pixels, dividing H and W.
        value (float | np.ndarray, optional): What is painted, one number or
            one per channel, in the range of the pixels. None is mid-grey.
            Defaults to None.

    Returns:
        np.ndarray: Same shape and dtype as ``img``.
    """
    check_image(img)
    out = img.copy(order='C')
    view = _patch_view(out, patch_size)
    # Patches first, so that a mask of patches selects them.
    here = _per_patch(dropped, view, 'whether it is dropped').astype(bool)
    view.swapaxes(2, 3)[here] = mid_grey(img.dtype) if value is None else value
    return out


def center_patches(img: np.ndarray,
                   patch_size: int) -> Tuple[np.ndarray, int]:
    """Remove each patch's mean per channel: y = x − mean + mid-grey.

    For integer pixels the mean is rounded to the nearest value, halves
    upwards, and what leaves the range is clipped.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C).
        patch_size (int): Side P of a patch in pixels, dividing H and W.

    Returns:
        tuple[np.ndarray, int]: The image, same shape and dtype, and how many
        values were clipped.
    """
    check_image(img)
    view = _patch_view(img, patch_size)
    num = patch_size * patch_size
    if not np.issubdtype(img.dtype, np.integer):
        mean = view.mean(axis=(2, 4), keepdims=True, dtype=np.float64)
        out = view - (mean - mid_grey(img.dtype)).astype(img.dtype)
        return out.reshape(img.shape), 0
    # One row of patches at a time, so that it stays in the cache, and whole
    # image rows at once, since long additions are cheap.
    bands = view.reshape(-1, patch_size, view[0, 0, 0].size)
    cols, depth = view.shape[3], view.shape[5]
    out, clipped = np.empty_like(bands), 0
    for band, centred in zip(bands, out):
        total = band.sum(axis=0, dtype=np.uint32)
        total = total.reshape(cols, patch_size, depth).sum(axis=1)
        shift = mid_grey(img.dtype) - ((total + num // 2) // num).astype(
            np.int32)
        shift = np.repeat(shift[:, None], patch_size, axis=1).reshape(-1)
        centred[...], some = _shifted(band, shift)
        clipped += some
    return out.reshape(img.shape), clipped


def _shifted(img: np.ndarray, shift: np.ndarray) -> Tuple[np.ndarray, int]:
    """Integer pixels plus ``shift``, clipped to their range; how many were."""
    wide = np.int16 if img.dtype == np.uint8 else np.int32
    total = np.add(img, shift.astype(wide, copy=False), dtype=wide)
    peak = peak_value(img.dtype)
    if total.min() >= 0 and total.max() <= peak:
        return total.astype(img.dtype), 0
    kept = np.clip(total, 0, peak)
    return kept.astype(img.dtype), int(np.count_nonzero(kept != total))


def add_noise(img: np.ndarray, noise: np.ndarray) -> Tuple[np.ndarray, int]:
    """Add noise; what leaves the range of integer pixels is clipped.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C).
        noise (np.ndarray): int16 of the image's shape, in steps of 1/255 of
            the range.

    Returns:
        tuple[np.ndarray, int]: The image, same shape and dtype, and how many
        values were clipped.

    Raises:
        ValueError: If the shapes differ.
    """
    check_image(img)
    shared = img.shape[1:] if img.ndim == 4 else img.shape
    if noise.shape not in (img.shape, shared):
        raise ValueError(f'noise of shape {noise.shape} does not fit an image '
                         f'of shape {img.shape}')
    if not np.issubdtype(img.dtype, np.integer):
        return img + noise.astype(img.dtype), 0
    if img.dtype == np.uint16:
        noise = noise.astype(np.int32) * 257
    return _shifted(img, noise)


def _selected(img: np.ndarray, patch_size: int) -> Tuple[np.ndarray, np.ndarray]:
    """A new image, and it and ``img`` as (B, rows, cols, P, P, C) views."""
    out = np.empty(img.shape, img.dtype)
    return (out, _patch_view(img, patch_size).swapaxes(2, 3),
            _patch_view(out, patch_size).swapaxes(2, 3))


def orient_patches(img: np.ndarray,
                   codes: np.ndarray,
                   patch_size: int,
                   inverse: bool = False) -> np.ndarray:
    """Mirror and rotate every patch by its code.

    A patch with code c is mirrored left to right where c & 4, then rotated
    counter-clockwise by (c & 3) · 90 degrees.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C).
        codes (np.ndarray): Integers from 0 to 7 of shape (N, ) or (B, N).
        patch_size (int): Side P of a patch in pixels, dividing H and W.
        inverse (bool): Undo it with the same codes. Defaults to False.

    Returns:
        np.ndarray: Same shape and dtype as ``img``.

    Raises:
        ValueError: If the codes do not fit.
    """
    check_image(img)
    out, patches, turned = _selected(img, patch_size)
    codes = _per_patch(codes, _patch_view(img, patch_size), 'an orientation')
    if not np.isin(codes, range(8)).all():
        raise ValueError('an orientation must be a whole number from 0 to 7')
    for code in range(8):
        here = codes == code
        some, turns = patches[here], code & 3
        if inverse:
            some = np.rot90(some, -turns, axes=(1, 2))
        if code & 4:
            some = some[:, :, ::-1]
        if not inverse:
            some = np.rot90(some, turns, axes=(1, 2))
        turned[here] = some
    return out


def negate_patches(img: np.ndarray, flags: np.ndarray,
                   patch_size: int) -> np.ndarray:
    """Turn patches into their negative: y = white − x. Its own inverse.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C).
        flags (np.ndarray): bool, shape (N, ) or (B, N).
        patch_size (int): Side P of a patch in pixels, dividing H and W.

    Returns:
        np.ndarray: Same shape and dtype as ``img``.
    """
    check_image(img)
    out = img.copy(order='C')
    view = _patch_view(out, patch_size)
    here = _per_patch(flags, view, 'whether it is negated').astype(bool)
    patches = view.swapaxes(2, 3)
    patches[here] = peak_value(img.dtype) - patches[here]
    return out


def permute_patch_channels(img: np.ndarray,
                           perms: np.ndarray,
                           patch_size: int,
                           inverse: bool = False) -> np.ndarray:
    """Permute the channels of every patch: channel k shows ``perm[k]``.

    Args:
        img (np.ndarray): Shape (H, W, C) or (B, H, W, C), C at least 2.
        perms (np.ndarray): Integers of shape (N, C) or (B, N, C).
        patch_size (int): Side P of a patch in pixels, dividing H and W.
        inverse (bool): Undo it with the same permutations. Defaults to False.

    Returns:
        np.ndarray: Same shape and dtype as ``img``.

    Raises:
        ValueError: If the image has a single channel, or the permutations do
            not fit.
    """
    check_image(img)
    out, patches, permuted = _selected(img, patch_size)
    channels = patches.shape[-1]
    if img.ndim == 2 or channels < 2:
        raise ValueError("'permute_channels' needs an image with at least two "
                         f'channels, got the shape {img.shape}')
    perms = _per_patch(perms, _patch_view(img, patch_size),
                       'a permutation of channels', 1)
    if perms.shape[-1] != channels or (np.sort(perms) !=
                                       np.arange(channels)).any():
        raise ValueError(f'the permutations do not hold each of {channels} '
                         'channels exactly once')
    if inverse:
        perms = np.argsort(perms)
    permuted[...] = np.take_along_axis(
        patches, perms[..., None, None, :].astype(np.int64), axis=-1)
    return out


def permute_patch_pixels(img: np.ndarray,
                         perm: np.ndarray,
                         patch_size: int,
                         inverse: bool = False) -> np.ndarray:
    """Permute the pixels of every patch alike: pixel k shows ``perm[k]``.

    Pixels of a patch are numbered row-major; their channels stay together.

    Args:
        img (np.ndarray): Shape (H, W), (H, W, C) or (B, H, W, C).
        perm (np.ndarray): Integers of shape (P², ), or (B, P²) for a batch
            with one permutation per image.
        patch_size (int): Side P of a patch in pixels, dividing H and W.
        inverse (bool): Undo it with the same permutation. Defaults to False.

    Returns:
        np.ndarray: Same shape and dtype as ``img``.
    """
    check_image(img)
    out, patches, permuted = _selected(img, patch_size)
    num = patch_size * patch_size
    for i, one in enumerate(
            np.broadcast_to(perm, (len(patches), np.shape(perm)[-1]))):
        one = check_permutation(one, num, 'pixels')
        if inverse:
            one = invert_permutation(one)
        flat = patches[i].reshape(*patches.shape[1:3], num, -1)
        permuted[i] = flat[:, :, one].reshape(patches.shape[1:])
    return out
