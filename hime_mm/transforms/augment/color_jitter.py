# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Change the colours of an encrypted image."""

from collections.abc import Sequence

import mmcv
import numpy as np
from mmcv.transforms.utils import avoid_cache_randomness

from hime_mm.ciphers import Cipher
from hime_mm.ciphers.pixels import mid_grey
from hime_mm.errors import ConfigError
from hime_mm.registry import TRANSFORMS

from .base import EncryptedAugment

BACKENDS = ('cv2', 'pillow')


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
        ConfigError: If an option has a wrong value.
    """

    def __init__(
        self,
        brightness: float | Sequence[float] = 0.0,
        contrast: float | Sequence[float] = 0.0,
        saturation: float | Sequence[float] = 0.0,
        hue: float | Sequence[float] = 0.0,
        backend: str = 'cv2',
        keep_grey: bool | None = None,
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob)
        # The other transforms do without MMPretrain.
        from mmpretrain.datasets.transforms import ColorJitter

        self._check_choice('backend', backend, BACKENDS)
        self._jitter = ColorJitter(brightness, contrast, saturation, hue, backend)
        self._saturate = ColorJitter(saturation=saturation, backend=backend)
        if keep_grey:
            with self._naming_errors():
                self._check_hue('`keep_grey` is set')
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.backend = backend
        self.keep_grey = keep_grey

    def _check_hue(self, why: str) -> None:
        if self._jitter.hue is not None:
            raise ConfigError(
                f'{why}, and a change of hue would move the means of patches: leave `hue` out'
            )

    def _check(self, results: dict) -> bool:
        """Whether mid-grey has to stay in this image."""
        img = results['img']
        if img.ndim != 3 or img.shape[2] != 3:
            raise ConfigError(
                'only images of three channels have colours, got the shape '
                f"{img.shape}: load them with `LoadImageFromFile(color_type='color')`"
                ', or leave this transform out'
            )
        fits = ('uint8',) if self.backend == 'pillow' else ('uint8', 'float32')
        if img.dtype.name not in fits:
            raise TypeError(
                f'{self._name} takes pixels of {" or ".join(fits)} with '
                f'`backend={self.backend!r}`, got {img.dtype}: convert the images to '
                'float32 from 0 to 255 before, or leave it out'
            )
        if self.keep_grey is not None:
            return self.keep_grey
        cipher: Cipher | None = results.get('cipher')
        if cipher is None:
            raise ConfigError(
                'the sample has no `cipher`, so whether mid-grey has a meaning is '
                'unknown: put this transform behind `hime_mm.LoadEncryptedMeta`, or '
                'set `keep_grey`'
            )
        if cipher.keeps_grey:
            grey = ', '.join(str(step) for step in cipher.steps if step.keeps_grey)
            self._check_hue(f'the cipher {str(cipher)!r} gives mid-grey a meaning ({grey})')
        return cipher.keeps_grey

    def _augment(self, results: dict, keeps_grey: bool) -> None:
        img, jitter = results['img'], self._jitter
        if keeps_grey:
            factor = 1.0
            for bounds in (jitter.brightness, jitter.contrast):
                if bounds is not None:
                    factor *= np.random.uniform(*bounds)
            # Both change the distance from mid-grey.
            img = mmcv.adjust_color(
                img, factor, beta=0, gamma=(1 - factor) * mid_grey(img.dtype), backend='cv2'
            )
            jitter = self._saturate
        # One backend gives views of RGB images.
        results['img'] = np.ascontiguousarray(jitter(dict(img=img))['img'])
