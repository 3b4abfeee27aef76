# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The ways that images take through a run: from each data set, through which pipelines."""

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmengine.runner import Runner

from hime_mm.datasets.manifest import find_manifest
from hime_mm.errors import ManifestError

from .hosts import BRANCHES, CHOICES, MAYBE, MIXER, READERS, SEQUENCES, STAGES
from .plan import Node, Use, Way

PHASES = ('train', 'val', 'test')
WRAPPERS = BRANCHES + CHOICES + MAYBE + STAGES + SEQUENCES
#: Keys of data sets under which wrappers hold others.
INNER = ('dataset', 'datasets')


@lru_cache(maxsize=1)
def used_keys() -> frozenset[str]:
    """Names in a config from which something is run; all others are its own variables."""
    runner = inspect.signature(Runner.__init__).parameters
    # The hosts' tools/test.py read them by these names.
    return frozenset(runner) | {'tta_model', 'tta_pipeline'}


def find_ways(root: Node, used: Iterable[Node]) -> list[Way]:
    """All ways of a config, not yet traced.

    Args:
        root (Node): The whole config.
        used (Iterable[Node]): Its entries from which something is run.
    """
    used = list(used)
    chains: dict[str, list[tuple[Node, ...]]] = {}
    for loader in _loaders(used):
        prefix = loader.place.partition('_')[0]
        phase = prefix if prefix in PHASES else ''
        data = loader.child('dataset', dict.get(loader.value, 'dataset'))
        chains.setdefault(phase, []).extend(_chains(data))
    ways = [_way(phase, chain) for phase, found in chains.items() for chain in found]
    for hook in used:
        if hook.key in ('default_hooks', 'custom_hooks'):
            for node in hook.walk():
                for chain in chains.get('train', ()):
                    ways += _switched(node, chain)
    line = root.child('tta_pipeline', dict.get(root.value, 'tta_pipeline'))
    if isinstance(line.value, (list, tuple)):
        # In place of the pipeline of the innermost data set.
        ways += [_way('tta', chain, {-1: line}) for chain in chains.get('test', ())]
    return ways


def _loaders(used: Iterable[Node]) -> Iterator[Node]:
    """Data loaders, in whatever is run: also a model may have one, for prototypes."""
    for top in used:
        for node in top.walk():
            data = dict.get(node.value, 'dataset')
            # What lies within another data set belongs to that one's loader.
            inside = '.dataset.' in f'{node.place}.' or '.datasets.' in f'{node.place}.'
            named = node is top and str(top.key).endswith('_dataloader')
            if isinstance(data, dict) and not inside and (named or _runs(Node('', data))):
                yield node


def _runs(node: Node) -> bool:
    return any('pipeline' in inner.value for inner in node.walk())


def _chains(node: Node, outer: tuple[Node, ...] = ()) -> Iterator[tuple[Node, ...]]:
    """Each data set below the wrappers around it, outermost first."""
    chain = (*outer, node)
    inner = list(_inner(node))
    for child in inner:
        yield from _chains(child, chain)
    if not inner:
        yield chain


def _inner(node: Node) -> Iterator[Node]:
    """The data sets that a wrapper holds."""
    for child in node.children():
        if child.key in INNER or ('pipeline' not in str(child.key) and _runs(child)):
            yield from _data_sets(child)


def _data_sets(node: Node) -> Iterator[Node]:
    """One data set, or all of a list or a dict of them."""
    if isinstance(node.value, dict) and {'type', 'pipeline', *INNER} & set(node.value):
        yield node
    else:
        for child in node.children():
            if isinstance(child.value, (dict, list, tuple)):
                yield from _data_sets(child)


def _way(
    phase: str,
    chain: Sequence[Node],
    others: Mapping[int, Node] | None = None,
    skipped: Sequence[str] | None = None,
    place: str = '',
) -> Way:
    """The way of a data set's images, with other pipelines in place of some."""
    lines, steps, note = [], [], ''
    others = {index % len(chain): line for index, line in (others or {}).items()}
    for index, owner in reversed(tuple(enumerate(chain))):
        own = owner.child('pipeline', dict.get(owner.value, 'pipeline'))
        line = others.get(index, own)
        if not isinstance(line.value, (list, tuple)):
            continue
        run = list(line.children())
        if owner.short == MIXER:
            # It goes through the types of its own pipeline with whatever it got.
            if len(run) > len(own.value or ()):
                run = run[: len(own.value or ())]
                note = f'{MIXER} runs no more transforms of it than its own pipeline has'
            keys = dict.get(owner.value, 'skip_type_keys') if skipped is None else skipped
            kept = [step for step in run if step.name not in (keys or ())]
            note = note if len(kept) == len(run) else f'{MIXER} skips {list(keys)}'
            run = kept
        lines.append(line)
        steps += run
    place = place or next(iter(others.values()), chain[-1].child('pipeline', None)).place
    folder = _image_folder(chain[-1])
    return Way(phase, place, tuple(lines), tuple(steps), chain[-1], folder, note, _manifest(folder))


