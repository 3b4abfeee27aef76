# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Augmentation of images that are encrypted already.

None of it needs a key, an original, or to know where a patch came from. Its
randomness is no secret: it comes from NumPy's global state, which the runner
seeds, so that a run can be repeated.
"""

from abc import abstractmethod
from dataclasses import replace
from numbers import Real
from typing import Any, Optional, Sequence, Tuple, Union

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import avoid_cache_randomness

from hime_mm.ciphers import (Cipher, PatchLayout, draw_permutation, grid_shape,
                             shuffle_patches)
from hime_mm.ciphers.grid import check_image
from hime_mm.ciphers.pixels import mid_grey, peak_value
from hime_mm.ciphers.steps import drop_patches
from hime_mm.registry import TRANSFORMS

from .encrypt import MOVED, UNSUPPORTED, move_boxes

FILLS = ('grey', 'mean')
UNSHUFFLED = ('error', 'keep', 'shuffle')
BACKENDS = ('cv2', 'pillow')


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


class EncryptedAugment(BaseTransform):
    """Base class of what may follow the encryption in a training pipeline.

    Whether an image can be augmented is checked for every image, so that an
    error does not wait for chance.

    Args:
        prob (float): Share of the images that are augmented. Defaults to 1.

    Raises:
        ValueError: If ``prob`` is no number from 0 to 1.
    """

    #: Whether it may follow the encryption; read by the check of configs.
    legal_on_encrypted = True

    def __init__(self, prob: float = 1.) -> None:
        if not _is_number(prob) or not 0 <= prob <= 1:
            raise ValueError(f'{self._name}: `prob` must be a number from 0 '
                             f'to 1, got {prob!r}')
        self.prob = prob

    @property
    def _name(self) -> str:
        return f'hime_mm.{type(self).__name__}'

    def _draw_use(self) -> bool:
        return bool(np.random.rand() < self.prob)

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
            ValueError: If the sample does not fit the options.
        """
        img = results.get('img')
        if img is None:
            raise KeyError(f'{self._name} found no `img`: put it behind '
                           '`hime_mm.LoadEncryptedMeta` and before packing')
        if not isinstance(img, np.ndarray) or img.ndim not in (2, 3):
            got = (f'an array of shape {img.shape}' if isinstance(
                img, np.ndarray) else type(img).__name__)
            raise TypeError(f'{self._name} takes one image, an array of shape '
                            f'(H, W) or (H, W, C), got {got}: put it before '
                            'packing')
        check_image(img)
        checked = self._check(results)
        if self._draw_use():
            self._augment(results, checked)
        return results

    @abstractmethod
    def _check(self, results: dict) -> Any:
        """Refuse what cannot be augmented; give what :meth:`_augment` needs.
        """

    @abstractmethod
    def _augment(self, results: dict, checked: Any) -> None:
        """Augment the sample, given what :meth:`_check` returned."""


class _PatchAugment(EncryptedAugment):
    """An augmentation that needs the grid of patches.

    Args:
        patch_size (int, optional): Side of a patch of the encrypted image.
        prob (float): Share of the images that are augmented. Defaults to 1.

    Raises:
        ValueError: If an option has a wrong value.
    """

    def __init__(self,
                 patch_size: Optional[int] = None,
                 prob: float = 1.) -> None:
        super().__init__(prob)
        if patch_size is not None and (not isinstance(patch_size, int)
                                       or isinstance(patch_size, bool)
                                       or patch_size < 1):
            raise ValueError(f'{self._name}: `patch_size` must be a positive '
                             'whole number, or None for that of '
                             f'`patch_layout`, got {patch_size!r}')
        self.patch_size = patch_size

    def _layout(self, results: dict) -> PatchLayout:
        """The sample's layout, or where it has none, that of its grid."""
        shape = results['img'].shape[:2]
        layout = results.get('patch_layout')
        if layout is None:
            if self.patch_size is None:
                raise ValueError(
                    f'{self._name}: the sample has no `patch_layout`, so the '
                    'size of its patches is unknown: put this transform '
                    'behind `hime_mm.LoadEncryptedMeta`, or set `patch_size`')
            try:
                return PatchLayout(shape, self.patch_size,
                                   grid_shape(shape, self.patch_size))
            except ValueError as error:
                raise ValueError(f'{self._name}: {error}') from None
        if self.patch_size not in (None, layout.patch_size):
            raise ValueError(
                f'{self._name}: `patch_size` is {self.patch_size}, but the '
                f'patches of this encrypted image have {layout.patch_size} '
                'pixels a side: leave `patch_size` out')
        if layout.shape != shape:
            raise ValueError(
                f'{self._name}: the image is {shape[0]}x{shape[1]} (height x '
                f'width), but was encrypted to {layout.shape[0]}x'
                f'{layout.shape[1]}: remove what resizes, crops or pads it')
        return layout


