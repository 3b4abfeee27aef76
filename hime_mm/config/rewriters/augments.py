# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Batch augmentations that would cut through patches, or resize them."""

from mmengine.config import ConfigDict

from ..hosts import BATCH_RESIZERS, CUTTERS
from ..plan import Node
from .job import Job


def adapt_augments(job: Job) -> None:
    """Replace what cuts through patches, leave out what resizes encrypted images at random.

    ``BatchFixedSizePad`` gets the size that encrypted images have.
    """
    for node in job.plan.augments:
        if node.short == 'CutMix':
            mode = {} if job.cipher.shuffles else dict(mode='block')
            alpha = node.value.get('alpha', 1.0)
            new = ConfigDict(type='hime_mm.PatchCutMix', alpha=alpha, patch_size=job.side, **mode)
            node.owner[node.key] = new
        elif node.short == 'BatchFixedSizePad':
            node.value['size'] = tuple(job.scaled(length) for length in node.value['size'])
    for node in reversed(job.plan.augments):
        if node.short in CUTTERS[1:] + BATCH_RESIZERS:
            _leave_out(job, node)
            job.note(
                node.place,
                f': {node.short} resizes encrypted images, whose patches are then no more those '
                'that were encrypted: left out',
                'To train at several sizes, put RandomChoiceResize into the training pipeline',
            )


def _leave_out(job: Job, node: Node) -> None:
    del node.owner[node.key]
    place, _, key = node.place.rpartition('.')
    holder = job.plan.find(place.rpartition('.')[0])
    if isinstance(node.owner, list) and not node.owner and key.isdigit():
        del holder.value[place.rpartition('.')[2]]
    elif isinstance(node.owner, list) and isinstance(holder.value.get('probs'), list):
        # MMPretrain's, one for each augmentation.
        del holder.value['probs'][node.key]
