# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The one place where the ciphers' randomness is drawn.

Everything is computed from bytes, so that what a key gives depends on no
library's generators; ``docs/format.md`` says how, byte by byte.
"""

import os
from functools import lru_cache
from statistics import NormalDist
from typing import Protocol

import numpy as np


class ByteStream(Protocol):
    """Gives bytes one after the other, such as a key stream."""

    def read(self, num: int) -> bytes:
        """The next ``num`` bytes."""


#: None draws from the operating system, a :class:`ByteStream` from a key; a
#: NumPy generator or legacy state makes a repeatable simulation, which
#: protects nothing.
RNG = ByteStream | np.random.Generator | np.random.RandomState | None


def draw_bytes(num: int, rng: RNG = None) -> bytes:
    """Draw so many uniform bytes.

    Args:
        num (int): How many.
        rng (ByteStream | np.random.Generator | np.random.RandomState, optional):
            Where the randomness comes from. None is the operating system's
            generator; one of NumPy is a simulation that can be repeated by
            whoever knows the seed. Defaults to None.

    Returns:
        bytes: ``num`` of them.
    """
    if rng is None:
        return os.urandom(num)
    name = 'read' if hasattr(rng, 'read') else 'bytes'
    return getattr(rng, name)(num)


def draw_permutations(count: int, num: int, rng: RNG = None) -> np.ndarray:
    """Draw independent permutations of 0 … num-1: int64, (count, num).

    Each is uniform. The order of ``num`` uniform 64-bit words (little-endian) is the
    permutation: its first entry is the index of the smallest word. Equal
    words, of which there are some with a probability of about num² / 2^65,
    keep their order.
    """
    words = np.frombuffer(draw_bytes(8 * count * num, rng), '<u8')
    return np.argsort(words.reshape(count, num), axis=1, kind='stable').astype(np.int64, copy=False)


def draw_permutation(num: int, rng: RNG = None) -> np.ndarray:
    """Draw one permutation, see :func:`draw_permutations`.

    Args:
        num (int): How many items.
        rng (optional): See :func:`draw_bytes`. Defaults to None.

    Returns:
        np.ndarray: int64, shape (num, ).
    """
    return draw_permutations(1, num, rng)[0]


def draw_codes(num: int, bits: int, rng: RNG = None) -> np.ndarray:
    """Draw whole numbers from 0 to 2^bits - 1: uint8, (num, ).

    Each is the lowest bits of one byte.
    """
    codes = np.frombuffer(draw_bytes(num, rng), np.uint8)
    return codes & np.uint8((1 << bits) - 1)


@lru_cache(maxsize=8)
def _normal_table(std: int) -> np.ndarray:
    """The noise that each 16-bit word stands for: int16, shape (65536, )."""
    normal = NormalDist()
    half = [
        int(std * normal.inv_cdf((2 * word + 1) / 131072) + 0.5) for word in range(1 << 15, 1 << 16)
    ]
    # Symmetric: the word w stands for minus what 65535 - w stands for.
    return np.array([-n for n in half[::-1]] + half, np.int16)


def draw_noise(shape: tuple, std: int, rng: RNG = None) -> np.ndarray:
    """Draw Gaussian noise in whole grey levels: int16, filled row-major.

    A 16-bit word w (little-endian) stands for std · Φ⁻¹((2w + 1) / 2^17),
    rounded to the nearest whole number, so |noise| < 4.33 std + 1/2.
    """
    num = int(np.prod(shape, dtype=np.int64))
    words = np.frombuffer(draw_bytes(2 * num, rng), '<u2')
    return _normal_table(std)[words].reshape(shape)
