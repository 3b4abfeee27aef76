# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Samples as they are drawn: in pixels of what the model saw, without secrets."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor

from hime_mm.config.hosts import STILL
from hime_mm.transforms import Encrypt, LoadEncryptedMeta

TRUTH = ('gt_instances', 'gt_sem_seg', 'gt_panoptic_seg')
PREDICTED = ('pred_instances', 'pred_sem_seg', 'pred_panoptic_seg')
Scale = tuple[float, float]


def seen(
    sample: BaseDataElement, shape: tuple[int, int], truth: str | None = None
) -> BaseDataElement:
    """A copy of a sample, in pixels of what the model saw.

    Predictions come in pixels of the original, or of whatever ``scale_factor``
    leads back to, and so does what ``truth`` says of the annotations.

    Args:
        sample (:obj:`BaseDataElement`): Of either host.
        shape (tuple[int, int]): Height and width of the picture.
        truth (str, optional): Where annotations are: in pixels of the
            'original', or 'seen' already. None leaves them out. Defaults to
            None.

    Returns:
        :obj:`BaseDataElement`: On the CPU; without annotations that nobody
        could place, and without any permutation.
    """
    sample = sample.cpu()
    layout = sample.get('patch_layout')
    if layout is not None:
        sample.set_metainfo(dict(patch_layout=layout.public()))
    scale = tuple(np.broadcast_to(sample.get('scale_factor') or (1.0, 1.0), 2))
    for names, known in ((PREDICTED, scale), (TRUTH, scale if truth == 'original' else (1.0, 1.0))):
        for name in names:
            data = sample.get(name)
            if name in sample and name in TRUTH and truth is None:
                delattr(sample, name)
            elif isinstance(data, InstanceData):
                setattr(sample, name, _instances(data, known, shape))
            elif isinstance(data, PixelData) and 'sem_seg' in data:
                maps = _scaled(torch.as_tensor(data.sem_seg), known, shape)
                setattr(sample, name, PixelData(metainfo=data.metainfo, sem_seg=maps))
    return sample


def _instances(instances: InstanceData, scale: Scale, shape: tuple[int, int]) -> InstanceData:
    """The same instances, scaled; whatever else is known of them stays."""
    if 'bboxes' in instances:
        boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
        instances.bboxes = boxes * torch.as_tensor(scale).to(boxes).repeat(2)
    if 'masks' in instances:
        masks = instances.masks
        masks = torch.as_tensor(masks.to_ndarray() if hasattr(masks, 'to_ndarray') else masks)
        instances.masks = _scaled(masks.bool(), scale, shape)
    return instances


def _scaled(maps: Tensor, scale: Scale, shape: tuple[int, int]) -> Tensor:
    """Maps of shape (n, H, W) at the size of the picture.

    Padding of the picture belongs to no mask; of a map of classes it repeats
    the edge, since not every such map has a number for nothing.
    """
    for dim, (side, ratio) in enumerate(zip(shape, scale[::-1], strict=True), 1):
        places = ((torch.arange(side, dtype=torch.float64) + 0.5) / ratio).long()
        inside = places < maps.shape[dim]
        maps = maps.index_select(dim, places.clamp(max=maps.shape[dim] - 1))
        if maps.dtype == torch.bool:
            maps &= inside if dim == 2 else inside[:, None]
    return maps


def truth_of(data: Any) -> str | None:
    """In which pixels a data set gives its annotations.

    Args:
        data (Dataset): Of a data loader, wrappers and all.

    Returns:
        str | None: ``'original'`` where they are loaded when all is done to
        the image, as MMDetection does in its test pipelines; ``'seen'`` where
        they go through it, or belong to encrypted files. None where they are
        loaded in between, or of images whose patches have moved before.
    """
    while hasattr(data, 'dataset'):
        data = data.dataset
    before = after = moved = loaded = encrypted = False
    for step in _steps(getattr(data, 'pipeline', None)):
        name = type(step).__name__
        if isinstance(step, LoadEncryptedMeta):
            encrypted = True
        elif name.endswith('LoadAnnotations'):
            loaded = True
        elif not name.startswith(STILL):
            before, after = before or not loaded, after or loaded
            if isinstance(step, Encrypt) and not loaded:
                moved = step.cipher.shuffles
    if moved or (before and after):
        return None
    return 'seen' if after or encrypted else 'original'


def _steps(pipeline: Any) -> Iterator[Any]:
    """Transforms one after the other; of several views those of the first."""
    for step in getattr(pipeline, 'transforms', ()):
        yield step
        yield from _steps(next(iter(getattr(step, 'subroutines', ())), None))
