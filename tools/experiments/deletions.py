# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Deletions that are no steps of the format: tried here before they are made part of it.

They are registered when this file is imported, keep the type of pixels, and draw nothing.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from hime_mm.ciphers.grid import new_patches
from hime_mm.ciphers.steps.base import Step, check_integer, register_step


class _Deletion(Step):
    """A step that only computes."""

    invertible = False
    leaves = 'not told: it is being tried'

    def apply(self, img, layout, drawn, stats=None):
        return self.change(img, layout.patch_size)


@register_step
@dataclass(frozen=True)
class Quantize(_Deletion):
    """Leave so many levels of each channel."""

    levels: int = 16

    name = 'quantize'

    def __post_init__(self):
        check_integer(self, 'levels', 2, 128)

    def change(self, img, patch_size):
        step = 256 / self.levels
        return np.clip((np.floor(img / step) + 0.5) * step, 0, 255).astype(img.dtype)


@register_step
@dataclass(frozen=True)
class LowPass(_Deletion):
    """Blur each patch by itself, with a Gaussian of this standard deviation in pixels."""

    sigma: int = 2

    name = 'lowpass'

    def __post_init__(self):
        check_integer(self, 'sigma', 1, 64)

    def change(self, img, patch_size):
        out, patches, changed = new_patches(img, patch_size)
        for index in np.ndindex(patches.shape[:3]):
            patch = cv2.GaussianBlur(
                patches[index], (0, 0), self.sigma, borderType=cv2.BORDER_REFLECT
            )
            changed[index] = patch.reshape(patches[index].shape)
        return out


@register_step
@dataclass(frozen=True)
class Contrast(_Deletion):
    """Give the deviations of each patch from its mean one standard deviation."""

    target: int = 32

    name = 'contrast'

    def __post_init__(self):
        check_integer(self, 'target', 1, 64)

    def change(self, img, patch_size):
        out, patches, changed = new_patches(img, patch_size)
        wide = patches.astype(np.float64)
        mean = wide.mean(axis=(3, 4), keepdims=True)
        # One of all channels, and little of what is flat.
        spread = np.sqrt(((wide - mean) ** 2).mean(axis=(3, 4, 5), keepdims=True))
        wide = mean + (wide - mean) * self.target / np.maximum(spread, 4)
        changed[...] = np.clip(np.round(wide), 0, 255).astype(img.dtype)
        return out


@register_step
@dataclass(frozen=True)
class Equalize(_Deletion):
    """Give each channel of the whole picture a uniform histogram, against linkage."""

    name = 'equalize'

    def change(self, img, patch_size):
        if img.ndim == 2:
            return cv2.equalizeHist(img)
        return np.stack([cv2.equalizeHist(one) for one in np.moveaxis(img, 2, 0)], axis=2)
