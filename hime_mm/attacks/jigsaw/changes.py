# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The ways in which a cipher may have changed each single patch: a finite group."""

from functools import cached_property
from itertools import product

import numpy as np

from hime_mm.ciphers import Cipher, Step


class Changes:
    """All combinations of what some steps may draw for a patch.

    They are numbered; 0 changes nothing. That they form a group is found by
    trying, whatever the steps are.

    Args:
        cipher (Cipher): Whose steps are looked at.
        side (int): Of an encrypted patch in pixels.
        channels (int): Of a pixel.
    """

    def __init__(self, cipher: Cipher, side: int, channels: int) -> None:
        shape = (channels,) if channels > 1 else ()
        self.steps: list[Step] = [step for step in cipher.steps if step.choices(shape)]
        self.choices = [*product(*(step.choices(shape) for step in self.steps))]
        self.side, self.channels = side, channels

    def __len__(self) -> int:
        return len(self.choices)

    def apply(self, pieces: np.ndarray, change: int) -> np.ndarray:
        """Change pieces of shape (n, p, p, C) alike."""
        n, p = pieces.shape[:2]
        column = pieces.reshape(n * p, p, -1)
        for step, choice in zip(self.steps, self.choices[change], strict=True):
            column = step.kernel(column, np.array([choice] * n), p)
        return column.reshape(pieces.shape)

    def apply_each(self, pieces: np.ndarray, changes: np.ndarray) -> np.ndarray:
        """Change each of the pieces in its own way, int64 of shape (n, )."""
        out = np.empty_like(pieces)
        for change in np.unique(changes):
            mask = changes == change
            out[mask] = self.apply(pieces[mask], change)
        return out

    @cached_property
    def products(self) -> np.ndarray:
        """np.ndarray: int64 of shape (k, k): ``[a, b]`` is b first, and then a."""
        probe = np.random.default_rng(0).integers(0, 256, (1, self.side, self.side, self.channels))
        probe = probe.astype(np.uint8)
        changed = [self.apply(probe, one) for one in range(len(self))]
        known = {one.tobytes(): index for index, one in enumerate(changed)}
        return np.array(
            [[known[self.apply(one, a).tobytes()] for one in changed] for a in range(len(self))]
        )

    @cached_property
    def inverses(self) -> np.ndarray:
        """np.ndarray: int64 of shape (k, ), what undoes each."""
        return self.products.argmin(axis=1)

    @cached_property
    def turns(self) -> np.ndarray:
        """np.ndarray: int64 of shape (k, 2, 2), where each takes a step of (row, column)."""
        moving = [step for step in self.steps if step.moves_pixels]
        out = []
        for choices in self.choices:
            # Rows are numbered 0, 2, columns 0, 1: what stands where tells the turn.
            square = np.array([[0, 1], [2, 3]], np.uint8)
            for step, choice in zip(self.steps, choices, strict=True):
                if step in moving:
                    square = step.kernel(square, np.array([choice]), 2)
            places = {int(value): np.array(place) for place, value in np.ndenumerate(square)}
            out.append(np.stack([places[2] - places[0], places[1] - places[0]], axis=1))
        return np.array(out)
