# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Checks of a config before work starts. Used by the tools."""

import os
from typing import Any, Dict, Iterator, Tuple

from mmengine.config import Config
from mmengine.logging import print_log

from hime_mm import transforms
from hime_mm.ciphers import Mix
from hime_mm.registry import HOOKS, MODELS, TRANSFORMS

SAFE_HOOK = 'hime_mm.EncryptedVisualizationHook'
# Wrappers that do not run their transforms on every image.
_CHANCE = ('RandomApply', 'RandomChoice')


def force_safe_loading() -> None:
    """Keep every checkpoint of this process from executing code.

    MMEngine loads a checkpoint as plain data first and, where that fails,
    again as a pickle that may run anything; this stops the second try.
    """
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'


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


def _name(node: Any) -> str:
    """The type of a config dict: a string, a class or a lazy import."""
    kind = node.get('type', '') if isinstance(node, dict) else ''
    if isinstance(kind, str):
        return kind
    module = getattr(kind, '__module__', '') or ''
    name = getattr(kind, '__name__', None) or str(kind)
    return f'{module}.{name}' if '.' not in name else name


def _is_ours(name: str, own: set) -> bool:
    scope, _, short = name.rpartition('.')
    return scope.split('.')[0] == 'hime_mm' and short in own


def _is_plain_hook(node: Any) -> bool:
    """Whether a hook draws pictures and is not known to draw safe ones.

    The hosts' visualization hooks read the image file again.
    """
    name = _name(node)
    return name.endswith('VisualizationHook') and not name.startswith(
        'hime_mm.')


def _encrypting(node: Any) -> bool:
    """Whether a transform, or one it wraps, is one of our ciphers."""
    return any(
        _is_ours(_name(inner), set(TRANSFORMS.module_dict))
        for _, inner in _walk(node))


def _check_pipelines(cfg: dict) -> Dict[str, dict]:
    """Check what stands around our transforms; give them by their paths."""
    found = {}
    for path, node in _walk(cfg):
        if _name(node).rpartition('.')[2] in _CHANCE and _encrypting(
                node.get('transforms', ())):
            raise ValueError(
                f'`{path}`: a {_name(node)} around the encryption would let '
                'images pass in plain: move the encryption out of it')
        for key, steps in node.items():
            if not isinstance(steps, (list, tuple)) or not steps:
                continue
            at = [i for i, step in enumerate(steps)
                  if _is_ours(_name(step), set(TRANSFORMS.module_dict))]
            if not at:
                continue
            place = f'{path}.{key}' if path else key
            found.update({f'{place}.{i}': steps[i] for i in at})
            for step in steps[at[-1] + 1:]:
                short = _name(step).rpartition('.')[2]
                if not short.startswith(('Pack', 'LoadAnnotations', 'Filter')):
                    print_log(
                        f'`{place}`: {short} works on encrypted images. '
                        'Whatever resizes, flips, crops or recolours belongs '
                        'before the encryption.',
                        logger='current',
                        level=30)
    return found


def _check_model(cfg: dict, ciphers: Dict[str, dict]) -> None:
    """Compare the ciphers of the pipelines with the backbone."""
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    if not _name(backbone).endswith('PEViT'):
        return
    embed = backbone.get('patch_embed', 'linear')
    size = backbone.get('patch_size', 16)
    for path, node in ciphers.items():
        short = _name(node).rpartition('.')[2]
        args = {k: v for k, v in node.items() if k != 'type'}
        cipher = getattr(transforms, short)(**args).cipher
        mixes = [step for step in cipher.steps if isinstance(step, Mix)]
        if embed == 'mixed':
            g = backbone.get('num_splits', 2)
            form = backbone.get('input_form', 'compact')
            wanted = 'full' if cipher.shrink == 1 else 'compact'
            fits = (cipher.patch_size == size and form == wanted
                    and all(step.num_splits == g for step in mixes))
            remedy = f'`patch_size={cipher.patch_size}`, ' + (
                f'`num_splits={mixes[0].num_splits}`, ' if mixes else
                '') + f'`input_form={wanted!r}`'
        else:
            side = cipher.patch_size // cipher.shrink
            fits = size == side
            remedy = f'`patch_size={side}`'
            if cipher.shrink > 1:
                remedy += " or `patch_embed='mixed'`"
        if not fits:
            raise ValueError(
                f'`model.backbone` does not fit `{path}`, {cipher!r}: set '
                f'its {remedy}')
        if cipher.shuffles and backbone.get('pos_encoding') == 'learned':
            print_log(
                f'`model.backbone.pos_encoding` is "learned", but `{path}` '
                'moves patches: learned positions mean nothing then, "rpe" '
                'and "none" do.',
                logger='current',
                level=30)


def check_config(cfg: Config) -> Config:
    """Find what would fail late or leak, before work starts.

    A type of hime_mm without its prefix, an encryption that runs by chance
    only, and a :class:`PEViT` that does not fit the cipher are errors. In a
    config that encrypts in its pipeline, a default hook that would draw the
    plain image files is replaced by :class:`EncryptedVisualizationHook`, with
    a warning; a custom one is an error.

    Args:
        cfg (:obj:`Config`): The config, modified in place.

    Returns:
        :obj:`Config`: The same.

    Raises:
        ValueError: Names the place and the remedy.
    """
    plain = cfg._cfg_dict.to_dict() if hasattr(
        cfg._cfg_dict, 'to_dict') else cfg._cfg_dict
    own = own_types()
    for path, node in _walk(plain):
        name = _name(node)
        if name in own:
            raise ValueError(
                f"`{path}.type='{name}'` does not resolve: types of hime_mm "
                f"are written with their prefix, `type='hime_mm.{name}'`")
        scope, _, short = name.rpartition('.')
        if scope == 'hime_mm' and short not in own:
            raise ValueError(
                f"`{path}.type='{name}'`: hime_mm has no such type, choose "
                f'from {sorted(own)}')
    ciphers = _check_pipelines(plain)
    _check_model(plain, ciphers)
    if not ciphers:
        return cfg
    for i, hook in enumerate(plain.get('custom_hooks') or []):
        if _is_plain_hook(hook):
            raise ValueError(f'`custom_hooks.{i}` is {_name(hook)}, which '
                             'would show the plain images: use '
                             f"`type='{SAFE_HOOK}'`")
    for key, hook in (plain.get('default_hooks') or {}).items():
        if _is_plain_hook(hook):
            print_log(
                f'`default_hooks.{key}` is {_name(hook)}, which would show '
                f'the plain images: replaced by {SAFE_HOOK}.',
                logger='current',
                level=30)
            kept = ('draw', 'interval', 'score_thr', 'show', 'wait_time',
                    'test_out_dir', 'enable', 'out_dir')
            cfg.default_hooks[key] = dict(
                type=SAFE_HOOK, **{k: hook[k]
                                   for k in kept if k in hook})
    return cfg
