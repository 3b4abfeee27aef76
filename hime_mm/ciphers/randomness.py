# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The one place where the ciphers' randomness is drawn."""

import os
from typing import Optional, Union

import numpy as np

#: None draws from the operating system; a NumPy generator or legacy state
#: makes a repeatable simulation, which protects nothing.
RandomSource = Optional[Union[np.random.Generator, np.random.RandomState]]


def draw_permutation(num: int, source: RandomSource = None) -> np.ndarray:
    """Draw a permutation of 0 … num-1, uniform over all of them.

    Args:
        num (int): How many items.
        source (np.random.Generator | np.random.RandomState, optional): Where
            the randomness comes from. None is the operating system's
            generator; anything else is a simulation that can be repeated by
            whoever knows the seed. Defaults to None.

    Returns:
        np.ndarray: int64, shape (num, ).
    """
    if source is not None:
        return source.permutation(num).astype(np.int64, copy=False)
    while True:
        # The order of independent uniform draws is a uniform permutation
        # unless two are equal (about num² / 2^65): then draw again.
        draws = np.frombuffer(os.urandom(8 * num), np.uint64)
        perm = np.argsort(draws)
        ranked = draws[perm]
        if (ranked[1:] != ranked[:-1]).all():
            return perm
