# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import logging

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint
from mmengine.structures import BaseDataElement
from mmpretrain.models.backbones import VisionTransformer

from hime_mm.ciphers import draw_permutation, mix_patches, shuffle_patches
from hime_mm.models.backbones import PEViT
from hime_mm.models.layers.padding import key_mask

ARCH = dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=64)


def build(seed=0, **kwargs):
    torch.manual_seed(seed)
    model = PEViT(**{'arch': ARCH, 'img_size': 64, **kwargs})
    model.init_weights()
    # Positions and references of trained models are not small.
    with torch.no_grad():
        for name, param in model.named_parameters():
            if 'token' in name or 'pos' in name or 'reference' in name:
                param.normal_()
    return model


def as_batch(image):
    return torch.as_tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None]


@pytest.fixture(scope='module')
def photo():
    from skimage.data import astronaut

    image = astronaut()[:96, 150:262].astype(np.float32)
    return (image - 120) / 58


@pytest.mark.parametrize('pos_encoding', ['rpe', 'none', 'learned'])
def test_class_token_of_a_shuffled_image(photo, pos_encoding):
    model = build(pos_encoding=pos_encoding).eval()
    shuffled = shuffle_patches(photo, draw_permutation(42), 16)
    with torch.no_grad():
        plain, moved = model(as_batch(photo))[0], model(as_batch(shuffled))[0]
    gap = (plain - moved).abs().max().item()
    if pos_encoding == 'learned':
        assert gap > 1e-2
    else:
        assert gap <= 1e-4


@pytest.mark.parametrize('arch', ['deit-tiny', 'deit-small'])
def test_logits_of_a_shuffled_image_at_real_size(arch):
    """Class-token logits of the real architectures, 224x224."""
    torch.manual_seed(0)
    model = PEViT(arch, pos_encoding='rpe').eval()
    head = torch.nn.Linear(model.embed_dims, 1000)
    image = np.random.default_rng(0).standard_normal((224, 224, 3)).astype(np.float32)
    shuffled = shuffle_patches(image, draw_permutation(196), 16)
    with torch.no_grad():
        plain, moved = (head(model(as_batch(x))[0]) for x in (image, shuffled))
    assert (plain - moved).abs().max() <= 1e-4


@pytest.mark.parametrize('pos_encoding', ['rpe', 'none'])
def test_patch_tokens_move_with_their_patches(photo, pos_encoding):
    model = build(pos_encoding=pos_encoding, out_type='raw').eval()
    perm = draw_permutation(42)
    with torch.no_grad():
        plain = model(as_batch(photo))[0][:, 1:]
        moved = model(as_batch(shuffle_patches(photo, perm, 16)))[0][:, 1:]
    torch.testing.assert_close(moved, plain[:, perm], atol=1e-4, rtol=0)


