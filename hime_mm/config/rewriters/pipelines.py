# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Puts the encryption into every pipeline."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from mmengine.config import ConfigDict

from ..hosts import BRANCHES, STAGES, STILL, VIEWS
from ..plan import EVALUATION, Node, Way
from .job import Job

PACK = 'Pack'
#: What PackDetInputs keeps unless it is told otherwise, and what maps boxes back.
META_KEYS = (
    'img_id',
    'img_path',
    'ori_shape',
    'img_shape',
    'scale_factor',
    'flip',
    'flip_direction',
)
LAYOUT = 'patch_layout'


def encrypt_pipelines(job: Job) -> None:
    """Encrypt what each data set's images end as, on every way that a run can take.

    In training that is right before they are packed. In evaluation it is before
    annotations that are loaded behind all that changes the image: these are in
    pixels of the original.
    """
    done: set[int] = set()
    for way in job.plan.ways:
        if way.steps:
            _encrypt_way(job, way, done)


def packs(way: Way) -> bool:
    """Whether one of a way's pipelines packs, so that one knows where the end is."""
    return any(any(_packing(line)) for line in way.lines)


def _packing(node: Node) -> Iterator[Node]:
    return (inner for inner in node.walk() if inner.short.startswith(PACK))


def _encrypt_way(job: Job, way: Way, done: set[int]) -> None:
    evaluates = way.phase in EVALUATION
    step = ConfigDict(type='hime_mm.Encrypt', **job.written)
    if evaluates and job.cipher.shuffles and 'Det' in _packer(way):
        step['keep_permutation'] = True
    for line in reversed(way.lines):
        if id(line.value) in done or _encrypt_list(line.value, step, evaluates):
            done.add(id(line.value))
            return


def _packer(way: Way) -> str:
    return next(node.short for line in way.lines for node in _packing(line))


def _encrypt_list(steps: list, step: dict, evaluates: bool) -> bool:
    """Put the step into a list of transforms, if that packs; whether it does."""
    for end in reversed(range(len(steps))):
        node = Node('', steps[end])
        if node.short.startswith(PACK):
            if step.get('keep_permutation'):
                keys = tuple(steps[end].get('meta_keys', META_KEYS))
                steps[end]['meta_keys'] = (*keys, LAYOUT)
            _insert(steps, end, step, evaluates)
            return True
        if node.short in BRANCHES and _encrypt_branches(node, step, evaluates):
            return True
        if node.short in STAGES:
            lists = [child.value for child in node.children() if isinstance(child.value, list)]
            if _encrypt_stages(lists, step, evaluates):
                return True
    return False


def _encrypt_branches(node: Node, step: dict, evaluates: bool) -> bool:
    """Encrypt in each branch; one may be a single transform."""
    found = False
    for child in node.children():
        if isinstance(child.value, dict) and child.value.get('type'):
            node.value[child.key] = [child.value]
        # What was set there is a copy.
        branch = node.value[child.key]
        if isinstance(branch, list):
            found |= _encrypt_list(branch, step, evaluates)
    return found


def _encrypt_stages(lists: list[list], step: dict, evaluates: bool) -> bool:
    """Put the step into stages, of which each has alternatives."""
    for stages in lists:
        for end, stage in enumerate(stages):
            packers = [one for one in stage if Node('', one).short.startswith(PACK)]
            if packers:
                for one in packers if step.get('keep_permutation') else ():
                    one['meta_keys'] = (*one.get('meta_keys', META_KEYS), LAYOUT)
                firsts = [stage[0] for stage in stages]
                stages.insert(_place(firsts, end, evaluates), [deepcopy(step)])
                return True
    return False


def _insert(steps: list, end: int, step: dict, evaluates: bool) -> None:
    at = _place(steps, end, evaluates)
    before = Node('', steps[at - 1]) if at else Node('', {})
    if before.short in VIEWS:
        # Several views of an image, in a list that no transform of ours takes.
        for view in before.value['transforms']:
            view.append(deepcopy(step))
    else:
        steps.insert(at, deepcopy(step))


def _place(steps: list[Any], end: int, evaluates: bool) -> int:
    """Before which transform the encryption belongs."""
    at = end
    for index in reversed(range(end)) if evaluates else ():
        short = Node('', steps[index]).short
        if short.startswith('Load') and 'Annotations' in short:
            at = index
        elif not short.startswith(STILL):
            break
    return at
