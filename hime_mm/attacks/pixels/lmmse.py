# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The best linear guess at a patch, learnt from pictures that the adversary encrypted."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hime_mm.ciphers import PatchLayout, join_patches

from ..base import Attack, Evidence, Picture, register_attack
from .mosaic import as_picture, filled_means, spread_of
from .observed import Observed, hindrance, opponents, turned_practice

#: Values that are taken of each neighbour: about so many, and two columns at least.
STRIP = 64
#: Weights of the squared coefficients, in units of the mean square of a feature.
RIDGES = 10.0 ** np.arange(-5, 3)
#: Patches that are learnt from.
SAMPLES = 40000


@register_attack
class Lmmse(Attack):
    """Guess each patch from what is left of it and of its surroundings, linearly.

    What averaging, erosion, dropped patches and noise took away is estimated by a ridge
    regression on public pictures, and then made to agree with what is seen.
    """

    name = 'lmmse'
    title = 'linear estimate of each patch, learnt from public pictures'
    source = 'linear minimum mean square error estimation: Kay, 1993, chapter 12'
    guesses = Picture

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        for step in evidence.cipher.steps:
            if step.removes_means:
                return f"{str(step)!r} removes the means, which 'seams' puts back first"
        return hindrance(evidence, learns=True)

    def prepare(self, evidence: Evidence) -> None:
        self.evidence, self.observed = evidence, Observed(evidence.cipher)
        self.exact = self.observed.exact(evidence)
        self.models = self._learn()

    def _learn(self) -> dict[bool, np.ndarray]:
        """One model for patches that are there, and one for those that were left out."""
        practice = turned_practice(self.evidence)
        rng = np.random.default_rng(self.evidence.seed)
        share = SAMPLES / sum(one.layout.num_patches for views in practice for one in views)
        # Half of the pictures tell how strong a ridge the other half needs.
        halves: dict[bool, dict[int, Moments]] = {True: {}, False: {}}
        for number, one in ((k, one) for k, views in enumerate(practice) for one in views):
            view = View.of(self.observed, one.encrypted, one.layout)
            features = view.features()
            plain = self.observed.plain(one.plain)
            target = by_opponents(plain - view.means.reshape(-1, 1, 1, plain.shape[-1]))
            chosen = rng.random(len(plain)) < share
            for there, half in halves.items():
                rows = chosen & (view.there == there)
                if rows.any():
                    new = Moments.of(features[:, rows], target[:, rows])
                    # Summed up at once: those of all pictures fill the memory.
                    half[number % 2] = new + half[number % 2] if number % 2 in half else new
        return {there: fit(half[0], half[1]) for there, half in halves.items() if len(half) == 2}

    def guess(self, index: int) -> Picture:
        img, layout = self.evidence.images[index], self.evidence.layouts[index]
        size = self.observed.patch_size
        view = View.of(self.observed, img, layout)
        features = view.features()
        patches = np.zeros((features.shape[0], layout.num_patches, size**2), np.float32)
        for there, weights in self.models.items():
            rows = view.there == there
            patches[:, rows] = features[:, rows] @ weights
        guessed = plain_colours(patches, size) + view.means.reshape(-1, 1, 1, len(features))
        if self.exact:
            rows = view.there
            guessed[rows] = self.observed.settle(guessed[rows], view.pieces[rows])
        return Picture(
            -spread_of(view.pieces), as_picture(join_patches(guessed, layout.grid), img.ndim)
        )


