# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Transformers that keep their type."""

from ..hosts import WINDOWED
from .job import Job


def adapt_vit(job: Job) -> None:
    """Have a ViT embed encrypted patches: as many tokens, of which each has fewer pixels.

    So positions that it has learned fit; the patch embedding of trained weights does not.
    Other parts of the model that know the patches, such as a decoder, follow.
    """
    node = job.plan.backbone
    # The mixed embedding knows both sizes.
    mixed = node.value.get('patch_embed') == 'mixed'
    if job.plan.patch_size is None or job.ratio == 1 or mixed:
        return
    whole = job.plan.patch_size
    node.value['patch_size'] = whole
    for part in job.model.walk():
        if part.value.get('patch_size') == whole:
            part.value['patch_size'] = job.side
    size = node.value.get('img_size', 224)
    sizes = size if isinstance(size, (list, tuple)) else (size,)
    scaled = tuple(job.scaled(length) for length in sizes)
    node.value['img_size'] = scaled if len(sizes) > 1 else scaled[0]
    job.note(
        node.place,
        f'embeds patches of side {job.side} now, for which trained weights of its patch '
        f'embedding, of side {whole}, do not fit',
        'It learns them anew; `--backbone pevit-small` starts from trained weights that are made '
        'to fit encrypted patches',
    )


def adapt_windows(job: Job) -> None:
    """Have MMPretrain's Swin pad maps that are smaller than a window now."""
    node = job.plan.backbone
    if job.ratio != 1 and node.short in WINDOWED and 'img_size' in node.value:
        node.value['pad_small_map'] = True
