# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Draws that pictures share, from pictures that the adversary has encrypted by the owner."""

from collections.abc import Sequence

import numpy as np

from hime_mm.ciphers import Cipher

from ..base import Evidence, LayoutAttack, cut, register_attack
from ..jigsaw.assembly import Grid
from ..jigsaw.solver import shown
from .known_plaintext import KnownPlaintext, KnownPlaintextPixels, Pair, grids, match
from .matching import piece_pair
from .orders import PixelOrderAttack, scattering

#: Pictures that are asked for at most, for each grid.
LIMIT = 8


@register_attack
class ChosenPlaintext(KnownPlaintext):
    """Finds where all patches go from pictures made for it.

    No two patches, and no two pixels of a patch, are alike in them, also
    after the public steps. The attack is rehearsed with draws of the
    adversary's own first: one picture is asked for, and more only where the
    rehearsal with one fails, which noise and patches of few pixels make it
    do. ``queries`` says how many were asked for.
    """

    name = 'chosen-plaintext'
    title = 'finds a permutation of patches that pictures share from pictures made for it'
    source = 'Jolfaei, Wu and Muthukkumarasamy, IEEE TIFS 2016 (permutation-only ciphers)'
    setting = 'chosen-plaintext'

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        return LayoutAttack.why_not(evidence) or _no_oracle(evidence)

    def known(self) -> Sequence[Pair]:
        answers = ask(self.evidence, sorted(grids(self.evidence)))
        self.queries = len(answers)
        return answers


@register_attack
class ChosenPlaintextPixels(KnownPlaintextPixels):
    """Finds how the pixels of all patches were permuted from a picture made for it.

    See :class:`ChosenPlaintext`; the permutation is the same for all grids,
    so one is enough.
    """

    name = 'chosen-plaintext-pixels'
    title = 'finds a permutation of pixels that patches share from pictures made for it'
    source = ChosenPlaintext.source
    setting = 'chosen-plaintext'

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        return PixelOrderAttack.why_not(evidence) or _no_oracle(evidence)

    def known(self) -> Sequence[Pair]:
        answers = ask(self.evidence, [max(grids(self.evidence))])
        self.queries = len(answers)
        return answers


def _no_oracle(evidence: Evidence) -> str:
    return '' if evidence.oracle else 'the owner encrypts no picture of the adversary'


def ask(evidence: Evidence, wanted: Sequence[Grid]) -> list[Pair]:
    """Have pictures encrypted that tell all patches and pixels of these grids apart."""
    assert evidence.oracle is not None
    channels = evidence.images[0].shape[2:]
    return [
        (plain, evidence.oracle(plain))
        for grid in wanted
        for plain in designs(evidence, grid, channels)
    ]


def designs(evidence: Evidence, grid: Grid, channels: tuple[int, ...]) -> list[np.ndarray]:
    """As few pictures as a rehearsal needs to find all that is drawn."""
    cipher = evidence.cipher
    periods = [cipher.patch_size]
    if any(step.averages for step in cipher.steps):
        periods.append(1)
    best: tuple[float, list[np.ndarray]] = (-1.0, [])
    for count in range(1, LIMIT + 1):
        for period in periods:
            rng = np.random.default_rng(evidence.seed)
            plain = [design(cipher, grid, channels, period, rng) for _ in range(count)]
            found = rehearse(evidence, plain, rng)
            if found == 1:
                return plain
            best = max(best, (found, plain), key=lambda one: one[0])
    return best[1]


def design(
    cipher: Cipher, grid: Grid, channels: tuple[int, ...], period: int, rng: np.random.Generator
) -> np.ndarray:
    """A picture in which each pixel of a patch has as different values in all patches as can be.

    Args:
        cipher (Cipher): For its patch size.
        grid (tuple[int, int]): Rows and columns.
        channels (tuple[int, ...]): Shape of a pixel.
        period (int): A patch repeats squares of this side, so that averages
            of larger ones keep them apart.
        rng (np.random.Generator): For which patch gets which values.

    Returns:
        np.ndarray: uint8 of shape (H, W) or (H, W, C).
    """
    n, side = grid[0] * grid[1], cipher.patch_size
    levels = np.broadcast_to(np.arange(n) * 256 // n, (period, period, *channels, n))
    tiles = rng.permuted(levels, axis=-1).astype(np.uint8)
    along = np.arange(side) % period
    patches = np.moveaxis(tiles[along[:, None], along], -1, 0).reshape(*grid, side, side, *channels)
    return patches.swapaxes(1, 2).reshape(grid[0] * side, grid[1] * side, *channels)


def rehearse(evidence: Evidence, plain: Sequence[np.ndarray], rng: np.random.Generator) -> float:
    """The share of patches and pixels that are found again after draws of one's own."""
    cipher = evidence.cipher
    shape = plain[0].shape
    shared = cipher.draw(shape, rng)
    pairs = [(one, cipher.apply(one, _redrawn(cipher, shape, shared, rng))) for one in plain]
    patches, order = match(evidence, pairs)
    layout, found = cipher.secret_layout(shape[:2], shared), []
    if layout.permutation is not None:
        there = [shown(cut(encrypted, layout), cipher)[1] for _, encrypted in pairs]
        right = patches[layout.grid] == layout.permutation
        found.append(right[np.any(there, axis=0)])
    step = scattering(cipher)
    if step is not None:
        true = shared[cipher.steps.index(step)]
        known = np.concatenate([piece_pair(cipher, *pair)[0] for pair in pairs])
        pixels = known.reshape(len(known), true.size, -1)
        # Of pixels that are repeated, any will do.
        found.append((pixels[:, order] == pixels[:, true]).all(axis=(0, 2)))
    return float(np.concatenate(found).mean())


def _redrawn(
    cipher: Cipher, shape: tuple[int, ...], shared: list, rng: np.random.Generator
) -> list:
    """A new draw, but for where patches and pixels go."""
    return [
        kept if step.moves_patches or step.scatters else new
        for step, kept, new in zip(cipher.steps, shared, cipher.draw(shape, rng), strict=True)
    ]
