# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Shuffle the patches of an encrypted image once more."""

from dataclasses import replace

import numpy as np
from mmcv.transforms.utils import avoid_cache_randomness

from hime_mm.ciphers import PatchLayout, draw_permutation, shuffle_patches
from hime_mm.errors import ConfigError
from hime_mm.registry import TRANSFORMS

from ..annotations import MASKS, find_unmovable, move_boxes
from ..simulation import Simulated
from .base import PatchAugment

UNSHUFFLED = ('error', 'keep', 'shuffle')


@TRANSFORMS.register_module()
@avoid_cache_randomness
class PatchReshuffle(Simulated, PatchAugment):
    """Shuffle the patches of a shuffled image once more.

    A file has one permutation, so that without this a model sees each image
    in the same order in every epoch. A model without positions gives the same
    result for every order; what changes for it is which patches ``Mixup``
    brings together. For models with positions it is the augmentation that
    teaches them that positions mean nothing.

    For training pipelines only: predictions for the new order cannot be
    mapped back to the original, not with the key either. ``patch_layout`` is
    marked as ``reshuffled`` and refuses to map boxes. Where the permutation
    of the encryption is in the sample (``keep_permutation``), or patches lay
    in their places, the layout holds the permutation of both and maps boxes
    rightly.

    Required Keys:

    - img (np.ndarray, (H, W) or (H, W, C), uint8, uint16 or float32)
    - patch_layout (:obj:`PatchLayout`) (optional)
    - gt_bboxes (BaseBoxes[torch.float32] | np.ndarray, (n, 4)) (optional)
    - proposals (np.ndarray, (n, 4)) (optional)

    Modified Keys:

    - img
    - gt_bboxes, proposals: each box travels with the patch that holds its
      centre, as in the encryption
    - patch_layout (if present)

    ``gt_bboxes_labels`` and ``gt_ignore_flags`` stay as they are.

    Args:
        patch_size (int, optional): Side of a patch of the encrypted image in
            pixels. None takes it from ``patch_layout``. Defaults to None.
        unshuffled (str): What to do with an image whose patches lie in their
            places, or which has no ``patch_layout`` that tells: ``'error'``
            raises, ``'keep'`` leaves it as it is, ``'shuffle'`` shuffles it
            too. Defaults to 'error'.
        prob (float): Share of the images that are augmented. Defaults to 1.

    Raises:
        ConfigError: If an option has a wrong value.
    """

    def __init__(
        self, patch_size: int | None = None, unshuffled: str = 'error', prob: float = 1.0
    ) -> None:
        super().__init__(patch_size, prob)
        self._check_choice('unshuffled', unshuffled, UNSHUFFLED)
        self.unshuffled = unshuffled

    def _check(self, results: dict) -> PatchLayout | None:
        layout = self._layout(results)
        if not layout.shuffled:
            if self.unshuffled == 'keep':
                return None
            if self.unshuffled == 'error':
                why = (
                    'the patches of this image lie in their places, which a model may use'
                    if results.get('patch_layout')
                    else 'the sample has no `patch_layout`, so '
                    'nothing says that its patches were shuffled'
                )
                raise ConfigError(
                    f"{why}. Set `unshuffled='shuffle'` to shuffle them all the "
                    "same, or `unshuffled='keep'` to leave such images as they are"
                )
        key = find_unmovable(results, MASKS)
        if key is not None:
            raise ConfigError(
                f'cannot move `{key}` with the patches: remove it from the pipeline before'
            )
        return layout

    def _augment(self, results: dict, layout: PatchLayout | None) -> None:
        if layout is None:
            return
        perm = draw_permutation(layout.num_patches, self._simulated_rng())
        # Between the encrypted image and the new one.
        step = PatchLayout(layout.shape, layout.patch_size, layout.grid, permutation=perm)
        # Collected aside, so that an error leaves no half-moved sample.
        new = {key: results[key] for key in ('gt_bboxes', 'proposals') if key in results}
        move_boxes(new, step, self._name)
        new['img'] = shuffle_patches(results['img'], perm, layout.patch_size)
        if results.get('patch_layout') is not None:
            # Where it is known: which patches of the original lay there before.
            previous = layout.permutation if layout.shuffled else np.arange(layout.num_patches)
            new['patch_layout'] = (
                replace(layout, reshuffled=True)
                if previous is None
                else replace(layout, permutation=previous[perm])
            )
        results.update(new)
