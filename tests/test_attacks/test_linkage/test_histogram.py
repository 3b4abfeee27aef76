# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linkage_parts import evidence, gallery, photos, ranks, recoded

from hime_mm.attacks.linkage import Histogram
from hime_mm.attacks.linkage.histogram import bin_edges, histogram


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from((1, 3)))
def test_bins_count_pixels(seed, channels):
    rng = np.random.default_rng(seed)
    pieces = rng.integers(0, 256, (4, 3, 3, channels), np.uint8)
    edges = np.sort(rng.uniform(0, 255, (channels, 7)), axis=1)
    expected = np.zeros((8,) * channels)
    for pixel in pieces.reshape(-1, channels):
        place = tuple(int((value > edges[k]).sum()) for k, value in enumerate(pixel))
        expected[place] += 1 / 36
    np.testing.assert_allclose(histogram(pieces, edges), expected.ravel(), atol=1e-12)


def test_bins_hold_equally_many_values():
    """Also where centring has put all values close together."""
    rng = np.random.default_rng(0)
    shown = [np.clip(rng.normal(128, 8, (20, 8, 8, 3)), 0, 255).astype(np.uint8) for _ in range(5)]
    edges = bin_edges(shown)
    assert edges.shape == (3, 7)
    values = np.concatenate(shown)
    for k in range(3):
        counts = np.bincount((values[..., k, None] > edges[k]).sum(axis=-1).ravel(), minlength=8)
        assert counts.min() > 0.6 * counts.max()
    assert bin_edges([one[..., :1] for one in shown]).shape == (1, 63)


@pytest.mark.parametrize('steps', ('noise25+shuffle', 'center+noise25+shuffle'))
def test_noise_hides_no_histogram(steps):
    assert (ranks(Histogram(), evidence(steps)) == 0).mean() > 0.9


def test_pictures_that_were_compressed_or_scaled_are_found():
    plain = gallery()
    shown = [recoded(img[::2, ::2]) for img in plain]
    assert (ranks(Histogram(), evidence('erode2+shuffle', plain, shown)) == 0).all()


@pytest.mark.trial
@pytest.mark.parametrize(
    'steps, least',
    (
        ('shuffle', 1),
        ('erode2+shuffle', 1),
        ('mix2+shuffle', 1),
        ('noise25+shuffle', 1),
        ('center+erode2+shuffle', 0.8),
        ('mix2+center+shuffle', 0.6),
    ),
)
def test_strength(coco_tiny, steps, least):
    """Rank 1 among 80: with the originals as they are, and compressed anew at 224x224."""
    originals, plain = photos(coco_tiny)
    assert (ranks(Histogram(), evidence(steps, plain, originals)) == 0).all()
    shown = [recoded(img) for img in plain]
    assert (ranks(Histogram(), evidence(steps, plain, shown)) == 0).mean() >= least
