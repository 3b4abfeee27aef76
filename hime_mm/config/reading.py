# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How a config becomes a plan; the one place that walks it."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from mmengine.config import Config

from hime_mm.datasets.manifest import Manifest, find_manifest, load_manifest
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import ManifestError
from hime_mm.models.backbones.timm_inspection import timm_patch_size
from hime_mm.models.data_preprocessors import BatchCipher, EncryptClsDataPreprocessor
from hime_mm.registry import own_types
from hime_mm.transforms import Encrypt, LoadEncryptedMeta
from hime_mm.transforms.remote import is_remote

from .findings import Finding, error, warning
from .hosts import VITS
from .plan import Node, Pipeline, Plan, Use, find


def read(cfg: Config | dict) -> Plan:
    """Find in a config what encryption has to do with.

    Of what the config names, only ciphers are made. What makes no sense
    raises nothing: it is among the plan's findings.

    Args:
        cfg (:obj:`Config` | dict): A whole config.

    Returns:
        Plan: Its nodes are parts of the config.
    """
    nodes = tuple(_walk(Node('', cfg._cfg_dict if isinstance(cfg, Config) else cfg)))
    findings: list[Finding] = []
    model, outer = find(nodes, 'model'), find(nodes, 'data_preprocessor')
    # Test-time augmentation wraps the model.
    inner = find(nodes, 'model.module')
    # The runner hands over the outer one only where the model names none.
    owner = next((node for node in (inner, model) if 'data_preprocessor' in node.value), None)
    preprocessor = outer if owner is None else find(nodes, f'{owner.place}.data_preprocessor')
    model = inner if inner.value else model
    backbone = find(nodes, f'{model.place}.backbone')
    mixes = (
        f'{preprocessor.place}.batch_augments'
        if 'batch_augments' in preprocessor.value
        else f'{model.place}.train_cfg'
    )
    return Plan(
        nodes=nodes,
        pipelines=tuple(_pipelines(nodes, findings)),
        preprocessor=preprocessor,
        device=_device(preprocessor, outer, findings),
        backbone=backbone,
        patch_size=_patch_size(backbone),
        augments=_nodes_at(nodes, re.escape(f'{mixes}.augments') + r'(\.\d+)?'),
        evaluators=_nodes_at(nodes, r'(val|test)_evaluator(\.\d+)?'),
        hooks=_nodes_at(nodes, r'default_hooks\..+|custom_hooks\.\d+'),
        # Of what was read above.
        findings=tuple(findings),
    )


def _walk(node: Node) -> Iterator[Node]:
    """All dicts in a part of a config."""
    if isinstance(node.value, dict):
        yield node
        # As they stand: a config's own `items` would import what is lazy.
        items: Iterable[tuple[Any, Any]] = dict.items(node.value)
    elif isinstance(node.value, (list, tuple)):
        items = enumerate(node.value)
    else:
        return
    for key, value in items:
        yield from _walk(node.child(key, value))


def _nodes_at(nodes: tuple[Node, ...], places: str) -> tuple[Node, ...]:
    return tuple(node for node in nodes if re.fullmatch(places, node.place))


def _pipelines(nodes: tuple[Node, ...], findings: list[Finding]) -> Iterator[Pipeline]:
    """Lists that are called so, or hold a transform of ours."""
    for owner in nodes:
        for key, value in dict.items(owner.value):
            if not isinstance(value, (list, tuple)):
                continue
            line = owner.child(key, value)
            steps = tuple(line.child(i, step) for i, step in enumerate(value))
            line = Pipeline(**vars(line), steps=steps)
            loads = tuple(
                _load(step, line, findings) for step in steps if step.is_a(LoadEncryptedMeta)
            )
            encrypts = tuple(
                _use(step, findings, own_types()[step.short], step.value)
                for step in steps
                if step.is_a(Encrypt)
            )
            if loads or encrypts or 'pipeline' in str(key):
                yield replace(line, loads=loads, encrypts=encrypts)


