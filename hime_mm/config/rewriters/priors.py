# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Anchors, points and ranges of detectors on images that have shrunk."""

from fractions import Fraction
from inspect import Parameter, signature
from typing import Any

from ..hosts import LENGTHS, PYRAMIDS, REGIONS, STRIDES
from ..plan import Node
from .job import Job


def adapt_priors(job: Job) -> None:
    """Let objects find the priors that they find in plain images.

    Compact images have smaller objects, and a CNN has the strides that it has. So
    the pyramid of a one-stage detector starts a level finer where its backbone has
    one, and YOLOF's last stage is dilated; where that does not do, anchors shrink.
    An RPN begins at the finest level already: its anchors shrink. Measured in
    docs/training.md; heads without a setting that counts pixels stay.
    """
    if job.ratio == 1:
        return
    model = job.model
    scale_anchors(model.child('rpn_head', model.value.get('rpn_head')), job.ratio)
    head = model.child('bbox_head', model.value.get('bbox_head'))
    if not head.value:
        head = model.child('mask_head', model.value.get('mask_head'))
    levels = _neck(job).short in (*PYRAMIDS, 'DilatedEncoder')
    if levels:
        spell_out(head)
    finer = Fraction(1, 2) if _start_finer(job) or _dilate(job) else Fraction(1)
    for name in STRIDES if finer != 1 else ():
        scale(head, name, finer)
    for name in LENGTHS:
        scale(head, name, job.ratio)
    if levels:
        scale_anchors(head, job.ratio / finer)


def _neck(job: Job) -> Node:
    """The first neck, be it one of several."""
    neck = job.model.child('neck', job.model.value.get('neck'))
    return next(neck.walk(), Node(neck.place, {}))


def _start_finer(job: Job) -> bool:
    """Start the pyramid a level below, where there is one and one image side is halved."""
    neck = _neck(job)
    start = neck.value.get('start_level', 0)
    if neck.short not in PYRAMIDS or job.ratio > Fraction(1, 2) or start < 1:
        return False
    neck.value['start_level'] = start - 1
    return True


def _dilate(job: Job) -> bool:
    """Let a ResNet's last stage keep its resolution, as for YOLOF-DC5."""
    stages = job.plan.backbone
    if _neck(job).short != 'DilatedEncoder' or job.ratio > Fraction(1, 2):
        return False
    if not stages.short.startswith('ResNe'):
        return False
    stages.value.update(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
    return True


def spell_out(part: Node) -> None:
    """Write what parts of MMDetection's take where their config says nothing."""
    from mmdet.registry import MODELS as HOST_MODELS

    for node in part.walk():
        kind = HOST_MODELS.get(node.short) if node.name else None
        for base in getattr(kind, '__mro__', ()):
            parameters = signature(base).parameters if '__init__' in vars(base) else {}
            for name in {*STRIDES, *LENGTHS, *REGIONS} & set(parameters):
                default = parameters[name].default
                if default not in (None, Parameter.empty):
                    node.value.setdefault(name, default)


def scale_anchors(node: Node, ratio: Fraction) -> None:
    """Multiply sizes of anchors; strides stay."""
    for inner in node.walk() if ratio != 1 else ():
        if inner.key in ('anchor_generator', 'prior_generator') or inner.short == 'AnchorGenerator':
            for name in ('octave_base_scale', 'scales', 'base_sizes'):
                scale(inner, name, ratio, within=False)


def scale(node: Node, name: str, ratio: Fraction, within: bool = True) -> None:
    """Multiply a setting wherever it stands in a part, or in the part itself only."""
    for inner in list(node.walk()) if within else [node]:
        if inner.value.get(name) is not None:
            inner.value[name] = _times(inner.value[name], ratio)


def _times(value: Any, ratio: Fraction) -> Any:
    """Of numbers in lists; what stands for infinity, or for nothing, stays."""
    if isinstance(value, (list, tuple)):
        return type(value)(_times(one, ratio) for one in value)
    if not 0 < value < 1e6:
        return value
    exact = Fraction(value) * ratio
    return int(exact) if exact.denominator == 1 else float(exact)
