# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How strong the texture of patches is, once their colours are gone."""

from collections.abc import Iterable

import numpy as np

from ..base import Evidence, register_attack
from .gallery import Linkage

#: Points at which distributions over patches are compared.
QUANTILES = 32
#: Added to energies, so that what compression does to flat patches counts little.
FLOOR = 100


@register_attack
class Texture(Linkage):
    """Find the original by how the texture of its patches is distributed.

    Of each patch the covariance of its channels and the energy of differences
    are taken, which centring leaves. Compared are the distributions of each
    number over the patches, by the Wasserstein distance in units of how much
    the gallery's pictures differ.
    """

    name = 'texture'
    title = 'texture of patches without their colours, compared with a gallery'
    source = 'first-order statistics of local energy; measured here'

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        if evidence.cipher.encrypted_patch_size < 2:
            return 'patches of one pixel have no texture'
        return super().why_not(evidence)

    def describe_all(self, gallery: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        described = np.stack([distributions(texture(pieces)) for pieces in gallery])
        return described, described.std(axis=0) + 1e-6

    def compare(self, pieces: np.ndarray, gallery: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        described, spread = gallery
        gap = np.abs(described - distributions(texture(pieces))) / spread
        return -gap.mean(axis=(1, 2))


def texture(pieces: np.ndarray) -> np.ndarray:
    """Numbers of each patch that do not change with its means.

    Differences are taken half a patch apart: those of neighbouring pixels
    change with any scaling or compression.

    Args:
        pieces (np.ndarray): uint8 of shape (n, p, p, C), p at least 2.

    Returns:
        np.ndarray: float64 of shape (n, 3C + C(C - 1)/2): logarithms of the
        variances of the channels and of their energies of differences down
        and across, and the correlations of the channels.
    """
    n, side, _, channels = pieces.shape
    values = pieces.astype(np.float64)
    flat = values.reshape(n, -1, channels)
    flat = flat - flat.mean(axis=1, keepdims=True)
    cov = flat.swapaxes(1, 2) @ flat / flat.shape[1]
    var = np.diagonal(cov, axis1=1, axis2=2) + FLOOR
    half = side // 2
    down, across = values[:, half:] - values[:, :-half], values[:, :, half:] - values[:, :, :-half]
    energies = [np.square(steps).mean(axis=(1, 2)) + FLOOR for steps in (down, across)]
    i, j = np.triu_indices(channels, 1)
    pairs = cov[:, i, j] / np.sqrt(var[:, i] * var[:, j])
    return np.concatenate([np.log(np.concatenate([var, *energies], axis=1)), pairs], axis=1)


def distributions(numbers: np.ndarray) -> np.ndarray:
    """Quantiles over the patches, of shape (QUANTILES, f), of numbers of shape (n, f)."""
    return np.quantile(numbers, (np.arange(QUANTILES) + 0.5) / QUANTILES, axis=0)
