# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Checkpoints of other implementations as files for this one."""

import json
import math
import os
import pickle
import re
from collections import OrderedDict
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import Tensor, nn

from hime_mm.images.files import atomic_file
from hime_mm.models.backbones import PEViT
from hime_mm.models.utils import (FORMATS, NATIVE, ConversionError,
                                  ConversionReport, SourceInfo,
                                  convert_state_dict, detect_format,
                                  embeds_mixed, translate, unwrap)
from hime_mm.version import __version__

#: Weights in a folder, best first.
_IN_FOLDER = ('model.safetensors', 'pytorch_model.bin')
_ARCHS = ('deit-tiny', 'deit-small', 'deit-base', 'large', 'huge')
_LAYER = 'backbone.layers.0.'


def read_checkpoint(path: str) -> Tuple[Mapping[str, Any], Dict[str, Any]]:
    """Read the weights of a file without running anything in it.

    Args:
        path (str): A ``.safetensors`` file, a file of ``torch.save``, or a
            folder of Hugging Face with one of them.

    Returns:
        tuple: What the file holds, and the ``config.json`` beside it, if any.

    Raises:
        ConversionError: If it is missing, cut off or no checkpoint, or a
            pickle that asks for more than plain data; the class or function
            it asks for is named.
    """
    folder, file = os.path.dirname(path), path
    config = {}
    if os.path.isdir(path):
        folder = path
        found = [n for n in _IN_FOLDER if os.path.isfile(f'{path}/{n}')]
        if not found:
            parts = [n for n in os.listdir(path) if n.endswith('.index.json')]
            raise ConversionError(
                f'{path} holds its weights in several files, which are not '
                f'read: {", ".join(parts)}' if parts else
                f'{path} holds none of {", ".join(_IN_FOLDER)}')
        file = os.path.join(path, found[0])
    elif not os.path.isfile(path):
        raise ConversionError(f'{path} does not exist')
    beside = os.path.join(folder, 'config.json')
    if os.path.basename(file) in _IN_FOLDER and os.path.isfile(beside):
        try:
            with open(beside, encoding='utf-8') as stream:
                config = json.load(stream)
        except ValueError as error:
            raise ConversionError(f'{beside} is no JSON: {error}')
        if not isinstance(config, dict):
            raise ConversionError(f'{beside} holds no settings')
    return _load(file), config


def _load(path: str) -> Mapping[str, Any]:
    if path.endswith('.safetensors'):
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ConversionError(f'{path} is cut off or no safetensors '
                                  f'file: {error}')
    # What MMEngine's own checkpoints hold beside weights.
    get = getattr(mmengine_checkpoint, 'get_torch_safe_globals', list)
    try:
        with torch.serialization.safe_globals(get()):
            checkpoint = torch.load(
                path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r'(?:GLOBAL|global:?|class) +`?([\w.]+\.\w+)',
                         str(error))
        if name is None:
            raise ConversionError(_broken(path, error))
        raise ConversionError(
            f'{path} asks for {name.group(1)}, which is no plain data: such a '
            'file can run anything when it is loaded, and is not. Save the '
            "weights alone where you trust it: torch.save(dict(model=model."
            'state_dict()), PATH)')
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ConversionError(_broken(path, error))
    if not isinstance(checkpoint, Mapping):
        raise ConversionError(f'{path} holds a {type(checkpoint).__name__}, '
                              'no dict of weights')
    return checkpoint


def _broken(path: str, error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return f'{path} is cut off or no checkpoint: {lines[0]}'


def _positive(config: Mapping[str, Any], name: str, kind: type) -> Any:
    value = config.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, kind) or value <= 0:
        raise ConversionError(f'`{name}` of config.json is {value!r}')
    return value


def _from_config(config: Mapping[str, Any], info: SourceInfo) -> None:
    """What Hugging Face's ``config.json`` tells."""
    act = config.get('hidden_act', 'gelu')
    if act != 'gelu':
        raise ConversionError(f'config.json says `hidden_act` {act!r}: the '
                              'models here use gelu')
    size = config.get('image_size')
    if size is not None:
        size = [size] * 2 if isinstance(size, int) else size
        if (not isinstance(size, list) or len(size) != 2
                or not all(isinstance(n, int) and n > 0 for n in size)):
            raise ConversionError(f'`image_size` of config.json is {size!r}')
        info.image_size = tuple(size)
    info.num_heads = _positive(config, 'num_attention_heads', int)
    info.num_layers = _positive(config, 'num_hidden_layers', int)
    info.norm_eps = _positive(config, 'layer_norm_eps', float)


