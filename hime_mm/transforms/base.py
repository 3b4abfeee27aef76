# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What all transforms have in common."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from hime_mm.ciphers.grid import check_image
from hime_mm.ciphers.pixels import as_8_bits
from hime_mm.errors import ConfigError, HimeError
from hime_mm.registry import extra_repr


class NamedTransform(BaseTransform):
    """Base class of all transforms of hime_mm; their errors name them."""

    @property
    def _name(self) -> str:
        return f'hime_mm.{type(self).__name__}'

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        """Put the name before the message of an error that comes up inside."""
        try:
            yield
        except HimeError as error:
            raise type(error)(f'{self._name}: {error}') from None

    def _check_choice(self, option: str, value: Any, choices: Sequence[str]) -> None:
        if value not in choices:
            raise ConfigError(f'{self._name}: unknown `{option}` {value!r}, choose from {choices}')

    def _image(self, results: dict, place: str) -> np.ndarray:
        """The image of a sample: one array of a kind that ciphers take."""
        img = results.get('img')
        if img is None:
            raise KeyError(f'{self._name} found no `img`: put it {place} and before packing')
        if not isinstance(img, np.ndarray) or img.ndim not in (2, 3):
            got = (
                f'an array of shape {img.shape}'
                if isinstance(img, np.ndarray)
                else type(img).__name__
            )
            raise TypeError(
                f'{self._name} takes one image, an array of shape (H, W) or '
                f'(H, W, C), got {got}: put it before packing'
            )
        with self._naming_errors():
            return check_image(as_8_bits(img))

    def __repr__(self) -> str:
        return f'{type(self).__name__}({extra_repr(self)})'
