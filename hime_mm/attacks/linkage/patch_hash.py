# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Patches that come out the same."""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from ..base import INTERPOLATIONS, Evidence, register_attack
from .gallery import Linkage


@register_attack
class PatchHash(Linkage):
    """Look encrypted patches up in those that the cipher makes of the gallery.

    The score is the share that was found: 1 for the very picture that was
    encrypted. Patches are compared by their sorted values, which no step that
    moves pixels or channels within a patch changes; where the key chooses what
    becomes of a patch, several choices are looked up. A picture that was
    compressed anew, or cut before it was encrypted, is not found.
    """

    name = 'patch-hash'
    title = 'patches looked up among those of a gallery'
    source = 'exact matching; for comparison with block encryption'
    # Of two ways that a patch may have gone, one is missed once in 128 times.
    draws = 8
    interpolations = INTERPOLATIONS

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        for step in evidence.cipher.steps:
            if step.adds_noise:
                return f'{step.name!r} makes something else of a patch each time'
        return super().why_not(evidence)

    def describe_all(self, gallery: Iterable[np.ndarray]) -> list[set[bytes]]:
        return [set(patch_hashes(pieces)) for pieces in gallery]

    def compare(self, pieces: np.ndarray, gallery: list[set[bytes]]) -> np.ndarray:
        hashes = patch_hashes(pieces)
        return np.array(
            [sum(one in known for one in hashes) / max(len(hashes), 1) for known in gallery]
        )


def patch_hashes(pieces: np.ndarray) -> list[bytes]:
    """A hash of the values of each patch in ascending order; none of patches of one value.

    Args:
        pieces (np.ndarray): uint8 of shape (n, p, p, C).

    Returns:
        list[bytes]: One for each patch with more than one value, since plain
        white is in many pictures.
    """
    values = np.sort(pieces.reshape(len(pieces), -1), axis=1)
    return [
        blake2b(row.tobytes(), digest_size=16).digest()
        for row in values[values[:, 0] != values[:, -1]]
    ]