def _switched(node: Node, chain: Sequence[Node]) -> Iterator[Way]:
    """What a hook makes of a data set's way in the course of a training."""
    for line in node.children():
        if 'pipeline' in str(line.key) and isinstance(line.value, (list, tuple)):
            # The outermost data set that has a pipeline gets the new one.
            owners = (index for index, owner in enumerate(chain) if 'pipeline' in owner.value)
            yield _way('switch', chain, {next(owners, -1): line})
        elif line.key == 'skip_type_keys':
            yield _way('switch', chain, skipped=line.value, place=line.place)


def _image_folder(node: Node) -> str | None:
    """Where the images of a data set lie; None if it does not say."""
    data = node.value
    if not {'data_root', 'data_prefix', 'ann_file'} & set(data):
        return None
    prefix: Any = data.get('data_prefix') or ''
    if isinstance(prefix, dict):
        names = ('img', 'img_path', 'sub_data_root')
        prefix = next((prefix[name] for name in names if prefix.get(name)), '')
    # As MMPretrain's ImageNet has it.
    prefix = prefix or data.get('split') or ''
    return os.path.expanduser(os.path.join(data.get('data_root') or '', prefix))


def _manifest(folder: str | None) -> Path | None:
    """The manifest to which a folder belongs, if it is there."""
    if folder is None or not os.path.isdir(folder):
        return None
    try:
        return find_manifest(folder)
    except ManifestError:
        return None


def trace(way: Way, uses: Mapping[str, Use]) -> Way:
    """Find on a way what encrypts.

    Args:
        way (Way): The way.
        uses (Mapping[str, Use]): All that encrypts or loads what is
            encrypted, by place.
    """
    found = tuple(uses[step.place] for step in flatten(way.steps) if step.place in uses)
    ends = _ends(way.steps, uses)
    if way.manifest is not None:
        ends = {end or way.manifest: None for end in ends}
    return replace(way, uses=found, ends=tuple(ends))


def flatten(steps: Iterable[Node]) -> Iterator[Node]:
    """Transforms in order, with those inside in place of their wrappers."""
    for step in steps:
        # Others hold policies of theirs.
        wraps = step.short in WRAPPERS or any(inner.own for inner in _members(step))
        yield from flatten(_members(step)) if wraps else (step,)


def _members(step: Node) -> Iterator[Node]:
    """The transforms that a transform holds, of all its lists."""
    for child in step.children():
        yield from _transforms(child)


def _transforms(node: Node) -> Iterator[Node]:
    if isinstance(node.value, dict):
        if node.name:
            yield node
    elif isinstance(node.value, (list, tuple)):
        for child in node.children():
            yield from _transforms(child)


#: In the order in which they were found; None stands for nothing.
Ends = dict[Any, None]


def _ends(steps: Iterable[Node], uses: Mapping[str, Use]) -> Ends:
    """What encrypts first, on each way through transforms."""
    ends: Ends = {None: None}
    for step in steps:
        if step.short.startswith(READERS):
            # Of an encrypted image the plain file.
            ends = {None if end is None or end.online else end: None for end in ends}
        ends = _then(ends, _step_ends(step, uses))
    return ends


def _then(ends: Ends, following: Ends) -> Ends:
    """What is plain so far is what follows makes of it."""
    if None not in ends:
        return ends
    return {end: None for end in ends if end is not None} | following


def _step_ends(step: Node, uses: Mapping[str, Use]) -> Ends:
    if step.place in uses:
        return {uses[step.place]: None}
    branches = [child for child in step.children() if any(_transforms(child))]
    if step.short in STAGES:
        # Each stage has alternatives, all of which are run.
        ends: Ends = {None: None}
        for stage in (stage for child in branches for stage in child.children()):
            ends = _then(ends, _union(stage.children(), uses))
        return ends
    if step.short in CHOICES:
        return _union((one for child in branches for one in child.children()), uses)
    if step.short in BRANCHES:
        # One without transforms leaves images as they are.
        empty = [child for child in step.children() if child.value in ([], ())]
        return _union(branches + empty, uses)
    return _ends(_members(step), uses) | ({None: None} if step.short in MAYBE else {})


def _union(branches: Iterable[Node], uses: Mapping[str, Use]) -> Ends:
    ends: Ends = {}
    for branch in branches:
        ends |= _ends(_transforms(branch), uses)
    return ends or {None: None}
