# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import argparse
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint

from hime_mm.ciphers import Cipher
from hime_mm.models.backbones import TIMMPEViT
from hime_mm.models.backbones.timm_inspection import (
    build_vit,
    order_dependence,
    outline,
    timm_patch_size,
)

timm = pytest.importorskip('timm')
ROOT = Path(__file__).parents[3]
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
FEW = (
    'deit_tiny_patch16_224',
    'deit_tiny_distilled_patch16_224',
    'vit_small_patch14_reg4_dinov2',
    'vit_wee_patch16_reg1_gap_256',
    'beit3_base_patch16_224',
)


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


@pytest.fixture
def log():
    """What MMEngine's logger says, with the level."""
    logger = MMLogger.get_current_instance()
    lines = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append((record.levelname, record.getMessage()))

    handler = Keep(level=logging.INFO)
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.parametrize('pos_encoding', ['rpe', 'none', 'learned'])
@pytest.mark.parametrize('name', FAMILIES)
def test_shuffled_patches(name, pos_encoding):
    """Prefix tokens stay, patch tokens move, and positions break both."""
    model = build(name, pos_encoding=pos_encoding, out_type='raw')
    plain, moved, perm = moved_pair(model.patch_stride)
    start = FAMILIES[name]
    assert model.num_extra_tokens == start
    with torch.no_grad():
        a, b = model(plain)[0][0], model(moved)[0][0]
    assert a.shape == (start + 42, 48)
    # Patches do not give the same token all.
    assert a[start:].std(dim=0).mean() > 0.05
    gaps = [(b[start:] - a[start:][perm]).abs().max()]
    if start:
        gaps.append((b[:start] - a[:start]).abs().max())
    for gap in gaps:
        assert gap > 1e-2 if pos_encoding == 'learned' else gap <= 1e-4


@pytest.mark.parametrize('pos_encoding', ['rpe', 'none'])
def test_class_token_at_real_size(pos_encoding):
    """The whole DeiT-Ti, 224x224."""
    torch.manual_seed(0)
    model = TIMMPEViT('deit_tiny_patch16_224', pos_encoding=pos_encoding)
    plain, moved, perm = moved_pair(16, 14, 14)
    model.eval()
    with torch.no_grad():
        assert (model(plain)[0] - model(moved)[0]).abs().max() <= 1e-4
        model.out_type = 'featmap'
        a, b = model(plain)[0].flatten(2), model(moved)[0].flatten(2)
    torch.testing.assert_close(b, a[..., perm], atol=1e-4, rtol=0)


@pytest.mark.parametrize('name', FAMILIES)
def test_learned_positions_are_timms_model(name):
    host = original(name)
    size = host.patch_embed.img_size
    size = (96, 96) if min(size) < 96 else size
    host.set_input_size(size) if size[0] == 96 else None
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        tokens = host.fc_norm(host.forward_features(x))
        pooled = host.forward_features(x)[:, host.num_prefix_tokens :].mean(1)
        pooled = host.fc_norm(pooled)
        start = host.num_prefix_tokens
        for out_type, expected in (
            ('raw', tokens),
            ('avg_featmap', pooled),
            ('featmap', tokens[:, start:]),
            ('cls_token', tokens[:, 0]),
        ):
            if out_type == 'cls_token' and host.cls_token is None:
                continue
            model = loaded(host, name, pos_encoding='learned', out_type=out_type, img_size=size)
            (out,) = model(x)
            if out_type == 'featmap':
                assert out.shape[2:] == host.patch_embed.grid_size
                out = out.flatten(2).transpose(1, 2)
            assert torch.equal(out, expected)
            if out_type == 'avg_featmap' and host.global_pool == 'avg':
                assert torch.allclose(out, host.forward_head(host.forward_features(x), True))


@pytest.mark.parametrize('name', FAMILIES)
def test_only_the_positions_of_patches_are_left_out(name):
    """Without them timm's own model gives the same, class token included."""
    host = original(name, dynamic_img_size=True)
    if host.pos_embed is not None:
        start = 0 if host.no_embed_class else host.num_prefix_tokens
        with torch.no_grad():
            host.pos_embed[:, start:] = 0
    model = loaded(host, name, pos_encoding='none', out_type='raw')
    p = model.patch_stride
    x = torch.randn(2, 3, 3 * p, 5 * p)
    with torch.no_grad():
        torch.testing.assert_close(
            model(x)[0], host.fc_norm(host.forward_features(x)), atol=1e-5, rtol=0
        )


