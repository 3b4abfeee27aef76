# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What an owner does to a picture before it is encrypted.

An encrypted picture can be neither resized nor cropped any more, so the size
at which a model is trained, and augmentation, are decided here.
"""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from hime_mm.ciphers.randomness import ByteStream, draw_bytes

from .images import (COLOR_TYPES, FITS, INTERPOLATIONS, fit_image,
                     resize_image)

# What JPEG can hold; a mistyped size would only fill the memory.
_LARGEST_SIDE = 65535
# Luma of BGR pixels (ITU-R BT.601).
_LUMA = np.array([0.114, 0.587, 0.299])


class Prepared(NamedTuple):
    """A picture that is ready to be encrypted.

    Attributes:
        img (np.ndarray): Sides are multiples of the patch size.
        ori_shape (tuple[int, int]): Height and width in pixels of the
            original, or of what augmentation or cropping left of it.
        scale (tuple[float, float]): Pixels of ``img`` per pixel of that,
            (x, y).
        boxes (np.ndarray): float64 of shape (n, 4), (x1, y1, x2, y2) in
            pixels of ``ori_shape``.
        kept (np.ndarray): int64 of shape (n, ), which of the boxes that came
            in these are.
    """

    img: np.ndarray
    ori_shape: Tuple[int, int]
    scale: Tuple[float, float]
    boxes: np.ndarray
    kept: np.ndarray


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
        ValueError: If a value is out of range.
    """

    flip: float = 0.
    crop: Optional[Tuple[float, float]] = None
    jitter: float = 0.

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise ValueError('`flip` is a probability from 0 to 1, got '
                             f'{self.flip}')
        if not 0 <= self.jitter < 1:
            raise ValueError('`jitter` goes from 0 to below 1, got '
                             f'{self.jitter}')
        if self.crop is not None:
            low, high = self.crop
            if not 0 < low <= high <= 1:
                raise ValueError('`crop` is a range of shares of the area, '
                                 f'0 < low <= high <= 1, got {self.crop}')
            object.__setattr__(self, 'crop', (float(low), float(high)))

    def __bool__(self) -> bool:
        return bool(self.flip or self.crop or self.jitter)

    def apply(self, img: np.ndarray, boxes: np.ndarray, aspect: float,
              stream: Optional[ByteStream]
              ) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Augment a picture and its boxes.

        Args:
            img (np.ndarray): Shape (H, W) or (H, W, C).
            boxes (np.ndarray): float64 of shape (n, 4).
            aspect (float): Width over height of the result that a crop goes
                into.
            stream (ByteStream, optional): Source of randomness, None is the
                operating system.

        Returns:
            tuple: The picture, the boxes that remain, cut to the picture, and
            their indices.
        """
        kept = np.arange(len(boxes))
        if self.crop is not None:
            x, y, w, h = self._window(img.shape[:2], aspect, stream)
            img = img[y:y + h, x:x + w]
            boxes = boxes - [x, y, x, y]
            boxes = np.clip(boxes, 0, [w, h, w, h])
            inside = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
            boxes, kept = boxes[inside], kept[inside]
        if self.flip and _uniform(1, stream)[0] < self.flip:
            img = img[:, ::-1]
            boxes = boxes[:, [2, 1, 0, 3]]
            boxes[:, [0, 2]] = img.shape[1] - boxes[:, [0, 2]]
        if self.jitter:
            img = self._jittered(img, stream)
        return np.ascontiguousarray(img), boxes, kept

    def _window(self, shape: Tuple[int, int], aspect: float,
                stream: Optional[ByteStream]) -> Tuple[int, int, int, int]:
        height, width = shape
        assert self.crop is not None
        draws = _uniform(22, stream)
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

    def _jittered(self, img: np.ndarray,
                  stream: Optional[ByteStream]) -> np.ndarray:
        bright, contrast, colour = 1 + self.jitter * (
            2 * _uniform(3, stream) - 1)
        out = img.astype(np.float32) * bright
        out = out.mean() + (out - out.mean()) * contrast
        if img.ndim == 3 and img.shape[2] >= 3:
            grey = (out[..., :3] @ _LUMA.astype(np.float32))[..., None]
            out[..., :3] = grey + (out[..., :3] - grey) * colour
            # Alpha is no colour.
            out[..., 3:] = img[..., 3:]
        most = np.iinfo(img.dtype).max
        return np.clip(np.rint(out), 0, most).astype(img.dtype)


def _uniform(num: int, stream: Optional[ByteStream]) -> np.ndarray:
    """float64 numbers from [0, 1), 53 bits of a 64-bit word each."""
    words = np.frombuffer(draw_bytes(8 * num, stream), '<u8')
    return (words >> np.uint64(11)) * 2.**-53


@dataclass(frozen=True)
class Preprocess:
    """How pictures are read and sized before they are encrypted.

    Args:
        color_type (str): As ``mmcv.imread``: 'color', 'grayscale',
            'unchanged' or 'color_ignore_orientation'. Defaults to 'color'.
        resize (tuple[int, int], optional): Width and height in pixels.
            Defaults to None.
        keep_ratio (bool): Scale with the aspect ratio kept, such that the
            picture fits into ``resize``, as MMDetection's ``Resize``: the
            longer number bounds the longer side. Defaults to False.
        short_side (int | tuple[int], optional): Scale the shorter side to
            this number of pixels, with the aspect ratio kept, as MMPretrain's
            ``ResizeEdge``; of several, one is drawn for every view. Defaults
            to None.
        max_side (int, optional): With ``short_side``, an upper bound of the
            longer side. Defaults to None.
        center_crop (tuple[int, int], optional): Width and height in pixels,
            cut from the middle after resizing. For classification only.
            Defaults to None.
        fit (str): What is done where sides are no multiples of the patch
            size, see :func:`~hime_mm.datasets.images.fit_image`. Defaults to
            'resize'.
        interpolation (str): Of all scaling, as ``mmcv.imresize``. Defaults to
            'bilinear'.
        pad_val (float | tuple[float]): For ``fit='pad'``. Defaults to 0.
        augment (Augment): Random changes. Defaults to none.

    Raises:
        ValueError: If an option is unknown, out of range, or does not go with
            another.
    """

    color_type: str = 'color'
    resize: Optional[Tuple[int, int]] = None
    keep_ratio: bool = False
    short_side: Union[None, int, Tuple[int, ...]] = None
    max_side: Optional[int] = None
    center_crop: Optional[Tuple[int, int]] = None
    fit: str = 'resize'
    interpolation: str = 'bilinear'
    pad_val: Union[float, Tuple[float, ...]] = 0
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        for name, choices in (('color_type', COLOR_TYPES), ('fit', FITS),
                              ('interpolation', INTERPOLATIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f'unknown `{name}` {getattr(self, name)!r}, '
                                 f'choose from {tuple(choices)}')
        for name in ('resize', 'center_crop'):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _sizes(name, value, 2))
        if self.short_side is not None:
            object.__setattr__(self, 'short_side',
                               _sizes('short_side', self.short_side))
        if self.max_side is not None:
            _sizes('max_side', self.max_side, 1)
        if not np.isfinite(self.pad_val).all():
            raise ValueError(f'`pad_val` must be finite, got {self.pad_val}')
        if isinstance(self.pad_val, (list, tuple)):
            object.__setattr__(self, 'pad_val', tuple(self.pad_val))
        if self.resize is not None and self.short_side is not None:
            raise ValueError('give `resize` or `short_side`, not both')
        if self.keep_ratio and self.resize is None:
            raise ValueError('`keep_ratio` needs `resize`')
        if self.max_side is not None and self.short_side is None:
            raise ValueError('`max_side` needs `short_side`')

    def to_dict(self) -> dict:
        """As plain values; only what differs from the defaults."""
        default = Preprocess()
        state = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if getattr(self, item.name) != getattr(default, item.name)
        }
        if 'augment' in state:
            state['augment'] = asdict(self.augment)
        return {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in state.items()
        }

    @classmethod
    def from_dict(cls, state: dict) -> 'Preprocess':
        """The inverse of :meth:`to_dict`, also after a trip through JSON.

        Raises:
            ValueError: If there is an unknown key.
        """
        state = dict(state)
        unknown = set(state) - {item.name for item in fields(cls)}
        if unknown:
            raise ValueError(f'unknown preprocessing {sorted(unknown)}: use '
                             'the release of hime_mm that wrote it')
        if isinstance(state.get('augment'), dict):
            state['augment'] = Augment(**state['augment'])
        return cls(**state)

    @property
    def random(self) -> bool:
        """bool: Whether two views of a picture differ."""
        return bool(self.augment) or (self.short_side is not None
                                      and len(self.short_side) > 1)

    def apply(self, img: np.ndarray, patch_size: int
              ) -> Tuple[np.ndarray, Tuple[float, float]]:
        """Size a picture without augmentation, as for inference.

        Of several short sides the last one is taken.

        Args:
            img (np.ndarray): Shape (H, W) or (H, W, C).
            patch_size (int): Side of a patch in pixels.

        Returns:
            tuple: The picture, and its pixels per original pixel, (x, y).
        """
        shape, side = img.shape[:2], None
        if self.short_side is not None:
            side = self.short_side[-1]
        img, _, scale = self._sized(img, shape, side, patch_size)
        return img, scale

    def prepare(self,
                img: np.ndarray,
                patch_size: int,
                boxes: Any = None,
                stream: Optional[ByteStream] = None) -> Prepared:
        """Augment and size a picture and its boxes.

        Args:
            img (np.ndarray): Shape (H, W) or (H, W, C), uint8 or uint16.
            patch_size (int): Side of a patch in pixels.
            boxes (array-like, optional): Shape (n, 4), (x1, y1, x2, y2) in
                pixels. Defaults to None.
            stream (ByteStream, optional): Source of the randomness. Defaults
                to None, the operating system.

        Returns:
            Prepared: The picture, its geometry and its boxes.

        Raises:
            ValueError: If the picture is too small for the centre crop, or
                does not fit the patch size with ``fit='error'``.
        """
        boxes = np.array([] if boxes is None else boxes,
                         np.float64).reshape(-1, 4)
        kept = np.arange(len(boxes))
        if self.augment:
            aspect = img.shape[1] / img.shape[0]
            if self.resize is not None and not self.keep_ratio:
                aspect = self.resize[0] / self.resize[1]
            img, boxes, kept = self.augment.apply(img, boxes, aspect, stream)
        side = None
        if self.short_side is not None:
            pick = 0.
            if len(self.short_side) > 1:
                pick = _uniform(1, stream)[0]
            side = self.short_side[int(pick * len(self.short_side))]
        img, ori_shape, scale = self._sized(img, img.shape[:2], side,
                                            patch_size)
        return Prepared(img, ori_shape, scale, boxes, kept)

    def _sized(self, img: np.ndarray, ori_shape: Tuple[int, int],
               side: Optional[int], patch_size: int):
        """Resized, cropped and fitted; its original size, and its scale."""
        h, w = img.shape[:2]
        target = self._target(h, w, side)
        if target != (h, w):
            img = resize_image(img, target, self.interpolation)
        scale = (target[1] / w, target[0] / h)
        if self.center_crop is not None:
            img = self._cropped(img)
            ori_shape = (round(img.shape[0] / scale[1]),
                         round(img.shape[1] / scale[0]))
        before = img.shape[:2]
        img, resized = fit_image(img, patch_size, self.fit,
                                 self.interpolation, self.pad_val)
        if resized:
            scale = (scale[0] * img.shape[1] / before[1],
                     scale[1] * img.shape[0] / before[0])
        return img, ori_shape, scale

    def _target(self, h: int, w: int, side: Optional[int]) -> Tuple[int, int]:
        if self.resize is not None and not self.keep_ratio:
            return self.resize[::-1]
        if self.resize is not None:
            factor = min(max(self.resize) / max(h, w),
                         min(self.resize) / min(h, w))
        elif side is not None:
            if self.max_side is None:
                # Rounded down, as MMPretrain's `ResizeEdge` does.
                return ((side, max(int(side * w / h), 1)) if h < w else
                        (max(int(side * h / w), 1), side))
            factor = min(side / min(h, w), self.max_side / max(h, w))
        else:
            return h, w
        # Rounded as `mmcv.rescale_size` does.
        return (max(int(h * factor + 0.5), 1), max(int(w * factor + 0.5), 1))

    def _cropped(self, img: np.ndarray) -> np.ndarray:
        w, h = self.center_crop
        if img.shape[0] < h or img.shape[1] < w:
            raise ValueError(
                f'the picture is {img.shape[0]}x{img.shape[1]} (height x '
                f'width), too small for a centre crop of {h}x{w}: resize it '
                'before')
        # Rounded as MMCV's `CenterCrop` does.
        y, x = round((img.shape[0] - h) / 2), round((img.shape[1] - w) / 2)
        return np.ascontiguousarray(img[y:y + h, x:x + w])


def _sizes(name: str, value: Any, num: Optional[int] = None) -> Tuple[int, ...]:
    """Positive whole numbers, as many as asked for."""
    sizes = tuple(value) if isinstance(value, Sequence) else (value, )
    fits = all(
        isinstance(size, int) and not isinstance(size, bool)
        and 1 <= size <= _LARGEST_SIDE for size in sizes)
    if not fits or not sizes or len(sizes) != (num or len(sizes)):
        raise ValueError(f'`{name}` takes {num or "one or more"} whole '
                         f'numbers of pixels, from 1 to {_LARGEST_SIDE}, got '
                         f'{value!r}')
    return sizes
