# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import pytest
import torch
from mmengine.runner import load_checkpoint
from mmpretrain.models.backbones import VisionTransformer
from pevit_parts import ARCH, build

from hime_mm.errors import ConfigError, ConversionError
from hime_mm.models.backbones import PEViT


@pytest.fixture
def deit(tmp_path):
    """A checkpoint as MMPretrain writes it for DeiT-Ti at 224."""
    torch.manual_seed(1)
    host = VisionTransformer('deit-tiny', img_size=224)
    host.init_weights()
    torch.nn.init.constant_(host.patch_embed.projection.bias, 7.0)
    state = {f'backbone.{k}': v for k, v in host.state_dict().items()}
    path = tmp_path / 'deit.pth'
    torch.save(dict(state_dict=state, meta={}), path)
    return path, host


def pretrained(path, **kwargs):
    model = PEViT(
        'deit-tiny',
        init_cfg=dict(type='Pretrained', checkpoint=str(path), prefix='backbone.'),
        **kwargs,
    )
    model.init_weights()
    return model


def test_deit_checkpoint_with_positions(deit, log):
    path, host = deit
    model = pretrained(path, pos_encoding='learned').eval()
    host.eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[0], host(x)[0])
    assert not any('Dropped' in line for _, line in log)


def test_deit_checkpoint_resized(deit, log):
    path, host = deit
    model = pretrained(path, pos_encoding='learned', img_size=(64, 96), num_det_tokens=4)
    assert any('Resized pos_embed from (1, 197, 192), a grid of 14x14' in line for _, line in log)
    expected = torch.nn.functional.interpolate(
        host.pos_embed[:, 1:].reshape(1, 14, 14, -1).permute(0, 3, 1, 2),
        size=(4, 6),
        mode='bicubic',
        align_corners=False,
    )
    torch.testing.assert_close(model.pos_embed[:, 1:], expected.flatten(2).transpose(1, 2))
    torch.testing.assert_close(model.layers[3].attn.qkv.weight, host.layers[3].attn.qkv.weight)


def test_deit_checkpoint_says_what_it_drops(deit, log):
    path, host = deit
    model = pretrained(path, pos_encoding='rpe', patch_embed='mixed')
    dropped = [line for _, line in log if line.startswith('Dropped')]
    assert any('pos_embed (1, 197, 192)' in line for line in dropped)
    assert any(
        'patch_embed.projection.weight (192, 3, 16, 16)' in line and '(192, 3, 8, 8)' in line
        for line in dropped
    )
    # The bias of another embedding goes with its weight.
    assert any('patch_embed.projection.bias' in line for line in dropped)
    torch.testing.assert_close(model.cls_token, host.cls_token)
    torch.testing.assert_close(
        model.layers[11].ffn.layers[1].weight, host.layers[11].ffn.layers[1].weight
    )
    assert model.patch_embed.projection.bias.abs().max() < 1
    # The new embedding is not left empty.
    assert model.patch_embed.projection.weight.std() > 1e-3


def test_own_checkpoint_round_trip(tmp_path):
    kwargs = dict(patch_embed='mixed', pos_encoding='learned', num_det_tokens=4)
    model = build(**kwargs)
    torch.save(model.state_dict(), tmp_path / 'own.pth')
    other = build(seed=1, **kwargs)
    load_checkpoint(other, str(tmp_path / 'own.pth'), strict=True)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('target', [(96, 160), (96, 96), (64, 144)])
