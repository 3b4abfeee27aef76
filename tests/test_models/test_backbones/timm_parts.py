# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch

from hime_mm.ciphers import Cipher
from hime_mm.models.backbones import TIMMPEViT

timm = pytest.importorskip('timm')
SMALL = dict(depth=2, embed_dim=48, num_heads=3)
# One name of each way that timm's ViTs are made, and its prefix tokens.
FAMILIES = {
    'deit_tiny_patch16_224': 1,
    'deit_tiny_distilled_patch16_224': 2,
    'vit_tiny_patch16_224.augreg_in21k': 1,
    'deit3_small_patch16_224': 1,
    'vit_small_patch14_dinov2.lvd142m': 1,
    'vit_small_patch14_reg4_dinov2': 5,
    'vit_base_patch32_clip_224': 1,
    'vit_base_patch16_siglip_224': 0,
    'vit_base_patch16_siglip_gap_224': 0,
    'vit_wee_patch16_reg1_gap_256': 1,
    'vit_base_patch16_rpn_224': 0,
    'beit3_base_patch16_224': 1,
    'aimv2_large_patch14_224': 0,
    'vit_small_patch16_18x2_224': 1,
    'test_vit3': 1,
}


def shake(model):
    """Weights as large as trained ones: at timm's own all tokens are alike."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if 'token' in name or 'pos_embed' in name or 'reference' in name:
                param.normal_()
            elif param.ndim > 1:
                param.normal_(std=param[0].numel() ** -0.5)
            elif name.endswith('bias'):
                param.normal_(std=0.1)
            else:
                param.normal_(1, 0.1)
    return model


def build(name='deit_tiny_patch16_224', **kwargs):
    return shake(TIMMPEViT(name, **{**SMALL, **kwargs})).eval()


def original(name, **kwargs):
    """The same model as timm alone makes it."""
    return shake(timm.create_model(name, **{**SMALL, **kwargs})).eval()


def loaded(source, name, **kwargs):
    model = TIMMPEViT(name, **{**SMALL, **kwargs})
    model.load_state_dict(source.state_dict(), strict=False)
    return model.eval()


def out_type_of(name):
    return 'cls_token' if FAMILIES[name] and 'wee' not in name else ('avg_featmap')


def moved_pair(patch, rows=6, cols=7):
    """An image, its shuffled version as batches, and the permutation."""
    rng = np.random.default_rng(0)
    # Patches that differ in their means too, as those of photos do.
    img = rng.standard_normal((rows * patch, cols * patch, 3)) + np.kron(
        rng.standard_normal((rows, cols, 3)), np.ones((patch, patch, 1))
    )
    img = img.astype(np.float32)
    moved, layout, _ = Cipher('shuffle', patch).encrypt(img)
    assert not np.array_equal(moved, img)
    return (
        *(torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None] for x in (img, moved)),
        layout.permutation,
    )
