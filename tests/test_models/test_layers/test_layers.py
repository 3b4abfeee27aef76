# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The layers against straightforward computations from the formulas."""

import math

import pytest
import torch
from mmpretrain.models.utils import MultiheadAttention

from hime_mm.errors import ConfigError
from hime_mm.models.layers import MixedPatchEmbed, ReferencePositionEncoding
from hime_mm.models.layers.padding import masked_attention


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def test_rpe_follows_its_formula():
    torch.manual_seed(0)
    rpe = ReferencePositionEncoding(8)
    torch.nn.init.normal_(rpe.reference)
    z = torch.randn(2, 5, 8)
    w1, b1 = rpe.ref_encoding[0].weight, rpe.ref_encoding[0].bias
    w2, b2 = rpe.ref_encoding[2].weight, rpe.ref_encoding[2].bias
    r = rpe.reference.flatten()
    out = rpe(z)
    for b in range(2):
        for i in range(5):
            hidden = (w1 @ (z[b, i] - r) + b1).clamp(min=0)
            expected = z[b, i] + 1 / (1 + torch.exp(-(w2 @ hidden + b2)))
            torch.testing.assert_close(out[b, i], expected, atol=1e-5, rtol=0)


def test_rpe_reference_is_a_truncated_normal():
    reference = ReferencePositionEncoding(4096).reference
    assert reference.shape == (1, 1, 4096)
    assert reference.std().item() == pytest.approx(0.02, rel=0.1)
    assert reference.mean().abs() < 2e-3


@pytest.mark.parametrize('g', [2, 4])
@pytest.mark.parametrize('form', ['compact', 'full'])
def test_mixed_embedding_follows_its_formula(g, form):
    torch.manual_seed(0)
    p = 8
    embed = MixedPatchEmbed(3, 6, patch_size=p, num_splits=g, input_form=form)
    plain = torch.rand(2, 3, 2 * p, 3 * p)
    mixed = torch.zeros(2, 3, 2 * p // g, 3 * p // g)
    sub = p // g
    for row in range(2):
        for col in range(3):
            patch = plain[:, :, row * p : row * p + p, col * p : col * p + p]
            for m in range(g):
                for n in range(g):
                    mixed[:, :, row * sub : row * sub + sub, col * sub : col * sub + sub] += (
                        patch[:, :, m * sub : m * sub + sub, n * sub : n * sub + sub] / g**2
                    )
    tokens, grid = embed(mixed if form == 'compact' else plain)
    assert grid == (2, 3) and tokens.shape == (2, 6, 6)
    w_a = embed.projection.weight.flatten(1)
    w_b = embed.mapping.weight[:, :, 0, 0]
    for row in range(2):
        for col in range(3):
            y = mixed[:, :, row * sub : row * sub + sub, col * sub : col * sub + sub].flatten(1)
            z = gelu(y @ w_a.T + embed.projection.bias)
            z = z @ w_b.T + embed.mapping.bias
            torch.testing.assert_close(tokens[:, row * 3 + col], z, atol=1e-5, rtol=0)


def test_mixed_embedding_is_the_same_for_full_tiled_and_compact():
    from hime_mm.ciphers import mix_patches

    torch.manual_seed(0)
    image = torch.randn(48, 80, 3)
    compact = mix_patches(image.numpy(), 16, 2, 'compact')
    tiled = mix_patches(image.numpy(), 16, 2, 'tiled')

    def batch(x):
        return torch.as_tensor(x).permute(2, 0, 1)[None]

    embed = MixedPatchEmbed(3, 32)
    reference, grid = embed(batch(compact))
    assert grid == (3, 5)
    for x in (image, tiled):
        tokens, other = embed(batch(x), input_form='full')
        assert other == grid
        torch.testing.assert_close(tokens, reference, atol=1e-5, rtol=0)
    # Not because everything gives the same tokens.
    other = embed(batch(compact) + torch.randn(1, 3, 24, 40))[0]
    assert (other - reference).abs().max() > 1e-2


def test_mixed_embedding_fills_up_with_zeros():
    embed = MixedPatchEmbed(3, 8, patch_size=16, num_splits=2)
    x = torch.rand(1, 3, 20, 9)
    filled = torch.zeros(1, 3, 24, 16)
    filled[:, :, :20, :9] = x
    torch.testing.assert_close(embed(x)[0], embed(filled)[0])


def test_mixed_embedding_refuses():
    with pytest.raises(ConfigError, match='num_splits'):
        MixedPatchEmbed(patch_size=16, num_splits=3)
    with pytest.raises(ConfigError, match="'tiny'"):
        MixedPatchEmbed(input_form='tiny')
    with pytest.raises(ConfigError, match="'tiny'"):
        MixedPatchEmbed()(torch.rand(1, 3, 16, 16), input_form='tiny')


def test_masked_attention_leaves_keys_out():
    torch.manual_seed(0)
    attn = MultiheadAttention(12, 3).eval()
    x = torch.randn(2, 7, 12)
    everything = torch.ones(2, 7, dtype=torch.bool)
    torch.testing.assert_close(masked_attention(attn, x, everything), attn(x), atol=1e-6, rtol=0)
    mask = everything.clone()
    mask[1, 4:] = False
    out = masked_attention(attn, x, mask)
    torch.testing.assert_close(out[:1], attn(x[:1]), atol=1e-6, rtol=0)
    torch.testing.assert_close(out[1:, :4], attn(x[1:, :4]), atol=1e-6, rtol=0)
    assert (out[1, :4] - attn(x)[1, :4]).abs().max() > 1e-4
