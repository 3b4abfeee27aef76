# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import argparse

import pytest
import torch
from mmengine.runner import load_checkpoint
from timm_parts import SMALL, build, loaded, original, out_type_of, shake, timm

from hime_mm.errors import ConfigError, ConversionError
from hime_mm.models.backbones import TIMMPEViT


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
    with pytest.raises(ConversionError, match='^timm_model.pos_embed .* 24 '):
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
    with pytest.raises(ConfigError):
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