def infer_model(state_dict: Mapping[str, Tensor],
                fmt: str,
                info: Optional[SourceInfo] = None,
                num_classes: Optional[int] = None,
                pos_encoding: Optional[str] = None,
                num_splits: int = 2,
                allow_drop: Sequence[str] = ()) -> dict:
    """Work out the model of a checkpoint from its shapes.

    Args:
        state_dict (dict): Names and tensors.
        fmt (str): Their format.
        info (SourceInfo, optional): What else is known. Defaults to None.
        num_classes (int, optional): Classes of the model to be; None keeps
            the checkpoint's, but those of COCO are 80. Defaults to None.
        pos_encoding (str, optional): As :class:`PEViT`'s; None is what the
            checkpoint has. Defaults to None.
        num_splits (int): g of a mixed patch embedding. Defaults to 2.
        allow_drop (Sequence[str]): Names that may be left out.
            Defaults to ().

    Returns:
        dict: ``backbone`` and, where the checkpoint has a head, ``head`` or
        ``bbox_head``, as for a config.

    Raises:
        ConversionError: If something is missing for it.
    """
    items, _, _ = translate(state_dict, fmt, allow_drop)
    tensors = {name: item.tensor for name, item in items.items()}

    def need(name: str) -> Tensor:
        if name not in tensors:
            raise ConversionError(f'the checkpoint ({fmt}) has no {name}, '
                                  'which tells the size of the model')
        return tensors[name]

    weight = need('backbone.patch_embed.projection.weight')
    mixed = embeds_mixed(items)
    info = info or SourceInfo()
    if weight.ndim != 4 or weight.shape[-1] != weight.shape[-2]:
        raise ConversionError(f'the patch embedding {tuple(weight.shape)} '
                              'does not embed squares')
    width, channels = weight.shape[:2]
    patch = weight.shape[-1] * (num_splits if mixed else 1)
    layers = [int(n.split('.')[2]) for n in tensors
              if n.startswith('backbone.layers.')]
    depth = max(layers, default=-1) + 1
    if info.num_layers is not None and info.num_layers != depth:
        raise ConversionError(f'config.json says {info.num_layers} layers, '
                              f'the checkpoint has {depth}')
    hidden = need(f'{_LAYER}ffn.layers.0.0.weight').shape[0]
    heads = info.num_heads
    if heads is None:
        if width % 64:
            raise ConversionError(
                f'tokens {width} wide do not tell the number of attention '
                'heads: give it (--num-heads)')
        heads = width // 64
    arch = dict(
        embed_dims=width,
        num_layers=depth,
        num_heads=heads,
        feedforward_channels=hidden)
    for name in _ARCHS:
        if PEViT.arch_zoo[name] == arch:
            arch = name
            break
    if pos_encoding is None:
        pos_encoding = 'none'
        if 'backbone.pos_embed' in tensors:
            pos_encoding = 'learned'
        if 'backbone.rpe.reference' in tensors:
            pos_encoding = 'rpe'
    backbone = dict(
        type='hime_mm.PEViT',
        arch=arch,
        patch_size=patch,
        pos_encoding=pos_encoding)
    if channels != 3:
        backbone['in_channels'] = channels
    if mixed:
        backbone.update(patch_embed='mixed', num_splits=num_splits)
    elif 'backbone.patch_embed.projection.bias' not in tensors:
        backbone['patch_cfg'] = dict(bias=False)
    grid = info.with_grids(items).grid
    detector = 'backbone.det_token' in tensors
    if 'backbone.pos_embed' in tensors:
        if grid is None:
            rows = tensors['backbone.pos_embed'].shape[1]
            # Not every class token has a position.
            bare = (fmt in ('timm', 'paper-classifier')
                    or 'backbone.cls_token' not in tensors)
            count = rows if bare and math.isqrt(rows)**2 == rows else rows - 1
            side = math.isqrt(max(count, 0))
            if side**2 != count or not side:
                raise ConversionError(
                    f'the checkpoint has positions of {count} patches, which '
                    'is no square, and does not say of which grid: give the '
                    'height and width of the images it was trained with '
                    '(--img-size), or a config (--config)')
            grid = (side, side)
        size = (grid[0] * patch, grid[1] * patch)
        backbone['img_size'] = size[0] if size[0] == size[1] else size
    if f'{_LAYER}attn.qkv.bias' not in tensors:
        backbone['qkv_bias'] = False
    if f'{_LAYER}attn.gamma1.weight' in tensors:
        backbone['layer_scale_init_value'] = 1e-5
    if 'backbone.pre_norm.weight' in tensors:
        backbone['pre_norm'] = True
        backbone.setdefault('patch_cfg', dict(bias=True))
    if 'backbone.ln2.weight' in tensors:
        backbone.update(out_type='avg_featmap')
        backbone.update(final_norm='backbone.ln1.weight' in tensors)
        if 'backbone.cls_token' not in tensors:
            backbone['with_cls_token'] = False
    if info.norm_eps is not None and info.norm_eps != 1e-6:
        backbone['norm_cfg'] = dict(type='LN', eps=info.norm_eps)
    if not detector:
        model = dict(backbone=backbone)
        if any(name.startswith('head.') for name in tensors):
            rows = need('head.layers.head.weight').shape[0]
            model['head'] = dict(
                type='VisionTransformerClsHead',
                num_classes=num_classes or rows,
                in_channels=width)
            if 'head.layers.pre_logits.weight' in tensors:
                model['head']['hidden_dim'] = tensors[
                    'head.layers.pre_logits.weight'].shape[0]
        return model
    backbone.update(
        num_det_tokens=tensors['backbone.det_token'].shape[1],
        out_type='det_tokens')
    if 'backbone.mid_pos_embed' in tensors and pos_encoding == 'learned':
        backbone['mid_positions'] = True
    model = dict(backbone=backbone)
    rows = [t.shape[0] for n, t in tensors.items()
            if re.fullmatch(r'bbox_head\.cls_branch\.layers\.\d+\.weight', n)]
    foreign = fmt not in NATIVE
    if rows or foreign:
        if num_classes is None:
            # Those of a detector without its head do not matter: it is
            # missed later.
            num_classes = (80 if not rows or foreign and rows[-1] == 92 else
                           rows[-1] - 1)
        model['bbox_head'] = dict(
            type='hime_mm.DetTokenHead',
            num_classes=num_classes,
            embed_dims=width)
        if len(rows) not in (0, 3):
            model['bbox_head']['num_mlp_layers'] = len(rows)
    return model