@dataclass(frozen=True, eq=False)
class View:
    """What is seen of one picture.

    Attributes:
        pieces (np.ndarray): float32 of shape (n, q, q, C).
        there (np.ndarray): bool of shape (n, ), false of patches left out.
        means (np.ndarray): float32 of shape (rows, cols, C), those of patches left out guessed.
    """

    pieces: np.ndarray
    there: np.ndarray
    means: np.ndarray

    @classmethod
    def of(cls, observed: Observed, img: np.ndarray, layout: PatchLayout) -> 'View':
        pieces = observed.pieces(img, layout)
        there = observed.there(pieces)
        return cls(pieces, there, filled_means(pieces, there, layout.grid))

    def features(self) -> np.ndarray:
        """Of each patch: its detail, that of its neighbours, and the means around it.

        Returns:
            np.ndarray: float32 of shape (C, n, f), by opponent colours.
        """
        rows, cols, channels = self.means.shape
        q = self.pieces.shape[1]
        depth = min(q, max(STRIP // q, 2))
        detail = self.pieces - self.means.reshape(-1, 1, 1, channels)
        detail[~self.there] = 0
        board = np.zeros((rows + 2, cols + 2, q, q, channels), np.float32)
        board[1:-1, 1:-1] = detail.reshape(rows, cols, q, q, channels)
        parts = [
            board[1:-1, 1:-1],
            board[1:-1, :-2, :, q - depth :],
            board[1:-1, 2:, :, :depth],
            board[:-2, 1:-1, q - depth :],
            board[2:, 1:-1, :depth],
        ]
        around = np.pad(self.means, ((2, 2), (2, 2), (0, 0)), 'edge')
        parts += [
            (around[y : y + rows, x : x + cols] - self.means)[:, :, None, None]
            for y in range(5)
            for x in range(5)
            if (y, x) != (2, 2)
        ]
        return by_opponents(
            np.concatenate([part.reshape(rows * cols, -1, channels) for part in parts], axis=1)
        )


class Moments(NamedTuple):
    """Sums over samples of products of features and targets, of each channel."""

    inputs: np.ndarray  #: float64 of shape (C, f, f).
    cross: np.ndarray  #: float64 of shape (C, f, t).

    @classmethod
    def of(cls, features: np.ndarray, target: np.ndarray) -> 'Moments':
        """Of features of shape (C, n, f) and targets of shape (C, n, t)."""
        back = features.swapaxes(1, 2)
        return cls((back @ features).astype(np.float64), (back @ target).astype(np.float64))

    def __add__(self, other: 'Moments') -> 'Moments':  # type: ignore[override]
        """Of the samples of both."""
        return Moments(self.inputs + other.inputs, self.cross + other.cross)


def fit(first: Moments, second: Moments) -> np.ndarray:
    """Coefficients from two halves of the samples, float32 of shape (C, f, t).

    They are learnt from both, with the ridge with which what was learnt from
    the first does best on the second.
    """
    losses = [
        (found * (second.inputs @ found - 2 * second.cross)).sum(axis=(1, 2))
        for found in solutions(first, np.tile(RIDGES[:, None], len(first.inputs)))
    ]
    best = RIDGES[np.argmin(losses, axis=0)]
    return next(solutions(first + second, best[None])).astype(np.float32)


def solutions(moments: Moments, ridges: np.ndarray) -> Iterator[np.ndarray]:
    """Ridge regressions, one for each row of strengths of the channels."""
    values, vectors = np.linalg.eigh(moments.inputs)
    values, scale = np.maximum(values, 0), values.mean(axis=1) + 1e-9
    turned = vectors.swapaxes(1, 2) @ moments.cross
    for strength in ridges:
        yield vectors @ (turned / (values + (strength * scale)[:, None])[..., None])


def by_opponents(values: np.ndarray) -> np.ndarray:
    """Brightness and colour differences, (..., C) as (C, n, k)."""
    channels = values.shape[-1]
    turned = values.reshape(-1, channels) @ opponents(channels)
    return np.ascontiguousarray(turned.T).reshape(channels, len(values), -1)


def plain_colours(values: np.ndarray, side: int) -> np.ndarray:
    """The inverse of :func:`by_opponents`, for patches of this side."""
    channels = len(values)
    turned = values.transpose(1, 2, 0) @ opponents(channels).T
    return turned.reshape(-1, side, side, channels)
