# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What an owner does to a picture before it is encrypted.

An encrypted picture can be neither resized nor cropped any more, so the size
at which a model is trained, and augmentation, are decided here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np

from hime_mm.ciphers.randomness import RNG
from hime_mm.errors import HimeError, PictureError

from .augment import Augment, draw_uniform
from .codec import COLOR_TYPES
from .settings import check_settings, setting
from .sizing import FITS, INTERPOLATIONS, fit_image, resize_image

# What JPEG can hold; a mistyped size would only fill the memory.
_LARGEST_SIDE = 65535
TRANSPARENT = ('keep', 'black')
FRAMES = ('first', 'refuse')


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
    ori_shape: tuple[int, int]
    scale: tuple[float, float]
    boxes: np.ndarray
    kept: np.ndarray


@dataclass(frozen=True)
class Preprocess:
    """How pictures are read and sized before they are encrypted.

    Args:
        color_type (str): As ``mmcv.imread``: 'color', 'grayscale',
            'unchanged' or 'color_ignore_orientation'. Defaults to 'color'.
        transparent (str): Pixels with alpha 0 hold colours that a viewer does
            not show. ``'keep'`` leaves them as ``mmcv.imread`` does,
            ``'black'`` paints these pixels black before all else. Defaults to
            'keep'.
        frames (str): Of a file that holds several pictures, an animation or
            pages, ``'first'`` takes the first one, ``'refuse'`` none.
            Defaults to 'first'.
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
            size, see :func:`~hime_mm.images.sizing.fit_image`. Defaults to
            'resize'.
        interpolation (str): Of all scaling, as ``mmcv.imresize``. Defaults to
            'bilinear'.
        pad_val (float | tuple[float]): For ``fit='pad'``. Defaults to 0.
        augment (Augment): Random changes. Defaults to none.

    Raises:
        HimeError: If an option is unknown, out of range, or does not go with
            another.
    """

    color_type: str = setting('color', 'How files are read, as by mmcv.', choices=COLOR_TYPES)
    transparent: str = setting(
        'keep',
        'Colours of pixels with alpha 0, which no viewer shows: paint them black?',
        choices=TRANSPARENT,
    )
    frames: str = setting(
        'first',
        'Of a file with several pictures (animations, pages) take the first, or leave it out.',
        choices=FRAMES,
    )
    resize: tuple[int, int] | None = setting(
        None, 'Resize pictures before encryption.', 'size', metavar='WxH'
    )
    keep_ratio: bool = setting(
        False, "Fit into --resize with the aspect ratio kept, as MMDetection's Resize.", bool
    )
    short_side: None | int | tuple[int, ...] = setting(
        None,
        'Scale the shorter side to N pixels; of several, one is drawn per view.',
        'ints',
        metavar='N[,N...]',
    )
    max_side: int | None = setting(
        None,
        'With --short-side, bound of the longer side.',
        int,
        low=1,
        high=_LARGEST_SIDE,
        metavar='N',
    )
    center_crop: tuple[int, int] | None = setting(
        None, 'Cut from the middle after resizing.', 'size', metavar='WxH'
    )
    fit: str = setting('resize', 'Where sides are no multiples of the patch size.', choices=FITS)
    interpolation: str = setting('bilinear', 'Of all scaling.', choices=INTERPOLATIONS)
    pad_val: float | tuple[float, ...] = setting(
        0, 'Value, or one per channel, of --fit pad.  [default: 0]', 'floats', metavar='V[,V...]'
    )
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        check_settings(self)
        for name, num in (('resize', 2), ('center_crop', 2), ('short_side', None)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _sizes(name, value, num))
        if isinstance(self.pad_val, (list, tuple)):
            object.__setattr__(self, 'pad_val', tuple(self.pad_val))
        if not np.isfinite(self.pad_val).all():
            raise HimeError(f'`pad_val` must be finite, got {self.pad_val}')
        if self.resize and self.short_side:
            raise HimeError('give `resize` or `short_side`, not both')
        if self.keep_ratio and not self.resize:
            raise HimeError('`keep_ratio` needs `resize`')
        if self.max_side and not self.short_side:
            raise HimeError('`max_side` needs `short_side`')

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
        return {k: list(v) if isinstance(v, tuple) else v for k, v in state.items()}

    @classmethod
    def from_dict(cls, state: Mapping) -> 'Preprocess':
        """The inverse of :meth:`to_dict`, also after a trip through JSON.

        Raises:
            HimeError: If there is an unknown key.
        """
        augment = state.get('augment')
        if isinstance(augment, Mapping):
            state = {**state, 'augment': _build(Augment, augment)}
        return _build(cls, state)

    @property
    def random(self) -> bool:
        """bool: Whether two views of a picture differ."""
        return bool(self.augment) or len(self._sides) > 1

    @property
    def _sides(self) -> tuple[int, ...]:
        sides = self.short_side or ()
        return (sides,) if isinstance(sides, int) else sides

    @property
    def crops(self) -> bool:
        """bool: Whether what comes out is another view of the original.

        Coordinates in it are not the original's then.
        """
        return bool(self.augment) or self.center_crop is not None

    def fixed(self) -> 'Preprocess':
        """The same with nothing drawn, as for inference.

        It is without augmentation, and of several short sides has the last one.
        """
        return replace(self, augment=Augment(), short_side=self._sides[-1:] or None)

    def prepare(
        self, img: np.ndarray, patch_size: int, boxes: Any = None, rng: RNG = None
    ) -> Prepared:
        """Augment and size a picture and its boxes, as :func:`seal` does.

        Raises:
            PictureError: If the picture is too small for the centre crop, or
                does not fit the patch size with ``fit='error'``.
        """
        boxes = np.array([] if boxes is None else boxes, np.float64).reshape(-1, 4)
        kept = np.arange(len(boxes))
        if self.augment:
            aspect = img.shape[1] / img.shape[0]
            if self.resize is not None and not self.keep_ratio:
                aspect = self.resize[0] / self.resize[1]
            img, boxes, kept = self.augment.apply(img, boxes, aspect, rng)
        side, num = None, len(self._sides)
        if num:
            draw = draw_uniform(1, rng)[0] if num > 1 else 0.0
            side = self._sides[int(draw * num)]
        img, ori_shape, scale = self._resize(img, side, patch_size)
        return Prepared(img, ori_shape, scale, boxes, kept)

    def _resize(
        self, img: np.ndarray, side: int | None, patch_size: int
    ) -> tuple[np.ndarray, tuple[int, int], tuple[float, float]]:
        """Resized, cropped and fitted; its original size, and its scale."""
        ori_shape = h, w = img.shape[:2]
        target = self._target(h, w, side)
        if target != (h, w):
            img = resize_image(img, target, self.interpolation)
        scale = (target[1] / w, target[0] / h)
        if self.center_crop is not None:
            img = _center_crop(img, *self.center_crop)
            # Less than half a pixel is left of a tiny picture that was enlarged.
            ori_shape = (
                max(round(img.shape[0] / scale[1]), 1),
                max(round(img.shape[1] / scale[0]), 1),
            )
        before = img.shape[:2]
        img, resized = fit_image(img, patch_size, self.fit, self.interpolation, self.pad_val)
        if resized:
            scale = (scale[0] * img.shape[1] / before[1], scale[1] * img.shape[0] / before[0])
        return img, ori_shape, scale

    def _target(self, h: int, w: int, side: int | None) -> tuple[int, int]:
        if self.resize is not None and not self.keep_ratio:
            return self.resize[::-1]
        if self.resize is not None:
            factor = min(max(self.resize) / max(h, w), min(self.resize) / min(h, w))
        elif side is not None:
            if self.max_side is None:
                # Rounded down, as MMPretrain's `ResizeEdge` does.
                return (
                    (side, max(int(side * w / h), 1))
                    if h < w
                    else (max(int(side * h / w), 1), side)
                )
            factor = min(side / min(h, w), self.max_side / max(h, w))
        else:
            return h, w
        # Rounded as `mmcv.rescale_size` does.
        return (max(int(h * factor + 0.5), 1), max(int(w * factor + 0.5), 1))