def _build(parts: dict) -> nn.Module:
    """A model with the backbone and the head of an inferred config."""
    model = nn.Module()
    for name, part in parts.items():
        scope = 'mmdet' if name == 'bbox_head' else 'mmpretrain'
        with DefaultScope.overwrite_default_scope(scope):
            setattr(model, name, MODELS.build(dict(part)))
    return model


def _build_config(path: str, options: Optional[dict]) -> nn.Module:
    cfg = Config.fromfile(path)
    if options:
        cfg.merge_from_dict(options)
    if 'model' not in cfg:
        raise ConversionError(f'{path} has no `model`')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        model = MODELS.build(cfg.model)
    if not isinstance(getattr(model, 'backbone', None), PEViT):
        raise ConversionError(f'the backbone of the model in {path} is no '
                              'hime_mm.PEViT')
    return model


def convert_checkpoint(src: str,
                       dst: str,
                       config: Optional[str] = None,
                       cfg_options: Optional[Dict[str, Any]] = None,
                       num_classes: Optional[int] = None,
                       img_size: Optional[Tuple[int, int]] = None,
                       pos_encoding: Optional[str] = None,
                       num_heads: Optional[int] = None,
                       num_splits: int = 2,
                       ema: bool = False,
                       allow_missing: Sequence[str] = (),
                       allow_drop: Sequence[str] = (),
                       overwrite: bool = False
                       ) -> Tuple[ConversionReport, dict]:
    """Write a checkpoint for models of this package.

    Args:
        src (str): Where the weights are, see :func:`read_checkpoint`.
        dst (str): File for the weights under the names used here, in
            MMEngine's form. It holds tensors and plain data only, and is
            there as a whole or not at all.
        config (str, optional): Config of the model to be. None infers the
            model from the checkpoint. Defaults to None.
        cfg_options (dict, optional): Settings of `config` to override, such
            as ``{'model.backbone.mid_positions': True}``. Defaults to None.
        num_classes (int, optional): Without `config`, classes of the model;
            None keeps the checkpoint's, but of COCO's ids the 80 classes.
            Defaults to None.
        img_size (tuple[int, int], optional): Height and width of the images
            that the checkpoint was trained with, where it does not say so.
            Defaults to None.
        pos_encoding (str, optional): Without `config`, as :class:`PEViT`'s;
            None is what the checkpoint has. Defaults to None.
        num_heads (int, optional): Without `config`, heads of the attention;
            None is one per 64 channels. Defaults to None.
        num_splits (int): g of a mixed patch embedding in the checkpoint.
            Defaults to 2.
        ema (bool): Take the smoothed weights. Defaults to False.
        allow_missing (Sequence[str]): Patterns of names of the model that may
            stay at their initial values. Defaults to ().
        allow_drop (Sequence[str]): Patterns of names of the checkpoint that
            may be left out. Defaults to ().
        overwrite (bool): Replace `dst`. Defaults to False.

    Returns:
        tuple: A :class:`ConversionReport`, and the parts of the model's
        config that the weights are for (empty with `config`).

    Raises:
        ConversionError: If `src` cannot be read or not be taken over
            completely, or `dst` exists. Nothing is written then.
    """
    if os.path.isdir(dst):
        raise ConversionError(f'{dst} is a folder: name a file')
    if os.path.lexists(dst) and not overwrite:
        raise ConversionError(f'{dst} exists: choose another name, or '
                              'replace it with --overwrite')
    inferring = dict(num_classes=num_classes, pos_encoding=pos_encoding,
                     num_heads=num_heads)
    if cfg_options and config is None:
        raise ConversionError('--cfg-options override settings of a config: '
                              'name it with --config')
    given = [name for name, value in inferring.items() if value is not None]
    if config is not None and given:
        raise ConversionError(
            f'--{given[0].replace("_", "-")} is for a model without a '
            'config: change the config instead')
    checkpoint, source_config = read_checkpoint(src)
    state, info = unwrap(checkpoint, ema)
    fmt = detect_format(state)
    _from_config(source_config, info)
    if img_size is not None:
        info.image_size = tuple(img_size)
        # The file cannot know better.
        info.mid_image_size = info.mid_image_size or tuple(img_size)
    if num_heads is not None:
        info.num_heads = num_heads
    items, _, _ = translate(state, fmt, allow_drop)
    weight = items.get('backbone.patch_embed.projection.weight')
    if weight is not None and embeds_mixed(items):
        info.patch_size = weight.tensor.shape[-1] * num_splits
    parts = {}
    if config is not None:
        model = _build_config(config, cfg_options)
    else:
        parts = infer_model(state, fmt, info, num_classes, pos_encoding,
                            num_splits, allow_drop)
        model = _build(parts)
    target = model.state_dict()
    converted, report = convert_state_dict(
        state,
        target,
        fmt,
        info,
        allow_missing,
        allow_drop,
        interpolate_mode=model.backbone.interpolate_mode)
    _check_settings(model.backbone, info, report)
    _check_loads(model, converted, report)
    meta = dict(
        hime_mm_version=__version__,
        converted_from=dict(file=os.path.basename(os.path.abspath(src)),
                            format=fmt))
    if parts:
        meta['model'] = parts
    # Views would be saved with all that they are a part of.
    saved = OrderedDict((name, tensor.detach().clone(
        memory_format=torch.contiguous_format))
                        for name, tensor in converted.items())
    with atomic_file(dst) as stream:
        torch.save(dict(meta=meta, state_dict=saved), stream)
    return report, parts


