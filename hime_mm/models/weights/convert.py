# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Checkpoints of other implementations as files for this one."""

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from hime_mm.ciphers import Cipher
from hime_mm.ciphers.cipher import CipherLike
from hime_mm.errors import ConversionError
from hime_mm.images.files import atomic_file
from hime_mm.version import __version__

from ..backbones import PEViT
from .fit import fit
from .infer import infer_model
from .reader import CheckpointInfo, read_checkpoint
from .report import ConversionReport
from .translate import translate


def convert_checkpoint(
    src: str,
    dst: str,
    *,
    config: str | None = None,
    cfg_options: dict[str, Any] | None = None,
    num_classes: int | None = None,
    img_size: tuple[int, int] | None = None,
    pos_encoding: str | None = None,
    num_heads: int | None = None,
    num_splits: int = 2,
    cipher: CipherLike | None = None,
    ema: bool = False,
    allow_missing: Sequence[str] = (),
    allow_drop: Sequence[str] = (),
    overwrite: bool = False,
) -> tuple[ConversionReport, dict]:
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
            None is what the checkpoint has, or where `cipher` moves patches
            ``'none'`` in place of learned ones. Defaults to None.
        num_heads (int, optional): Without `config`, heads of the attention;
            None is one per 64 channels. Defaults to None.
        num_splits (int): g of a mixed patch embedding in the checkpoint.
            Defaults to 2.
        cipher (str | dict | Sequence | :obj:`Cipher`, optional): Without
            `config`, what encrypts the images of the model, of the
            checkpoint's patches: its patch embedding is made for them
            (:class:`WarmStart`). Defaults to None.
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
        CipherError: If `cipher` makes no sense.
    """
    if os.path.isdir(dst):
        raise ConversionError(f'{dst} is a folder: name a file')
    if os.path.lexists(dst) and not overwrite:
        raise ConversionError(f'{dst} exists: choose another name, or replace it (`overwrite`)')
    if cfg_options and config is None:
        raise ConversionError('`cfg_options` override settings of a config: name it (`config`)')
    for name, value in (
        ('num_classes', num_classes),
        ('num_heads', num_heads),
        ('pos_encoding', pos_encoding),
        ('cipher', cipher),
    ):
        if config is not None and value is not None:
            raise ConversionError(
                f'`{name}` is for a model without a config: change the config instead'
            )
    state, info = read_checkpoint(src, ema)
    info.image_size = img_size or info.image_size
    # The file cannot know better.
    info.mid_image_size = info.mid_image_size or img_size
    info.num_heads = num_heads or info.num_heads
    ckpt = translate(state, info=info, allow_drop=allow_drop, num_splits=num_splits)
    meta = dict(
        hime_mm_version=__version__,
        converted_from=dict(file=os.path.basename(os.path.abspath(src)), format=ckpt.format),
    )
    parts = {}
    if config is not None:
        model = _build_config(config, cfg_options)
    else:
        parts = meta['model'] = infer_model(ckpt, num_classes, pos_encoding)
        if cipher is not None:
            _use_cipher(parts['backbone'], cipher, pos_encoding)
        model = build_parts(parts)
    ckpt.start_warm(model.backbone)
    converted, report = fit(
        ckpt,
        model.state_dict(),
        allow_missing=allow_missing,
        interpolate_mode=model.backbone.interpolate_mode,
    )
    _check_settings(model.backbone, info, report)
    found = model.load_state_dict(converted, strict=False)
    if found.unexpected_keys or set(found.missing_keys) != {
        entry.target for entry in report.initial
    }:
        raise RuntimeError(f'converted weights do not fit the model: {found}')
    # Views would be saved with all that they are a part of.
    saved = OrderedDict(
        (name, tensor.detach().clone(memory_format=torch.contiguous_format))
        for name, tensor in converted.items()
    )
    with atomic_file(dst) as stream:
        torch.save(dict(meta=meta, state_dict=saved), stream)
    return report, parts


def _use_cipher(backbone: dict, cipher: CipherLike, pos_encoding: str | None) -> None:
    """Have an inferred backbone embed what a cipher leaves of its patches."""
    built = Cipher.build(cipher, backbone['patch_size'])
    if 'patch_embed' in backbone:
        raise ConversionError(
            'the checkpoint embeds mixed patches already: `cipher` is for one of plain patches'
        )
    if 'warm_start' in backbone:
        raise ConversionError(
            f'the patch embedding of the checkpoint was made for {backbone["warm_start"]} before: '
            'leave `cipher` out'
        )
    if built.shuffles and pos_encoding is None and backbone['pos_encoding'] == 'learned':
        backbone['pos_encoding'] = 'none'
        for name in ('img_size', 'mid_positions'):
            backbone.pop(name, None)
    side = built.encrypted_patch_size
    if 'img_size' in backbone:
        sides = backbone['img_size']
        scaled = [size // built.patch_size * side for size in np.atleast_1d(sides).tolist()]
        backbone['img_size'] = scaled[0] if len(scaled) == 1 else tuple(scaled)
    backbone.update(
        patch_size=side, warm_start=dict(cipher=str(built), patch_size=built.patch_size)
    )


def build_parts(parts: Mapping[str, dict]) -> nn.Module:
    """Build what :func:`infer_model` gives; it has no forward pass."""
    model = nn.Module()
    for name, part in parts.items():
        scope = 'mmdet' if name == 'bbox_head' else 'mmpretrain'
        with DefaultScope.overwrite_default_scope(scope):
            setattr(model, name, MODELS.build(dict(part)))
    return model


def _build_config(path: str, options: dict | None) -> nn.Module:
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options or {})
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        model = MODELS.build(cfg.model) if 'model' in cfg else None
    if not isinstance(getattr(model, 'backbone', None), PEViT):
        raise ConversionError(f'{path} has no model, or its backbone is no hime_mm.PEViT')
    return model


def _check_settings(backbone: PEViT, info: CheckpointInfo, report: ConversionReport) -> None:
    """What changes the numbers but has no tensor."""
    heads = backbone.arch_settings['num_heads']
    if info.num_heads is not None and info.num_heads != heads:
        raise ConversionError(
            f'the checkpoint was trained with '
            f'{info.num_heads} attention heads, the model '
            f'has {heads}'
        )
    eps = backbone.layers[0].ln1.eps
    if info.norm_eps is not None and info.norm_eps != eps:
        report.notes.append(
            f'layer norms of the checkpoint add {info.norm_eps:g} to the '
            f'variance, those of the model {eps:g}: for the very same numbers '
            f'set `norm_cfg=dict(type="LN", eps={info.norm_eps:g})`'
        )