def test_positions_of_patches_reach_no_token():
    """timm starts class tokens at 1e-6 and positions at 0.02."""
    for name, has in (('deit_tiny_patch16_224', True), ('deit3_small_patch16_224', False)):
        model = TIMMPEViT(name, **SMALL)
        assert (model.timm_model.cls_token.std() > 1e-3) == has
        assert model.timm_model.pos_embed is None


def test_reference_encoding_comes_before_the_class_token():
    """z + sigmoid(W2 relu(W1 (z - r) + b1) + b2), patch tokens only."""
    model = build(pos_encoding='rpe', out_type='raw')
    vit, rpe = model.timm_model, model.rpe
    x = torch.randn(1, 3, 32, 48)
    one, two = rpe.ref_encoding[0], rpe.ref_encoding[2]
    with torch.no_grad():
        z = vit.patch_embed.proj(x).flatten(2).transpose(1, 2)
        hidden = torch.relu((z - rpe.reference) @ one.weight.T + one.bias)
        z = z + torch.sigmoid(hidden @ two.weight.T + two.bias)
        z = vit.norm(vit.blocks(torch.cat((vit.cls_token, z), dim=1)))
        torch.testing.assert_close(model(x)[0], z)


@pytest.mark.parametrize('pos_encoding', ['rpe', 'learned'])
def test_any_size(pos_encoding):
    """Filled up with zeros, below and right, like PEViT."""
    model = build(pos_encoding=pos_encoding, out_type='featmap')
    x = torch.randn(2, 3, 50, 33)
    filled = torch.nn.functional.pad(x, (0, 15, 0, 14))
    with torch.no_grad():
        (out,) = model(x)
        assert out.shape == (2, 48, 4, 3)
        torch.testing.assert_close(out, model(filled)[0])
    small = build('vit_small_patch14_dinov2', out_type='featmap')
    assert small(torch.randn(1, 3, 64, 43))[0].shape == (1, 48, 5, 4)


def test_images_of_a_batch_do_not_meet():
    model = build()
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[0][:1], model(x[:1])[0])


@pytest.mark.parametrize('pos_encoding', ['rpe', 'none', 'learned'])
@pytest.mark.parametrize(
    'name, out_type, with_cp',
    [
        (name, out_type, with_cp)
        for name in FEW
        for out_type in ('cls_token', 'featmap', 'avg_featmap', 'raw')
        for with_cp in (False, True)
        if 'wee' not in name or out_type != 'cls_token'
        if name == FEW[0] or not with_cp
    ],
)
def test_gradients_reach_every_parameter(name, out_type, pos_encoding, with_cp):
    model = build(name, out_type=out_type, pos_encoding=pos_encoding, with_cp=with_cp).train()
    (out,) = model(torch.randn(2, 3, 28, 42))
    (out * torch.randn_like(out)).sum().backward()
    for key, param in model.named_parameters():
        assert param.grad is not None and param.grad.abs().max() > 0, key


def test_checkpointing_changes_no_gradient(monkeypatch):
    from hime_mm.models.backbones import timm_pevit

    calls = []

    def spy(*args, **kwargs):
        calls.append(args[0])
        return torch.utils.checkpoint.checkpoint(*args, **kwargs)

    monkeypatch.setattr(timm_pevit, 'checkpoint', spy)
    x = torch.randn(2, 3, 32, 48)
    grads = []
    for with_cp in (False, True):
        model = build(with_cp=with_cp).train()
        model(x)[0].square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    assert calls == list(model.timm_model.blocks)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
    model.eval()(x)
    assert len(calls) == 2


