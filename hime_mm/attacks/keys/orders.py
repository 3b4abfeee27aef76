# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Patches whose pixels were permuted, and how well an order or an arrangement fits a picture."""

import numpy as np

from hime_mm.ciphers import Cipher, PatchLayout, Step

from ..base import Attack, Evidence, PixelOrder
from ..jigsaw.assembly import borders


def scattering(cipher: Cipher) -> Step | None:
    """The step that permutes the pixels of all patches alike, if there is one."""
    return next((step for step in cipher.steps if step.scatters and step.shared), None)


def put_back(img: np.ndarray, layout: PatchLayout, cipher: Cipher, order: np.ndarray) -> np.ndarray:
    """The picture with the pixels of its patches in order again."""
    step = scattering(cipher)
    assert step is not None
    return step.undo(img, layout, order)


class PixelOrderAttack(Attack):
    """An attack that says how the pixels of all patches were permuted."""

    guesses = PixelOrder

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        if scattering(evidence.cipher) is None:
            return 'no step permutes the pixels of all patches alike'
        channels = evidence.images[0].shape[2:]
        if any(step.moves_pixels and step.choices(channels) for step in evidence.cipher.steps):
            return 'each patch is turned in a way of its own beside its pixels being permuted'
        return ''

    def undo(self, index: int, guess: PixelOrder) -> np.ndarray:
        """The picture with the pixels of its patches in order."""
        evidence = self.evidence
        return put_back(
            evidence.images[index], evidence.layouts[index], evidence.cipher, guess.order
        )


def smoothness(pieces: np.ndarray) -> float:
    """How much closer to its neighbours a pixel is than to any of its patch.

    Args:
        pieces (np.ndarray): Shape (n, p, p, C).

    Returns:
        float: 1 if neighbours are equal, about 0 in a random order.
    """
    pieces = pieces.astype(np.float64)
    across = np.diff(pieces, axis=2) ** 2
    down = np.diff(pieces, axis=1) ** 2
    side = pieces.shape[1]
    # The mean over all pairs of different pixels.
    any_two = 2 * pieces.var(axis=(1, 2)).mean() * side**2 / max(side**2 - 1, 1)
    return float(1 - (across.mean() + down.mean()) / 2 / max(any_two, 1e-9)) if side > 1 else 0.0


def seam_fit(costs: np.ndarray, cells: np.ndarray) -> float:
    """How many seams of a picture fit better than half of all pairs do.

    Args:
        costs (np.ndarray): Shape (2, n, n), that the second piece is right of
            the first, or below it.
        cells (np.ndarray): int64 of shape (n, 2), row and column of each.

    Returns:
        float: From −1 to 1; about 0 of a random arrangement.
    """
    if len(cells) < 2:
        return 0.0
    first, second = borders(cells)
    seams = np.concatenate([one[a, b] for one, a, b in zip(costs, first, second, strict=True)])
    if not len(seams):
        return 0.0
    half = np.median(costs[np.isfinite(costs)])
    return float((seams < half).mean() - (seams > half).mean())
