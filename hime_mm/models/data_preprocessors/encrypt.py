# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Encrypt batches on the device."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.logging import MessageHub
from mmpretrain.models.utils import ClsDataPreprocessor
from torch import Tensor

from hime_mm.ciphers import Cipher
from hime_mm.ciphers.pixels import check_8_bits
from hime_mm.ciphers.randomness import RNG
from hime_mm.errors import CipherError, ConfigError, HimeError, PictureError
from hime_mm.models.ciphers import BatchCipher
from hime_mm.registry import MODELS, extra_repr
from hime_mm.run_check import check_current_run

#: May hold an 8-bit image that something computed with.
WIDE_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)


@MODELS.register_module()
class EncryptClsDataPreprocessor(ClsDataPreprocessor):
    """Encrypt plain images on the device, after Mixup and CutMix.

    For whoever may see the images and wants to know what training on
    encrypted ones gives: data sets, pipelines and batch augmentations stay
    those of the plain training, and every image of every batch is encrypted
    with a draw of its own, in training, validation and test alike. The
    paper's code works in this order; an engineer without originals can only
    mix images up that are encrypted already.

    Images are 8-bit, also where they come as another integer type, or
    floating-point on the 0–255 scale: pipelines leave normalization to this
    class.

    The order is: padding, batch augmentations, encryption, channel order,
    normalization. Augmentations thus see pixels on the 0–255 scale; those
    that average or copy pixels give the same as after normalization.

    All arguments of :class:`ClsDataPreprocessor` that are not named here keep
    their meaning and defaults, but for ``pad_value``, which is on the 0–255
    scale.

    Args:
        cipher (str | dict | Sequence | :obj:`Cipher`, optional): As
            :class:`hime_mm.transforms.Encrypt`'s. None encrypts nothing: for
            images that are encrypted already, or as a plain control.
        patch_size (int, optional): Side of a patch in pixels. None is the
            cipher's own, or 16. Defaults to None.
        seed (int, optional): None draws from the operating system, anew for
            every image. A number makes a simulation that can be repeated,
            with other draws for training than for evaluation, in each process
            of a distributed run, and in a run that is resumed: there they
            follow from the iteration, too, at which it goes on. Defaults to
            None.
        quantize (bool): Round to whole grey levels before and while
            encrypting, as the 8-bit files of an owner are; the output then
            equals that of the pipeline transform for the same draw. Without,
            all is done in floating point, as in the paper's code. Defaults to
            True.

    Raises:
        CipherError: If the cipher makes no sense, one of its steps draws once
            for a whole data set, or it does not go with padding.
        ConfigError: If ``seed`` is no whole number.
    """

    def __init__(
        self,
        cipher: None | str | dict | Sequence | Cipher,
        patch_size: int | None = None,
        seed: int | None = None,
        quantize: bool = True,
        *,
        pad_size_divisor: int = 1,
        **kwargs,
    ) -> None:
        super().__init__(pad_size_divisor=pad_size_divisor, **kwargs)
        self._name = f'hime_mm.{type(self).__name__}'
        self.batch_cipher = None
        try:
            if cipher is not None:
                self.batch_cipher = BatchCipher(cipher, patch_size)
                if pad_size_divisor > 1:
                    self.cipher.check_fit('pad')
        except HimeError as error:
            raise CipherError(f'{self._name}: {error}') from None
        if seed is not None and (
            isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0
        ):
            raise ConfigError(
                f'{self._name}: `seed` must be a whole number of at least 0, or None, got {seed!r}'
            )
        self.seed = seed
        self.quantize = quantize
        # Of training, and of evaluation: how often one validates does not
        # change what one trains on.
        self._rngs: dict[bool, np.random.Generator] = {}
        check_current_run()

    @property
    def cipher(self) -> Cipher | None:
        """Cipher | None: What images are encrypted with."""
        return None if self.batch_cipher is None else self.batch_cipher.cipher

    def _check_views(self, inputs: Tensor | Sequence[Tensor]) -> None:
        """Refuse several views of a picture, in a list or stacked, which models do not take."""
        if isinstance(inputs, Tensor):
            several = inputs.ndim > 4
        else:
            several = not all(isinstance(img, Tensor) and img.ndim == 3 for img in inputs)
        if several:
            raise ConfigError(
                f'{self._name} takes one image of shape (C, H, W) for each sample, got several '
                'views of each: put `hime_mm.Encrypt` last into every pipeline of `MultiView`, '
                'and use `SelfSupDataPreprocessor`'
            )

    def _rng(self, training: bool) -> RNG:
        if self.seed is not None and training not in self._rngs:
            # Made at the first batch: only then a resumed run knows where it goes on.
            step = MessageHub.get_current_instance().get_info('iter', 0)
            self._rngs[training] = np.random.default_rng([self.seed, get_rank(), training, step])
        return self._rngs.get(training)

    def _check_inputs(self, inputs: Tensor | Sequence[Tensor]) -> bool:
        """Refuse what is on another scale; whether all is 8-bit."""
        inputs = [inputs] if isinstance(inputs, Tensor) else inputs
        if len({img.shape for img in inputs}) > 1:
            # They will be padded to the largest.
            self.cipher.check_fit('pad')
        for img in inputs:
            self._check_integers(img)
        others = [img for img in inputs if img.is_floating_point()]
        if not others:
            return True
        low = min(img.min().item() for img in others)
        high = max(img.max().item() for img in others)
        # Interpolation overshoots a little; black may be all there is.
        if (
            low < -32
            or high > 287
            or (low < 0 and high < 32)
            or (high <= 1 and any((img != img.round()).any() for img in others))
        ):
            raise PictureError(
                f'{self._name} takes images on the 0–255 scale, got values '
                f'from {low:.4g} to {high:.4g}: leave normalization to it '
                '(`mean` and `std`), not to the pipelines'
            )
        return False

    def _check_integers(self, img: Tensor) -> None:
        """Refuse all that is not floating-point and does not hold an 8-bit image."""
        if img.dtype in WIDE_INTEGERS:
            try:
                check_8_bits(img.min().item(), img.max().item(), img.dtype)
            except PictureError as error:
                raise PictureError(
                    f'{self._name}: {error}, or encrypt in the pipeline, with `hime_mm.Encrypt`'
                ) from None
        elif img.dtype != torch.uint8 and not img.is_floating_point():
            raise TypeError(
                f'{self._name} takes 8-bit images, or floating-point ones '
                f'on the 0–255 scale, got {img.dtype}: load them with 8 '
                'bits, or encrypt in the pipeline, with `hime_mm.Encrypt`'
            )

    def forward(self, data: dict, training: bool = False) -> dict:
        """Augment, encrypt and normalize a batch.

        Args:
            data (dict): ``inputs``, plain images of shape (C, H, W), H and W
                multiples of the patch size; ``data_samples`` (optional).
            training (bool): Whether to augment. Defaults to False.

        Returns:
            dict: The same keys. ``inputs`` are encrypted and normalized,
            shape (B, C, H', W'); ``img_shape`` of the samples is theirs.

        Raises:
            TypeError: If the images are 16-bit, or of no number type.
            PictureError: If the size of the batch is no multiple of the patch
                size, or the images are on another scale.
            ConfigError: If there are several views of each image.
        """
        self._check_views(data['inputs'])
        encrypts = self.batch_cipher is not None
        is_integer = encrypts and self._check_inputs(data['inputs'])
        # What the host does but for what must come after the encryption.
        to_rgb, normalize = self.to_rgb, self._enable_normalize
        self.to_rgb = self._enable_normalize = False
        try:
            data = super().forward(data, training)
        finally:
            self.to_rgb, self._enable_normalize = to_rgb, normalize
        images = data['inputs']
        if encrypts:
            is_integer = (
                is_integer
                and float(self.pad_value).is_integer()
                and not (training and self.batch_augments is not None)
            )
            images = self._grey_levels(images, is_integer)
        inputs, shape = self._model_inputs(images, training)
        for sample in data['data_samples'] or ():
            if 'img_shape' in sample:
                sample.set_metainfo(dict(img_shape=shape))
        return dict(inputs=inputs, data_samples=data['data_samples'])

    def _grey_levels(self, images: Tensor, is_integer: bool) -> Tensor:
        """What is encrypted; ``is_integer`` says that it holds whole grey levels."""
        height, width = images.shape[-2:]
        side = self.cipher.patch_size
        if height % side or width % side:
            raise PictureError(
                f'{self._name} got a batch of {height}x{width} pixels, no '
                f'whole number of patches of side {side}: crop or resize in '
                f'the pipelines, or set `pad_size_divisor={side}`'
            )
        if self.quantize:
            if not is_integer:
                images = images.round().clamp_(0, 255)
            images = images.to(torch.uint8)
        return images

    @torch.no_grad()
    def _model_inputs(self, images: Tensor, training: bool) -> tuple[Tensor, tuple[int, int]]:
        """What the model gets of a batch of plain images, and the size of what it sees."""
        if self.batch_cipher is not None:
            images = self.batch_cipher(images, self._rng(training))
        images = self._normalized(images)
        return images, tuple(images.shape[-2:])

    def _normalized(self, images: Tensor, statistics: str = '') -> Tensor:
        """In the order of channels of the model, normalized by `mean` and `std` of this prefix."""
        if self.to_rgb and images.size(1) == 3:
            images = images.flip(1)
        images = images.float()
        if not self._enable_normalize:
            return images
        return (images - getattr(self, f'{statistics}mean')) / getattr(self, f'{statistics}std')

    def extra_repr(self) -> str:
        """What is shown of the module: no secret."""
        return extra_repr(self)
