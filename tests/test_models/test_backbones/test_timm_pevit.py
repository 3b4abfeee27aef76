# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import pytest
import torch
from timm_parts import FAMILIES, SMALL, build, loaded, moved_pair, original, shake

from hime_mm.errors import ConfigError
from hime_mm.models.backbones import TIMMPEViT

FEW = (
    'deit_tiny_patch16_224',
    'deit_tiny_distilled_patch16_224',
    'vit_small_patch14_reg4_dinov2',
    'vit_wee_patch16_reg1_gap_256',
    'beit3_base_patch16_224',
)


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
    with pytest.raises(ConfigError, match='`frozen_stages` is 3.* 2 '):
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
                    3 if key.startswith(('rpe.', 'timm_model.norm.', 'timm_model.fc_norm')) else 0
                ), key
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (3, 4)


def test_channels_and_attributes():
    model = build('vit_small_patch14_dinov2', in_channels=1)
    assert model(torch.randn(1, 1, 28, 28))[0].shape == (1, 48)
    assert model.patch_stride == 14 and model.embed_dims == 48


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
        (model.backbone.rpe.reference, 8),
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
