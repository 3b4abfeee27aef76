# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Files to tensors, and what else a file says of its model."""

import argparse
import json
import os
import pickle
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import Tensor

from hime_mm.errors import ConversionError

#: Weights in a folder, best first.
_IN_FOLDER = ('model.safetensors', 'pytorch_model.bin')
#: Keys in which checkpoints hold their weights, and smoothed ones.
_HOLDERS = ('model', 'state_dict', 'module')
_EMA_HOLDERS = ('model_ema', 'state_dict_ema', 'ema_state_dict')
#: torch keeps one list of what may be loaded, for all threads.
_ALLOWED = threading.Lock()


def allow_namespaces() -> None:
    """Let files of the DeiT and YOLOS repositories be loaded safely.

    They hold the command line they were trained with. Its class is a bag of
    attributes: making one runs nothing. timm forbids it again after a load.
    """
    torch.serialization.add_safe_globals([argparse.Namespace])


allow_namespaces()


@dataclass
class CheckpointInfo:
    """What a checkpoint says of its model beside the weights.

    Sizes are those of images, (height, width), that positions are of; `mid`,
    of the positions between the layers, where they differ.
    """

    image_size: tuple[int, int] | None = None
    mid_image_size: tuple[int, int] | None = None
    num_heads: int | None = None
    num_layers: int | None = None
    norm_eps: float | None = None


def read_checkpoint(path: str, ema: bool = False) -> tuple[dict[str, Tensor], CheckpointInfo]:
    """Read the weights of a file without running anything in it.

    The path is a ``.safetensors`` file, a file of ``torch.save``, or a folder
    of Hugging Face with one of them; for `ema` see :func:`unwrap`. One that is
    missing, cut off or no checkpoint is a :class:`ConversionError`, and so is
    a pickle that asks for more than plain data: what it asks for is named.
    """
    file = path
    if os.path.isdir(path):
        found = [n for n in _IN_FOLDER if os.path.isfile(f'{path}/{n}')]
        if not found:
            parts = [n for n in os.listdir(path) if n.endswith('.index.json')]
            raise ConversionError(
                f'{path} holds its weights in several files, which are not read: {", ".join(parts)}'
                if parts
                else f'{path} holds none of {", ".join(_IN_FOLDER)}'
            )
        file = os.path.join(path, found[0])
    elif not os.path.isfile(path):
        raise ConversionError(f'{path} does not exist')
    state, info = unwrap(_load(file), ema)
    config_path = os.path.join(os.path.dirname(file), 'config.json')
    if os.path.basename(file) in _IN_FOLDER and os.path.isfile(config_path):
        _add_config(config_path, info)
    return state, info


def _load(path: str) -> Mapping[str, Any]:
    if path.endswith('.safetensors'):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ConversionError(f'{path} is cut off or no safetensors file: {error}') from None
    # What MMEngine's own checkpoints hold beside weights.
    get = getattr(mmengine_checkpoint, 'get_torch_safe_globals', list)
    try:
        with _ALLOWED:
            allow_namespaces()
            with torch.serialization.safe_globals(get()):
                checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        forbidden = isinstance(error, pickle.UnpicklingError) and re.search(
            r'(?:GLOBAL|global:?|class) +`?([\w.]+\.\w+)', str(error)
        )
        if forbidden:
            raise ConversionError(
                f'{path} asks for {forbidden.group(1)}, which is no plain data: '
                'such a file can run anything when it is loaded, and is not. '
                'Save the weights alone where you trust it: '
                'torch.save(dict(model=model.state_dict()), PATH)'
            ) from None
        lines = str(error).splitlines() or [type(error).__name__]
        raise ConversionError(f'{path} is cut off or no checkpoint: {lines[0]}') from None
    if not isinstance(checkpoint, Mapping):
        raise ConversionError(f'{path} holds a {type(checkpoint).__name__}, no dict of weights')
    return checkpoint


def unwrap(checkpoint: Mapping, ema: bool = False) -> tuple[dict[str, Tensor], CheckpointInfo]:
    """Find the weights in what a file holds.

    That is a state dict, or a dict with one under one of ``_HOLDERS``, of
    smoothed weights (`ema`) under one of ``_EMA_HOLDERS``, and perhaps the
    command line of the training under ``args``. The names come without the
    ``module.`` of distributed training. No weights, or anything else among
    them, is a :class:`ConversionError`.
    """
    holders = _EMA_HOLDERS if ema else _HOLDERS
    state = next(
        (checkpoint[name] for name in holders if isinstance(checkpoint.get(name), Mapping)), None
    )
    if state is None and ema:
        raise ConversionError(
            f'the checkpoint has no smoothed weights: none of {", ".join(holders)}'
        )
    info = CheckpointInfo()
    if state is None:
        state = checkpoint
    elif checkpoint.get('args') is not None:
        args = checkpoint['args']
        args = args if isinstance(args, Mapping) else vars(args)
        info.image_size = _size(args.get('init_pe_size')) or _size(args.get('input_size'))
        info.mid_image_size = _size(args.get('mid_pe_size'))
    found = {}
    for name, value in state.items():
        if ema and name == 'steps':
            # MMEngine counts its updates there.
            continue
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ConversionError(
                f'{name!r} of the checkpoint is a {type(value).__name__}, no '
                'tensor: give a state dict, or a dict that has one under '
                f'one of {", ".join(_HOLDERS)}'
            )
        found[name] = value
    if not found:
        raise ConversionError('the checkpoint holds no weights')
    while all(name.startswith('module.') for name in found):
        found = {name[7:]: value for name, value in found.items()}
    return found, info


def _size(value: Any) -> tuple[int, int] | None:
    """Height and width from a number or a pair, None from anything else."""
    if isinstance(value, int):
        value = (value, value)
    if (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(v, int) and v > 0 for v in value)
    ):
        return tuple(value)
    return None


def _add_config(path: str, info: CheckpointInfo) -> None:
    """What Hugging Face's ``config.json`` tells."""
    try:
        with open(path, encoding='utf-8') as stream:
            config = json.load(stream)
    except ValueError as error:
        raise ConversionError(f'{path} is no JSON: {error}') from None
    if not isinstance(config, dict):
        raise ConversionError(f'{path} holds no settings')
    act = config.get('hidden_act', 'gelu')
    if act != 'gelu':
        raise ConversionError(f'config.json says `hidden_act` {act!r}: the models here use gelu')

    def positive(name: str, kind: type) -> Any:
        value = config.get(name)
        if value is not None and not (isinstance(value, kind) and value > 0):
            raise ConversionError(f'`{name}` of config.json is {value!r}')
        return value

    size = config.get('image_size')
    info.image_size = _size(size) or info.image_size
    if size is not None and _size(size) is None:
        raise ConversionError(f'`image_size` of config.json is {size!r}')
    info.num_heads = positive('num_attention_heads', int)
    info.num_layers = positive('num_hidden_layers', int)
    info.norm_eps = positive('layer_norm_eps', float)
