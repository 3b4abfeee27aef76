# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linkage_parts import evidence, gallery, photos, ranks, recoded

from hime_mm.attacks.linkage import Texture
from hime_mm.attacks.linkage.texture import FLOOR, QUANTILES, distributions, texture
from hime_mm.ciphers.steps import center_patches


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from((1, 3)), st.sampled_from((2, 5, 8)))
def test_numbers_of_a_patch(seed, channels, side):
    rng = np.random.default_rng(seed)
    pieces = rng.integers(0, 256, (3, side, side, channels), np.uint8)
    half = side // 2
    for found, piece in zip(texture(pieces), pieces.astype(float), strict=True):
        values = piece.reshape(-1, channels)
        cov = np.cov(values.T, bias=True).reshape(channels, channels)
        var = np.diag(cov) + FLOOR
        expected = [np.log(var)]
        for axis in (0, 1):
            ahead = np.moveaxis(piece, axis, 0)
            steps = [(ahead[k + half] - ahead[k]) ** 2 for k in range(side - half)]
            expected.append(np.log(np.mean(steps, axis=(0, 1)) + FLOOR))
        expected.append(
            [
                cov[i, j] / np.sqrt(var[i] * var[j])
                for i in range(channels)
                for j in range(i + 1, channels)
            ]
        )
        np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-9, atol=1e-9)


def test_centring_changes_nothing():
    pieces = np.random.default_rng(0).integers(64, 192, (36, 16, 16, 3), np.uint8)
    pieces = pieces // 2 + np.arange(36, dtype=np.uint8)[:, None, None, None]
    centred = np.stack([center_patches(one, 16)[0] for one in pieces])
    assert (centred != pieces).any()
    np.testing.assert_allclose(texture(centred), texture(pieces), atol=1e-9)


def test_distributions_know_no_order():
    numbers = np.random.default_rng(0).normal(size=(40, 5))
    found = distributions(numbers)
    assert found.shape == (QUANTILES, 5)
    np.testing.assert_array_equal(found, distributions(numbers[::-1]))
    assert (np.diff(found, axis=0) >= 0).all()


@pytest.mark.parametrize('steps', ('center+erode2+shuffle', 'center+noise25+shuffle'))
def test_pictures_that_were_compressed_are_found(steps):
    shown = [recoded(img) for img in gallery()]
    assert (ranks(Texture(), evidence(steps, shown=shown)) == 0).mean() > 0.9


def test_patches_of_one_pixel_have_none():
    assert 'one pixel' in Texture.why_not(evidence('mix2+shuffle', patch_size=2))


@pytest.mark.trial
@pytest.mark.parametrize(
    'steps', ('center+shuffle', 'center+erode2+shuffle', 'mix2+center+shuffle', 'noise25+shuffle')
)
def test_strength(coco_tiny, steps):
    """Rank 1 among 80: with the originals as they are, and compressed anew at 224x224."""
    originals, plain = photos(coco_tiny)
    for shown in (originals, [recoded(img) for img in plain]):
        assert (ranks(Texture(), evidence(steps, plain, shown)) == 0).mean() >= 0.95
