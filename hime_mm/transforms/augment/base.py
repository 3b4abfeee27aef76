# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from abc import abstractmethod
from inspect import signature
from numbers import Real
from typing import Any, Optional

import numpy as np
from mmcv.transforms import BaseTransform

from hime_mm.ciphers import PatchLayout, grid_shape
from hime_mm.ciphers.grid import check_image
from hime_mm.errors import ConfigError, HimeError, PictureError


def is_number(value: Any) -> bool:
    """Whether it is a number, which truth values are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


class EncryptedAugment(BaseTransform):
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

    def __init__(self, prob: float = 1.) -> None:
        if not is_number(prob) or not 0 <= prob <= 1:
            raise self._wrong('prob', prob, 'a number from 0 to 1')
        self.prob = prob

    @property
    def _name(self) -> str:
        return f'hime_mm.{type(self).__name__}'

    def _wrong(self, option: str, value: Any, wanted: str) -> ConfigError:
        return ConfigError(f'{self._name}: `{option}` must be {wanted}, got {value!r}')

    def transform(self, results: dict) -> dict:
        """Augment one sample, or leave it as it is.

        Args:
            results (dict): From the transforms before. Arrays in it are
                replaced, never written to.

        Returns:
            dict: The same, augmented.

        Raises:
            KeyError: If there is no ``img``.
            TypeError: If the image or the boxes are of a kind that it cannot
                augment.
            HimeError: If the sample does not fit the options.
        """
        img = results.get('img')
        if img is None:
            raise KeyError(f'{self._name} found no `img`: put it behind '
                           '`hime_mm.LoadEncryptedMeta` and before packing')
        if not isinstance(img, np.ndarray) or img.ndim not in (2, 3):
            raise TypeError(
                f'{self._name} takes one image, an array of shape (H, W) or (H, W, C), got a '
                f'{type(img).__name__} of shape {getattr(img, "shape", None)}: put it before '
                'packing')
        check_image(img)
        checked = self._check(results)
        if np.random.rand() < self.prob:
            self._augment(results, checked)
        return results

    @abstractmethod
    def _check(self, results: dict) -> Any:
        """Refuse what cannot be augmented; give what :meth:`_augment` needs.
        """

    @abstractmethod
    def _augment(self, results: dict, checked: Any) -> None:
        """Augment the sample, given what :meth:`_check` returned."""

    def __repr__(self) -> str:
        options = ', '.join(f'{name}={getattr(self, name)!r}'
                            for name in signature(type(self)).parameters if hasattr(self, name))
        return f'{type(self).__name__}({options})'


class PatchAugment(EncryptedAugment):
    """An augmentation that needs the grid of patches.

    Args:
        patch_size (int, optional): Side of a patch of the encrypted image.
        prob (float): Share of the images that are augmented. Defaults to 1.

    Raises:
        ConfigError: If an option has a wrong value.
    """

    def __init__(self, patch_size: Optional[int] = None, prob: float = 1.) -> None:
        super().__init__(prob)
        if patch_size is not None and (type(patch_size) is not int or patch_size < 1):
            raise self._wrong('patch_size', patch_size,
                              'a positive whole number, or None for that of `patch_layout`')
        self.patch_size = patch_size

    def _layout(self, results: dict) -> PatchLayout:
        """The sample's layout, or where it has none, that of its grid."""
        shape = results['img'].shape[:2]
        layout = results.get('patch_layout')
        if layout is None:
            if self.patch_size is None:
                raise ConfigError(
                    f'{self._name}: the sample has no `patch_layout`, so the size of its patches '
                    'is unknown: put this transform behind `hime_mm.LoadEncryptedMeta`, or set '
                    '`patch_size`')
            try:
                return PatchLayout(shape, self.patch_size, grid_shape(shape, self.patch_size))
            except HimeError as error:
                raise PictureError(f'{self._name}: {error}') from None
        if self.patch_size not in (None, layout.patch_size):
            raise ConfigError(
                f'{self._name}: `patch_size` is {self.patch_size}, but the patches of this '
                f'encrypted image have {layout.patch_size} pixels a side: leave `patch_size` out')
        if layout.shape != shape:
            raise ConfigError(
                f'{self._name}: the image is {shape[0]}x{shape[1]} (height x width), but was '
                f'encrypted to {layout.shape[0]}x{layout.shape[1]}: remove what resizes, crops or '
                'pads it')
        return layout