def _build(kind: Any, state: Mapping) -> Any:
    unknown = set(state) - {item.name for item in fields(kind)}
    if unknown:
        raise HimeError(
            f'unknown preprocessing {sorted(unknown)}: use the release of hime_mm that wrote it'
        )
    return kind(**state)


def _center_crop(img: np.ndarray, w: int, h: int) -> np.ndarray:
    if img.shape[0] < h or img.shape[1] < w:
        raise PictureError(
            f'the picture is {img.shape[0]}x{img.shape[1]} (height x width), '
            f'too small for a centre crop of {h}x{w}: resize it before'
        )
    # Rounded as MMCV's `CenterCrop` does.
    y, x = round((img.shape[0] - h) / 2), round((img.shape[1] - w) / 2)
    return np.ascontiguousarray(img[y : y + h, x : x + w])


def _sizes(name: str, value: Any, num: int | None) -> tuple[int, ...]:
    """Positive whole numbers, as many as asked for."""
    sizes = tuple(value) if isinstance(value, Sequence) else (value,)
    fits = all(
        isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= _LARGEST_SIDE
        for size in sizes
    )
    if not fits or not sizes or len(sizes) != (num or len(sizes)):
        raise HimeError(
            f'`{name}` takes {num or "one or more"} whole '
            f'numbers of pixels, from 1 to {_LARGEST_SIDE}, got '
            f'{value!r}'
        )
    return sizes