def test_out_indices():
    whole = build(depth=4, out_indices=(0, 2, -1), out_type='raw')
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        first, third, last = whole(x)
        hidden = torch.cat(
            (whole.timm_model.cls_token, whole.rpe(whole.timm_model.patch_embed(x).flatten(1, 2))),
            dim=1,
        )
        for i, block in enumerate(whole.timm_model.blocks):
            hidden = block(hidden)
            if i in (0, 2):
                torch.testing.assert_close((first, None, third)[i], hidden)
        torch.testing.assert_close(last, whole.timm_model.norm(hidden))
    # What no output needs is not there, and would have no gradient.
    short = TIMMPEViT(
        'deit_tiny_patch16_224', **{**SMALL, 'depth': 4}, out_indices=[0, -2], out_type='raw'
    )
    assert short.num_layers == 3
    short.load_state_dict(whole.state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(short.eval()(x)[1], third)
    short.train()(x)[1].square().sum().backward()
    assert all(p.grad is not None for p in short.parameters())


def test_drop_path_and_dropout_of_patches_reach_timm():
    model = build(drop_path_rate=0.5, patch_drop_rate=0.5, pos_drop_rate=0.1, out_type='raw')
    x = torch.randn(1, 3, 64, 64)
    assert model.timm_model.blocks[1].drop_path1.drop_prob == 0.5
    model.timm_model.pos_drop.p = 1.0
    embedded = []
    model.timm_model.blocks[0].register_forward_pre_hook(lambda _, args: embedded.append(args[0]))
    model.train()(x)
    assert model.pos_encoding == 'rpe' and not embedded[0].any()
    model.timm_model.pos_drop.p = 0.1
    assert model.train()(x)[0].shape == (1, 9, 48)
    assert model.eval()(x)[0].shape == (1, 17, 48)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype):
    model = build('vit_small_patch14_reg4_dinov2').train()
    x = torch.randn(2, 3, 28, 28)
    with torch.autocast('cpu', dtype):
        (out,) = model(x)
    out.float().sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(out.float(), model(x)[0], atol=0.2, rtol=0)


def test_frozen_stages_stay_frozen():
    model = build(
        'vit_small_patch14_reg4_dinov2', depth=3, frozen_stages=2, drop_path_rate=0.5
    ).train()
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    free = {n for n, p in model.named_parameters() if p.requires_grad}
    assert (
        all(n.startswith(('timm_model.blocks.2.', 'timm_model.norm.')) for n in free)
        and len(free) == 16
    )
    assert not any('blocks.2' in n for n in frozen)
    assert {'rpe.reference', 'timm_model.cls_token', 'timm_model.reg_token'} <= frozen
    vit = model.timm_model
    assert not vit.blocks[1].training and vit.blocks[2].training
    assert not vit.patch_embed.training and not model.rpe.training
    assert model.eval().train() is model and not vit.blocks[0].training
    whole = build(frozen_stages=2, pos_encoding='learned')
    assert not any(p.requires_grad for p in whole.parameters())
    with pytest.raises(ValueError, match='`frozen_stages` is 3, but there'):
        build(frozen_stages=3)


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_layer_depth_for_layer_wise_decay(prefix):
    for name, kwargs in (
        ('deit_tiny_distilled_patch16_224', {}),
        ('vit_base_patch32_clip_224', dict(pos_encoding='learned')),
        ('vit_small_patch14_reg4_dinov2', {}),
        ('vit_wee_patch16_reg1_gap_256', dict(out_type='avg_featmap')),
    ):
        model = build(name, **kwargs)
        for key, _ in model.named_parameters():
            depth, total = model.get_layer_depth(prefix + key, prefix)
            assert total == 4
            if 'blocks' in key:
                assert depth == int(key.split('.')[2]) + 1
            else:
                assert depth == (
                    3 if key.startswith(('timm_model.norm.', 'timm_model.fc_norm')) else 0
                ), key
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (3, 4)


def save(state, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=state, meta={}), path)
    return str(path)


@pytest.mark.parametrize('prefix', ['', 'timm_model.', 'backbone.'])
@pytest.mark.parametrize('name', ['deit_tiny_distilled_patch16_224', 'vit_base_patch16_siglip_224'])
def test_timm_checkpoint(tmp_path, log, name, prefix):
    """As timm writes it, as MMPretrain's TIMMBackbone, and in a model."""
    host = original(name, num_classes=7)
    path = save({prefix + k: v for k, v in host.state_dict().items()}, tmp_path)
    init = dict(type='Pretrained', checkpoint=path)
    if prefix == 'backbone.':
        init['prefix'] = prefix
    out_type = out_type_of(name)
    model = TIMMPEViT(name, init_cfg=init, out_type=out_type, pos_encoding='learned', **SMALL)
    model.init_weights()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        out = host.forward_features(x)
        out = out[:, 0] if out_type == 'cls_token' else out.mean(1)
        torch.testing.assert_close(model.eval()(x)[0], out)
    lost = [line for _, line in log if line.startswith('Dropped from')]
    assert len(lost) == 1
    assert ('attn_pool.latent' if 'siglip' in name else 'head_dist.weight') in lost[
        0
    ] and 'blocks' not in lost[0]
    assert not any(line.startswith('Missing') for _, line in log)


