# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A thumbnail of patch means, which no step but one that removes them hides."""

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from ..base import Attack, Evidence, Picture, register_attack
from .observed import Observed, hindrance


@register_attack
class Mosaic(Attack):
    """The mean of each patch is that of the plain patch, or nearly: a free thumbnail."""

    name = 'mosaic'
    title = 'the patch means as a thumbnail, blown up'
    source = 'Torralba, "How many pixels make an image?", Visual Neuroscience 26, 2009'
    guesses = Picture

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        for step in evidence.cipher.steps:
            if step.removes_means:
                return f'{str(step)!r} removes the means'
        return hindrance(evidence)

    def prepare(self, evidence: Evidence) -> None:
        self.evidence, self.observed = evidence, Observed(evidence.cipher)

    def guess(self, index: int) -> Picture:
        img, layout = self.evidence.images[index], self.evidence.layouts[index]
        pieces = self.observed.pieces(img, layout)
        means = filled_means(pieces, self.observed.there(pieces), layout.grid)
        size = self.observed.patch_size
        return Picture(-spread_of(pieces), as_picture(thumbnail(means, size), img.ndim))


def spread_of(pieces: np.ndarray) -> float:
    """How far values are from the means of their pieces: what is hard to guess grows with it."""
    return float((pieces - pieces.mean(axis=(1, 2), keepdims=True)).std())


def filled_means(pieces: np.ndarray, there: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The mean of each piece, and of those that are not there what their surroundings are.

    Args:
        pieces (np.ndarray): Shape (n, q, q, C).
        there (np.ndarray): bool of shape (n, ).
        grid (tuple[int, int]): Rows and columns.

    Returns:
        np.ndarray: float32 of shape (rows, cols, C).
    """
    means = pieces.mean(axis=(1, 2)).reshape(*grid, -1)
    if there.all() or not there.any():
        return means
    there = there.reshape(grid)
    # Wider and wider, until each of them has seen something.
    sigma, weight, total = 0.6, np.zeros(grid), np.zeros(means.shape)
    while (weight < 1e-3).any():
        wide = gaussian_filter(there.astype(float), sigma, mode='constant', truncate=6)
        masked = means * there[..., None]
        sums = gaussian_filter(masked, (sigma, sigma, 0), mode='constant', truncate=6)
        new = (weight < 1e-3) & (wide >= 1e-3)
        weight[new], total[new] = wide[new], sums[new]
        sigma *= 2
    guessed = total / weight[..., None]
    return np.where(there[..., None], means, guessed).astype(means.dtype)


def mosaic(means: np.ndarray, patch_size: int) -> np.ndarray:
    """Each mean, of shape (rows, cols, C), as a patch in its colour."""
    return means.repeat(patch_size, axis=0).repeat(patch_size, axis=1)


def thumbnail(means: np.ndarray, patch_size: int) -> np.ndarray:
    """The means, of shape (rows, cols, C), blown up with bicubic interpolation."""
    rows, cols, channels = means.shape
    size = (cols * patch_size, rows * patch_size)
    big = cv2.resize(means.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    return big.reshape(*size[::-1], channels)


def as_picture(values: np.ndarray, ndim: int) -> np.ndarray:
    """Values of shape (H, W, C) as uint8, (H, W) for two dimensions."""
    img = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return img[..., 0] if ndim == 2 else img
