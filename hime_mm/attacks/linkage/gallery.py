# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What attacks that link an encrypted picture to its original share."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from hime_mm.ciphers import Cipher, PatchLayout

from ..base import INTERPOLATIONS, Attack, Evidence, Ranking, cut, matched, resized


class Linkage(Attack):
    """Describes the patches of a picture as a whole, in whatever order, and compares.

    The cipher is public: the pictures of the gallery are sized like the
    encrypted ones and go through its steps too, so that like is compared with
    like. What the key draws, the adversary draws anew, several times where a
    step changes values or pixels by it; left out are the steps that move or
    drop patches.
    """

    guesses = Ranking
    #: How often each picture of the gallery is encrypted, where the draw matters.
    draws = 4
    #: How pictures of the gallery that have another size are scaled, each way.
    interpolations: tuple[int, ...] = INTERPOLATIONS[:1]

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        if len(evidence.gallery) < 2:
            return 'there is no gallery of at least two plain pictures to choose from'
        return ''

    def prepare(self, evidence: Evidence) -> None:
        """Describe all pictures of the gallery, for each size of the encrypted ones."""
        super().prepare(evidence)
        channels = evidence.images[0].shape[2:]
        pictures = [matched(picture, channels) for picture in evidence.gallery]
        self._gallery = {
            layout.grid: self.describe_all(_Imitations(self, pictures, layout))
            for layout in {layout.grid: layout for layout in evidence.layouts}.values()
        }

    def guess(self, index: int) -> Ranking:
        pieces = self.evidence.pieces(index)
        if any(step.drops_patches for step in self.evidence.cipher.steps):
            pieces = uneven(pieces)
        scores = self.compare(pieces, self._gallery[self.evidence.layouts[index].grid])
        return Ranking(margin(scores), scores)

    @abstractmethod
    def describe_all(self, gallery: Iterable[np.ndarray]) -> Any:
        """Describe all pictures by their patches, of shape (n, p, p, C), a few times each.

        They are made anew in each pass, since all at once fill the memory.
        """

    @abstractmethod
    def compare(self, pieces: np.ndarray, gallery: Any) -> np.ndarray:
        """How alike an encrypted picture is to each of the gallery, float64 of shape (m, )."""


class _Imitations:
    """What the cipher makes of the gallery, picture by picture."""

    def __init__(
        self, attack: Linkage, pictures: Sequence[np.ndarray], layout: PatchLayout
    ) -> None:
        self.attack, self.pictures, self.layout = attack, pictures, layout

    def __iter__(self) -> Iterator[np.ndarray]:
        evidence, ways = self.attack.evidence, self.attack.interpolations
        cipher, layout = evidence.cipher, self.layout
        draws = self.attack.draws if draws_values(cipher) else 1
        for picture in self.pictures:
            # The same randomness for all: their order changes nothing.
            rng = np.random.default_rng(evidence.seed)
            yield np.concatenate(
                [
                    imitate(plain, cipher, layout, rng)
                    for plain in resized(picture, layout.grid, cipher.patch_size, ways)
                    for _ in range(draws)
                ]
            )


def draws_values(cipher: Cipher) -> bool:
    """Whether the key decides more than which patches are where, and which are left."""
    return any(
        step.draws for step in cipher.steps if not (step.moves_patches or step.drops_patches)
    )


def imitate(
    plain: np.ndarray, cipher: Cipher, layout: PatchLayout, rng: np.random.Generator
) -> np.ndarray:
    """The patches of a plain picture as the cipher makes them, unmoved, and none dropped.

    Args:
        plain (np.ndarray): uint8 of shape (H, W) or (H, W, C), sides multiples
            of the patch size.
        cipher (Cipher): The cipher.
        layout (PatchLayout): Of encrypted pictures of this size.
        rng (np.random.Generator): For what steps draw.

    Returns:
        np.ndarray: uint8 of shape (n, p, p, C), row by row.
    """
    channels = plain.shape[2:]
    for step, before in zip(cipher.steps, cipher.layouts(plain.shape[:2]), strict=False):
        if not (step.moves_patches or step.drops_patches):
            plain = step.apply(plain, before, step.draw(before, channels, rng))
    return cut(plain, layout)


def uneven(pieces: np.ndarray) -> np.ndarray:
    """The patches that hold more than one value: those dropped do not; all where none does."""
    flat = pieces.reshape(len(pieces), -1)
    kept = (flat != flat[:, :1]).any(axis=1)
    return pieces[kept] if kept.any() else pieces


def margin(scores: np.ndarray) -> float:
    """By how much the best is ahead of the next, in standard deviations of all."""
    spread = float(scores.std())
    best = np.sort(scores)[-2:]
    return float(best[1] - best[0]) / spread if spread else 0.0
