# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The model of a checkpoint, worked out from its shapes."""

import math
import re
from collections.abc import Mapping
from typing import Any

from mmpretrain.models.backbones import VisionTransformer

from hime_mm.errors import ConversionError

from .formats import CLASSIFIERS, NATIVE
from .report import Shape
from .translate import PATCH, Checkpoint
from .warm_start import EMBED_CIPHER, read_mark

_ARCHS = ('deit-tiny', 'deit-small', 'deit-base', 'large', 'huge')
_LAYER = 'backbone.layers.0.'


def infer_model(
    ckpt: Checkpoint, num_classes: int | None = None, pos_encoding: str | None = None
) -> dict:
    """Work out the model of a checkpoint from its shapes.

    Gives ``backbone`` and, where the checkpoint has a head, ``head`` or
    ``bbox_head``, as for a config. `num_classes` and `pos_encoding` of None
    are what the checkpoint has, but the classes of COCO are 80.
    """
    items = ckpt.items
    if pos_encoding is None:
        pos_encoding = (
            'rpe'
            if 'backbone.rpe.reference' in items
            else 'learned'
            if 'backbone.pos_embed' in items
            else 'none'
        )
    backbone = _backbone(ckpt, pos_encoding)
    width = items[f'{PATCH}projection.weight'].shape[0]
    model = dict(backbone=backbone)
    if 'backbone.det_token' in items:
        backbone.update(num_det_tokens=items['backbone.det_token'].shape[1], out_type='det_tokens')
        if 'backbone.mid_pos_embed' in items and pos_encoding == 'learned':
            backbone['mid_positions'] = True
        rows = [
            item.shape[0]
            for name, item in items.items()
            if re.fullmatch(r'bbox_head\.cls_branch\.layers\.\d+\.weight', name)
        ]
        foreign = ckpt.format not in NATIVE
        if rows or foreign:
            # Those of a detector without its head do not matter: it is missed
            # later.
            coco = not rows or foreign and rows[-1] == 92
            model['bbox_head'] = dict(
                type='hime_mm.DetTokenHead',
                num_classes=num_classes or (80 if coco else rows[-1] - 1),
                embed_dims=width,
            )
            if len(rows) not in (0, 3):
                model['bbox_head']['num_mlp_layers'] = len(rows)
    elif any(name.startswith('head.') for name in items):
        rows = _shape(ckpt, 'head.layers.head.weight')[0]
        model['head'] = dict(
            type='VisionTransformerClsHead', num_classes=num_classes or rows, in_channels=width
        )
        if 'head.layers.pre_logits.weight' in items:
            model['head']['hidden_dim'] = items['head.layers.pre_logits.weight'].shape[0]
    return model


def _shape(ckpt: Checkpoint, name: str) -> Shape:
    if name not in ckpt.items:
        raise ConversionError(
            f'the checkpoint ({ckpt.format}) has no {name}, which tells the size of the model'
        )
    return ckpt.items[name].shape


def _backbone(ckpt: Checkpoint, pos_encoding: str) -> dict:
    items, patch = ckpt.items, ckpt.patch_size
    shape = _shape(ckpt, f'{PATCH}projection.weight')
    if len(shape) != 4 or shape[-1] != shape[-2]:
        raise ConversionError(f'the patch embedding {shape} does not embed squares')
    backbone = dict(
        type='hime_mm.PEViT',
        arch=_arch(ckpt, shape[0]),
        patch_size=patch,
        pos_encoding=pos_encoding,
    )
    mark = items.get(f'backbone.{EMBED_CIPHER}')
    if mark is not None:
        backbone['warm_start'] = read_mark(mark.tensor)
    if shape[1] != 3:
        backbone['in_channels'] = shape[1]
    if ckpt.mixed:
        backbone.update(patch_embed='mixed', num_splits=ckpt.num_splits)
    elif f'{PATCH}projection.bias' not in items:
        backbone['patch_cfg'] = dict(bias=False)
    if 'backbone.pos_embed' in items:
        rows, cols = ckpt.grid() or _square(ckpt)
        backbone['img_size'] = rows * patch if rows == cols else (rows * patch, cols * patch)
    if f'{_LAYER}attn.qkv.bias' not in items:
        backbone['qkv_bias'] = False
    if f'{_LAYER}attn.gamma1.weight' in items:
        backbone['layer_scale_init_value'] = 1e-5
    if 'backbone.pre_norm.weight' in items:
        backbone['pre_norm'] = True
        backbone.setdefault('patch_cfg', dict(bias=True))
    if 'backbone.ln2.weight' in items:
        backbone.update(out_type='avg_featmap', final_norm='backbone.ln1.weight' in items)
        if 'backbone.cls_token' not in items:
            backbone['with_cls_token'] = False
    if ckpt.info.norm_eps not in (None, 1e-6):
        backbone['norm_cfg'] = dict(type='LN', eps=ckpt.info.norm_eps)
    return backbone


def _arch(ckpt: Checkpoint, width: int) -> Any:
    """A name of MMPretrain's, or the numbers."""
    depth = 1 + max(
        (int(name.split('.')[2]) for name in ckpt.items if name.startswith('backbone.layers.')),
        default=-1,
    )
    heads, layers = ckpt.info.num_heads, ckpt.info.num_layers
    if layers not in (None, depth):
        raise ConversionError(f'config.json says {layers} layers, the checkpoint has {depth}')
    hidden = _shape(ckpt, f'{_LAYER}ffn.layers.0.0.weight')[0]
    if heads is None and width % 64:
        raise ConversionError(
            f'tokens {width} wide do not tell the number of attention heads: give it (`num_heads`)'
        )
    arch = dict(
        embed_dims=width,
        num_layers=depth,
        num_heads=heads or width // 64,
        feedforward_channels=hidden,
    )
    zoo = VisionTransformer.arch_zoo
    return next((name for name in _ARCHS if zoo[name] == arch), arch)


def _square(ckpt: Checkpoint) -> tuple[int, int]:
    """The grid of positions that do not say of which they are."""
    rows = ckpt.items['backbone.pos_embed'].shape[1]
    # Not every class token has a position.
    may_lack_cls = ckpt.format in CLASSIFIERS or 'backbone.cls_token' not in ckpt.items
    count = rows if may_lack_cls and math.isqrt(rows) ** 2 == rows else rows - 1
    side = math.isqrt(max(count, 0))
    if side**2 != count or not side:
        raise ConversionError(
            f'the checkpoint has positions of {count} patches, which is no '
            'square, and does not say of which grid: give the height and '
            'width of the images it was trained with (`img_size`), or a '
            'config (`config`)'
        )
    return side, side


def format_parts(parts: Mapping[str, Any]) -> str:
    """What :func:`infer_model` gives as text for ``model=dict(...)``."""
    return '\n'.join(
        f'{name}=dict(\n'
        + ',\n'.join(f'    {key}={_literal(value)}' for key, value in part.items())
        + '),'
        for name, part in parts.items()
    )


def _literal(value: Any) -> str:
    if isinstance(value, dict):
        inner = ', '.join(f'{k}={_literal(v)}' for k, v in value.items())
        return f'dict({inner})'
    return repr(value)
