# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Checks of a config before work starts. Used by the tools."""

import os
from typing import Any, Iterator, Tuple

from mmengine.config import Config
from mmengine.logging import print_log

from hime_mm.registry import HOOKS, MODELS, TRANSFORMS

#: Hooks that read the image file again and would log the plain image.
PLAIN_HOOKS = ('DetVisualizationHook', 'mmdet.DetVisualizationHook',
               'TrackVisualizationHook', 'mmdet.TrackVisualizationHook',
               'VisualizationHook', 'mmpretrain.VisualizationHook')
SAFE_HOOK = 'hime_mm.EncryptedVisualizationHook'


def force_safe_loading() -> None:
    """Keep every checkpoint of this process from executing code.

    MMEngine loads a checkpoint as plain data first and, where that fails,
    again as a pickle that may run anything; this stops the second try.
    """
    os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')


def _walk(node: Any, path: str = '') -> Iterator[Tuple[str, Any]]:
    """All dicts of a config with their dotted paths."""
    if isinstance(node, dict):
        yield path, node
        items = node.items()
    elif isinstance(node, (list, tuple)):
        items = enumerate(node)
    else:
        return
    for key, value in items:
        yield from _walk(value, f'{path}.{key}' if path else str(key))


def own_types() -> set:
    """Names of all types that hime_mm registers, without prefix."""
    names = set()
    for one in (HOOKS, MODELS, TRANSFORMS):
        one.import_from_location()
        names |= set(one.module_dict)
    return names


def check_config(cfg: Config) -> Config:
    """Find what would fail late or leak, before work starts.

    A type of hime_mm without its prefix is an error. In a config that
    encrypts in its pipeline, a visualization hook that reads the plain image
    file again is replaced by :class:`EncryptedVisualizationHook`, with a
    warning.

    Args:
        cfg (:obj:`Config`): The config, modified in place.

    Returns:
        :obj:`Config`: The same.

    Raises:
        ValueError: If a type lacks its prefix. Names the place and the
            remedy.
    """
    plain = cfg._cfg_dict.to_dict() if hasattr(
        cfg._cfg_dict, 'to_dict') else cfg._cfg_dict
    own = own_types()
    encrypts = False
    for path, node in _walk(plain):
        name = node.get('type')
        if not isinstance(name, str):
            continue
        if name in own:
            raise ValueError(
                f"`{path}.type='{name}'` does not resolve: types of hime_mm "
                f"are written with their prefix, `type='hime_mm.{name}'`")
        scope, _, short = name.rpartition('.')
        if scope == 'hime_mm':
            if short not in own:
                raise ValueError(
                    f"`{path}.type='{name}'`: hime_mm has no such type, "
                    f'choose from {sorted(own)}')
            encrypts |= short in TRANSFORMS.module_dict
    hook = cfg.get('default_hooks', {}).get('visualization')
    if encrypts and hook is not None and hook.get('type') in PLAIN_HOOKS:
        print_log(
            f'`default_hooks.visualization` is {hook["type"]}, which would '
            f'show the plain images: replaced by {SAFE_HOOK}.',
            logger='current',
            level=30)
        kept = ('draw', 'interval', 'score_thr', 'show', 'wait_time',
                'test_out_dir', 'enable', 'out_dir')
        cfg.default_hooks.visualization = dict(
            type=SAFE_HOOK, **{k: hook[k]
                               for k in kept if k in hook})
    return cfg
