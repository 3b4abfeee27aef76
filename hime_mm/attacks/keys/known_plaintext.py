# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Draws that pictures share, from pictures that are known both ways."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from hime_mm.ciphers.grid import cells_of

from ..base import (
    Arrangement,
    Evidence,
    LayoutAttack,
    PixelOrder,
    cut,
    register_attack,
)
from ..jigsaw.assembly import Grid, cap
from ..jigsaw.compatibility import mgc
from ..jigsaw.solver import shown
from .matching import PiecePair, match_patches, piece_pair, pixel_distances
from .orders import PixelOrderAttack, put_back, scattering, seam_fit, smoothness

Pair = tuple[np.ndarray, np.ndarray]
NO_PAIRS = 'of no picture both the original and what it was encrypted to are known'


@register_attack
class KnownPlaintext(LayoutAttack):
    """Finds where all patches go from pictures whose original is known.

    One picture is enough, but for patches that look the same in it. Pictures
    of a grid of which none is known stay as they are, with confidence 0.
    Where each picture has a permutation of its own, what was found is wrong
    for the others, and fits their seams no better than chance. How well they
    fit is the confidence, which patches that stay turned or negated lower.
    """

    name = 'known-plaintext'
    title = 'finds a permutation of patches that pictures share from known originals'
    source = (
        'Li, Li, Chen, Bourbakis and Lo, Signal Processing: Image Communication 2008, and Li and '
        'Lo, Signal Processing 2011 (permutation-only ciphers)'
    )
    setting = 'known-plaintext'

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        if reason := super().why_not(evidence):
            return reason
        if not evidence.pairs:
            return NO_PAIRS
        if not {grid_of(evidence, plain) for plain, _ in evidence.pairs} & grids(evidence):
            return 'no known original has as many rows and columns of patches as a picture'
        return ''

    def prepare(self, evidence: Evidence) -> None:
        super().prepare(evidence)
        self.patches, self.order = match(evidence, self.known())

    def known(self) -> Sequence[Pair]:
        """Originals, and what they were encrypted to."""
        return self.evidence.pairs

    def guess(self, index: int) -> Arrangement:
        layout, img = self.evidence.layouts[index], self.evidence.images[index]
        patches = self.patches.get(layout.grid)
        if self.order is not None:
            img = put_back(img, layout, self.evidence.cipher, self.order)
        pieces, there = shown(cut(img, layout), self.evidence.cipher)
        slots = np.arange(layout.num_patches) if patches is None else patches
        cells = cells_of(slots, layout.grid)
        costs, confidence = np.zeros((2, len(slots), len(slots))), 0.0
        if len(pieces) > 1:
            known = mgc(pieces)
            costs += np.median(known)
            costs[np.ix_(np.arange(2), there, there)] = cap(known)
            confidence = 0.0 if patches is None else seam_fit(known, cells[there])
        return Arrangement(confidence, cells, np.zeros_like(slots), cells, costs)


@register_attack
class KnownPlaintextPixels(PixelOrderAttack):
    """Finds how the pixels of all patches were permuted from pictures whose original is known.

    Each patch is a sample, so that one picture is enough.
    """

    name = 'known-plaintext-pixels'
    title = 'finds a permutation of pixels that patches share from known originals'
    source = KnownPlaintext.source
    setting = 'known-plaintext'

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        return super().why_not(evidence) or ('' if evidence.pairs else NO_PAIRS)

    def prepare(self, evidence: Evidence) -> None:
        super().prepare(evidence)
        _, self.order = match(evidence, self.known())

    def known(self) -> Sequence[Pair]:
        """Originals, and what they were encrypted to."""
        return self.evidence.pairs

    def guess(self, index: int) -> PixelOrder:
        assert self.order is not None
        guess = PixelOrder(0.0, self.order)
        pieces = cut(self.undo(index, guess), self.evidence.layouts[index])
        return PixelOrder(smoothness(pieces), self.order)


def match(
    evidence: Evidence, pairs: Sequence[Pair]
) -> tuple[dict[Grid, np.ndarray], np.ndarray | None]:
    """The permutation of the patches of each grid, and that of the pixels, if they are."""
    cipher = evidence.cipher
    by_grid: dict[Grid, list[PiecePair]] = {}
    for plain, encrypted in pairs:
        pair = piece_pair(cipher, plain, encrypted)
        by_grid.setdefault(grid_of(evidence, plain), []).append(pair)
    patches = {
        grid: match_patches(known, cipher) if cipher.shuffles else np.arange(grid[0] * grid[1])
        for grid, known in by_grid.items()
    }
    if scattering(cipher) is None:
        return patches, None
    distances = sum(
        pixel_distances(pair, patches[grid], cipher)
        for grid, known in by_grid.items()
        for pair in known
    )
    return patches, linear_sum_assignment(distances)[1].astype(np.int64)


def grid_of(evidence: Evidence, plain: np.ndarray) -> Grid:
    """Rows and columns of patches of a plain picture."""
    size = evidence.cipher.patch_size
    return plain.shape[0] // size, plain.shape[1] // size


def grids(evidence: Evidence) -> set[Grid]:
    """Those of the encrypted pictures."""
    return {layout.grid for layout in evidence.layouts}