def test_mixed_input_forms_agree(photo):
    compact = mix_patches(photo, 16, 2)
    tiled = mix_patches(photo, 16, 2, 'tiled')
    model = build(patch_embed='mixed', pos_encoding='learned', out_type='raw').eval()
    with torch.no_grad():
        reference = model(as_batch(compact))[0]
        for image in (photo, tiled):
            out = model(as_batch(image), input_form='full')[0]
            torch.testing.assert_close(out, reference, atol=1e-5, rtol=0)
    full = build(
        patch_embed='mixed', pos_encoding='learned', out_type='raw', input_form='full'
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(full(as_batch(tiled))[0], reference, atol=1e-5, rtol=0)


def test_learned_positions_are_the_hosts_vit():
    """With positions and the linear embedding it is MMPretrain's ViT."""
    torch.manual_seed(0)
    host = VisionTransformer(ARCH, img_size=64, out_type='raw')
    host.init_weights()
    host.eval()
    model = build(pos_encoding='learned', out_type='raw').eval()
    model.load_state_dict(host.state_dict(), strict=True)
    for size in ((64, 64), (96, 48), (70, 50)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(model(x)[0], host(x)[0])


SHAPES = {
    'cls_token': (2, 32),
    'featmap': (2, 32, 3, 5),
    'avg_featmap': (2, 32),
    'raw': (2, 1 + 15 + 6, 32),
    'det_tokens': (2, 6, 32),
}


@pytest.mark.parametrize('patch_embed', ['linear', 'mixed'])
@pytest.mark.parametrize('pos_encoding', ['rpe', 'none', 'learned'])
@pytest.mark.parametrize('out_type', sorted(SHAPES))
@pytest.mark.parametrize('with_cp', [False, True])
def test_out_types_and_gradients(out_type, pos_encoding, patch_embed, with_cp):
    model = build(
        out_type=out_type,
        pos_encoding=pos_encoding,
        patch_embed=patch_embed,
        input_form='full',
        num_det_tokens=6,
        with_cp=with_cp,
    ).train()
    (out,) = model(torch.randn(2, 3, 48, 80))
    assert out.shape == SHAPES[out_type]
    (out * torch.randn_like(out)).sum().backward()
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.abs().max() > 0, name


def test_checkpointing_changes_no_gradient():
    x = torch.randn(2, 3, 48, 80)
    grads = []
    for with_cp in (False, True):
        model = build(with_cp=with_cp, num_det_tokens=2).train()
        model(x)[0].square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_several_layers_out():
    model = build(out_indices=(0, -1), out_type='featmap')
    outs = model(torch.randn(1, 3, 32, 64))
    assert [o.shape for o in outs] == [(1, 32, 2, 4)] * 2
    assert model.out_indices == [0, 2]


def samples(shapes):
    return [BaseDataElement(metainfo=dict(img_shape=s)) for s in shapes]


@pytest.mark.parametrize('out_type', sorted(SHAPES))
@pytest.mark.parametrize('pos_encoding', ['rpe', 'learned'])
def test_padded_images_give_what_they_give_alone(out_type, pos_encoding):
    model = build(out_type=out_type, pos_encoding=pos_encoding, num_det_tokens=3).eval()
    shapes = [(48, 80), (48, 48), (32, 80)]
    images = [torch.randn(3, *s) for s in shapes]
    batch = torch.full((3, 3, 48, 80), 7.0)
    for canvas, image in zip(batch, images, strict=True):
        canvas[:, : image.shape[1], : image.shape[2]] = image
    with torch.no_grad():
        together = model(batch, samples(shapes))[0]
        without = model(batch)[0]
        for i, image in enumerate(images):
            alone = model(image[None], samples(shapes[i : i + 1]))[0][0]
            got = together[i]
            if out_type == 'featmap':
                rows, cols = alone.shape[1:]
                assert not got[:, rows:].any() and not got[:, :, cols:].any()
                got = got[:, :rows, :cols]
            if out_type == 'raw':
                rows, cols = shapes[i][0] // 16, shapes[i][1] // 16
                keep = torch.zeros(3, 5, dtype=torch.bool)
                keep[:rows, :cols] = True
                keep = torch.cat(
                    [
                        torch.ones(1, dtype=torch.bool),
                        keep.flatten(),
                        torch.ones(3, dtype=torch.bool),
                    ]
                )
                got = got[keep]
            torch.testing.assert_close(got, alone, atol=1e-4, rtol=0)
            if i > 0 and out_type not in ('raw', 'featmap'):
                assert (without[i] - alone).abs().max() > 1e-3


def test_key_mask_against_a_loop():
    model = build()
    shapes = [(48, 80), (33, 16), (1, 65)]
    grids = model.token_grids((48, 80), shapes)
    mask = key_mask((3, 5), grids, 'cpu')
    for i, (h, w) in enumerate(shapes):
        for row in range(3):
            for col in range(5):
                shows = row * 16 < h and col * 16 < w
                assert mask[i, row * 5 + col] == shows
    assert key_mask((3, 5), [(3, 5)] * 2, 'cpu') is None
    mixed = build(patch_embed='mixed')
    assert mixed.patch_stride == 8
    assert mixed.token_grids((24, 40), [(24, 40), (17, 8)]) == [(3, 5), (3, 1)]
    with pytest.raises(ValueError, match='img_shape'):
        model.token_grids((48, 80), [(49, 80)])


@pytest.mark.parametrize(
    'bad, match',
    [
        (dict(pos_encoding='sine'), "unknown `pos_encoding` 'sine'"),
        (dict(patch_embed='conv'), "unknown `patch_embed` 'conv'"),
        (dict(pos_init='zeros'), "unknown `pos_init` 'zeros'"),
        (dict(out_type='det_tokens'), 'num_det_tokens'),
        (dict(num_det_tokens=-1), 'num_det_tokens'),
        (dict(patch_size=(16, 8)), 'patch_size'),
        (dict(frozen_stages=4), 'there are 3 layers'),
        (dict(patch_embed='mixed', num_splits=0), 'num_splits'),
        (dict(out_type='tokens'), 'out_type'),
        (dict(patch_embed='mixed', num_splits=3), 'num_splits'),
        (dict(patch_embed='mixed', patch_cfg=dict(padding='same')), 'patch_cfg'),
    ],
)
def test_bad_options(bad, match):
    with pytest.raises(ValueError, match=match):
        build(**bad)


def test_padding_with_overlapping_patches():
    """The host's `patch_cfg` changes the stride; the mask has to follow."""
    model = build(patch_cfg=dict(stride=8)).eval()
    assert model.patch_stride == 8
    image = torch.randn(3, 48, 48)
    batch = torch.full((2, 3, 48, 80), 7.0)
    batch[0, :, :, :48] = image
    with torch.no_grad():
        # The rightmost patch of the image reaches into the padding.
        batch[0, :, :, 48:56] = 0
        together = model(batch, samples([(48, 48), (48, 80)]))[0][0]
        alone = model(image[None])[0][0]
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_bad_calls():
    model = build()
    x = torch.rand(2, 3, 64, 64)
    with pytest.raises(ValueError, match='1 data samples for a batch of 2'):
        model(x, samples([(64, 64)]))
    with pytest.raises(ValueError, match='meta_keys'):
        model(x, [BaseDataElement()] * 2)
    with pytest.raises(ValueError, match='input_form'):
        model(x, input_form='full')


def test_frozen_stages_stay_frozen():
    model = build(frozen_stages=2, num_det_tokens=2, drop_path_rate=0.5)
    model.train()
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert {n.split('.')[0] for n in frozen} == {'cls_token', 'patch_embed', 'rpe', 'layers'}
    assert {n.split('.')[1] for n in frozen if n.startswith('layers')} == {'0', '1'}
    assert not model.layers[1].training and model.layers[2].training
    assert not model.patch_embed.training and not model.rpe.training
    model.eval().train()
    assert not model.layers[0].training


def test_layer_depth_for_layer_wise_decay():
    model = build(num_det_tokens=2, pos_encoding='learned', patch_embed='mixed')
    depths = {n: model.get_layer_depth(n) for n, _ in model.named_parameters()}
    for name, (depth, total) in depths.items():
        assert total == 5
        if name.startswith('layers'):
            assert depth == int(name.split('.')[1]) + 1
        elif name.startswith('ln1'):
            assert depth == 4
        else:
            assert depth == 0, name
    rpe = build()
    assert rpe.get_layer_depth('backbone.rpe.reference', 'backbone.')[0] == 0


@pytest.fixture
def log():
    """What MMEngine's logger says."""
    logger = MMLogger.get_current_instance()
    lines = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    handler = Keep(level=logging.INFO)
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


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
    assert not any('Dropped' in line for line in log)


def test_deit_checkpoint_resized(deit, log):
    path, host = deit
    model = pretrained(path, pos_encoding='learned', img_size=(64, 96), num_det_tokens=4)
    assert any('Resized pos_embed from (1, 197, 192), a grid of 14x14' in line for line in log)
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
    dropped = [line for line in log if line.startswith('Dropped')]
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
    assert any('4x9' in line for line in log) == (size != (4, 9))


def test_positions_of_an_unknown_grid_are_refused():
    state = build(pos_encoding='learned', img_size=(64, 96)).state_dict()
    del state['pos_grid']
    with pytest.raises(ValueError, match='24 patch positions'):
        build(pos_encoding='learned', img_size=(96, 160)).load_state_dict(state)


def test_sincos_positions_tell_patches_apart():
    model = PEViT(ARCH, img_size=64, pos_encoding='learned', pos_init='sincos')
    table = model.pos_embed[0, 1:]
    assert table.shape == (16, 32)
    assert torch.cdist(table, table).fill_diagonal_(9).min() > 0.1
    assert table.requires_grad or model.pos_embed.requires_grad


def test_builds_from_both_hosts():
    from mmdet.registry import MODELS as DET
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS as PRETRAIN

    for scope, registry in (('mmdet', DET), ('mmpretrain', PRETRAIN)):
        with DefaultScope.overwrite_default_scope(scope):
            model = registry.build(dict(type='hime_mm.PEViT', arch=ARCH))
        assert isinstance(model, PEViT)


@pytest.mark.parametrize(
    'out_type, num_det_tokens',
    [*((name, 3) for name in sorted(SHAPES)), ('cls_token', 0), ('featmap', 0)],
)
def test_mid_positions_in_padded_batches(out_type, num_det_tokens):
    """They are interpolated to each image's own grid, like the first."""
    model = build(
        out_type=out_type, pos_encoding='learned', mid_positions=True, num_det_tokens=num_det_tokens
    ).eval()
    image = torch.randn(3, 48, 48)
    batch = torch.full((2, 3, 48, 80), 7.0)
    batch[0, :, :, :48] = image
    with torch.no_grad():
        together = model(batch, samples([(48, 48), (48, 80)]))[0][0]
        alone = model(image[None])[0][0]
    if out_type == 'featmap':
        together = together[..., :3]
    if out_type == 'raw':
        keep = torch.ones(len(together), dtype=torch.bool)
        keep[1:16] = torch.tensor([1, 1, 1, 0, 0] * 3, dtype=torch.bool)
        together = together[keep]
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_mid_positions_against_a_loop():
    """Added to the input of every layer but the first."""
    model = build(
        pos_encoding='learned', mid_positions=True, num_det_tokens=3, out_type='raw', with_cp=True
    )
    assert model.mid_pos_embed.shape == (2, 17, 32)
    x = torch.randn(2, 3, 64, 64)
    tokens = model.patch_embed(x)[0]
    tokens = torch.cat(
        (model.cls_token.expand(2, -1, -1), tokens, model.det_token.expand(2, -1, -1)), 1
    )
    tokens = tokens + torch.cat((model.pos_embed, model.det_pos_embed), 1)
    for i, layer in enumerate(model.layers):
        tokens = layer(tokens)
        if i < 2:
            tokens = tokens + torch.cat((model.mid_pos_embed[i], model.mid_det_pos_embed[i]))
    out = model.train()(x)[0]
    torch.testing.assert_close(out, model.ln1(tokens))
    out.square().sum().backward()
    assert model.mid_pos_embed.grad.abs().min(dim=-1).values.max() > 0
    assert model.get_layer_depth('mid_pos_embed') == (0, 5)
    assert model.get_layer_depth('mid_det_pos_embed') == (0, 5)


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
    assert any('mid_pos_embed from (2, 37, 32)' in line for line in log)
    with pytest.raises(ValueError, match='mid_positions'):
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
    assert any('Dropped: head.weight' in line for line in log)
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
    assert any('4x4 resized to 6x3' in line for line in log)
    rpe = build()
    rpe.load_state_dict(source.state_dict(), strict=False)
    assert any('initialised: backbone.rpe.reference' in line for line in log)
    mixed = build(pos_encoding='learned', patch_embed='mixed')
    start = mixed.patch_embed.projection.bias.clone()
    mixed.load_state_dict(source.state_dict(), strict=False)
    assert torch.equal(mixed.patch_embed.projection.bias, start)
    assert torch.equal(mixed.pos_embed, source.pos_embed)


def test_backbone_refuses_half_of_timm():
    state = timm_vit().state_dict()
    del state['blocks.1.attn.proj.bias']
    model = build(pos_encoding='learned')
    with pytest.raises(ValueError, match='layers.1.attn.proj.bias'):
        model.load_state_dict(state, strict=False)
    with pytest.raises(ValueError, match='register tokens'):
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
