# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Which patch, and which pixel, of a known picture is where in what became of it.

What a cipher does without a key is done to the plain picture first. What it
draws for each patch on its own is left out of the comparison: turned patches
are compared by their sorted values, negatives and permuted channels by the
sorted distances of a pixel's values to the middle of the range. Noise stays;
the nearest is looked for.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from hime_mm.ciphers import Cipher

from ..base import cut
from ..jigsaw.solver import shown

#: The patches of a plain picture after the public steps, and of what it was
#: encrypted to, both of shape (n, p, p, C).
PiecePair = tuple[np.ndarray, np.ndarray]


def piece_pair(cipher: Cipher, plain: np.ndarray, encrypted: np.ndarray) -> PiecePair:
    """The patches of a known picture, and of what it was encrypted to."""
    height, width = plain.shape[:2]
    layout = cipher.plan((height, width))
    public = [step for step in cipher.steps if not step.draws]
    if public:
        plain, *_ = Cipher(public, cipher.patch_size).encrypt(plain)
    return cut(plain, layout), cut(encrypted, layout)


def match_patches(pairs: Sequence[PiecePair], cipher: Cipher) -> np.ndarray:
    """Where the patches went, by all pictures together.

    Args:
        pairs (Sequence[PiecePair]): Of one grid.
        cipher (Cipher): What they were encrypted by.

    Returns:
        np.ndarray: int64 of shape (n, ), slot k holds patch ``result[k]``.
        Patches that look the same in all pictures are taken as they come.
    """
    distances = 0.0
    for plain, encrypted in pairs:
        known, seen = _patch_values(plain, cipher), _patch_values(encrypted, cipher)
        # A patch that was left out tells nothing.
        distances = distances + _distances(seen, known) * shown(encrypted, cipher)[1][:, None]
    return linear_sum_assignment(distances)[1].astype(np.int64)


def pixel_distances(pair: PiecePair, patches: np.ndarray, cipher: Cipher) -> np.ndarray:
    """How far the values at each place in all patches are from those of each pixel.

    Args:
        pair (PiecePair): Of one picture.
        patches (np.ndarray): From :func:`match_patches`.
        cipher (Cipher): What it was encrypted by.

    Returns:
        np.ndarray: Shape (p², p²), places in encrypted patches first.
    """
    plain, encrypted = pair
    there = shown(encrypted, cipher)[1]
    known, seen = (
        _values(pieces[there], cipher).swapaxes(0, 1).reshape(pieces.shape[1] ** 2, -1)
        for pieces in (plain[patches], encrypted)
    )
    return _distances(seen, known)


def _patch_values(pieces: np.ndarray, cipher: Cipher) -> np.ndarray:
    values = _values(pieces, cipher)
    if any(step.moves_pixels and not step.moves_patches for step in cipher.steps):
        values = np.sort(values, axis=1)
    return values.reshape(len(values), -1)


def _values(pieces: np.ndarray, cipher: Cipher) -> np.ndarray:
    """Of shape (n, p², C): what of each pixel does not depend on draws for each patch."""
    values = pieces.reshape(len(pieces), -1, pieces.shape[-1]).astype(np.float64)
    channels = pieces.shape[3:] if pieces.shape[3] > 1 else ()
    if any(step.choices(channels) and not step.moves_pixels for step in cipher.steps):
        values = np.sort(np.abs(values - np.iinfo(pieces.dtype).max / 2), axis=2)
    return values


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)
    return np.maximum(squares - 2 * one @ other.T, 0)
