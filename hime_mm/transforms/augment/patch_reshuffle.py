# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from dataclasses import replace
from typing import Optional

import numpy as np
from mmcv.transforms.utils import avoid_cache_randomness

from hime_mm.ciphers import PatchLayout, draw_permutation, shuffle_patches
from hime_mm.errors import ConfigError
from hime_mm.registry import TRANSFORMS

from ..encrypt import MOVED, UNSUPPORTED, move_boxes
from .base import PatchAugment

UNSHUFFLED = ('error', 'keep', 'shuffle')


@TRANSFORMS.register_module()
@avoid_cache_randomness
class PatchReshuffle(PatchAugment):
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

    def __init__(self,
                 patch_size: Optional[int] = None,
                 unshuffled: str = 'error',
                 prob: float = 1.) -> None:
        super().__init__(patch_size, prob)
        if unshuffled not in UNSHUFFLED:
            raise ConfigError(f'{self._name}: unknown `unshuffled` {unshuffled!r}, choose from '
                              f'{UNSHUFFLED}')
        self.unshuffled = unshuffled

    def _check(self, results: dict) -> Optional[PatchLayout]:
        layout = self._layout(results)
        if not layout.shuffled:
            if self.unshuffled == 'keep':
                return None
            if self.unshuffled == 'error':
                why = ('the patches of this image lie in their places, which a model may use'
                       if results.get('patch_layout') else 'the sample has no `patch_layout`, so '
                       'nothing says that its patches were shuffled')
                raise ConfigError(
                    f"{self._name}: {why}. Set `unshuffled='shuffle'` to shuffle them all the "
                    "same, or `unshuffled='keep'` to leave such images as they are")
        shape = results['img'].shape[:2]
        stay = ('gt_masks', 'gt_seg_map', *UNSUPPORTED)
        for key, value in results.items():
            # Whatever else looks like the image would stay in its old order.
            if (key in stay and value is not None) or (
                    key not in MOVED and isinstance(value, np.ndarray)
                    and value.shape[:2] == shape):
                raise ConfigError(f'{self._name} moves patches and cannot move `{key}` with them: '
                                  'remove it from the pipeline before')
        return layout

    def _augment(self, results: dict, checked: Optional[PatchLayout]) -> None:
        layout = checked
        if layout is None:
            return
        perm = draw_permutation(layout.num_patches, np.random)
        # Between the encrypted image and the new one.
        step = PatchLayout(layout.shape, layout.patch_size, layout.grid, permutation=perm)
        # Collected aside, so that an error leaves no half-moved sample.
        new = {key: results[key] for key in ('gt_bboxes', 'proposals') if key in results}
        move_boxes(new, step, self._name)
        new['img'] = shuffle_patches(results['img'], perm, layout.patch_size)
        if results.get('patch_layout') is not None:
            if layout.permutation is not None:
                layout = replace(layout, permutation=layout.permutation[perm])
            elif layout.shuffled:
                layout = replace(layout, reshuffled=True)
            else:
                layout = replace(layout, permutation=perm)
            new['patch_layout'] = layout
        results.update(new)
