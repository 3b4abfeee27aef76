# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A permutation of pixels that all patches share, from encrypted pictures alone."""

from collections.abc import Iterable
from math import isqrt

import numpy as np

from hime_mm.ciphers.grid import cells_of

from ..base import Evidence, PixelOrder, cut, register_attack
from ..jigsaw.compatibility import mgc
from ..jigsaw.solver import shown
from .orders import PixelOrderAttack, scattering, seam_fit, smoothness
from .square import arrange, symmetries

#: Side of a patch, at most: correlations of all pairs of pixels have to fit into the memory.
LARGEST = 64
#: Patches that vary less are left out: they tell of noise and rounding.
LEAST_DEVIATION = 2.0
#: Pictures whose seams tell how all patches are turned.
JUDGED = 8


@register_attack
class PixelPermutation(PixelOrderAttack):
    """Finds the order of the pixels from how they correlate over all patches.

    Each patch of each picture is a sample of the same permutation. The
    correlations are compared with those of public pictures, or, without any,
    with a decay over distance. The order is found up to the eight symmetries
    of the square, which turn or mirror all patches alike; where patches keep
    their places, their seams tell which it is. Where they do not, the picture
    comes back turned or mirrored as a whole once they are put back, and a
    grid of other proportions may turn, too.

    One picture of 224 pixels is mostly enough for the 64 to 256 pixels of a
    patch. It takes seconds, but minutes for 1,024 pixels, of which several
    pictures give most; under strong noise, too, several give most.
    """

    name = 'pixel-permutation'
    title = 'finds a permutation of pixels that all patches share'
    source = (
        'Le Roux, Bengio, Lamblin, Joliveau and Kegl, NeurIPS 2007 (topology of pixels from '
        'their correlations)'
    )

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        if reason := super().why_not(evidence):
            return reason
        if evidence.layouts[0].patch_size > LARGEST:
            return f'patches have sides of more than {LARGEST} pixels'
        return ''

    def prepare(self, evidence: Evidence) -> None:
        super().prepare(evidence)
        step = scattering(evidence.cipher)
        assert step is not None
        # In an order of their own, so that it is no matter how they were handed over.
        indices = sorted(range(len(evidence.images)), key=lambda i: evidence.images[i].tobytes())
        pieces = [shown(evidence.pieces(index), evidence.cipher)[0] for index in indices]
        ordered = evidence.left(evidence.images, step)
        if ordered is None:
            public = [cut(one.plain, one.layout) for one in evidence.practice]
        else:
            public = [cut(one.encrypted, one.layout) for one in ordered.practice]
        self.order = find_order(pieces, public)
        if not evidence.cipher.shuffles:
            ways = symmetries(evidence.layouts[0].patch_size)
            self.order = max((way[self.order] for way in ways), key=self._seams)

    def guess(self, index: int) -> PixelOrder:
        guess = PixelOrder(0.0, self.order)
        pieces = cut(self.undo(index, guess), self.evidence.layouts[index])
        return PixelOrder(smoothness(pieces), self.order)

    def _seams(self, order: np.ndarray) -> float:
        """How well patches that keep their places fit in this order."""
        fits = []
        for index, layout in enumerate(self.evidence.layouts[:JUDGED]):
            cells = cells_of(np.arange(layout.num_patches), layout.grid)
            ordered = self.undo(index, PixelOrder(0.0, order))
            fits.append(seam_fit(mgc(cut(ordered, layout)), cells))
        return float(np.mean(fits))


def find_order(pieces: list[np.ndarray], public: list[np.ndarray]) -> np.ndarray:
    """The order of the pixels of patches.

    Args:
        pieces (list[np.ndarray]): Of each picture, of shape (n, p, p, C),
            with pixels permuted alike.
        public (list[np.ndarray]): The same of other pictures with pixels in
            order; may be empty.

    Returns:
        np.ndarray: int64 of shape (p², ): place k of a patch holds pixel
        ``result[k]``, up to a symmetry of the square.
    """
    side = pieces[0].shape[1]
    copies = _copies(pieces)
    inner = isqrt(copies.max() + 1)
    if inner**2 != copies.max() + 1 or side % inner:
        copies, inner = np.arange(side * side), side
    if inner == 1:  # All pixels of a patch are the same.
        return np.arange(side * side)
    seen = correlations(pieces)
    firsts = np.unique(copies, return_index=True)[1]
    seen = seen[np.ix_(firsts, firsts)]
    rows, cols = np.divmod(np.arange(inner * inner), inner)
    if public:
        expected = correlations([one[:, :inner, :inner] for one in public])
    else:
        apart = np.hypot(rows[:, None] - rows, cols[:, None] - cols)
        expected = np.exp(-apart / inner)
    # Of repeated squares one is put in order, and the others like it.
    tiles = np.tile(np.arange(inner * inner).reshape(inner, inner), (side // inner,) * 2).ravel()
    order = np.empty(side * side, np.int64)
    for copy, cell in enumerate(arrange(seen, expected)):
        order[copies == copy] = np.flatnonzero(tiles == cell)
    return order


def correlations(pieces: Iterable[np.ndarray]) -> np.ndarray:
    """How pixels correlate over patches that were brought to mean 0 and deviation 1.

    Args:
        pieces (Iterable[np.ndarray]): Of each picture, of shape (n, p, p, C);
            each channel is a patch of its own.

    Returns:
        np.ndarray: float64 of shape (p², p²).
    """
    total, count = np.zeros(()), 0
    for one in pieces:
        values = np.moveaxis(one, 3, 1).reshape(len(one) * one.shape[3], -1).astype(np.float64)
        values -= values.mean(axis=1, keepdims=True)
        deviation = values.std(axis=1, keepdims=True)
        varied = (deviation >= LEAST_DEVIATION).ravel()
        values = values[varied] / deviation[varied]
        total, count = total + values.T @ values, count + len(values)
    return total / count if count else np.eye(len(total))


def _copies(pieces: list[np.ndarray]) -> np.ndarray:
    """Numbers of the pixels of a patch; those that are the same everywhere have one."""
    labels = np.zeros(pieces[0].shape[1] ** 2, np.int64)
    for one in pieces:
        columns = one.reshape(len(one), len(labels), -1).swapaxes(0, 1).reshape(len(labels), -1)
        here = np.unique(columns, axis=0, return_inverse=True)[1].ravel()
        labels = np.unique(np.stack([labels, here]), axis=1, return_inverse=True)[1].ravel()
    return labels
