# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Whether a model and what it is trained with go with the cipher."""

from collections.abc import Iterator
from statistics import mean as statistics_mean

from hime_mm.ciphers import Cipher, Mix

from ..findings import Finding, error, validator, warning
from ..hosts import BATCH_RESIZERS, CUTTERS, TOKEN_HEAD
from ..plan import Plan, Use


@validator
def backbone(plan: Plan) -> Iterator[Finding]:
    """A ViT embeds the patches of the cipher, and does not need their order."""
    # One word on each cipher, however many pipelines have it.
    first_uses = {use.cipher: use for use in reversed(plan.uses)}
    for cipher, use in reversed(first_uses.items()) if plan.patch_size is not None else ():
        if cipher is not None:
            yield from _patches(plan, use, cipher)
            if cipher.shuffles:
                yield from _positions(plan, use)


def _patches(plan: Plan, use: Use, cipher: Cipher) -> Iterator[Finding]:
    side = cipher.encrypted_patch_size
    mixes = [step for step in cipher.steps if isinstance(step, Mix)]
    compact = any(step.form == 'compact' for step in mixes)
    options = plan.backbone.value
    mixable = plan.backbone.name.endswith('PEViT') and plan.backbone.short != 'TIMMPEViT'
    if mixable and options.get('patch_embed') == 'mixed':
        form = 'compact' if compact else 'full'
        # The plain patch that mixing alone would have come from.
        side *= mixes[0].num_splits if compact else 1
        fits = (
            options.get('patch_size', 16) == side
            and options.get('input_form', 'compact') == form
            and all(step.num_splits == options.get('num_splits', 2) for step in mixes)
        )
        splits = f'`num_splits={mixes[0].num_splits}`, ' if mixes else ''
        remedy = f'`patch_size={side}`, {splits}`input_form={form!r}`'
    else:
        fits = plan.patch_size == side
        other = " or `patch_embed='mixed'`" if compact and mixable else ''
        remedy = f'`patch_size={side}`{other}'
    if not fits:
        yield error(plan.backbone.place, f'does not fit {use.description}', f'set its {remedy}')


def _positions(plan: Plan, use: Use) -> Iterator[Finding]:
    node = plan.backbone
    if not node.name.endswith('PEViT'):
        yield warning(
            node.place,
            f'is {node.name}, which learns positions, but `{use.place}` '
            'moves patches: they mean nothing then',
            "Use `type='hime_mm.PEViT'`, or "
            "'hime_mm.TIMMPEViT' for a model of timm, with `pos_encoding='rpe'`",
        )
    elif node.value.get('pos_encoding') == 'learned':
        yield warning(
            f'{node.place}.pos_encoding',
            f'is "learned", but `{use.place}` moves '
            'patches: learned positions mean nothing then, "rpe" and "none" do',
        )


@validator
def heads(plan: Plan) -> Iterator[Finding]:
    """Where patches have moved, a detector looks at each of them by itself."""
    uses = (use for use in plan.uses if use.cipher is not None and use.cipher.shuffles)
    moving = next(uses, None)
    model = plan.backbone.place.rpartition('.')[0]
    head = next((node for node in map(plan.find, _heads(model)) if node.value), None)
    if moving is None or head is None:
        return
    moved = f'but `{moving.place}` moves patches: neighbours are not neighbours then'
    if not head.is_named(TOKEN_HEAD):
        yield warning(
            head.place,
            f'is {head.name}, which needs to know where each patch is, {moved}',
            f"Use `type='{TOKEN_HEAD}'` in a `hime_mm.PESingleStageDetector`",
        )
        return
    side = moving.cipher.encrypted_patch_size
    if head.value.get('patch_size', 16) != side:
        yield error(
            head.place, f'does not fit {moving.description}', f'set its `patch_size={side}`'
        )
    neck = plan.find(f'{model}.neck')
    if neck.value:
        yield warning(
            neck.place, f'is {neck.name}, which mixes neighbouring tokens, {moved}', 'Leave it out'
        )
    # The detector's, where it has one, replaces the head's.
    places = (f'{model}.test_cfg', f'{head.place}.test_cfg')
    test_cfg = next((node for node in map(plan.find, places) if node.value), None)
    if test_cfg is not None and test_cfg.value.get('nms') is not None:
        yield error(
            f'{test_cfg.place}.nms',
            f'suppresses boxes that overlap, {moved}',
            'set it to `None`; whoever maps boxes back suppresses there',
        )


def _heads(model: str) -> Iterator[str]:
    """Where detectors have what reads their features."""
    return (f'{model}.{name}' for name in ('bbox_head', 'rpn_head', 'roi_head'))


@validator
def batch_augments(plan: Plan) -> Iterator[Finding]:
    """Batch augmentations of encrypted images keep to their patches.

    On the device they come before the encryption, and may be what they like.
    """
    for use in plan.uses:
        if use.cipher is None or not use.is_for('train'):
            continue
        side = use.cipher.encrypted_patch_size
        for node in plan.augments:
            if node.short == 'PatchCutMix' and node.value.get('patch_size', 16) != side:
                yield error(
                    node.place,
                    f': the patches of PatchCutMix do not fit {use.description}',
                    f'set its `patch_size={side}`',
                )
            elif node.short in CUTTERS:
                yield warning(
                    node.place,
                    f': {node.short} works on encrypted images, and its edges run through patches',
                    f"Use `type='hime_mm.PatchCutMix', patch_size={side}`",
                )
            elif node.short in BATCH_RESIZERS:
                yield warning(
                    node.place,
                    f': {node.short} resizes encrypted images, whose patches are then no more '
                    f'those of side {side} that were encrypted',
                    'Leave it out, and resize before the encryption',
                )


@validator
def statistics(plan: Plan) -> Iterator[Finding]:
    """Images without means are not normalized by those of others."""
    node = plan.preprocessor
    mean, std = node.value.get('mean') or (), node.value.get('std') or ()
    for use in plan.uses:
        if use.cipher is None or not any(step.removes_means for step in use.cipher.steps):
            continue
        if use is not plan.device and not use.is_for('train'):
            continue
        known = use.manifest.statistics if use.manifest is not None else {}
        far = any(abs(value - 128) > 8 for value in mean)
        if known and not far:
            # Not of weights that take images as they are, with a standard deviation of 1.
            usual = statistics_mean(known['std'])
            far = any(value != 1 and not usual / 1.3 < value < usual * 1.3 for value in std)
        if far:
            advice = 'and the standard deviation of the encrypted images (about 40 for photos)'
            if known:
                advice = 'and `std=[' + ', '.join(f'{one:.1f}' for one in known['std']) + ']`'
            yield warning(
                node.place,
                f'takes off the mean {list(mean)} and divides by {list(std)}, but '
                f'{use.description} leaves images of mean 128 and less contrast',
                f'Training goes faster with `mean=[128.0, 128.0, 128.0]` {advice}',
            )
            return
