# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Whether what is evaluated, and drawn, is what was trained on."""

from collections.abc import Iterator

from ..findings import Finding, error, validator, warning
from ..hosts import (
    BOX_METRICS,
    DETECTION_METRICS,
    ORIGINAL_METRIC,
    PIPELINE_METRICS,
    SAFE_HOOK,
    SLOT_METRIC,
    STILL,
)
from ..plan import EVALUATION, Node, Plan, Use
from ..ways import flatten


@validator
def coordinates(plan: Plan) -> Iterator[Finding]:
    """Predictions and annotations are in the same coordinates."""
    for use in plan.uses:
        for metric in _metrics(plan, use.phase):
            if not use.online:
                yield from _coordinates(metric.place.partition('.')[0], metric, use)


def _metrics(plan: Plan, phase: str) -> list[Node]:
    """Those of others: ours map boxes, and have a file of validators of their own."""
    return [
        metric
        for metric in plan.metrics(phase)
        if not any(map(metric.is_named, (ORIGINAL_METRIC, SLOT_METRIC)))
    ]


def _coordinates(place: str, metric: Node, use: Use) -> Iterator[Finding]:
    ann_file = metric.value.get('ann_file')
    original = use.coordinates == 'original'
    if ann_file is None:
        if original and metric.name.endswith(BOX_METRICS):
            yield error(
                place,
                'takes boxes from the pipeline, which are in encrypted '
                f'coordinates, but `{use.place}` has predictions come back in those of '
                'the original',
                "name the original annotation file in `ann_file`, or set `coordinates='encrypted'`",
            )
    elif use.manifest is not None:
        inside = use.manifest.holds(ann_file)
        if original and inside:
            yield error(
                f'{place}.ann_file',
                f'is that of the encrypted data set, but '
                f'`{use.place}` has predictions come back in pixels of the original',
                "name the owner's own annotation file, or set `coordinates='encrypted'`",
            )
        elif not original and not inside:
            yield warning(
                f'{place}.ann_file',
                f'is not part of {use.manifest.root}, but `{use.place}` has '
                'predictions come back in pixels of the encrypted images',
                "For the original annotation file set `coordinates='original'`",
            )


@validator
def moved_boxes(plan: Plan) -> Iterator[Finding]:
    """What is judged in encrypted coordinates, where patches have moved, is known."""
    first_uses = {use.phase: use for use in reversed(plan.uses) if use.moves_boxes}
    for use in first_uses.values():
        for metric in _metrics(plan, use.phase):
            if metric.name.endswith(DETECTION_METRICS):
                yield warning(
                    metric.place,
                    f'is {metric.name}, which judges boxes in encrypted coordinates, where '
                    f'`{use.place}` has moved patches: beside boxes of the original its numbers '
                    'mean nothing, beside encrypted ones clipping and NMS cost, since neighbours '
                    'are not neighbours there',
                    f'Whoever may see the originals uses {ORIGINAL_METRIC!r}, or `hime eval` '
                    f'with the key, whoever has none {SLOT_METRIC!r}; `hime boxes` maps results '
                    'back',
                )


@validator
def annotations(plan: Plan) -> Iterator[Finding]:
    """Boxes in pixels of the original do not change with the image."""
    found = {}
    for way in plan.ways:
        uses = {use.place: use for use in way.encrypts}
        boxes, original = None, True
        for step in flatten(way.steps) if way.phase in EVALUATION else ():
            if step.name.endswith('LoadAnnotations'):
                boxes, original = step, True
            elif boxes is not None and step.place in uses:
                found[step.place] = (boxes, uses[step.place], original)
            elif not step.short.startswith(STILL):
                # They go where the image goes.
                original = False
    for boxes, use, original in found.values():
        yield from _annotations(plan, boxes, use, original)


def _annotations(plan: Plan, boxes: Node, use: Use, original: bool) -> Iterator[Finding]:
    cipher = use.cipher
    shrinks = cipher is not None and cipher.encrypted_patch_size != cipher.patch_size
    if not shrinks and not use.moves_boxes:
        return
    text = f'{"shrinks" if shrinks else "moves"} the boxes that `{boxes.place}` has loaded, '
    remedy = 'put it before LoadAnnotations'
    judges = [metric for metric in _metrics(plan, use.phase) if _takes_pipeline_boxes(metric)]
    if shrinks and judges:
        text += f'by which `{judges[0].place}` judges predictions in pixels of the original'
        yield error(use.place, text, remedy)
    elif original:
        text += 'which are in pixels of the original, not of the image that is encrypted'
        yield warning(use.place, text, remedy)


def _takes_pipeline_boxes(metric: Node) -> bool:
    return any(
        metric.name.endswith(name) and not (filed and metric.value.get('ann_file'))
        for name, filed in PIPELINE_METRICS.items()
    )


@validator
def custom_hooks(plan: Plan) -> Iterator[Finding]:
    """No hook of the user's draws plain images; default ones are replaced."""
    plain = any(use.online for use in plan.uses)
    for hook, effect in harmful_hooks(plan, 'custom_hooks'):
        yield Finding(
            'error' if plain else 'warning',
            hook.place,
            f'is {hook.name}, which {effect}',
            f"use `type='{SAFE_HOOK}'`",
        )


def harmful_hooks(plan: Plan, group: str) -> Iterator[tuple[Node, str]]:
    """Hooks that draw and are not known to draw what was seen, and what harm that does.

    The hosts' read the image file again.
    """
    if any(use.online for use in plan.uses):
        effect = 'would show the plain images'
    elif any(use.coordinates == 'original' for use in plan.uses):
        effect = 'would draw boxes in coordinates of the original on encrypted images'
    else:
        return
    for hook in plan.hooks:
        if (
            hook.place.startswith(group)
            and hook.name.endswith('VisualizationHook')
            and hook.own is None
        ):
            yield hook, effect