def test_positions_of_an_oblong_grid_are_resized(tmp_path, target, log):
    """(64, 144) and (96, 96) have as many patches, in other places."""
    model = build(pos_encoding='learned', img_size=(64, 144))
    torch.save(model.state_dict(), tmp_path / 'own.pth')
    other = build(seed=1, pos_encoding='learned', img_size=target)
    load_checkpoint(other, str(tmp_path / 'own.pth'), strict=True)
    size = (target[0] // 16, target[1] // 16)
    expected = torch.nn.functional.interpolate(
        model.pos_embed[:, 1:].reshape(1, 4, 9, -1).permute(0, 3, 1, 2),
        size=size,
        mode='bicubic',
        align_corners=False,
    )
    torch.testing.assert_close(other.pos_embed[:, 1:], expected.flatten(2).transpose(1, 2))
    assert other.pos_grid.tolist() == list(size)
    assert any('4x9' in line for _, line in log) == (size != (4, 9))


def test_positions_of_an_unknown_grid_are_refused():
    state = build(pos_encoding='learned', img_size=(64, 96)).state_dict()
    del state['pos_grid']
    with pytest.raises(ConversionError, match='^pos_embed .* 24 '):
        build(pos_encoding='learned', img_size=(96, 160)).load_state_dict(state)


def test_mid_positions_are_resized(tmp_path, log):
    kwargs = dict(pos_encoding='learned', mid_positions=True)
    model = build(img_size=(64, 144), **kwargs)
    torch.save(model.state_dict(), tmp_path / 'own.pth')
    other = build(seed=1, img_size=(96, 96), **kwargs)
    load_checkpoint(other, str(tmp_path / 'own.pth'), strict=True)
    for i in range(2):
        expected = torch.nn.functional.interpolate(
            model.mid_pos_embed[i : i + 1, 1:].reshape(1, 4, 9, -1).permute(0, 3, 1, 2),
            size=(6, 6),
            mode='bicubic',
        )
        torch.testing.assert_close(
            other.mid_pos_embed[i : i + 1, 1:], expected.flatten(2).transpose(1, 2)
        )
    assert any('mid_pos_embed from (2, 37, 32)' in line for _, line in log)
    with pytest.raises(ConfigError, match='mid_positions'):
        build(mid_positions=True)


def timm_vit(**kwargs):
    import timm

    torch.manual_seed(3)
    return timm.models.VisionTransformer(
        img_size=64, embed_dim=32, depth=3, num_heads=4, mlp_ratio=2, num_classes=5, **kwargs
    ).eval()


@pytest.mark.parametrize('wrapped', [False, True])
def test_backbone_loads_timm(tmp_path, log, wrapped):
    import argparse

    source = timm_vit()
    state = source.state_dict()
    if wrapped:
        # As DeiT's training script writes it.
        state = dict(model=state, epoch=3, optimizer={}, args=argparse.Namespace(lr=1))
    torch.save(state, tmp_path / 'timm.pth')
    model = PEViT(
        ARCH,
        img_size=64,
        pos_encoding='learned',
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'timm.pth')),
    )
    model.init_weights()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval()(x)[0], source.forward_features(x)[:, 0], atol=1e-4, rtol=0
        )
    assert any('Dropped: head.weight' in line for _, line in log)
    # Where the names stand below another one, `prefix` takes them.
    torch.save({f'net.{k}': v for k, v in source.state_dict().items()}, tmp_path / 'net.pth')
    other = PEViT(
        ARCH,
        img_size=64,
        pos_encoding='learned',
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'net.pth'), prefix='net.'),
    )
    other.init_weights()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_backbone_loads_timm_resized(log):
    source = timm_vit()
    model = build(pos_encoding='learned', img_size=(96, 48))
    model.load_state_dict(source.state_dict())
    expected = torch.nn.functional.interpolate(
        source.pos_embed[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2),
        size=(6, 3),
        mode='bicubic',
    )
    torch.testing.assert_close(model.pos_embed[:, 1:], expected.flatten(2).transpose(1, 2))
    assert any('4x4 resized to 6x3' in line for _, line in log)
    rpe = build()
    rpe.load_state_dict(source.state_dict(), strict=False)
    assert any('initialised: backbone.rpe.reference' in line for _, line in log)
    mixed = build(pos_encoding='learned', patch_embed='mixed')
    start = mixed.patch_embed.projection.bias.clone()
    mixed.load_state_dict(source.state_dict(), strict=False)
    assert torch.equal(mixed.patch_embed.projection.bias, start)
    assert torch.equal(mixed.pos_embed, source.pos_embed)


def test_backbone_refuses_half_of_timm():
    state = timm_vit().state_dict()
    del state['blocks.1.attn.proj.bias']
    model = build(pos_encoding='learned')
    with pytest.raises(ConversionError, match='layers.1.attn.proj.bias'):
        model.load_state_dict(state, strict=False)
    with pytest.raises(ConversionError, match=r'reg_token \(1, 2, 32\).*PEViT'):
        model.load_state_dict(timm_vit(reg_tokens=2).state_dict(), strict=False)


def test_classifier_loads_timm(tmp_path):
    """A whole classifier, head included, by `load_from`."""
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS as PRETRAIN

    source = timm_vit()
    torch.save(dict(model=source.state_dict()), tmp_path / 'timm.pth')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = PRETRAIN.build(
            dict(
                type='ImageClassifier',
                backbone=dict(type='hime_mm.PEViT', arch=ARCH, img_size=64, pos_encoding='learned'),
                head=dict(type='VisionTransformerClsHead', num_classes=5, in_channels=32),
            )
        )
    load_checkpoint(model, str(tmp_path / 'timm.pth'), strict=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), source(x), atol=1e-4, rtol=0)
    # Its own checkpoints go through unchanged.
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'own.pth')
    load_checkpoint(model, str(tmp_path / 'own.pth'), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(model(x), source(x), atol=1e-4, rtol=0)