def test_positions_of_a_checkpoint_are_dropped_and_said(tmp_path, log):
    host = original('deit_tiny_distilled_patch16_224')
    path = save(host.state_dict(), tmp_path)
    model = TIMMPEViT(
        'deit_tiny_distilled_patch16_224',
        init_cfg=dict(type='Pretrained', checkpoint=path),
        **SMALL,
    )
    model.init_weights()
    lines = [line for _, line in log]
    assert any('Dropped timm_model.pos_embed (1, 198, 48)' in line for line in lines)
    assert any('first 2 entries to cls_token, dist_token' in line for line in lines)
    assert not any(line.startswith('Missing') for line in lines)
    for i, name in enumerate(('cls_token', 'dist_token')):
        torch.testing.assert_close(
            getattr(model.timm_model, name), getattr(host, name) + host.pos_embed[:, i : i + 1]
        )
    # The state dict that was given is left alone.
    torch.testing.assert_close(
        original('deit_tiny_distilled_patch16_224').cls_token, host.cls_token
    )


def test_a_table_without_class_position_is_not_added(log):
    """As of a model with registers, where patches alone have positions."""
    host = original('deit_tiny_patch16_224', no_embed_class=True)
    model = loaded(host, 'deit_tiny_patch16_224', pos_encoding='none')
    torch.testing.assert_close(model.timm_model.cls_token, host.cls_token)


def test_missing_weights_are_named(log):
    host = original('deit_tiny_patch16_224')
    state = host.state_dict()
    del state['blocks.1.mlp.fc1.weight'], state['cls_token']
    model = TIMMPEViT('deit_tiny_patch16_224', **SMALL)
    before = model.timm_model.cls_token.clone()
    model.load_state_dict(state, strict=False)
    (warned,) = [line for level, line in log if level == 'WARNING']
    assert 'timm_model.blocks.1.mlp.fc1.weight' in warned
    assert 'timm_model.cls_token' in warned and 'rpe' not in warned
    torch.testing.assert_close(model.timm_model.cls_token, before)
    with pytest.raises(RuntimeError, match='cls_token'):
        model.load_state_dict(state)


@pytest.mark.parametrize('pos_encoding', ['rpe', 'learned'])
def test_own_checkpoint_round_trip(tmp_path, log, pos_encoding):
    kwargs = dict(pos_encoding=pos_encoding, img_size=(64, 96))
    model = build(**kwargs)
    wrapped = torch.nn.ModuleDict(dict(backbone=model))
    path = save(wrapped.state_dict(), tmp_path)
    other = torch.nn.ModuleDict(
        dict(backbone=TIMMPEViT('deit_tiny_patch16_224', **SMALL, **kwargs))
    )
    load_checkpoint(other, path, strict=True)
    for a, b in zip(wrapped.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert not [line for _, line in log if 'backbone' in line]
    # With timm's names it still is one.
    third = TIMMPEViT('deit_tiny_patch16_224', **SMALL, **kwargs)
    third.load_state_dict({k.removeprefix('timm_model.'): v for k, v in model.state_dict().items()})
    for a, b in zip(model.parameters(), third.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_positions_are_resized(log):
    host = original('deit_tiny_patch16_224')
    kwargs = dict(pos_encoding='learned', out_type='raw')
    model = loaded(host, 'deit_tiny_patch16_224', img_size=(64, 96), **kwargs)
    assert any('(1, 197, 48), a grid of 14x14, to (1, 25, 48), 4x6' in line for _, line in log)
    whole = loaded(host, 'deit_tiny_patch16_224', **kwargs)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[0], whole(x)[0])
    # An own checkpoint says of which grid its positions are.
    oblong = TIMMPEViT('deit_tiny_patch16_224', img_size=(96, 64), **SMALL, **kwargs)
    oblong.load_state_dict(model.state_dict())
    assert oblong.pos_grid.tolist() == [6, 4]
    assert any('4x6, to (1, 25, 48), 6x4' in line for _, line in log)
    state = model.state_dict()
    del state['pos_grid']
    with pytest.raises(ValueError, match='24 patch positions'):
        whole.load_state_dict(state)


def test_patch_size_of_ones_own(log):
    host = original('deit_tiny_patch16_224')
    model = loaded(host, 'deit_tiny_patch16_224', patch_size=8)
    assert model.patch_stride == 8
    assert any('Resampled' in line for _, line in log)
    expected = timm.layers.resample_patch_embed(host.patch_embed.proj.weight, [8, 8])
    torch.testing.assert_close(model.timm_model.patch_embed.proj.weight, expected)
    model.out_type = 'featmap'
    assert model(torch.randn(1, 3, 32, 40))[0].shape == (1, 48, 4, 5)


@pytest.mark.parametrize('pos_encoding', ['none', 'learned'])
def test_checkpoint_path(tmp_path, log, pos_encoding):
    host = original('deit_tiny_patch16_224')
    state = host.state_dict()
    path = tmp_path / 'timm.safetensors'
    from safetensors.torch import save_file

    save_file(state, path)
    model = TIMMPEViT(
        'deit_tiny_patch16_224', checkpoint_path=str(path), pos_encoding=pos_encoding, **SMALL
    )
    # A runner does this after the model is built.
    model.init_weights()
    expected = loaded(host, 'deit_tiny_patch16_224', pos_encoding=pos_encoding)
    for (key, a), b in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=key)
    assert any('head.weight' in line for _, line in log)
    del state['norm.weight']
    log.clear()
    torch.save(state, tmp_path / 'part.pth')
    TIMMPEViT('deit_tiny_patch16_224', checkpoint_path=str(tmp_path / 'part.pth'), **SMALL)
    assert any(level == 'WARNING' and 'norm.weight' in line for level, line in log)
    # timm takes back what the checkpoints of DeiT and YOLOS need.
    assert argparse.Namespace in torch.serialization.get_safe_globals()


