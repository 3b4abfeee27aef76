# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Add Gaussian noise."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hime_mm.errors import CipherError

from ..grid import check_image
from ..layout import PatchLayout
from ..pixels import add_clipped
from ..randomness import RNG, draw_noise
from .base import ClipStats, Step, check_integer, register_step


def add_noise(img: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, int]:
    """Add noise, int16 of the image's shape in steps of 1/255 of the range.

    What leaves the range of integer pixels is clipped. Returns the image, and
    how many values were clipped.
    """
    check_image(img)
    shared = img.shape[1:] if img.ndim == 4 else img.shape
    if noise.shape not in (img.shape, shared):
        raise CipherError(
            f'noise of shape {noise.shape} does not fit an image of shape {img.shape}'
        )
    if not np.issubdtype(img.dtype, np.integer):
        return img + noise.astype(img.dtype), 0
    if img.dtype == np.uint16:
        noise = noise.astype(np.int32) * 257
    return add_clipped(img, noise)


@register_step
@dataclass(frozen=True)
class Noise(Step):
    """Add Gaussian noise, drawn anew for every image and value.

    Cannot be undone exactly, not even with the key: values that leave the
    range of integer pixels are clipped, and counted.

    Args:
        std (int): Standard deviation in steps of 1/255 of the range. Defaults
            to 25.
    """

    std: int = 25

    name = 'noise'
    invertible = False
    adds_noise = True
    leaves = (
        'the image under grain that a denoiser removes; after shuffling with '
        'noise of std 25, a jigsaw solver put {noise25+shuffle nc_component} of '
        'the neighbouring patches back (16-pixel patches, 224x224)'
    )

    def __post_init__(self) -> None:
        check_integer(self, 'std', 1, 255)

    def draw(self, layout: PatchLayout, channels: tuple[int, ...], rng: RNG) -> np.ndarray:
        return draw_noise((*layout.shape, *channels), self.std, rng)

    def apply(
        self, img: np.ndarray, layout: PatchLayout, drawn: Any, stats: ClipStats | None = None
    ) -> np.ndarray:
        return self._count_clipped(add_noise(img, drawn), stats)
