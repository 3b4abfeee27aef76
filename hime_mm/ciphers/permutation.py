# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Permutations: what is one, and what undoes it."""

import numpy as np

from hime_mm.errors import CipherError


def check_permutation(perm: np.ndarray, num: int, what: str = 'patches') -> np.ndarray:
    """Refuse what does not hold each of 0 … num-1 once; int64, (num, ).

    The entries are never part of the message: a permutation is a secret.
    """
    perm = np.asarray(perm)
    if perm.shape != (num,) or not np.issubdtype(perm.dtype, np.integer):
        raise CipherError(
            f'a permutation of {num} {what} must be integers of '
            f'shape ({num},), got {perm.dtype} of shape '
            f'{perm.shape}'
        )
    seen = np.zeros(num, bool)
    if perm.min() >= 0 and perm.max() < num:
        seen[perm] = True
    if not seen.all():
        raise CipherError(f'the permutation does not hold each of 0 to {num - 1} exactly once')
    return perm.astype(np.int64, copy=False)


def one_per_image(perms: np.ndarray, batch: int) -> np.ndarray:
    """One permutation for all images of a batch, or one each, as (B, ...)."""
    perms = np.asarray(perms)
    if perms.ndim < 2:
        perms = np.broadcast_to(perms, (batch, *perms.shape))
    if len(perms) != batch:
        raise CipherError(f'{len(perms)} permutations for a batch of {batch} images')
    return perms


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