def _use(node: Node, findings: list[Finding], build: Callable[..., Any], options: dict) -> Use:
    """What encrypts with the cipher that is built of such options."""
    args = {key: value for key, value in options.items() if key not in ('type', '_scope_')}
    try:
        return Use(**vars(node), cipher=build(**args).cipher)
    except (TypeError, ValueError) as wrong:
        findings.append(error(node.place, f': {wrong}'))
        return Use(**vars(node))


def _load(step: Node, line: Pipeline, findings: list[Finding]) -> Use:
    manifest = _manifest(step, line, findings)
    cipher = None if manifest is None else manifest.cipher
    return Use(
        **vars(step),
        cipher=cipher,
        manifest=manifest,
        coordinates=step.value.get('coordinates') or 'encrypted',
    )


def _manifest(step: Node, line: Pipeline, findings: list[Finding]) -> Manifest | None:
    """What a LoadEncryptedMeta will find."""
    path, remedy = step.value.get('manifest'), ''
    place = line.image_folder if path is None else str(path)
    if place is not None and is_remote(place, step.value.get('backend_args')):
        findings.append(
            warning(
                line.place,
                f': {place} is no local folder, so whether the config fits its cipher was '
                'not checked',
            )
        )
        return None
    if path is not None:
        path = os.path.abspath(os.path.expanduser(path))
        folder = path if os.path.isdir(path) else os.path.dirname(path)
    elif (folder := line.image_folder) is None:
        return None
    if not os.path.isdir(folder):
        findings.append(
            warning(
                line.place,
                f': there is no folder {folder} yet, so whether the '
                'config fits its cipher was not checked',
            )
        )
        return None
    try:
        if path is None:
            remedy = (
                f'Copy {MANIFEST_NAME} to the images, or name it with `manifest=`; images '
                'that are not encrypted yet need `hime_mm.Encrypt` instead'
            )
            path = find_manifest(folder)
            remedy = ''
        return load_manifest(path)
    except ManifestError as wrong:
        findings.append(error(line.place, f': {wrong}', remedy))
        return None


def _device(node: Node, outer: Node, findings: list[Finding]) -> Use | None:
    """The data preprocessor of a model, if it encrypts."""
    # Told to have no cipher, it leaves images as they are.
    encrypts, outer_does = (
        preprocessor.is_a(EncryptClsDataPreprocessor)
        and preprocessor.value.get('cipher', '') is not None
        for preprocessor in (node, outer)
    )
    if not encrypts:
        if outer_does:
            findings.append(
                error(
                    outer.place,
                    f'encrypts, but `{node.place}` takes its place, which does not: '
                    'images would pass in plain',
                    'put the cipher there',
                )
            )
        return None
    if 'cipher' not in node.value:
        findings.append(error(node.place, 'has no `cipher`', "name one, such as 'shuffle'"))
        return Use(**vars(node))
    options = {key: node.value[key] for key in ('cipher', 'patch_size') if key in node.value}
    return _use(node, findings, BatchCipher, options)


def _patch_size(backbone: Node) -> int | None:
    """Side of a patch of a ViT, None for other backbones."""
    from mmpretrain.models.backbones import VisionTransformer
    from mmpretrain.registry import MODELS as HOST_MODELS

    cfg = backbone.value
    if backbone.short in ('TIMMPEViT', 'TIMMBackbone'):
        size = cfg.get('patch_size') or timm_patch_size(cfg.get('model_name', ''))
    else:
        kind = HOST_MODELS.module_dict.get(backbone.short)
        if not backbone.short.endswith(('PEViT', *VITS)) and not (
            isinstance(kind, type) and issubclass(kind, VisionTransformer)
        ):
            return None
        size = (cfg.get('patch_cfg') or {}).get('stride', cfg.get('patch_size', 16))
    return size if isinstance(size, int) else None