def test_pretrained_goes_to_timm_after_the_check(monkeypatch):
    real, asked = timm.create_model, []

    def create(name, pretrained=False, **kwargs):
        asked.append(
            (name, pretrained, kwargs['num_classes'])
            if 'num_classes' in kwargs
            else (name, pretrained)
        )
        return real(name, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, 'create_model', create)
    name = 'vit_tiny_patch16_224.augreg_in21k'
    TIMMPEViT(name, pretrained=True, **SMALL)
    assert asked == [(name, False, 0), (name, True, 0)]
    asked.clear()
    with pytest.raises(ValueError):
        TIMMPEViT('eva02_tiny_patch14_224', pretrained=True)
    assert not any(one[1] for one in asked)


def test_init_weights_keeps_what_timm_made():
    model = build()
    before = [p.clone() for p in model.parameters()]
    model.init_weights()
    for a, b in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_trained_weights_survive_the_model_around(tmp_path):
    """DeiT's configs initialise all linear layers of the whole model."""
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS as HOST_MODELS

    init_default_scope('mmpretrain')
    path = tmp_path / 'weights.pth'
    args = dict(model_name='vit_tiny_patch16_224', depth=2, embed_dim=48, num_heads=3)
    trained = shake(TIMMPEViT(pos_encoding='none', **args)).timm_model
    torch.save(trained.state_dict(), path)

    def classifier(**kwargs):
        model = HOST_MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(type='hime_mm.TIMMPEViT', pos_encoding='none', **args, **kwargs),
                init_cfg=[
                    dict(type='TruncNormal', layer='Linear', std=0.02),
                    dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
                ],
            )
        )
        model.init_weights()
        return model.backbone

    wanted = trained.state_dict()
    loaded = classifier(checkpoint_path=str(path))
    found = loaded.timm_model.state_dict()
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        # timm's own position of the class token is added to it.
        if name != 'cls_token':
            assert torch.equal(found[name], value), name
    # Kept no longer than needed.
    assert loaded._trained is None
    fresh = classifier().timm_model.state_dict()
    assert not torch.equal(fresh['blocks.0.attn.qkv.weight'], wanted['blocks.0.attn.qkv.weight'])
    other = tmp_path / 'other.pth'
    torch.save({k: v + 1 for k, v in wanted.items()}, other)
    both = classifier(
        checkpoint_path=str(path), init_cfg=dict(type='Pretrained', checkpoint=str(other))
    )
    assert torch.equal(both.timm_model.state_dict()['norm.bias'], wanted['norm.bias'] + 1)


