# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How a config becomes a plan."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from mmengine.config import Config

from hime_mm.datasets.manifest import Manifest, find_manifest, load_manifest
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import ManifestError
from hime_mm.models.backbones.timm_inspection import timm_patch_size
from hime_mm.models.data_preprocessors import BatchCipher, EncryptClsDataPreprocessor
from hime_mm.transforms import Encrypt, LoadEncryptedMeta
from hime_mm.transforms.remote import is_remote

from .findings import Finding, error, warning
from .hosts import VITS
from .plan import Node, Pipeline, Plan, Use, Way, find
from .ways import find_ways, trace, used_keys


def read(cfg: Config | dict) -> Plan:
    """Find in a config what encryption has to do with.

    Of what the config names, only ciphers are made. What makes no sense
    raises nothing: it is among the plan's findings. Variables that a config
    file leaves behind, from which no runner is built, are not looked at.

    Args:
        cfg (:obj:`Config` | dict): A whole config.

    Returns:
        Plan: Its nodes are parts of the config.
    """
    root = Node('', cfg._cfg_dict if isinstance(cfg, Config) else cfg)
    used = [node for node in root.children() if node.key in used_keys()]
    nodes = tuple(root.walk())
    parts = tuple(inner for node in used for inner in node.walk())
    findings: list[Finding] = []
    # Test-time augmentation wraps the model.
    model, inner = find(nodes, 'model'), find(nodes, 'model.module')
    outer, within = (find(nodes, f'{place}data_preprocessor') for place in ('', f'{inner.place}.'))
    # The runner hands over the outer one only where the model names none, and
    # a wrapper puts what it gets in place of that of the model within.
    named = 'data_preprocessor' in model.value
    preprocessor = find(nodes, 'model.data_preprocessor') if named else outer
    if inner.value:
        preprocessor = preprocessor if preprocessor.value else within
        model = inner
    # So do detectors that learn from unlabelled images.
    detector = find(nodes, f'{model.place}.detector')
    model = detector if detector.value else model
    backbone = find(nodes, f'{model.place}.backbone')
    ways = find_ways(root, used)
    pipelines = tuple(_pipelines(parts, ways, findings))
    uses = {use.place: use for line in pipelines for use in line.loads + line.encrypts}
    return Plan(
        nodes=nodes,
        used=parts,
        pipelines=pipelines,
        ways=tuple(trace(way, uses) for way in ways),
        preprocessor=preprocessor,
        device=_device(preprocessor, (outer, within), findings),
        backbone=backbone,
        patch_size=_patch_size(backbone),
        augments=_augments(nodes, preprocessor, model),
        evaluators=_nodes_at(nodes, r'(val|test)_evaluator(\.\d+)?'),
        hooks=_nodes_at(nodes, r'default_hooks\..+|custom_hooks\.\d+'),
        # Of what was read above.
        findings=tuple(findings),
    )


def _nodes_at(nodes: tuple[Node, ...], places: str) -> tuple[Node, ...]:
    return tuple(node for node in nodes if re.fullmatch(places, node.place))


def _augments(nodes: tuple[Node, ...], preprocessor: Node, model: Node) -> tuple[Node, ...]:
    """Augmentations of batches, also those to which a hook switches."""
    # A data preprocessor of several branches holds another one.
    owners = rf'{re.escape(preprocessor.place)}(\.data_preprocessor)?|custom_hooks\..+'
    places = rf'({owners})\.batch_augments(\.augments)?(\.\d+)?'
    if 'batch_augments' not in preprocessor.value:
        places += rf'|{re.escape(model.place)}\.train_cfg\.augments(\.\d+)?'
    return tuple(node for node in _nodes_at(nodes, places) if node.name)


def _pipelines(
    nodes: Sequence[Node], ways: Sequence[Way], findings: list[Finding]
) -> Iterator[Pipeline]:
    """Lists that are called so, or hold a transform of ours."""
    # A pipeline of several ways belongs to the first.
    homes = {line.place: way for way in reversed(ways) for line in way.lines}
    tops = [line for way in ways for line in way.lines if line.place == line.key]
    found = [child for owner in nodes for child in owner.children()] + tops
    for node in {node.place: node for outer in found for node in _lists(outer)}.values():
        yield from _pipeline(node, homes, findings)


def _lists(node: Node) -> Iterator[Node]:
    """A list, and those that are its entries."""
    if isinstance(node.value, (list, tuple)):
        yield node
        for child in node.children():
            yield from _lists(child)


def _pipeline(node: Node, homes: dict[str, Way], findings: list[Finding]) -> Iterator[Pipeline]:
    steps = tuple(node.children())
    place = node.place
    # Transforms within transforms are where the outermost are.
    while place and place not in homes:
        place = place.rpartition('.')[0]
    way = homes.get(place)
    phase, folder = ('', None) if way is None else (way.phase, way.folder)
    line = Pipeline(**vars(node), phase=phase, folder=folder, steps=steps)
    loads = tuple(_load(step, line, findings) for step in steps if step.is_a(LoadEncryptedMeta))
    encrypts = tuple(
        _use(step, findings, step.own, step.value, phase)
        for step in steps
        if step.own is not None and issubclass(step.own, Encrypt)
    )
    if loads or encrypts or 'pipeline' in str(node.key):
        yield replace(line, loads=loads, encrypts=encrypts)


def _use(
    node: Node,
    findings: list[Finding],
    build: Callable[..., Any],
    options: dict,
    phase: str = '',
) -> Use:
    """What encrypts with the cipher that is built of such options."""
    args = {key: value for key, value in options.items() if key not in ('type', '_scope_')}
    try:
        return Use(**vars(node), phase=phase, cipher=build(**args).cipher)
    except (TypeError, ValueError) as wrong:
        findings.append(error(node.place, f': {wrong}'))
        return Use(**vars(node), phase=phase)


def _load(step: Node, line: Pipeline, findings: list[Finding]) -> Use:
    manifest = _manifest(step, line, findings)
    cipher = None if manifest is None else manifest.cipher
    return Use(
        **vars(step),
        cipher=cipher,
        manifest=manifest,
        coordinates=step.value.get('coordinates') or 'encrypted',
        phase=line.phase,
    )


def _manifest(step: Node, line: Pipeline, findings: list[Finding]) -> Manifest | None:
    """What a LoadEncryptedMeta will find."""
    path, remedy = step.value.get('manifest'), ''
    place = line.folder if path is None else str(path)
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
    elif (folder := line.folder) is None:
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


def _device(node: Node, others: Sequence[Node], findings: list[Finding]) -> Use | None:
    """The data preprocessor of a model, if it encrypts."""
    if not _encrypts(node):
        for other in filter(_encrypts, others):
            findings.append(
                error(
                    other.place,
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


def _encrypts(node: Node) -> bool:
    # Told to have no cipher, it leaves images as they are.
    named = node.value.get('cipher', '') is not None
    return named and node.is_a(EncryptClsDataPreprocessor)


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
