# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What augmentations of encrypted images have in common."""

from abc import abstractmethod
from numbers import Real
from typing import Any

import numpy as np

from hime_mm.ciphers import PatchLayout, grid_shape
from hime_mm.errors import ConfigError

from ..base import NamedTransform


class EncryptedAugment(NamedTransform):
    """Base class of what may follow the encryption in a training pipeline.

    Whether an image can be augmented is checked for every image, so that an
    error does not wait for chance.

    Args:
        prob (float): Share of the images that are augmented. Defaults to 1.

    Raises:
        ConfigError: If ``prob`` is no number from 0 to 1.
    """

    #: It may follow the encryption.
    legal_on_encrypted = True

    def __init__(self, prob: float = 1.0) -> None:
        if not isinstance(prob, Real) or not 0 <= prob <= 1:
            raise self._option_error('prob', prob, 'a number from 0 to 1')
        self.prob: float = prob

    def _option_error(self, option: str, value: Any, wanted: str) -> ConfigError:
        return ConfigError(f'{self._name}: `{option}` must be {wanted}, got {value!r}')

    def transform(self, results: dict) -> dict:
        """Augment one sample, or leave it as it is.

        Arrays in the sample are replaced, never written to.

        Raises:
            KeyError: If there is no ``img``.
            TypeError: If the image or the boxes are of a kind that it cannot
                augment.
            HimeError: If the sample does not fit the options.
        """
        results['img'] = self._image(results, 'behind `hime_mm.LoadEncryptedMeta`')
        with self._naming_errors():
            checked = self._check(results)
            if np.random.rand() < self.prob:
                self._augment(results, checked)
        return results

    @abstractmethod
    def _check(self, results: dict) -> Any:
        """Refuse what cannot be augmented; give what :meth:`_augment` needs."""

    @abstractmethod
    def _augment(self, results: dict, checked: Any) -> None:
        """Augment the sample, given what :meth:`_check` returned."""


class PatchAugment(EncryptedAugment):
    """Base class of those that need the grid of patches.

    Args:
        patch_size (int, optional): Side of a patch of the encrypted image in
            pixels. None takes it from ``patch_layout``. Defaults to None.
        prob (float): Share of the images that are augmented. Defaults to 1.

    Raises:
        ConfigError: If an option has a wrong value.
    """

    def __init__(self, patch_size: int | None = None, prob: float = 1.0) -> None:
        super().__init__(prob)
        if patch_size is not None and (not isinstance(patch_size, int) or patch_size < 1):
            raise self._option_error('patch_size', patch_size, 'a positive whole number, or None')
        self.patch_size = patch_size

    def _layout(self, results: dict) -> PatchLayout:
        """The sample's layout, or where it has none, that of its grid."""
        shape = results['img'].shape[:2]
        layout = results.get('patch_layout')
        if layout is None:
            if self.patch_size is None:
                raise ConfigError(
                    'the sample has no `patch_layout`, so the size of its patches is '
                    'unknown: put this transform behind '
                    '`hime_mm.LoadEncryptedMeta`, or set `patch_size`'
                )
            return PatchLayout(shape, self.patch_size, grid_shape(shape, self.patch_size))
        if self.patch_size not in (None, layout.patch_size):
            raise ConfigError(
                f'`patch_size` is {self.patch_size}, but the patches of this image '
                f'have {layout.patch_size} pixels a side: leave `patch_size` out'
            )
        if layout.shape != shape:
            raise ConfigError(
                f'the image is {shape[0]}x{shape[1]} (height x width), but was '
                f'encrypted to {layout.shape[0]}x{layout.shape[1]}: remove what '
                'resizes, crops or pads it'
            )
        return layout