@TRANSFORMS.register_module()
@avoid_cache_randomness
class PatchDrop(_PatchAugment):
    """Paint a random share of the patches of an encrypted image.

    What random erasing is to plain images: whole patches of the encrypted
    image, wherever they lie, become grey, so it is the same for shuffled
    images and others. The image keeps its size, and boxes, masks and the
    layout stay as they are.

    Put it behind ``hime_mm.EncryptedColorJitter``, so that its grey stays
    that of the cipher's step ``drop``.

    Required Keys:

    - img (np.ndarray, (H, W) or (H, W, C), uint8, uint16 or float32)
    - patch_layout (:obj:`PatchLayout`) (optional)
    - gt_bboxes (BaseBoxes[torch.float32] | np.ndarray, (n, 4)) (optional)

    Modified Keys:

    - img

    Args:
        ratio (float | Sequence[float]): Share of the patches that is painted,
            at least 0 and below 1, rounded to whole patches; a range
            (min, max) is drawn from for every image. One patch at least is
            left. Defaults to 0.25.
        patch_size (int, optional): Side of a patch of the encrypted image in
            pixels. None takes it from ``patch_layout``. Defaults to None.
        fill (str | float | Sequence[float]): ``'grey'``, half of the range of
            the pixels; ``'mean'``, the mean of each channel of the image; or
            a value, or one for each channel. Defaults to 'grey'.
        spare_boxes (bool): Never paint a patch that holds the centre of a box
            in ``gt_bboxes``; where few other patches are left, fewer are
            painted. In shuffled images it is the one patch that the box
            belongs to. Defaults to True.
        prob (float): Share of the images that are augmented. Defaults to 1.

    Raises:
        ValueError: If an option has a wrong value.
    """

    def __init__(self,
                 ratio: Union[float, Sequence[float]] = 0.25,
                 patch_size: Optional[int] = None,
                 fill: Union[str, float, Sequence[float]] = 'grey',
                 spare_boxes: bool = True,
                 prob: float = 1.) -> None:
        super().__init__(patch_size, prob)
        bounds = (ratio, ratio) if _is_number(ratio) else ratio
        if (not isinstance(bounds, (tuple, list)) or len(bounds) != 2
                or not all(map(_is_number, bounds))
                or not 0 <= bounds[0] <= bounds[1] < 1):
            raise ValueError(
                f'{self._name}: `ratio` must be a number, or a range '
                f'(min, max), at least 0 and below 1, got {ratio!r}')
        values = (fill, ) if _is_number(fill) else fill
        if fill not in FILLS if isinstance(fill, str) else (
                not isinstance(values, (tuple, list)) or not values
                or not all(map(_is_number, values))):
            raise ValueError(f'{self._name}: `fill` must be one of {FILLS}, a '
                             f'value, or one per channel, got {fill!r}')
        if not isinstance(spare_boxes, bool):
            raise ValueError(f'{self._name}: `spare_boxes` must be True or '
                             f'False, got {spare_boxes!r}')
        self.ratio = ratio
        self.fill = fill
        self.spare_boxes = spare_boxes
        self._bounds = bounds

    def _check(self, results: dict) -> Tuple[PatchLayout, Any]:
        return self._layout(results), self._value(results['img'])

    def _value(self, img: np.ndarray) -> Union[None, float, np.ndarray]:
        """What is painted, in the dtype of the image; None is mid-grey."""
        if self.fill == 'grey':
            return None
        channels = 1 if img.ndim == 2 else img.shape[2]
        integer = np.issubdtype(img.dtype, np.integer)
        if self.fill == 'mean':
            value = img.mean(axis=(0, 1), dtype=np.float64)
        else:
            value = np.asarray(self.fill, np.float64)
            if value.size not in (1, channels):
                raise ValueError(
                    f'{self._name}: `fill` has {value.size} values, but the '
                    f'image has {channels} channels')
            if integer and not ((value >= 0) &
                                (value <= peak_value(img.dtype))).all():
                raise ValueError(
                    f'{self._name}: `fill` {self.fill!r} is outside the range '
                    f'of {img.dtype} pixels, 0 to {peak_value(img.dtype)}')
        if integer:
            value = np.floor(value + 0.5)
        return value.astype(img.dtype)

    def _draw_dropped(self, spared: np.ndarray) -> np.ndarray:
        """bool, shape (N, ): the slots that are painted."""
        num = len(spared)
        share = np.random.uniform(*self._bounds)
        count = min(int(num * share + 0.5), num - 1)
        order = draw_permutation(num, np.random)
        dropped = np.zeros(num, bool)
        dropped[order[~spared[order]][:count]] = True
        return dropped

    def _augment(self, results: dict,
                 checked: Tuple[PatchLayout, Any]) -> None:
        layout, value = checked
        spared = np.zeros(layout.num_patches, bool)
        boxes = results.get('gt_bboxes')
        if self.spare_boxes and boxes is not None and len(boxes):
            if not isinstance(boxes, np.ndarray):
                boxes = boxes.convert_to('hbox').numpy()
            spared[layout.cells(boxes)] = True
        results['img'] = drop_patches(results['img'],
                                      self._draw_dropped(spared),
                                      layout.patch_size, value)

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(ratio={self.ratio}, '
                f'patch_size={self.patch_size}, fill={self.fill!r}, '
                f'spare_boxes={self.spare_boxes}, prob={self.prob})')


