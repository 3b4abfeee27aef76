# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Images of several sizes in one batch of TIMMPEViT give what they give alone."""

import math

import pytest
import torch
from mmengine.structures import BaseDataElement
from timm_parts import FAMILIES, build, timm
from torch import nn

from hime_mm.errors import ConfigError

#: Heights and widths in patches; not all are whole.
SHAPES = [(3, 5), (2, 4.4), (2.3, 1), (3, 3)]
#: Of these every output is looked at.
FEW = (
    'deit_tiny_distilled_patch16_224',
    'vit_small_patch14_reg4_dinov2',
    'vit_wee_patch16_reg1_gap_256',
    'vit_base_patch16_siglip_224',
)
OUT_TYPES = ('cls_token', 'featmap', 'avg_featmap', 'raw')


def samples(shapes):
    return [BaseDataElement(metainfo=dict(img_shape=shape)) for shape in shapes]


def batch_of(patch, fill=7.0):
    """Images, the batch that holds them, and their sizes in pixels."""
    torch.manual_seed(1)
    shapes = [(int(h * patch), int(w * patch)) for h, w in SHAPES]
    images = [torch.randn(3, *shape) for shape in shapes]
    batch = torch.full((len(shapes), 3, 3 * patch, 5 * patch), fill)
    for canvas, image in zip(batch, images, strict=True):
        # The rest of a patch at the edge is zero, as that of an image alone.
        rows, cols = (-(-side // patch) * patch for side in image.shape[1:])
        canvas[:, :rows, :cols] = 0
        canvas[:, : image.shape[1], : image.shape[2]] = image
    return images, batch, shapes


def own_part(out, out_type, shape, model):
    """What of an output in a batch belongs to one image."""
    rows, cols = (math.ceil(side / model.patch_stride) for side in shape)
    if out_type == 'featmap':
        assert not out[:, rows:].any() and not out[:, :, cols:].any()
        return out[:, :rows, :cols]
    if out_type == 'raw':
        start = model.num_extra_tokens
        patches = out[start:].unflatten(0, (3, 5))[:rows, :cols]
        return torch.cat((out[:start], patches.flatten(0, 1)))
    return out


def has(name, out_type):
    return out_type != 'cls_token' or FAMILIES[name] and 'wee' not in name


@pytest.mark.parametrize('pos_encoding', ['rpe', 'none', 'learned'])
@pytest.mark.parametrize(
    ('name', 'out_type'),
    [
        (name, out_type)
        for name in FAMILIES
        for out_type in OUT_TYPES
        if has(name, out_type) and (out_type == 'raw' or name in FEW)
    ],
)
def test_as_alone(name, out_type, pos_encoding):
    model = build(name, out_type=out_type, pos_encoding=pos_encoding)
    images, batch, shapes = batch_of(model.patch_stride)
    with torch.no_grad():
        (together,), (without,) = model(batch, samples(shapes)), model(batch)
        for i, image in enumerate(images):
            (alone,) = model(image[None])
            got = own_part(together[i], out_type, shapes[i], model)
            expected = own_part(alone[0], 'none', shapes[i], model)
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
            (same,) = model(image[None], samples(shapes[i : i + 1]))
            assert torch.equal(same, alone)
            if i and out_type not in ('raw', 'featmap'):
                # Without the mask it would not be so.
                assert (without[i] - alone[0]).abs().max() > 1e-3


@pytest.mark.parametrize('out_type', OUT_TYPES)
def test_padding_tells_nothing(out_type):
    """Whatever it shows, no output of an image changes."""
    model = build('vit_small_patch14_reg4_dinov2', out_type=out_type, pos_encoding='learned')
    _, batch, shapes = batch_of(14)
    _, other, _ = batch_of(14, fill=-99.0)
    with torch.no_grad():
        (first,), (second,) = (model(x, samples(shapes)) for x in (batch, other))
    for a, b, shape in zip(first, second, shapes, strict=True):
        torch.testing.assert_close(
            own_part(a, out_type, shape, model), own_part(b, out_type, shape, model)
        )


@pytest.mark.parametrize('pos_encoding', ['rpe', 'learned'])
@pytest.mark.parametrize('out_type', OUT_TYPES)
def test_gradients(out_type, pos_encoding):
    """They are the sum of those of the images alone, recomputed blocks or kept ones."""
    grads = []
    for with_cp in (False, True, None):
        model = build(out_type=out_type, pos_encoding=pos_encoding, with_cp=bool(with_cp)).train()
        images, batch, shapes = batch_of(16)
        if with_cp is None:
            for image in images:
                model(image[None])[0].square().sum().backward()
        else:
            (out,) = model(batch, samples(shapes))
            for one, shape in zip(out, shapes, strict=True):
                own_part(one, out_type, shape, model).square().sum().backward(retain_graph=True)
        grads.append({name: param.grad for name, param in model.named_parameters()})
    for name, grad in grads[2].items():
        scale = grad.abs().max()
        assert scale > 0, name
        for other in grads[:2]:
            torch.testing.assert_close(other[name], grad, atol=1e-4 * scale.item(), rtol=0)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype):
    model = build(out_type='featmap', pos_encoding='learned').train()
    _, batch, shapes = batch_of(16)
    with torch.autocast('cpu', dtype):
        (out,) = model(batch, samples(shapes))
    out.float().square().sum().backward()
    assert all(param.grad.isfinite().all() for param in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(out.float(), model(batch, samples(shapes))[0], atol=0.2, rtol=0)


@pytest.mark.parametrize('name', ['deit_tiny_patch16_224', 'vit_small_patch16_18x2_224'])
def test_attention_that_is_not_fused(name):
    """timm's own arithmetic, which some devices and exports use."""
    model = build(name, out_type='raw')
    images, batch, shapes = batch_of(16)
    for module in model.modules():
        if hasattr(module, 'fused_attn'):
            module.fused_attn = False
    with torch.no_grad():
        (together,) = model(batch, samples(shapes))
        for i, image in enumerate(images):
            got = own_part(together[i], 'raw', shapes[i], model)
            torch.testing.assert_close(got, model(image[None])[0][0], atol=1e-4, rtol=0)


def test_several_outputs():
    model = build(depth=3, out_indices=(0, 2), out_type='featmap')
    images, batch, shapes = batch_of(16)
    with torch.no_grad():
        outs = model(batch, samples(shapes))
        for i, image in enumerate(images):
            for out, alone in zip(outs, model(image[None]), strict=True):
                got = own_part(out[i], 'featmap', shapes[i], model)
                torch.testing.assert_close(got, alone[0], atol=1e-4, rtol=0)


def test_dropped_patches():
    """They are refused in training where some tokens are padding, and only there."""
    model = build(patch_drop_rate=0.5, out_type='raw').train()
    _, batch, shapes = batch_of(16)
    with pytest.raises(ConfigError, match='padding.*`patch_drop_rate`'):
        model(batch, samples(shapes))
    whole = samples([(48, 80)] * 4)
    assert model(batch, whole)[0].shape == (4, 1 + 7, 48)
    with torch.no_grad():
        assert model.eval()(batch, samples(shapes))[0].shape == (4, 1 + 15, 48)


def test_dropout_reaches_each_image():
    model = build(pos_drop_rate=1.0, pos_encoding='learned', out_type='raw').train()
    embedded = []
    model.timm_model.blocks[0].register_forward_pre_hook(lambda _, args: embedded.append(args[0]))
    _, batch, shapes = batch_of(16)
    model(batch, samples(shapes))
    assert not embedded[0].any()


class Plain(nn.Module):
    """A block that somebody put in place of timm's; it takes tokens only."""

    def forward(self, x):
        return x


def test_blocks_without_masks_work_without_padding():
    model = build(out_type='featmap')
    model.timm_model.blocks[1] = Plain()
    x = torch.randn(2, 3, 48, 80)
    assert model(x, samples([(48, 80)] * 2))[0].shape == (2, 48, 3, 5)


def test_timm_without_masks(monkeypatch):
    """Its blocks would refuse a mask, or add it to the scores."""
    monkeypatch.delattr(timm.layers, 'resolve_self_attn_mask')
    model = build(out_type='featmap')
    _, batch, shapes = batch_of(16)
    with pytest.raises(ConfigError, match=f'padding.*timm {timm.__version__}.*install timm 1'):
        model(batch, samples(shapes))
    assert len(model(batch, samples([(48, 80)] * 4))) == 1


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        ([(48, 80)] * 3, '3 data samples.* 4 images'),
        ([(48, 80)] * 3 + [(48, 81)], r'`img_shape` \(48, 81\) .*larger'),
        ([(48, 80)] * 3 + [None], 'no `img_shape`'),
    ],
)
def test_samples_that_do_not_fit(given, words):
    data = [BaseDataElement(metainfo={} if s is None else dict(img_shape=s)) for s in given]
    with pytest.raises(ConfigError, match=words):
        build()(torch.randn(4, 3, 48, 80), data)
