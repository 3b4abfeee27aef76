# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Weights out of an ONNX file, against the model that was exported."""

import pytest
import torch
import torch.nn.functional as F
from scripts import run_script
from torch import nn

timm = pytest.importorskip('timm')
onnx = pytest.importorskip('onnx')

TOOL = 'tools/model_converters/dinov2_onnx.py'
DIM, DEPTH, HEADS, SIZE, PATCH = 24, 2, 2, 56, 14


class Named(nn.Module):
    """Parts by the names that Hugging Face gives them."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        (part,) = self.children()
        return part(x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        for name in ('query', 'key', 'value'):
            setattr(self, name, nn.Linear(DIM, DIM))

    def forward(self, x):
        q, k, v = (
            one(x).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for one in (self.query, self.key, self.value)
        )
        scores = (q @ k.transpose(2, 3) * (DIM // HEADS) ** -0.5).softmax(-1)
        return (scores @ v).transpose(1, 2).flatten(2)


class Attended(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.output = Attention(), Named(dense=nn.Linear(DIM, DIM))

    def forward(self, x):
        return self.output(self.attention(x))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.rand(DIM) + 0.5)

    def forward(self, x):
        return x * self.lambda1


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM, eps=1e-6), nn.LayerNorm(DIM, eps=1e-6)
        self.attention = Attended()
        self.layer_scale1, self.layer_scale2, self.mlp = Scale(), Scale(), Mlp()

    def forward(self, x):
        x = x + self.layer_scale1(self.attention(self.norm1(x)))
        return x + self.layer_scale2(self.mlp(self.norm2(x)))


class Embeddings(nn.Module):
    any_size = True

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, DIM))
        self.position_embeddings = nn.Parameter(torch.randn(1, 1 + (SIZE // PATCH) ** 2, DIM))
        self.patch_embeddings = Named(projection=nn.Conv2d(3, DIM, PATCH, PATCH))

    def forward(self, x):
        patches = self.patch_embeddings(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.cls_token.expand(len(x), -1, -1), patches), 1)
        first, rest = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        side = SIZE // PATCH
        # Its width is asked of the tokens, so that not all of it is a constant.
        grid = rest.reshape(1, side, side, tokens.shape[-1]).permute(0, 3, 1, 2)
        if self.any_size:
            size = (x.shape[2] // PATCH, x.shape[3] // PATCH)
            grid = F.interpolate(grid, size=size, mode='bicubic')
        rest = grid.permute(0, 2, 3, 1).reshape(1, -1, DIM)
        return tokens + torch.cat((first, rest), 1)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.ModuleList(Layer() for _ in range(DEPTH))

    def forward(self, x):
        for layer in self.layer:
            x = layer(x)
        return x


class Dinov2(nn.Module):
    def __init__(self):
        super().__init__()
        self.embeddings, self.encoder = Embeddings(), Encoder()
        self.layernorm = nn.LayerNorm(DIM, eps=1e-6)

    def forward(self, x):
        return self.layernorm(self.encoder(self.embeddings(x)))


class Whole(nn.Module):
    """A model of which it is the backbone."""

    def __init__(self):
        super().__init__()
        self.backbone, self.decoder = Dinov2(), nn.Linear(DIM, 5)

    def forward(self, x):
        return self.decoder(self.backbone(x)[:, 1:])


@pytest.fixture(scope='module', params=[True, False], ids=['any size', 'one size'])
def exported(request, tmp_path_factory):
    torch.manual_seed(0)
    model = Whole().eval()
    # Positions are two constants in the one case, and one in the other.
    model.backbone.embeddings.any_size = request.param
    with torch.no_grad():
        for param in model.parameters():
            if param.ndim == 1:
                param.normal_(1, 0.2)
    path = tmp_path_factory.mktemp('onnx') / 'model.onnx'
    axes = {2: 'height', 3: 'width'} if request.param else {}
    torch.onnx.export(
        model,
        (torch.randn(1, 3, SIZE, SIZE),),
        str(path),
        input_names=['x'],
        dynamic_axes=dict(x={0: 'batch'} | axes),
        dynamo=False,
    )
    names = {one.name for one in onnx.load(str(path)).graph.initializer}
    assert any(name.startswith('onnx::MatMul') for name in names)
    return model.backbone, path


def test_the_same_features(exported, tmp_path, capsys):
    source, path = exported
    assert run_script(TOOL, path, tmp_path / 'out.pth') == 0
    told = capsys.readouterr().out
    assert '2 blocks' in told and 'decoder' in told
    saved = torch.load(tmp_path / 'out.pth', weights_only=True)
    model = timm.create_model(
        'vit_small_patch14_dinov2',
        img_size=SIZE,
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=0,
    )
    model.load_state_dict(saved['state_dict'])
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected, found = source(x), model.eval().forward_features(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def without(path, dst, pattern):
    graph = onnx.load(str(path))
    kept = [one for one in graph.graph.initializer if pattern not in one.name]
    assert len(kept) < len(graph.graph.initializer)
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    onnx.save(graph, str(dst))
    return dst


def test_what_is_missing(exported, tmp_path, capsys):
    _, path = exported
    out = tmp_path / 'out.pth'
    for pattern, told in (
        ('layer.1.norm2.bias', 'there is no backbone.encoder.layer.1.norm2.bias'),
        ('projection.weight', 'no Dinov2 model'),
        ('onnx::MatMul', 'weight'),
    ):
        assert run_script(TOOL, without(path, tmp_path / 'part.onnx', pattern), out) == 1
        assert told in capsys.readouterr().err
    (tmp_path / 'text.onnx').write_text('no model')
    for src, told in ((tmp_path / 'text.onnx', 'no'), (tmp_path / 'none', 'there is no file')):
        assert run_script(TOOL, src, out) == 1
        assert told in capsys.readouterr().err
    assert not out.exists()
    out.write_bytes(b'kept')
    assert run_script(TOOL, path, out) == 1 and out.read_bytes() == b'kept'
    assert run_script(TOOL, path, out, '--overwrite') == 0 and out.read_bytes() != b'kept'