def _check_settings(backbone: PEViT, info: SourceInfo,
                    report: ConversionReport) -> None:
    """What changes the numbers but has no tensor."""
    heads = backbone.arch_settings['num_heads']
    if info.num_heads is not None and info.num_heads != heads:
        raise ConversionError(f'the checkpoint was trained with '
                              f'{info.num_heads} attention heads, the model '
                              f'has {heads}')
    eps = backbone.layers[0].ln1.eps
    if info.norm_eps is not None and info.norm_eps != eps:
        report.notes.append(
            f'layer norms of the checkpoint add {info.norm_eps:g} to the '
            f'variance, those of the model {eps:g}: for the very same numbers '
            f'set `norm_cfg=dict(type="LN", eps={info.norm_eps:g})`')


def _check_loads(model: nn.Module, state_dict: Mapping[str, Tensor],
                 report: ConversionReport) -> None:
    """The model loads what will be written, and the report is true."""
    found = model.load_state_dict(state_dict, strict=False)
    missing = {entry.target for entry in report.initial}
    if found.unexpected_keys or set(found.missing_keys) != missing:
        raise RuntimeError('converted weights do not fit the model: '
                           f'{found}')


def format_parts(parts: Mapping[str, Any]) -> str:
    """A part of a config as text.

    Args:
        parts (dict): As :func:`infer_model` gives it.

    Returns:
        str: Keyword arguments for ``model=dict(...)``.
    """
    lines = []
    for name, part in parts.items():
        lines.append(f'{name}=dict(')
        lines += [f'    {key}={_literal(value)},'
                  for key, value in part.items()]
        lines[-1] = lines[-1][:-1] + '),'
    return '\n'.join(lines)


def _literal(value: Any) -> str:
    if isinstance(value, dict):
        inner = ', '.join(f'{k}={_literal(v)}' for k, v in value.items())
        return f'dict({inner})'
    return repr(value)


__all__ = [
    'FORMATS', 'ConversionError', 'convert_checkpoint', 'format_parts',
    'infer_model', 'read_checkpoint'
]
