# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Whether our metrics get what they need to know where boxes belong."""

from collections.abc import Iterator

from hime_mm.ciphers.keys import looks_like_key

from ..findings import Finding, error, validator, warning
from ..hosts import ORIGINAL_METRIC, SLOT_METRIC
from ..plan import EVALUATION, Node, Plan, Use, Way
from ..ways import flatten


@validator
def keys(plan: Plan) -> Iterator[Finding]:
    """A config says where a key is, and never holds it: configs are logged and dumped."""
    for metric in plan.evaluators:
        for name in ('key', 'key_env'):
            if metric.is_named(ORIGINAL_METRIC) and looks_like_key(str(metric.value.get(name))):
                yield error(
                    f'{metric.place}.{name}',
                    'holds a key itself',
                    'Make a new key, since others may have seen this one, and name its file as '
                    '`key`, or the variable that holds it as `key_env`',
                )


@validator
def masks(plan: Plan) -> Iterator[Finding]:
    """No masks are judged where patches have moved, which masks do not follow."""
    for name in (ORIGINAL_METRIC, SLOT_METRIC):
        for _, use, metric in _judged(plan, name):
            names = metric.value.get('metric')
            # As the host takes one, or a list.
            if use.moves_boxes and 'segm' in (names if isinstance(names, list) else [names]):
                yield error(
                    f'{metric.place}.metric',
                    f"has 'segm', but `{use.place}` moves patches, which masks do not follow",
                    "leave 'segm' out",
                )


@validator
def original_metric(plan: Plan) -> Iterator[Finding]:
    """What maps boxes back gets their permutations, and the annotations of the originals."""
    for way, use, metric in _judged(plan, ORIGINAL_METRIC):
        if use.online:
            yield from _simulated(way, use, metric)
        else:
            yield from _of_folder(use, metric)


def _judged(plan: Plan, name: str) -> Iterator[tuple[Way, Use, Node]]:
    """What encrypts the images whose boxes a metric of ours judges."""
    for way in plan.ways:
        if way.phase in EVALUATION:
            for metric in plan.metrics(way.phase):
                if metric.is_named(name):
                    for use in way.uses:
                        yield way, use, metric


def _simulated(way: Way, use: Use, metric: Node) -> Iterator[Finding]:
    if not use.moves_boxes:
        return
    if way.phase == 'tta':
        yield warning(
            use.place,
            f'gives each view a permutation of its own, but `{metric.place}` gets what was merged '
            'of their boxes, which nothing maps back',
            'Test without augmentation where patches are moved',
        )
        return
    if use.value.get('keep_permutation') is not True:
        yield error(
            use.place,
            f'leaves its permutations out, but `{metric.place}` maps boxes back with them',
            'set `keep_permutation=True`',
        )
    packs = [step for step in flatten(way.steps) if step.short.startswith('Pack')]
    if not any('patch_layout' in (step.value.get('meta_keys') or ()) for step in packs):
        place = packs[-1].place if packs else way.place
        yield error(
            place,
            f'leaves out `patch_layout`, with which `{metric.place}` maps boxes back',
            "set `meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', "
            "'patch_layout')` in PackDetInputs",
        )


def _of_folder(use: Use, metric: Node) -> Iterator[Finding]:
    if use.manifest is None:
        return
    root, layout = use.manifest.root, use.manifest.overview
    key = next((name for name in ('key', 'key_env') if metric.value.get(name)), None)
    if layout.needs_key and use.manifest.key_id is None:
        yield error(
            metric.place,
            f'maps boxes back, but {root} was encrypted one-way: nothing was kept that could',
            'encrypt what you predict on with a key',
        )
    elif layout.needs_key and key is None:
        yield error(
            metric.place,
            f'has no key, but the patches of {root} were moved',
            f'name the file of the key {use.manifest.key_id} as `key`, or its variable as '
            f'`key_env`; without the key there is {SLOT_METRIC!r}',
        )
    elif layout.obstacle and not layout.needs_key:
        yield error(metric.place, f'maps boxes back, but of {root} they do not: {layout.obstacle}')
    ann_file = metric.value.get('ann_file')
    if ann_file is None or use.manifest.holds(ann_file):
        yield error(
            f'{metric.place}.ann_file',
            f'is not the file of the originals, in whose pixels the boxes of {root} come back',
            "name the owner's own annotation file",
        )


@validator
def slot_metric(plan: Plan) -> Iterator[Finding]:
    """What judges boxes within their slots gets annotations that are in the same slots."""
    for _, use, metric in _judged(plan, SLOT_METRIC):
        ann_file = metric.value.get('ann_file')
        if use.online:
            yield error(
                metric.place,
                'judges by annotations that were handed over with encrypted images, but '
                f'`{use.place}` encrypts anew',
                f'use {ORIGINAL_METRIC!r}',
            )
        elif use.manifest is not None and ann_file is not None and not use.manifest.holds(ann_file):
            yield warning(
                f'{metric.place}.ann_file',
                f'is not part of {use.manifest.root}, but boxes are judged in pixels of its '
                'encrypted images',
                'Name the annotation file that was handed over with it',
            )
