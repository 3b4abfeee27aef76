# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What does not work on encrypted images, why, and what would."""

from collections.abc import Iterator

from ..findings import Finding, error
from ..plan import EVALUATION
from ..ways import flatten
from .job import Job
from .pipelines import packs

SWAP = '--backbone pevit-small'


def refusals(job: Job, swapped: bool) -> Iterator[Finding]:
    """Why a config cannot encrypt with such a cipher.

    Args:
        job (Job): The config and the cipher.
        swapped (bool): Whether the backbone will be one that needs no positions.
    """
    yield from _encrypted(job)
    yield from _data(job)
    if job.cipher.shuffles:
        yield from () if swapped else _positions(job)
        yield from _judged(job)
    if job.cipher.moves_pixels:
        yield from _masks(job)
    if job.ratio != 1:
        yield from _shrunk(job)
    yield from () if swapped else _patches(job)


def _encrypted(job: Job) -> Iterator[Finding]:
    """Images are encrypted once."""
    for use in job.plan.uses:
        yield error(
            use.place,
            f'is {use.name}: the config encrypts already, or reads what is encrypted',
            'leave `--cipher` out, or take the plain config',
        )


def _data(job: Job) -> Iterator[Finding]:
    """One finds the end of each pipeline, and images one by one."""
    if not any(way.steps for way in job.plan.ways):
        yield error('train_dataloader', 'has no pipeline to encrypt in', 'name a whole config')
    for way in job.plan.ways:
        videos = [step for step in way.steps if step.short == 'TransformBroadcaster']
        if videos:
            yield error(
                videos[0].place,
                'handles several frames at once, which hime_mm.Encrypt does not take',
                'encrypt the frames before, with `hime encrypt coco`',
            )
        elif way.steps and not packs(way):
            yield error(
                way.place,
                'has no transform that packs, so that its end is not known',
                "end it with `dict(type='PackDetInputs')`, or `PackInputs` for MMPretrain",
            )
    for node in job.plan.augments:
        if node.short == 'BatchResize':
            yield error(
                node.place,
                'resizes encrypted images to the size that the model wants, which breaks their '
                'patches',
                'take it out, and put Resize into the pipelines: '
                f'`--cfg-options {node.place.rpartition(".")[0]}=None`',
            )


def _positions(job: Job) -> Iterator[Finding]:
    """Where patches move, only a transformer without positions sees anything but patches."""
    node = job.plan.backbone
    if node.short.endswith('PEViT'):
        reason = 'has learned the place of each patch'
        if node.value.get('pos_encoding', 'rpe') != 'learned':
            return
    elif 'Swin' in node.short:
        reason = 'attends within windows of neighbouring patches'
    elif job.plan.patch_size is not None:
        reason = 'learns the place of each patch'
    else:
        reason = 'convolves over the edges of patches'
    yield error(
        node.place,
        f'is {node.name}, which {reason}, but {str(job.cipher)!r} moves patches, so that '
        'neighbours are not neighbours',
        f'a backbone without positions works, `{SWAP}`, or a cipher that leaves patches in '
        "their places, such as `--cipher mix2` or 'center+erode2'",
    )


def _patches(job: Job) -> Iterator[Finding]:
    """A ViT embeds the patches of the cipher."""
    node, side = job.plan.backbone, job.plan.patch_size
    if side not in (None, job.cipher.patch_size):
        yield error(
            node.place,
            f'embeds patches of side {side}, but those of the cipher have side '
            f'{job.cipher.patch_size}',
            f'take `--patch-size {side}`',
        )


def _judged(job: Job) -> Iterator[Finding]:
    """Boxes of moved patches come back through COCO's metric only."""
    detects = any(
        step.short == 'PackDetInputs' for way in job.plan.ways for step in flatten(way.steps)
    )
    for node in job.plan.evaluators if detects else ():
        if node.short not in ('CocoMetric', 'DumpDetResults'):
            yield error(
                node.place,
                f'is {node.name}, which judges boxes where they were predicted, but '
                f'{str(job.cipher)!r} moves patches, and boxes with them',
                'use CocoMetric, which is made to map them back, or `--cipher mix2`',
            )
    if job.plan.find('model.module').value:
        yield error(
            'model',
            f'is {job.plan.find("model").name}, which merges what was predicted on several views '
            f'of an image, but {str(job.cipher)!r} gives each of them a permutation of its own',
            'leave `--tta` out, or take `--cipher mix2`',
        )
    if job.plan.find('model.detector').value:
        yield error(
            'model',
            f'is {job.plan.find("model").name}, whose teacher and student see two permutations '
            'of each image, so that boxes of one are not boxes of the other',
            'take a cipher that leaves patches in their places, `--cipher mix2`',
        )


def _masks(job: Job) -> Iterator[Finding]:
    """Masks do not follow pixels that move."""
    for way in job.plan.ways:
        for step in flatten(way.steps):
            asked = [key for key in ('with_mask', 'with_seg') if step.value.get(key)]
            if 'Panoptic' in step.short or ('Annotations' in step.short and asked):
                place = step.place + (f'.{asked[0]}' if asked else '')
                yield error(
                    place,
                    f'loads masks, which cannot follow the pixels that {str(job.cipher)!r} moves',
                    'take a model of boxes only, or a cipher whose masks travel, `--cipher mix2`',
                )
                return


def _shrunk(job: Job) -> Iterator[Finding]:
    """What counts pixels of the plain image, and cannot be told otherwise."""
    for way in job.plan.ways:
        crops = [step for step in flatten(way.steps) if step.short == 'RandomCenterCropPad']
        if way.phase in EVALUATION and crops:
            yield error(
                crops[0].place,
                'pads test images by a border that heads take off predictions in plain pixels, '
                f'but {str(job.cipher)!r} shrinks images',
                f'take a cipher that keeps their size, {_tiled(job)}',
            )
            return
    for node in (one for one in job.model.walk() if one.short == 'SSDAnchorGenerator'):
        yield error(
            node.place,
            f'is {node.name}, whose priors are made for one size of image, but '
            f'{str(job.cipher)!r} shrinks images',
            f'take a cipher that keeps their size, {_tiled(job)}',
        )


def _tiled(job: Job) -> str:
    names = [f'mix{step.num_splits}' for step in job.cipher.steps if step.name == 'mix']
    return f'`--cipher {names[0] if names else "mix2"}:tiled`'
