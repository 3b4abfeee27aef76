# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Backbones whose parameters are of another number type than float32."""

import copy

import pevit_parts
import pytest
import torch
from mmengine.structures import BaseDataElement

#: What a type loses over three layers of outputs around 1.
TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float64: 1e-5}


def timm_model(**kwargs):
    pytest.importorskip('timm')
    import timm_parts

    return timm_parts.build(img_size=64, **kwargs)


@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ('build', 'options'),
    [
        (pevit_parts.build, dict(out_type='raw')),
        (pevit_parts.build, dict(out_type='featmap', pos_encoding='learned')),
        (pevit_parts.build, dict(out_type='avg_featmap', patch_embed='mixed')),
        (
            pevit_parts.build,
            dict(
                out_type='det_tokens',
                pos_encoding='learned',
                patch_embed='mixed',
                input_form='full',
                num_det_tokens=5,
                mid_positions=True,
                with_cp=True,
            ),
        ),
        (timm_model, dict(out_type='raw')),
        (timm_model, dict(out_type='featmap', pos_encoding='learned')),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_as_in_float32(build, options, dtype):
    """Forward and backward; with positions that are interpolated, and with padding."""
    model = build(**options).train()
    other = copy.deepcopy(model).to(dtype)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    shapes = [(64, 48), (32, 96)]
    samples = [BaseDataElement(metainfo=dict(img_shape=shape)) for shape in shapes]
    for kwargs in ({}, dict(data_samples=samples)):
        (expected,), (got,) = model(images, **kwargs), other(images.to(dtype), **kwargs)
        assert got.dtype == dtype
        torch.testing.assert_close(
            got.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
        )
        got.float().square().mean().backward()
        for name, param in other.named_parameters():
            if param.grad is not None:
                assert param.grad.dtype == dtype and param.grad.isfinite().all(), name


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_many_tokens_of_a_padded_batch(dtype):
    """Their sum and their number are beyond what half precision counts to."""
    model = pevit_parts.build(out_type='avg_featmap', final_norm=False, patch_size=8).eval()
    with torch.no_grad():
        model.patch_embed.projection.bias.copy_(torch.arange(32) % 5 * 60)
    samples = [
        BaseDataElement(metainfo=dict(img_shape=shape)) for shape in [(256, 248), (248, 256)]
    ]
    images = torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (expected,) = model(images, data_samples=samples)
        (got,) = model.to(dtype)(images.to(dtype), data_samples=samples)
    torch.testing.assert_close(got.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
