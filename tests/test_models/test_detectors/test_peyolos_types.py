# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""PEYOLOS whose parameters are of another number type than float32."""

import copy

import pytest
import test_peyolos as parts
import torch
import torch.distributed as dist
from mmdet.models.layers import MLP
from mmengine.registry import init_default_scope
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch.distributed import fsdp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

HALVES = [torch.float16, torch.bfloat16]
TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2, torch.float64: 1e-5}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def batch(model, shapes=((48, 64), (64, 48))):
    return model.data_preprocessor(parts.inputs(list(shapes)), True)


def in_type(data, dtype):
    return dict(inputs=data['inputs'].to(dtype), data_samples=data['data_samples'])


@pytest.mark.parametrize('backbone', [{}, dict(pos_encoding='rpe', out_indices=(0, 1, 2))])
@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
def test_as_in_float32(dtype, backbone):
    """Losses, gradients, raw outputs and predictions."""
    model = parts.build(**backbone)
    other = copy.deepcopy(model).to(dtype)
    data = batch(model)
    expected = model(**copy.deepcopy(data), mode='loss')
    got = other(**in_type(copy.deepcopy(data), dtype), mode='loss')
    assert list(got) == list(expected)
    for name, value in got.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], atol=0, rtol=TOLERANCE[dtype])
    sum(got.values()).backward()
    for name, param in other.named_parameters():
        assert param.grad.dtype == dtype and param.grad.isfinite().all(), name
        assert param.grad.abs().max() > 0, name

    model.eval()
    other.eval()
    with torch.no_grad():
        for a, b in zip(
            other(data['inputs'].to(dtype), data['data_samples'], mode='tensor'),
            model(data['inputs'], data['data_samples'], mode='tensor'),
            strict=True,
        ):
            assert a.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            torch.testing.assert_close(a.float(), b, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        expected = model(**copy.deepcopy(data), mode='predict')
        got = other(**in_type(copy.deepcopy(data), dtype), mode='predict')
    for a, b in zip(got, expected, strict=True):
        assert a.pred_instances.bboxes.dtype == a.pred_instances.scores.dtype == torch.float32
        torch.testing.assert_close(
            a.pred_instances.scores, b.pred_instances.scores, atol=TOLERANCE[dtype], rtol=0
        )


@pytest.mark.parametrize('halved', [False, True])
@pytest.mark.parametrize('autocast', HALVES, ids=str)
def test_automatic_mixed_precision_leaves_the_head_in_float32(autocast, halved):
    """Bit by bit."""
    head = parts.build().bbox_head
    hidden = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(0))
    hidden = hidden.to(autocast) if halved else hidden
    x = hidden.float()[None]
    expected = (head.cls_branch(x), head.reg_branch(x).sigmoid())
    with torch.autocast('cpu', dtype=autocast):
        got = head([hidden])
    for a, b in zip((*got, *head([hidden])), expected * 2, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)


@pytest.mark.parametrize('dtype', HALVES, ids=str)
def test_boxes_are_finer_than_their_parameters(dtype):
    """A box is a float32 sigmoid: the largest side of COCO is told to less than a pixel."""
    model = parts.build().to(dtype)
    _, boxes = model.bbox_head([torch.randn(1, 8, 32).to(dtype)])
    assert not torch.equal(boxes, boxes.to(dtype).float())


@pytest.fixture
def one_process():
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def fsdp1(model, dtype, **kwargs):
    return fsdp.FullyShardedDataParallel(
        model,
        device_id=torch.device('cpu'),
        mixed_precision=fsdp.MixedPrecision(param_dtype=dtype),
        **kwargs,
    )


def fsdp1_with_layers(model, dtype):
    return fsdp1(model, dtype, auto_wrap_policy=ModuleWrapPolicy({TransformerEncoderLayer, MLP}))


def fsdp2_with_layers(model, dtype):
    kwargs = dict(
        mesh=init_device_mesh('cpu', (1,)), mp_policy=fsdp.MixedPrecisionPolicy(param_dtype=dtype)
    )
    head = model.bbox_head
    for module in (*model.backbone.layers, head.cls_branch, head.reg_branch, model):
        fsdp.fully_shard(module, **kwargs)
    return model


@pytest.mark.parametrize('dtype', HALVES, ids=str)
@pytest.mark.parametrize('wrap', [fsdp1, fsdp1_with_layers, fsdp2_with_layers])
@pytest.mark.parametrize('shapes', [((48, 64), (64, 48)), ((48, 64),) * 2], ids=['mask', 'none'])
@pytest.mark.filterwarnings('ignore')
def test_fully_sharded(one_process, wrap, dtype, shapes):
    """With `param_dtype`, of the whole model and of layers and branches alone."""
    model = parts.build(with_cp=wrap is fsdp2_with_layers)
    data = batch(model, shapes)
    expected = model(**copy.deepcopy(data), mode='loss')
    sharded = wrap(model, dtype)
    got = sharded(**copy.deepcopy(data), mode='loss')
    for name, value in got.items():
        torch.testing.assert_close(value, expected[name], atol=0, rtol=TOLERANCE[dtype])
    sum(got.values()).backward()
    assert all(param.grad is not None for param in sharded.parameters())
