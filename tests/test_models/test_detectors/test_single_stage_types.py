# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The token detector under automatic mixed precision and of other number types than float32."""

import copy

import pytest
import torch
import torch.distributed as dist
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from token_parts import model_of, training_batch
from torch.distributed import fsdp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp.wrap import ModuleWrapPolicy


@pytest.fixture
def one_process():
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('name', ['PEViT', 'MI', 'TIMMPEViT'])
def test_amp_trains(name, dtype):
    """Losses stay float32 and finite, and fall."""
    model, cipher, patch = model_of(name)
    model.train()
    batch = training_batch(cipher, patch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler('cpu', enabled=dtype == torch.float16)
    values = []
    for _ in range(5):
        # MMEngine's AmpOptimWrapper does the same, but not without a GPU.
        with torch.autocast('cpu', dtype=dtype):
            data = model.data_preprocessor(copy.deepcopy(batch), True)
            loss, log = model.parse_losses(model(**data, mode='loss'))
        assert all(value.dtype == torch.float32 and value.isfinite() for value in log.values())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        values.append(loss.item())
    assert values[-1] < values[0]
    assert all(param.isfinite().all() for param in model.parameters())


@pytest.mark.parametrize('name', ['PEViT', 'MI', 'TIMMPEViT'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_parameters_of_other_types(name, dtype):
    model, cipher, patch = model_of(name)
    other = copy.deepcopy(model).to(dtype)
    data = model.data_preprocessor(training_batch(cipher, patch), True)
    expected = model(**copy.deepcopy(data), mode='loss')
    halved = dict(inputs=data['inputs'].to(dtype), data_samples=data['data_samples'])
    got = other(**copy.deepcopy(halved), mode='loss')
    for key, (value,) in got.items():
        assert value.dtype in (torch.float32, torch.float64)
        torch.testing.assert_close(value.float(), expected[key][0], atol=0, rtol=0.1)
    sum(loss for many in got.values() for loss in many).backward()
    for param in other.parameters():
        assert param.grad.dtype == dtype and param.grad.isfinite().all()
    with torch.no_grad():
        results = other.eval()(**halved, mode='predict')
    assert all(result.pred_instances.bboxes.isfinite().all() for result in results)


def fsdp1(model, dtype, *classes):
    return fsdp.FullyShardedDataParallel(
        model,
        device_id=torch.device('cpu'),
        mixed_precision=fsdp.MixedPrecision(param_dtype=dtype),
        auto_wrap_policy=ModuleWrapPolicy(classes) if classes else None,
    )


def fsdp1_with_convolutions(model, dtype):
    return fsdp1(model, dtype, TransformerEncoderLayer, torch.nn.Conv2d)


def fsdp2_with_convolutions(model, dtype):
    head, kwargs = model.bbox_head, dict(mesh=init_device_mesh('cpu', (1,)))
    kwargs.update(mp_policy=fsdp.MixedPrecisionPolicy(param_dtype=dtype))
    for module in (*model.backbone.layers, head.conv_cls, head.conv_reg, model):
        fsdp.fully_shard(module, **kwargs)
    return model


@pytest.mark.parametrize('wrap', [fsdp1, fsdp1_with_convolutions, fsdp2_with_convolutions])
@pytest.mark.filterwarnings('ignore')
def test_fully_sharded(one_process, wrap):
    """With `param_dtype`, of the whole model and of layers and convolutions alone."""
    model, cipher, patch = model_of('PEViT')
    data = model.data_preprocessor(training_batch(cipher, patch), True)
    expected = model(**copy.deepcopy(data), mode='loss')
    sharded = wrap(model, torch.bfloat16)
    got = sharded(**copy.deepcopy(data), mode='loss')
    for name, (value,) in got.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name][0], atol=0, rtol=0.05)
    sum(loss for many in got.values() for loss in many).backward()
    assert all(param.grad is not None for param in sharded.parameters())
