# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from pevit_parts import ARCH, build

from hime_mm.ciphers import draw_permutation, mix_patches, shuffle_patches
from hime_mm.errors import ConfigError
from hime_mm.models.backbones import PEViT
from hime_mm.models.layers.padding import key_mask, token_grids


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


@pytest.mark.parametrize(
    'indices', [{1: 1}, {0, 1}, np.array([0, 1]), (i for i in (0, 1)), map(int, '01'), None, 0.5]
)
def test_layers_that_are_refused_as_by_the_host(indices):
    errors = []
    for make in (VisionTransformer, PEViT):
        with pytest.raises(AssertionError) as info:
            make(ARCH, out_indices=indices)
        errors.append(str(info.value))
    assert errors[0] == errors[1] and type(indices).__name__ in errors[0]


@pytest.mark.parametrize('indices', ['01', (), [], [0.0], [1, None], [0, 3], 3, [[0]]])
def test_layers_that_do_not_exist(indices):
    """The host gives fewer outputs for them, or an error that tells nothing."""
    with pytest.raises(ConfigError, match='`out_indices`'):
        build(out_indices=indices)
    for invalid in ([0, 4], -4):
        with pytest.raises(AssertionError, match='Invalid out_indices'):
            build(out_indices=invalid)


@pytest.mark.parametrize('indices', [(0, -1), [0, 2], range(0, 3, 2), [np.int64(0), np.int32(-1)]])
def test_forms_of_layers(indices):
    model = build(out_indices=indices)
    assert model.out_indices == [0, 2] and len(model(torch.rand(1, 3, 32, 32))) == 2


@pytest.mark.parametrize('with_cp', [False, True])
def test_layers_of_another_class(with_cp):
    """Such as merge tokens, or are the host's: they are called as by the host."""
    model, x = build(with_cp=with_cp), torch.rand(2, 3, 32, 32)
    (expected,) = model(x)
    for layer in model.layers:
        layer.__class__ = TransformerEncoderLayer
    (got,) = model(x)
    assert torch.equal(got, expected)


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
    grids = token_grids((48, 80), shapes, model.patch_stride)
    mask = key_mask((3, 5), grids, 'cpu')
    for i, (h, w) in enumerate(shapes):
        for row in range(3):
            for col in range(5):
                shows = row * 16 < h and col * 16 < w
                assert mask[i, row * 5 + col] == shows
    assert key_mask((3, 5), [(3, 5)] * 2, 'cpu') is None
    mixed = build(patch_embed='mixed')
    assert mixed.patch_stride == 8
    assert token_grids((24, 40), [(24, 40), (17, 8)], 8) == [(3, 5), (3, 1)]
    with pytest.raises(ConfigError, match='img_shape'):
        token_grids((48, 80), [(49, 80)], 16)


@pytest.mark.parametrize(
    'bad, match',
    [
        (dict(pos_encoding='sine'), "`pos_encoding` 'sine'.*'rpe'"),
        (dict(patch_embed='conv'), "`patch_embed` 'conv'.*'mixed'"),
        (dict(pos_init='zeros'), "`pos_init` 'zeros'.*'sincos'"),
        (dict(out_type='det_tokens'), 'num_det_tokens'),
        (dict(num_det_tokens=-1), 'num_det_tokens'),
        (dict(patch_size=(16, 8)), 'patch_size'),
        (dict(frozen_stages=4), '`frozen_stages` is 4.* 3 '),
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
    with pytest.raises(ConfigError, match='1 data samples.* 2 images'):
        model(x, samples([(64, 64)]))
    with pytest.raises(ConfigError, match='meta_keys'):
        model(x, [BaseDataElement()] * 2)
    with pytest.raises(ConfigError, match='input_form'):
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
    # New wherever trained weights are.
    assert rpe.get_layer_depth('backbone.rpe.reference', 'backbone.') == (4, 5)


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
