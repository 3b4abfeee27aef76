# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""An owner's augmentation: encrypted pictures can hardly be augmented."""

import math
from dataclasses import dataclass

import numpy as np

from hime_mm.ciphers.randomness import RNG, draw_bytes
from hime_mm.errors import HimeError

from .settings import check_settings, setting

# Luma of BGR pixels (ITU-R BT.601).
_LUMA = np.array([0.114, 0.587, 0.299], np.float32)


@dataclass(frozen=True)
class Augment:
    """Random changes of a picture, drawn anew for every view.

    Args:
        flip (float): Probability of a left-right flip. Defaults to 0.
        crop (tuple[float, float], optional): Range of the share of the
            picture's area that a random window keeps; its aspect ratio is 3/4
            to 4/3 of the result's. Defaults to None, no crop.
        jitter (float): Brightness, contrast and saturation are each
            multiplied by a factor from 1 - jitter to 1 + jitter. Defaults to
            0.

    Raises:
        HimeError: If a value is out of range.
    """

    flip: float = setting(
        0.0, 'Augmentation: probability of a left-right flip.', float, low=0, high=1, metavar='P'
    )
    crop: tuple[float, float] | None = setting(
        None,
        'Augmentation: share of the area that a random window keeps, such as 0.08,1.',
        'range',
        metavar='LOW,HIGH',
    )
    jitter: float = setting(
        0.0,
        'Augmentation: brightness, contrast and saturation times 1-J to 1+J.',
        float,
        low=0,
        below=1,
        metavar='J',
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.crop is not None:
            if len(self.crop) != 2 or not (0 < self.crop[0] <= self.crop[1] <= 1):
                raise HimeError(
                    '`crop` is a range of shares of the area, '
                    f'0 < low <= high <= 1, got {self.crop}'
                )
            object.__setattr__(self, 'crop', tuple(map(float, self.crop)))

    def __bool__(self) -> bool:
        return bool(self.flip or self.crop or self.jitter)

    def apply(
        self, img: np.ndarray, boxes: np.ndarray, aspect: float, rng: RNG
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Augment a picture and its boxes, float64 of shape (n, 4).

        A crop goes into a result of this width over height. Gives the
        picture, the boxes that remain, cut to it, and their indices.
        """
        kept = np.arange(len(boxes))
        if self.crop is not None:
            x, y, w, h = self._window(img.shape[:2], aspect, rng)
            img = img[y : y + h, x : x + w]
            boxes = np.clip(boxes - [x, y, x, y], 0, [w, h, w, h])
            inside = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
            boxes, kept = boxes[inside], kept[inside]
        if self.flip and draw_uniform(1, rng)[0] < self.flip:
            img = img[:, ::-1]
            boxes = boxes[:, [2, 1, 0, 3]]
            boxes[:, [0, 2]] = img.shape[1] - boxes[:, [0, 2]]
        if self.jitter:
            img = self._jitter(img, rng)
        return np.ascontiguousarray(img), boxes, kept

    def _window(self, shape: tuple[int, int], aspect: float, rng: RNG) -> tuple[int, int, int, int]:
        height, width = shape
        assert self.crop is not None
        draws = draw_uniform(22, rng)
        for area, ratio in draws[:20].reshape(10, 2):
            share = self.crop[0] + (self.crop[1] - self.crop[0]) * area
            ratio = aspect * math.exp((2 * ratio - 1) * math.log(4 / 3))
            w = round(math.sqrt(share * height * width * ratio))
            h = round(math.sqrt(share * height * width / ratio))
            if 0 < w <= width and 0 < h <= height:
                break
        else:
            # Nothing fitted: the largest window of this aspect ratio.
            w = max(min(width, round(height * aspect)), 1)
            h = max(min(height, round(width / aspect)), 1)
        x = int(draws[20] * (width - w + 1))
        y = int(draws[21] * (height - h + 1))
        return x, y, w, h

    def _jitter(self, img: np.ndarray, rng: RNG) -> np.ndarray:
        brightness, contrast, saturation = 1 + self.jitter * (2 * draw_uniform(3, rng) - 1)
        out = img.astype(np.float32) * brightness
        out = out.mean() + (out - out.mean()) * contrast
        if img.ndim == 3 and img.shape[2] >= 3:
            grey = (out[..., :3] @ _LUMA)[..., None]
            out[..., :3] = grey + (out[..., :3] - grey) * saturation
            # Alpha is no colour.
            out[..., 3:] = img[..., 3:]
        peak = np.iinfo(img.dtype).max
        return np.clip(np.rint(out), 0, peak).astype(img.dtype)


def draw_uniform(num: int, rng: RNG) -> np.ndarray:
    """Uniform float64 numbers from [0, 1), 53 bits of a 64-bit word each."""
    words = np.frombuffer(draw_bytes(8 * num, rng), '<u8')
    return (words >> np.uint64(11)) * 2.0**-53
