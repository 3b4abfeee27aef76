# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import data
from torch import nn

from hime_mm.attacks.gradients import GradientEvidence, april, patch_span, patches_in_batch
from hime_mm.ciphers import Cipher
from hime_mm.errors import AttackError


def pictures(count: int, side: int) -> torch.Tensor:
    """Parts of scikit-image's pictures, normalised, float64 of shape (count, 3, side, side)."""
    found = []
    for name in ('astronaut', 'coffee', 'chelsea', 'rocket'):
        img = getattr(data, name)()
        height, width = img.shape[0] // 2, img.shape[1] // 2
        for y in (0, height):
            for x in (0, width):
                part = np.ascontiguousarray(img[y : y + height, x : x + width])
                found.append(cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA))
    rows = np.stack([found[k % 4 * 4 + k // 4] for k in range(count)])
    return torch.from_numpy((rows - 117.0) / 58).permute(0, 3, 1, 2)


def patches_of(imgs: torch.Tensor, size: int) -> torch.Tensor:
    """All patches of a batch, (C, p, p) flattened."""
    return F.unfold(imgs, size, stride=size).transpose(1, 2).flatten(0, 1)


class Plain(nn.Module):
    """Embedding plus positions, and attention that gets nothing else."""

    def __init__(self, fused: bool, norm: bool = False, residual: bool = False) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 64, 4, 4)
        self.pos = nn.Parameter(torch.randn(1, 16, 64) * 0.1)
        count = 1 if fused else 3
        self.heads = nn.ModuleList(nn.Linear(64, 192 // count) for _ in range(count))
        self.norm, self.residual = nn.LayerNorm(64) if norm else nn.Identity(), residual
        self.mlp = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))
        self.layer = nn.TransformerEncoderLayer(64, 4, 64, dropout=0, batch_first=True)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        z = self.embed(x).flatten(2).transpose(1, 2) + self.pos
        q, k, v = torch.cat([one(self.norm(z)) for one in self.heads], dim=-1).split(64, dim=-1)
        out = F.scaled_dot_product_attention(q, k, v) + (z if self.residual else 0)
        return self.head(self.layer(out + self.mlp(out)).flatten(1).view(len(x), 16, 64).mean(1))


def step(model: nn.Module, imgs: torch.Tensor, amp=None) -> GradientEvidence:
    with torch.autocast('cpu', dtype=amp, enabled=amp is not None):
        out = model(imgs)
        out = out[-1] if isinstance(out, tuple) else out
        loss = F.cross_entropy(out, torch.arange(len(imgs)) % out.shape[1])
    loss.backward()
    return GradientEvidence.of(model)


def attack_plain(count: int = 1, **options):
    torch.manual_seed(0)
    model, imgs = Plain(**options).double(), pictures(count, 16)
    names = tuple(f'heads.{k}' for k in range(len(model.heads)))
    found = april(step(model, imgs), 'embed', 'pos', names)
    true = patches_of(imgs[:1], 4).numpy()
    return found, np.linalg.norm(found.patches - true) / np.linalg.norm(true)


@pytest.mark.parametrize('fused', (True, False))
def test_april_is_exact(fused):
    found, error = attack_plain(fused=fused)
    assert found.patches.shape == (16, 48)
    assert error < 1e-6
    assert found.residual < 1e-8


@pytest.mark.parametrize('options', (dict(norm=True), dict(residual=True), dict(count=2)))
def test_april_says_where_its_form_does_not_hold(options):
    found, error = attack_plain(fused=True, **options)
    assert error > 0.05
    assert found.residual > 1e-3
    assert found.confidence < attack_plain(fused=True)[0].confidence


def test_april_needs_as_many_equations_as_unknowns():
    few = GradientEvidence(
        {'e.weight': torch.ones(8, 12), 'p': torch.ones(1, 4, 8)}, {'p': torch.ones(1, 4, 8)}
    )
    many = GradientEvidence(
        {'e.weight': torch.ones(8, 4), 'p': torch.ones(1, 9, 8)}, {'p': torch.ones(1, 9, 8)}
    )
    for given in (few, many):
        with pytest.raises(AttackError, match='more unknowns'):
            april(given, 'e', 'p', ())


def test_pevit_has_no_positions_to_attack():
    with pytest.raises(AttackError, match="no gradient 'pos_embed'"):
        april(step(pevit(32, patch_size=16), pictures(1, 32).float()))


@pytest.mark.parametrize('value', (np.nan, np.inf))
def test_gradients_that_are_no_numbers(value):
    given = GradientEvidence({}, {'e.weight': torch.tensor([[value, 1.0]])})
    with pytest.raises(AttackError, match='not finite'):
        patch_span(given, 'e')


def test_a_frozen_embedding_says_nothing():
    with pytest.raises(AttackError, match='frozen'):
        patch_span(GradientEvidence({}, {'e.weight': torch.zeros(3, 2)}), 'e')


def pevit(width: int, patch_size: int = 16, layers: int = 1) -> nn.Module:
    from hime_mm.registry import MODELS

    torch.manual_seed(0)
    arch = dict(embed_dims=width, num_layers=layers, num_heads=4, feedforward_channels=width)
    return MODELS.build(dict(type='PEViT', arch=arch, patch_size=patch_size))


def precedence(first: np.ndarray, others: np.ndarray) -> float:
    """How often one of the first scores higher than one of the others; ties count half."""
    gap = first[:, None] - others[None]
    return float((gap > 0).mean() + (gap == 0).mean() / 2)


def membership(evidence, batch, others, size=16, **options) -> float:
    found = [
        patches_in_batch(evidence, patches_of(imgs, size).numpy(), **options).scores
        for imgs in (batch, others)
    ]
    return precedence(*found)


def test_patches_of_the_batch_lie_in_the_span():
    """Those of a shuffled picture against those of others, of 49 with 768 numbers."""
    imgs = pictures(8, 112)
    drawn = np.random.default_rng(0)
    pixels = (imgs[:1].permute(0, 2, 3, 1)[0] * 58 + 117).numpy()
    encrypted = Cipher('shuffle').encrypt(pixels, drawn)[0]
    batch = torch.from_numpy((encrypted - 117) / 58).permute(2, 0, 1)[None]
    evidence = step(pevit(64).double(), batch)
    assert len(patch_span(evidence)) == 49
    inside = patches_in_batch(evidence, patches_of(imgs[:1], 16).numpy())
    assert inside.scores.min() > -1e-5
    assert inside.confidence == pytest.approx(1 - 49 / 768)
    outside = patches_in_batch(evidence, patches_of(imgs[4:], 16).numpy()).scores
    assert outside.max() < -1e-4
    assert np.median(outside) < -0.1


def test_another_picture_gets_chance():
    imgs = pictures(16, 112)
    evidence = step(pevit(64).double(), imgs[:1])
    public = patches_of(imgs[8:12], 16).numpy()
    for options in ({}, dict(public=public)):
        assert membership(evidence, imgs[:1], imgs[12:], **options) == 1
        chance = [membership(evidence, imgs[k : k + 1], imgs[12:], **options) for k in (1, 2, 3)]
        assert 0.2 < np.mean(chance) < 0.8


def test_more_patches_than_numbers_span_everything():
    """49 and fewer patches of 48 numbers: from all of them on nothing is told."""
    imgs = pictures(8, 28)
    told = []
    for rows in (16, 28):
        batch = imgs[:1, :, :rows]
        evidence = step(pevit(64, patch_size=4).double(), batch)
        told.append(membership(evidence, batch, imgs[4:], size=4))
        found = patches_in_batch(evidence, patches_of(imgs[4:], 4).numpy())
        assert found.confidence == pytest.approx(1 - min(rows // 4 * 7, 48) / 48, abs=0.03)
    assert found.scores.min() > -1e-5
    assert found.confidence == 0
    assert told[0] > 0.99
    assert told[1] < 0.75


def test_candidates_do_not_depend_on_each_other():
    imgs = pictures(8, 32)
    evidence = step(pevit(32).double(), imgs[:1])
    patches = patches_of(imgs, 16).numpy()
    scores = patches_in_batch(evidence, patches).scores
    order = np.random.default_rng(0).permutation(len(patches))
    again = patches_in_batch(evidence, patches[order].reshape(-1, 3, 16, 16)).scores
    np.testing.assert_allclose(again, scores[order], atol=1e-12)
    assert patches_in_batch(evidence, np.zeros((1, 768))).scores == -1
    with pytest.raises(AttackError, match='48 numbers'):
        patches_in_batch(evidence, np.zeros((2, 3, 4, 4)))


@pytest.mark.trial
@pytest.mark.parametrize(
    'width, dtype, amp, least',
    (
        (256, torch.float64, None, 1),
        (256, torch.float32, None, 0.99),
        (256, torch.float32, torch.bfloat16, 0.85),
        (64, torch.float32, None, 0.9),
    ),
)
def test_strength(coco_tiny, width, dtype, amp, least):
    """196 patches of 768 numbers of a photo against those of 20 others."""
    files = sorted((coco_tiny / 'val2017').glob('*.jpg'))
    imgs = np.stack([cv2.resize(cv2.imread(str(file)), (224, 224)) for file in files])
    imgs = torch.from_numpy((imgs - 117.0) / 58).permute(0, 3, 1, 2)
    public = patches_of(imgs[30:50], 16).numpy()
    rounding = 1e-3 if amp else None
    for k in range(2):
        evidence = step(pevit(width, layers=2).to(dtype), imgs[k : k + 1].to(dtype), amp)
        known = dict(public=public, rounding=rounding)
        assert membership(evidence, imgs[k : k + 1], imgs[60:], **known) >= least
        assert 0.3 < membership(evidence, imgs[k + 20 : k + 21], imgs[60:], **known) < 0.7
