# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Paint some patches of an encrypted image."""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from mmcv.transforms.utils import avoid_cache_randomness

from hime_mm.ciphers import PatchLayout, draw_permutation
from hime_mm.ciphers.pixels import peak_value
from hime_mm.ciphers.steps import drop_patches
from hime_mm.errors import ConfigError
from hime_mm.registry import TRANSFORMS

from .base import PatchAugment

FILLS = ('grey', 'mean')


def _numbers(value: Any) -> tuple:
    """One or several numbers; empty if it is anything else."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(values) if all(isinstance(item, Real) for item in values) else ()


@TRANSFORMS.register_module()
@avoid_cache_randomness
class PatchDrop(PatchAugment):
    """Paint a random share of the patches of an encrypted image.

    What random erasing is to plain images: whole patches of the encrypted
    image, wherever they lie, become grey, so it is the same for shuffled
    images and others. The image keeps its size, and boxes, masks and the
    layout stay as they are.

    Put it behind ``hime_mm.EncryptedColorJitter``, so that its grey stays
    that of the cipher's step ``drop``.

    Required Keys:

    - img (np.ndarray, (H, W) or (H, W, C), uint8, uint16 or float32)
    - patch_layout (:obj:`PatchLayout`) (optional)
    - gt_bboxes (BaseBoxes[torch.float32] | np.ndarray, (n, 4)) (optional)

    Modified Keys:

    - img

    Args:
        ratio (float | Sequence[float]): Share of the patches that is painted,
            at least 0 and below 1, rounded to whole patches; a range
            (min, max) is drawn from for every image. One patch at least is
            left. Defaults to 0.25.
        patch_size (int, optional): Side of a patch of the encrypted image in
            pixels. None takes it from ``patch_layout``. Defaults to None.
        fill (str | float | Sequence[float]): ``'grey'``, half of the range of
            the pixels; ``'mean'``, the mean of each channel of the image; or
            a value, or one for each channel. Defaults to 'grey'.
        spare_boxes (bool): Never paint a patch that holds the centre of a box
            in ``gt_bboxes``; where few other patches are left, fewer are
            painted. In shuffled images it is the one patch that the box
            belongs to. Defaults to True.
        prob (float): Share of the images that are augmented. Defaults to 1.

    Raises:
        ConfigError: If an option has a wrong value.
    """

    def __init__(
        self,
        ratio: float | Sequence[float] = 0.25,
        patch_size: int | None = None,
        fill: str | float | Sequence[float] = 'grey',
        spare_boxes: bool = True,
        prob: float = 1.0,
    ) -> None:
        super().__init__(patch_size, prob)
        bounds = _numbers(ratio) * (2 if isinstance(ratio, Real) else 1)
        if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] < 1:
            raise self._option_error(
                'ratio', ratio, 'a number, or a range (min, max), at least 0 and below 1'
            )
        if fill not in FILLS if isinstance(fill, str) else not _numbers(fill):
            raise self._option_error('fill', fill, f'one of {FILLS}, a value, or one per channel')
        self.ratio = ratio
        self.fill = fill
        self.spare_boxes = spare_boxes
        self._bounds = bounds

    def _check(self, results: dict) -> tuple[PatchLayout, Any]:
        return self._layout(results), self._value(results['img'])

    def _value(self, img: np.ndarray) -> None | float | np.ndarray:
        """What is painted, in the dtype of the image; None is mid-grey."""
        if self.fill == 'grey':
            return None
        channels = 1 if img.ndim == 2 else img.shape[2]
        integer = np.issubdtype(img.dtype, np.integer)
        if self.fill == 'mean':
            value = img.mean(axis=(0, 1), dtype=np.float64)
        else:
            value = np.asarray(self.fill, np.float64)
            if value.size not in (1, channels):
                raise ConfigError(
                    f'`fill` has {value.size} values, but the image has {channels} channels'
                )
            peak = peak_value(img.dtype)
            if integer and not (value.min() >= 0 and value.max() <= peak):
                raise ConfigError(
                    f'`fill` {self.fill!r} is outside the range of {img.dtype} pixels, 0 to {peak}'
                )
        if integer:
            value = np.floor(value + 0.5)
        return value.astype(img.dtype)

    def _augment(self, results: dict, checked: tuple[PatchLayout, Any]) -> None:
        layout, value = checked
        num = layout.num_patches
        spared, dropped = np.zeros(num, bool), np.zeros(num, bool)
        boxes = results.get('gt_bboxes')
        if self.spare_boxes and boxes is not None and len(boxes):
            if not isinstance(boxes, np.ndarray):
                boxes = boxes.convert_to('hbox').numpy()
            spared[layout.cells(boxes)] = True
        share = np.random.uniform(*self._bounds)
        count = min(int(num * share + 0.5), num - 1)
        order = draw_permutation(num, np.random)
        dropped[order[~spared[order]][:count]] = True
        results['img'] = drop_patches(results['img'], dropped, layout.patch_size, value)
