# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""CutMix of whole patches."""

from numbers import Real

import numpy as np
import torch
from mmpretrain.models.utils.batch_augments import Mixup

from hime_mm.errors import ConfigError
from hime_mm.registry import BATCH_AUGMENTS, extra_repr

MODES = ('random', 'block')


@BATCH_AUGMENTS.register_module()
class PatchCutMix(Mixup):
    r"""CutMix of whole patches, for batches of encrypted images.

    MMPretrain's ``CutMix`` pastes a rectangle whose edges run through
    patches. Here each patch is that of one image or of the other, and labels
    are mixed by the exact share of patches.

    With ``mode='random'`` the patches are a random set of slots, which is
    what any set of slots is in shuffled images. A model without positions
    then sees the same set of patches as for originals that were mixed under a
    mask of whole patches.

    As in :class:`mmpretrain.models.Mixup`, λ comes from NumPy's global state
    and the partners of the images from torch's, which the runner seeds. The
    batch that is handed in is not written to.

    Reference: Yun et al., "CutMix: Regularization Strategy to Train Strong
    Classifiers with Localizable Features", ICCV 2019.

    Args:
        alpha (float): λ, the share of patches that an image keeps, is drawn
            from Beta(alpha, alpha) and rounded to whole patches.
        patch_size (int): Side of a patch in pixels of the *encrypted* image:
            the cipher's, less what it shrinks. Defaults to 16.
        mode (str): ``'random'`` takes the patches of random slots,
            ``'block'`` those of a rectangle, for images whose patches lie in
            their places. As in CutMix, the part of the rectangle outside the
            image is cut off. Defaults to 'random'.
        per_image (bool): Draw λ and the slots for each image, instead of once
            for the batch. Partners are drawn for each image in any case.
            Defaults to False.

    Raises:
        ConfigError: If an option has a wrong value.

    Examples:
        >>> model = dict(
        ...     type='ImageClassifier',
        ...     train_cfg=dict(augments=[
        ...         dict(type='Mixup', alpha=0.8),
        ...         dict(type='hime_mm.PatchCutMix', alpha=1., patch_size=16)
        ...     ]))
    """

    def __init__(
        self, alpha: float, patch_size: int = 16, mode: str = 'random', per_image: bool = False
    ) -> None:
        name = f'hime_mm.{type(self).__name__}'
        for option, value, kind, what in (
            ('alpha', alpha, Real, 'number'),
            ('patch_size', patch_size, int, 'whole number'),
        ):
            if (
                isinstance(value, bool)
                or not isinstance(value, kind)
                or not 0 < value < float('inf')
            ):
                raise ConfigError(f'{name}: `{option}` must be a positive {what}, got {value!r}')
        if mode not in MODES or not isinstance(per_image, bool):
            raise ConfigError(
                f'{name}: unknown `mode` {mode!r} or `per_image` '
                f'{per_image!r}: choose from {MODES}, and True or False'
            )
        super().__init__(float(alpha))
        self.patch_size = patch_size
        self.mode = mode
        self.per_image = per_image

    def mix(
        self, batch_inputs: torch.Tensor, batch_scores: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix the images and their labels.

        Args:
            batch_inputs (Tensor): Shape (B, C, H, W), H and W multiples of
                the patch size.
            batch_scores (Tensor): One-hot labels, shape (B, num_classes),
                floating point.

        Returns:
            tuple[Tensor, Tensor]: The mixed images and labels, of the same
            shapes and dtypes.

        Raises:
            ConfigError: If the patch size does not divide the sides.
        """
        num, channels, h, w = batch_inputs.shape
        p = self.patch_size
        if h % p or w % p:
            raise ConfigError(
                f'hime_mm.{type(self).__name__}: a batch of {h}x{w} does not '
                f'go with `patch_size` {p}: set it to the side of a patch of '
                'the encrypted images, which `hime info` tells'
            )
        rows, cols = h // p, w // p
        pasted = self.draw_slots(num if self.per_image else 1, rows, cols)
        kept = torch.from_numpy(1 - pasted.mean(axis=(1, 2)))
        kept = kept.to(batch_scores)[:, None]
        mask = torch.from_numpy(pasted).to(batch_inputs.device)
        index = torch.randperm(num).to(batch_inputs.device)

        tiles = batch_inputs.reshape(num, channels, rows, p, cols, p)
        mixed = torch.where(mask[:, None, :, None, :, None], tiles[index], tiles)
        scores = kept * batch_scores + (1 - kept) * batch_scores[index]
        return mixed.reshape(batch_inputs.shape), scores

    def draw_slots(self, num: int, rows: int, cols: int) -> np.ndarray:
        """Draw the slots that show the other image.

        Args:
            num (int): Number of draws.
            rows (int): Rows of the patch grid.
            cols (int): Columns of the patch grid.

        Returns:
            np.ndarray: bool, shape (num, rows, cols).
        """
        cut = 1 - np.random.beta(self.alpha, self.alpha, (num, 1))
        if self.mode == 'random':
            count = np.floor(cut * rows * cols + 0.5)
            order = np.random.rand(num, rows * cols).argsort(axis=1)
            return (order < count).reshape(num, rows, cols)
        inside = [self._draw_interval(np.sqrt(cut) * side, side) for side in (rows, cols)]
        return inside[0][:, :, None] & inside[1][:, None, :]

    @staticmethod
    def _draw_interval(length: np.ndarray, side: int) -> np.ndarray:
        """An interval around a random centre, with edges between slots."""
        start = np.random.rand(*length.shape) * side - length / 2
        edges = np.floor([start + 0.5, start + length + 0.5])
        slots = np.arange(side)
        return (slots >= edges[0]) & (slots < edges[1])

    def __repr__(self) -> str:
        return f'{type(self).__name__}({extra_repr(self)})'
