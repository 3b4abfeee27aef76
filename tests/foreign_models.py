# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Models of others, written down from their papers and documented names."""

import torch
import torch.nn.functional as F
from torch import nn


def shake(model, seed=0):
    """Random weights without trivial biases, norms and tokens."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param in model.parameters():
            std = 0.02 if param.ndim > 1 else 0.2
            param.add_(torch.randn(param.shape, generator=gen) * std)
    return model.eval()


class Mlp(nn.Module):
    def __init__(self, dim, out):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out)])

    def forward(self, x):
        for layer in self.layers[:2]:
            x = layer(x).clamp(min=0)
        return self.layers[2](x)


class Block(nn.Module):
    def __init__(self, dim, heads, hidden, eps):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = nn.ModuleDict(dict(qkv=nn.Linear(dim, 3 * dim), proj=nn.Linear(dim, dim)))
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = nn.ModuleDict(dict(fc1=nn.Linear(dim, hidden), fc2=nn.Linear(hidden, dim)))

    def forward(self, x):
        qkv = self.attn['qkv'](self.norm1(x))
        out = []
        # One head at a time.
        for q, k, v in zip(
            *(part.chunk(self.heads, dim=-1) for part in qkv.chunk(3, dim=-1)), strict=True
        ):
            scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
            out.append(scores.softmax(dim=-1) @ v)
        x = x + self.attn['proj'](torch.cat(out, dim=-1))
        return x + self.mlp['fc2'](F.gelu(self.mlp['fc1'](self.norm2(x))))


class Backbone(nn.Module):
    def __init__(self, dim, depth, heads, hidden, grid, det, mid, mixed, eps, patch, leftover):
        super().__init__()
        length = 1 + grid[0] * grid[1] + det
        self.grid, self.det, self.mixed = grid, det, mixed
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.det_token = nn.Parameter(torch.zeros(1, det, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, length, dim))
        if mid:
            self.mid_pos_embed = nn.Parameter(torch.zeros(depth - 1, 1, length, dim))
        self.mid = mid
        embed = {}
        if mixed:
            embed['proj_siat'] = nn.Conv2d(3, dim, patch // 2, patch // 2)
            embed['proj_siat_embed'] = (
                nn.Linear(dim, dim) if mixed == 'linear' else nn.Conv2d(dim, dim, 1)
            )
        if not mixed or leftover:
            embed['proj'] = nn.Conv2d(3, dim, patch, patch)
        self.patch_embed = nn.ModuleDict(embed)
        self.blocks = nn.ModuleList([Block(dim, heads, hidden, eps) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps=eps)

    def resized(self, table, size):
        patches = table[:, 1 : -self.det].transpose(1, 2)
        patches = F.interpolate(patches.reshape(1, -1, *self.grid), size=size, mode='bicubic')
        return torch.cat(
            (table[:, :1], patches.flatten(2).transpose(1, 2), table[:, -self.det :]), 1
        )

    def forward(self, x):
        if self.mixed:
            # Compact images: the sub-patches are averaged already.
            x = F.gelu(self.patch_embed['proj_siat'](x))
            size = x.shape[-2:]
            if self.mixed == 'linear':
                x = self.patch_embed['proj_siat_embed'](x.permute(0, 2, 3, 1))
                x = x.flatten(1, 2)
            else:
                x = self.patch_embed['proj_siat_embed'](x)
                x = x.flatten(2).transpose(1, 2)
        else:
            x = self.patch_embed['proj'](x)
            size = x.shape[-2:]
            x = x.flatten(2).transpose(1, 2)
        n = len(x)
        x = torch.cat((self.cls_token.expand(n, -1, -1), x, self.det_token.expand(n, -1, -1)), 1)
        x = x + self.resized(self.pos_embed, size)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if self.mid and i < len(self.blocks) - 1:
                x = x + self.resized(self.mid_pos_embed[i], size)
        return self.norm(x)[:, -self.det :]


class Yolos(nn.Module):
    """YOLOS under the names of its authors, or of the paper's PEYOLOS.

    Args:
        mixed (bool | str): False, or the kind of the layer after the mixed
            projection: 'conv' or 'linear'.
    """

    def __init__(
        self,
        dim=128,
        depth=3,
        heads=2,
        hidden=256,
        grid=(4, 6),
        det=5,
        rows=92,
        mid=False,
        mixed=False,
        eps=1e-6,
        patch=16,
        leftover=False,
    ):
        super().__init__()
        self.backbone = Backbone(
            dim, depth, heads, hidden, grid, det, mid, mixed, eps, patch, leftover
        )
        self.class_embed = Mlp(dim, rows)
        self.bbox_embed = Mlp(dim, 4)

    def forward(self, x):
        x = self.backbone(x)
        return self.class_embed(x), self.bbox_embed(x).sigmoid()


def hugging_face(state):
    """A state dict of :class:`Yolos` under the names of transformers."""
    out = {}
    names = [
        ('backbone.cls_token', 'vit.embeddings.cls_token'),
        ('backbone.det_token', 'vit.embeddings.detection_tokens'),
        ('backbone.pos_embed', 'vit.embeddings.position_embeddings'),
        ('backbone.mid_pos_embed', 'vit.encoder.mid_position_embeddings'),
        ('backbone.patch_embed.proj.', 'vit.embeddings.patch_embeddings.projection.'),
        ('backbone.norm.', 'vit.layernorm.'),
        ('backbone.blocks.', 'vit.encoder.layer.'),
        ('.attn.proj.', '.attention.output.dense.'),
        ('.norm1.', '.layernorm_before.'),
        ('.norm2.', '.layernorm_after.'),
        ('.mlp.fc1.', '.intermediate.dense.'),
        ('.mlp.fc2.', '.output.dense.'),
        ('class_embed.', 'class_labels_classifier.'),
        ('bbox_embed.', 'bbox_predictor.'),
    ]
    for name, tensor in state.items():
        for old, new in names:
            name = name.replace(old, new)
        if '.attn.qkv.' in name:
            for kind, part in zip(('query', 'key', 'value'), tensor.chunk(3), strict=True):
                out[name.replace('.attn.qkv.', f'.attention.attention.{kind}.')] = part
        else:
            out[name] = tensor
    return out


class PaperPEViT(nn.Module):
    """PEViT of the paper: timm's ViT without positions, with a reference.

    Args:
        where (str): 'model' or 'embed': which module the reference is of.
        shape (tuple): Leading axes of the reference.
        positions (int): Rows of an unused table of positions, or 0.
    """

    def __init__(
        self,
        dim=128,
        depth=3,
        heads=2,
        hidden=256,
        classes=7,
        patch=16,
        where='model',
        shape=(1, 1),
        positions=0,
    ):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        if positions:
            self.pos_embed = nn.Parameter(torch.zeros(1, positions, dim))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, dim, patch, patch)
        place = self if where == 'model' else self.patch_embed
        place.reference = nn.Parameter(torch.zeros(*shape, dim))
        place.ref_encoding = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.Sigmoid()
        )
        self.place = [place]
        self.blocks = nn.ModuleList([Block(dim, heads, hidden, 1e-6) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        place = self.place[0]
        x = x + place.ref_encoding(x - place.reference)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])