REFUSED = {
    'resnet18': ('ResNet', r'convolutions .*`conv1`'),
    'swin_tiny_patch4_window7_224': ('SwinTransformer', 'windowed attention'),
    'samvit_base_patch16': ('VisionTransformerSAM', 'windowed attention'),
    'eva02_tiny_patch14_224': ('Eva', 'rotary positions'),
    'vit_base_patch16_rope_224': ('Eva', 'rotary positions'),
    'vit_small_patch16_dinov3': ('Eva', 'rotary positions'),
    'beit_base_patch16_224': ('Beit', 'relative position biases'),
    'vit_relpos_small_patch16_224': ('VisionTransformerRelPos', 'relative position biases'),
    'convit_tiny': ('ConVit', 'relative position biases'),
    'vit_small_r26_s32_224': ('HybridEmbed', 'convolutions'),
    'levit_128s': ('Levit', 'convolutions'),
    'xcit_nano_12_p16_224': ('Xcit', 'convolutions'),
    'mixer_s32_224': ('MlpMixer', 'mix tokens by their place'),
    'gmlp_ti16_224': ('MlpMixer', 'mix tokens by their place'),
    'resmlp_12_224': ('MlpMixer', 'mix tokens by their place'),
    'poolformer_s12': ('MetaFormer', 'pooling'),
    'cait_xxs24_224': ('Cait', 'only the VisionTransformer'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refusals_say_why(name):
    kind, reason = REFUSED[name]
    with pytest.raises(ValueError, match=f'{kind}.*{reason}') as error:
        TIMMPEViT(name)
    text = str(error.value)
    assert text.startswith(f"'{name}' cannot be made permutation-equivariant")
    assert 'deit_small_patch16_224' in text
    if not name.startswith(('resnet', 'levit', 'xcit', 'poolf', 'samvit', 'vit_small_r26')):
        assert 'convolutions' not in text


class Block(timm.models.vision_transformer.Block):
    """Of timm's name, but who knows."""


def test_parts_are_looked_at():
    """Not the names alone: arguments and surgery change a model."""
    with pytest.raises(ValueError, match='`blocks.0` is a Block, not known'):
        build(block_fn=Block)
    with pytest.raises(ValueError, match=r'not square: \(16, 8\)'):
        build_vit('deit_tiny_patch16_224', False, '', patch_size=(16, 8), **SMALL)
    for change, reason in (
        (dict(stride=8), 'patches overlap'),
        (dict(stride=16, padding=2), 'patches overlap'),
        (dict(stride=16, dilation=2), 'patches overlap'),
    ):
        model = outline('deit_tiny_patch16_224')
        assert not order_dependence(model)
        model.patch_embed.proj = torch.nn.Conv2d(3, 192, 16, **change)
        assert reason in order_dependence(model)[0]
    model = outline('deit_tiny_patch16_224')
    model.blocks[3].mlp.act = torch.nn.Softmax(dim=1)
    model.norm = torch.nn.BatchNorm1d(197)
    model.patch_embed.norm = torch.nn.BatchNorm2d(3)
    reasons = ' '.join(order_dependence(model))
    for part in (
        '`blocks.3.mlp.act` is a Softmax',
        '`norm` is a BatchNorm1d',
        '`patch_embed.norm` is a BatchNorm2d',
    ):
        assert part in reasons
    with pytest.raises(ValueError, match='counts 2 tokens.*but has 6'):
        build('deit_tiny_distilled_patch16_224', reg_tokens=4)


@pytest.mark.parametrize(
    'kwargs, reason',
    [
        (dict(name='deit_smal_patch16_224'), "mean 'deit_small_patch16_224'"),
        (dict(name='qqqqq'), 'list_models'),
        (dict(name='deit_tiny_patch16_224.foo'), 'deit_tiny_patch16_224.fb_in1k'),
        (dict(name='vit_base_patch16_siglip_224'), "class token.*'avg_featmap'"),
        (dict(out_type='det_tokens'), 'hime_mm.PEViT'),
        (dict(out_type='cls'), "'cls'.*'cls_token'"),
        (dict(pos_encoding='sin'), "'sin'.*'rpe'"),
        (dict(patch_size=(16, 16)), 'square'),
        (dict(out_indices=2), r'\(2,\) for 2 blocks: choose from -2 to 1'),
        (dict(out_indices=[]), 'out_indices'),
        (dict(num_classes=3), '`num_classes` is set'),
        (dict(in_chans=3), '`in_channels`'),
        (dict(out_type='featmap', patch_drop_rate=0.1), 'patch_drop_rate'),
        (dict(pos_encoding='learned', pos_embed='none'), 'no learned positions'),
    ],
)
def test_bad_arguments(kwargs, reason):
    with pytest.raises(ValueError, match=reason):
        build(**kwargs)


def test_bad_types():
    with pytest.raises(TypeError, match='checkpoint_path'):
        TIMMPEViT('deit_tiny_patch16_224', pretrained='weights.pth')
    with pytest.raises(TypeError, match='no_such_option'):
        TIMMPEViT('deit_tiny_patch16_224', no_such_option=1)


def test_channels_and_attributes():
    model = build('vit_small_patch14_dinov2', in_channels=1)
    assert model(torch.randn(1, 1, 28, 28))[0].shape == (1, 48)
    assert model.patch_stride == 14 and model.embed_dims == 48


@pytest.mark.parametrize(
    'name, size',
    [
        ('deit_tiny_patch16_224', 16),
        ('vit_small_patch14_reg4_dinov2.lvd142m', 14),
        ('flexivit_small', 16),
        ('vit_base_patch32_clip_224', 32),
        ('swin_tiny_patch4_window7_224', None),
        ('no_such_model', None),
    ],
)
def test_patch_size_without_weights(name, size):
    assert timm_patch_size(name) == size


def test_builds_from_both_hosts():
    from mmdet.registry import MODELS as DET
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS as PRETRAIN

    config = dict(
        type='hime_mm.TIMMPEViT', model_name='deit_tiny_patch16_224', out_type='featmap', **SMALL
    )
    for scope, registry in (('mmdet', DET), ('mmpretrain', PRETRAIN)):
        with DefaultScope.overwrite_default_scope(scope):
            assert isinstance(registry.build(config), TIMMPEViT)


def test_in_a_classifier():
    """Loss, layer-wise decay and logits of MMPretrain's own model."""
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS
    from mmpretrain.structures import DataSample

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(
                    type='hime_mm.TIMMPEViT', model_name='deit_tiny_patch16_224', **SMALL
                ),
                head=dict(type='LinearClsHead', num_classes=5, in_channels=48),
            )
        )
        optim = build_optim_wrapper(
            model,
            dict(
                constructor='LearningRateDecayOptimWrapperConstructor',
                optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
                paramwise_cfg=dict(layer_decay_rate=0.5),
            ),
        )
    model.init_weights()
    shake(model)
    rates = {id(group['params'][0]): group['lr'] for group in optim.param_groups}
    blocks = model.backbone.timm_model.blocks
    for param, times in (
        (model.backbone.rpe.reference, 1),
        (model.backbone.timm_model.cls_token, 1),
        (blocks[0].attn.qkv.weight, 2),
        (blocks[1].mlp.fc1.bias, 4),
        (model.head.fc.weight, 8),
    ):
        assert rates[id(param)] == pytest.approx(1e-3 / 8 * times)
    x = torch.randn(2, 3, 64, 64)
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    model(x, samples, mode='loss')['loss'].backward()
    assert all(p.grad is not None for p in model.parameters())
    plain, moved, _ = moved_pair(16)
    model.eval()
    with torch.no_grad():
        logits, again = model(plain), model(moved)
    assert logits.shape == (1, 5)
    torch.testing.assert_close(again, logits, atol=1e-4, rtol=0)


def test_without_timm():
    """Importing works, and using it says what is missing."""
    code = (
        'import sys, importlib.metadata as meta\n'
        "sys.modules['timm'] = None\n"
        'real = meta.distribution\n'
        'def find(name):\n'
        "    if name == 'timm':\n"
        '        raise meta.PackageNotFoundError(name)\n'
        '    return real(name)\n'
        'meta.distribution = find\n'
        'from hime_mm.models.backbones import TIMMPEViT\n'
        'try:\n'
        "    TIMMPEViT('deit_tiny_patch16_224')\n"
        'except ImportError as error:\n'
        "    assert 'TIMMPEViT requires timm' in str(error), error\n"
        "    assert 'torch==' in str(error), error\n"
        'else:\n'
        '    raise AssertionError\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
