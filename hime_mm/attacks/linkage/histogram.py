# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Colours that a picture has, wherever they are."""

from collections.abc import Iterable

import numpy as np

from ..base import register_attack
from .gallery import Linkage

#: Bins of all channels together.
COLOUR_BINS, GREY_BINS = 512, 64


@register_attack
class Histogram(Linkage):
    """Find the original by its histogram of colours, which no moving of patches changes.

    The bins hold equally many values of the gallery's pictures, so that they
    are fine where centred or mixed patches have their values.
    """

    name = 'histogram'
    title = 'histogram of colours, compared with a gallery'
    source = 'colour indexing, Swain and Ballard, IJCV 1991; Hellinger distance'

    def describe_all(self, gallery: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        edges = bin_edges(gallery)
        return edges, np.sqrt([histogram(pieces, edges) for pieces in gallery])

    def compare(self, pieces: np.ndarray, gallery: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        edges, roots = gallery
        # 1 - d² of the Hellinger distance d.
        return roots @ np.sqrt(histogram(pieces, edges))


def bin_edges(gallery: Iterable[np.ndarray]) -> np.ndarray:
    """Per channel, the values between bins that hold equally many of the gallery's values.

    Args:
        gallery (Iterable[np.ndarray]): Pictures or patches, uint8 with channels
            last.

    Returns:
        np.ndarray: float64 of shape (C, b - 1), for b bins a channel.
    """
    counts = np.sum([_counts(one) / one.size for one in gallery], axis=0)
    channels = len(counts)
    bins = GREY_BINS if channels == 1 else round(COLOUR_BINS ** (1 / channels))
    shares = np.cumsum(counts, axis=1) / counts.sum(axis=1, keepdims=True)
    cuts = np.arange(1, bins) / bins
    return np.stack([np.searchsorted(share, cuts) + 0.5 for share in shares])


def histogram(pieces: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The share of pixels in each bin of all channels together.

    Args:
        pieces (np.ndarray): uint8 of shape (..., C).
        edges (np.ndarray): From :func:`bin_edges`.

    Returns:
        np.ndarray: float64 of shape (b ** C, ), of sum 1.
    """
    channels, bins = len(edges), edges.shape[1] + 1
    index = np.zeros(pieces.shape[:-1], np.int64)
    for k in range(channels):
        table = np.searchsorted(edges[k], np.arange(256))
        index = index * bins + table[pieces[..., k]]
    return np.bincount(index.ravel(), minlength=bins**channels) / index.size


def _counts(picture: np.ndarray) -> np.ndarray:
    return np.stack(
        [
            np.bincount(picture[..., k].ravel(), minlength=256).astype(np.float64)
            for k in range(picture.shape[-1])
        ]
    )
