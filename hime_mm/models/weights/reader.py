# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Files to tensors, and what else a file says of its model."""
import argparse
import json
import os
import pickle
import re
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

import torch
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import Tensor

from hime_mm.errors import ConversionError

#: Weights in a folder, best first.
_IN_FOLDER = ('model.safetensors', 'pytorch_model.bin')
#: Keys in which checkpoints hold their weights, and smoothed ones.
_HOLDERS = ('model', 'state_dict', 'module')
_EMA_HOLDERS = ('model_ema', 'state_dict_ema', 'ema_state_dict')


def allow_command_lines() -> None:
    """Let files of the DeiT and YOLOS repositories be loaded safely.

    They hold the command line they were trained with. Its class is a bag of
    attributes: making one runs nothing. timm forbids it again after a load.
    """
    torch.serialization.add_safe_globals([argparse.Namespace])


allow_command_lines()


@dataclass
class SourceInfo:
    """What a checkpoint says of its model beside the weights.

    Sizes are those of images, (height, width), that positions are of; `mid`,
    of the positions between the layers, where they differ.
    """

    image_size: Optional[Tuple[int, int]] = None
    mid_image_size: Optional[Tuple[int, int]] = None
    num_heads: Optional[int] = None
    num_layers: Optional[int] = None
    norm_eps: Optional[float] = None


def read_checkpoint(path: str,
                    ema: bool = False) -> Tuple[Dict[str, Tensor], SourceInfo]:
    """Read the weights of a file without running anything in it.

    Args:
        path (str): A ``.safetensors`` file, a file of ``torch.save``, or a
            folder of Hugging Face with one of them.
        ema (bool): Take the smoothed weights, see :func:`unwrap`. Defaults to
            False.

    Returns:
        tuple: Names and tensors, and a :class:`SourceInfo`.

    Raises:
        ConversionError: If it is missing, cut off or no checkpoint, or a
            pickle that asks for more than plain data; the class or function
            it asks for is named.
    """
    file = path
    if os.path.isdir(path):
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
    config = {}
    beside = os.path.join(os.path.dirname(file), 'config.json')
    if os.path.basename(file) in _IN_FOLDER and os.path.isfile(beside):
        config = _read_config(beside)
    state, info = unwrap(_load(file), ema)
    _add_config(config, info)
    return state, info


def _load(path: str) -> Mapping[str, Any]:
    if path.endswith('.safetensors'):
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ConversionError(f'{path} is cut off or no safetensors '
                                  f'file: {error}')
    allow_command_lines()
    # What MMEngine's own checkpoints hold beside weights.
    get = getattr(mmengine_checkpoint, 'get_torch_safe_globals', list)
    try:
        with torch.serialization.safe_globals(get()):
            checkpoint = torch.load(
                path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError,
            KeyError) as error:
        wanted = isinstance(error, pickle.UnpicklingError) and re.search(
            r'(?:GLOBAL|global:?|class) +`?([\w.]+\.\w+)', str(error))
        if wanted:
            raise ConversionError(
                f'{path} asks for {wanted.group(1)}, which is no plain data: '
                'such a file can run anything when it is loaded, and is not. '
                'Save the weights alone where you trust it: '
                'torch.save(dict(model=model.state_dict()), PATH)')
        lines = str(error).splitlines() or [type(error).__name__]
        raise ConversionError(
            f'{path} is cut off or no checkpoint: {lines[0]}')
    if not isinstance(checkpoint, Mapping):
        raise ConversionError(f'{path} holds a {type(checkpoint).__name__}, '
                              'no dict of weights')
    return checkpoint


def unwrap(checkpoint: Mapping,
           ema: bool = False) -> Tuple[Dict[str, Tensor], SourceInfo]:
    """Find the weights in what a file holds.

    Args:
        checkpoint (dict): A state dict, or a dict with one under ``model``,
            ``state_dict`` or ``module``, and perhaps the command line of the
            training under ``args``.
        ema (bool): Take the smoothed weights, ``model_ema``,
            ``state_dict_ema`` or ``ema_state_dict``. Defaults to False.

    Returns:
        tuple: Names and tensors, without the ``module.`` of distributed
        training, and a :class:`SourceInfo`.

    Raises:
        ConversionError: If there are none, or something else among them.
    """
    holders = _EMA_HOLDERS if ema else _HOLDERS
    state = next((checkpoint[name] for name in holders
                  if isinstance(checkpoint.get(name), Mapping)), None)
    if state is None and ema:
        raise ConversionError('the checkpoint has no smoothed weights: none '
                              f'of {", ".join(holders)}')
    info = SourceInfo()
    if state is None:
        state = checkpoint
    elif checkpoint.get('args') is not None:
        args = checkpoint['args']
        args = args if isinstance(args, Mapping) else vars(args)
        info.image_size = (
            _size(args.get('init_pe_size')) or _size(args.get('input_size')))
        info.mid_image_size = _size(args.get('mid_pe_size'))
    if not state:
        raise ConversionError('the checkpoint holds no weights')
    found = {}
    for name, value in state.items():
        if ema and name == 'steps':
            # MMEngine counts its updates there.
            continue
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ConversionError(
                f'{name!r} of the checkpoint is a {type(value).__name__}, no '
                'tensor: give a state dict, or a dict that has one under '
                f'one of {", ".join(_HOLDERS)}')
        found[name] = value
    while all(name.startswith('module.') for name in found):
        found = {name[7:]: value for name, value in found.items()}
    return found, info


def _size(value: Any) -> Optional[Tuple[int, int]]:
    """Height and width from a number or a pair, None from anything else."""
    if isinstance(value, int):
        value = (value, value)
    if (isinstance(value, (list, tuple)) and len(value) == 2
            and all(isinstance(v, int) and v > 0 for v in value)):
        return tuple(value)
    return None


def _read_config(path: str) -> dict:
    try:
        with open(path, encoding='utf-8') as stream:
            config = json.load(stream)
    except ValueError as error:
        raise ConversionError(f'{path} is no JSON: {error}')
    if not isinstance(config, dict):
        raise ConversionError(f'{path} holds no settings')
    return config


def _add_config(config: Mapping[str, Any], info: SourceInfo) -> None:
    """What Hugging Face's ``config.json`` tells."""

    def positive(name: str, kind: type) -> Any:
        value = config.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(
                value, kind) or value <= 0):
            raise ConversionError(f'`{name}` of config.json is {value!r}')
        return value

    act = config.get('hidden_act', 'gelu')
    if act != 'gelu':
        raise ConversionError(f'config.json says `hidden_act` {act!r}: the '
                              'models here use gelu')
    size = config.get('image_size')
    if size is not None:
        info.image_size = _size(size)
        if info.image_size is None:
            raise ConversionError(f'`image_size` of config.json is {size!r}')
    info.num_heads = positive('num_attention_heads', int)
    info.num_layers = positive('num_hidden_layers', int)
    info.norm_eps = positive('layer_norm_eps', float)