@TRANSFORMS.register_module()
@avoid_cache_randomness
class PatchReshuffle(_PatchAugment):
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
        ValueError: If an option has a wrong value.
    """

    def __init__(self,
                 patch_size: Optional[int] = None,
                 unshuffled: str = 'error',
                 prob: float = 1.) -> None:
        super().__init__(patch_size, prob)
        if unshuffled not in UNSHUFFLED:
            raise ValueError(f'{self._name}: unknown `unshuffled` '
                             f'{unshuffled!r}, choose from {UNSHUFFLED}')
        self.unshuffled = unshuffled

    def _check(self, results: dict) -> Optional[PatchLayout]:
        layout = self._layout(results)
        if not layout.shuffled:
            if self.unshuffled == 'keep':
                return None
            if self.unshuffled == 'error':
                why = ('the patches of this image lie in their places, which '
                       'a model may use' if results.get('patch_layout') else
                       'the sample has no `patch_layout`, so nothing says '
                       'that its patches were shuffled')
                raise ValueError(
                    f"{self._name}: {why}. Set `unshuffled='shuffle'` to "
                    "shuffle them all the same, or `unshuffled='keep'` to "
                    'leave such images as they are')
        shape = results['img'].shape[:2]
        stay = ('gt_masks', 'gt_seg_map', *UNSUPPORTED)
        for key, value in results.items():
            # Whatever else looks like the image would stay in its old order.
            if (key in stay and value is not None) or (
                    key not in MOVED and isinstance(value, np.ndarray)
                    and value.shape[:2] == shape):
                raise ValueError(
                    f'{self._name} moves patches and cannot move `{key}` with '
                    'them: remove it from the pipeline before')
        return layout

    def _draw_permutation(self, num: int) -> np.ndarray:
        return draw_permutation(num, np.random)

    def _augment(self, results: dict, checked: Optional[PatchLayout]) -> None:
        layout = checked
        if layout is None:
            return
        perm = self._draw_permutation(layout.num_patches)
        # Between the encrypted image and the new one.
        step = PatchLayout(
            layout.shape, layout.patch_size, layout.grid, permutation=perm)
        # Collected aside, so that an error leaves no half-moved sample.
        new = {
            key: results[key]
            for key in ('gt_bboxes', 'proposals') if key in results
        }
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

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(patch_size={self.patch_size}, '
                f'unshuffled={self.unshuffled!r}, prob={self.prob})')


@TRANSFORMS.register_module()
@avoid_cache_randomness
class EncryptedColorJitter(EncryptedAugment):
    """Change brightness, contrast and saturation of an encrypted image.

    One change for all patches of an image, by MMPretrain's ``ColorJitter``.

    In images whose cipher centres patches on mid-grey, or paints parts in it,
    mid-grey stands for "nothing", and a change of brightness would move it.
    There brightness and contrast change the distance from mid-grey instead:
    for centred patches that is exactly what jittering the original gives.
    Hue is refused there, since it moves the mean of a patch.

    Required Keys:

    - img (np.ndarray, (H, W, 3), BGR, uint8 or float32 from 0 to 255)
    - cipher (:obj:`Cipher`) (optional)

    Modified Keys:

    - img

    Args:
        brightness (float | Sequence[float]): The factor is drawn from
            [max(0, 1 - brightness), 1 + brightness], or from the given
            [min, max]. Defaults to 0.
        contrast (float | Sequence[float]): Likewise. Defaults to 0.
        saturation (float | Sequence[float]): Likewise. Meaningless where the
            cipher permutes the channels of every patch. Defaults to 0.
        hue (float | Sequence[float]): The shift is drawn from [-hue, hue],
            hue at most 0.5, or from the given [min, max]. Defaults to 0.
        backend (str): ``'cv2'``, or ``'pillow'`` for uint8 only. Defaults to
            'cv2'.
        keep_grey (bool, optional): Whether mid-grey has to stay. None looks
            at the ``cipher`` that ``hime_mm.LoadEncryptedMeta`` and
            ``hime_mm.Encrypt`` add to a sample. Defaults to None.
        prob (float): Share of the images that are augmented. Defaults to 1.

    Raises:
        ImportError: If MMPretrain is not installed.
        TypeError: If a factor is neither a number nor a pair.
        ValueError: If an option has a wrong value.
    """

    def __init__(self,
                 brightness: Union[float, Sequence[float]] = 0.,
                 contrast: Union[float, Sequence[float]] = 0.,
                 saturation: Union[float, Sequence[float]] = 0.,
                 hue: Union[float, Sequence[float]] = 0.,
                 backend: str = 'cv2',
                 keep_grey: Optional[bool] = None,
                 prob: float = 1.) -> None:
        super().__init__(prob)
        # The other transforms do without MMPretrain.
        from mmpretrain.datasets.transforms import ColorJitter
        if backend not in BACKENDS:
            raise ValueError(f'{self._name}: unknown `backend` {backend!r}, '
                             f'choose from {BACKENDS}')
        if keep_grey is not None and not isinstance(keep_grey, bool):
            raise ValueError(f'{self._name}: `keep_grey` must be True, False '
                             f'or None, got {keep_grey!r}')
        self._jitter = ColorJitter(brightness, contrast, saturation, hue,
                                   backend)
        self._saturate = ColorJitter(saturation=saturation, backend=backend)
        if keep_grey:
            self._check_hue('`keep_grey` is set')
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.backend = backend
        self.keep_grey = keep_grey

    def _check_hue(self, why: str) -> None:
        if self._jitter.hue is not None:
            raise ValueError(f'{self._name}: {why}, and a change of hue would '
                             'move the means of patches: leave `hue` out')

    def _check(self, results: dict) -> bool:
        """Whether mid-grey has to stay in this image."""
        img = results['img']
        if img.ndim != 3 or img.shape[2] != 3:
            raise ValueError(
                f'{self._name} takes images of three channels, got the shape '
                f"{img.shape}: load them with `LoadImageFromFile(color_type="
                "'color')`, or leave it out")
        fits = ('uint8', ) if self.backend == 'pillow' else ('uint8',
                                                             'float32')
        if img.dtype.name not in fits:
            raise TypeError(
                f'{self._name} takes pixels of {" or ".join(fits)} with '
                f'`backend={self.backend!r}`, got {img.dtype}: convert the '
                'images to float32 from 0 to 255 before, or leave it out')
        if self.keep_grey is not None:
            return self.keep_grey
        cipher: Optional[Cipher] = results.get('cipher')
        if cipher is None:
            raise ValueError(
                f'{self._name}: the sample has no `cipher`, so whether '
                'mid-grey has a meaning is unknown: put this transform behind '
                '`hime_mm.LoadEncryptedMeta`, or set `keep_grey`')
        grey = [
            str(step) for step in cipher.steps if step.name in
            ('center', 'drop') or getattr(step, 'form', None) == 'filled'
        ]
        if grey:
            self._check_hue(f'the cipher {str(cipher)!r} gives mid-grey a '
                            f'meaning ({", ".join(grey)})')
        return bool(grey)

    def _draw_factor(self) -> float:
        """The product of the factors of brightness and contrast."""
        factor = 1.
        for bounds in (self._jitter.brightness, self._jitter.contrast):
            if bounds is not None:
                factor *= np.random.uniform(*bounds)
        return factor

    def _augment(self, results: dict, checked: bool) -> None:
        img, jitter = results['img'], self._jitter
        if checked:
            factor = self._draw_factor()
            img = mmcv.adjust_color(
                img,
                factor,
                beta=0,
                gamma=(1 - factor) * mid_grey(img.dtype),
                backend='cv2')
            jitter = self._saturate
        # One backend gives views of RGB images.
        results['img'] = np.ascontiguousarray(jitter(dict(img=img))['img'])

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(brightness={self.brightness}, '
                f'contrast={self.contrast}, saturation={self.saturation}, '
                f'hue={self.hue}, backend={self.backend!r}, '
                f'keep_grey={self.keep_grey}, prob={self.prob})')
