# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS

from hime_mm.errors import ConfigError
from hime_mm.models.necks import ViTProjector

WIDTHS = [12, 12, 8]


@pytest.fixture
def projector():
    torch.manual_seed(0)
    neck = MODELS.build(
        dict(type='hime_mm.ViTProjector', in_channels=WIDTHS, out_channels=16, scales=(2, 1, 0.5))
    )
    neck.init_weights()
    with torch.no_grad():
        for param in neck.parameters():
            # Norms that do something.
            param.add_(torch.randn_like(param) * 0.1)
    return neck


def maps(rows, cols, batch=2):
    generator = torch.Generator().manual_seed(rows)
    return [torch.randn(batch, width, rows, cols, generator=generator) * 3 for width in WIDTHS]


def by_hand(inputs, state, scale, index):
    """The layers one after the other, from their weights."""

    def norm(x, name):
        x = x - x.mean(1, keepdim=True)
        x = x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return x * state[f'{name}.weight'][:, None, None] + state[f'{name}.bias'][:, None, None]

    def conv(x, name, **kwargs):
        weight = state[f'{name}.conv.weight']
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2, **kwargs)
        (own,) = (key[: -len('.weight')] for key in state if key.startswith(f'{name}.ln.weight'))
        x = norm(x, own)
        return x * x.sigmoid()

    resized = []
    for i, x in enumerate(inputs):
        x, name = norm(x, f'norms.{i}'), f'resizers.{index}.{i}'
        if scale == 2:
            x = F.conv_transpose2d(x, state[f'{name}.weight'], state[f'{name}.bias'], stride=2)
        elif scale == 0.5:
            x = conv(x, name, stride=2)
        resized.append(x)
    block = f'blocks.{index}'
    x = conv(torch.cat(resized, 1), f'{block}.expand')
    parts = [x[:, :8], x[:, 8:]]
    for i in range(3):
        parts.append(conv(conv(parts[-1], f'{block}.blocks.{i}.0'), f'{block}.blocks.{i}.1'))
    return norm(conv(torch.cat(parts, 1), f'{block}.fuse'), f'out_norms.{index}')


def test_by_hand(projector):
    inputs = maps(5, 6)
    with torch.no_grad():
        outs = projector(tuple(inputs))
    sizes = [(10, 12), (5, 6), (3, 3)]
    for i, (scale, size) in enumerate(zip((2, 1, 0.5), sizes, strict=True)):
        expected = by_hand(inputs, projector.state_dict(), scale, i)
        assert outs[i].shape == (2, 16, *size)
        torch.testing.assert_close(outs[i], expected, rtol=1e-4, atol=1e-4)
        assert outs[i].std() > 0.5


@pytest.mark.parametrize('rows, cols', [(4, 6), (5, 3), (3, 7)])
@pytest.mark.parametrize('training', [True, False])
def test_padding_reaches_nothing(rows, cols, training, projector):
    """The batch is larger than each image: its map is what it is alone, and zero around it."""
    projector.train(training)
    inputs = maps(rows, cols)
    with torch.no_grad():
        alone = projector(tuple(inputs))
        padded = projector(tuple(F.pad(x, (0, 3, 0, 2)) for x in inputs))
    for one, many in zip(alone, padded, strict=True):
        height, width = one.shape[-2:]
        torch.testing.assert_close(many[..., :height, :width], one)
        rest = many.clone()
        rest[..., :height, :width] = 0
        assert many.shape[-2] > height and not rest.any()


def test_all_of_it_learns(projector):
    sum(out.square().sum() for out in projector(tuple(maps(4, 4)))).backward()
    assert all(param.grad.any() for param in projector.parameters())


def test_refuses():
    with pytest.raises(ConfigError, match=r'`scales` \(4,\)'):
        ViTProjector(WIDTHS, scales=(4,))
    with pytest.raises(ConfigError, match='`scales`'):
        ViTProjector(WIDTHS, scales=())
    with pytest.raises(ConfigError, match='for 3 maps, .* gives 2'):
        ViTProjector(WIDTHS)(tuple(maps(2, 2)[:2]))
