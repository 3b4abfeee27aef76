# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from typing import Optional, Sequence, Union

import numpy as np
import torch
from mmengine.dist import get_rank
from mmpretrain.models.utils import ClsDataPreprocessor
from torch import Tensor

from hime_mm.ciphers import Cipher
from hime_mm.registry import MODELS
from .batch_cipher import BatchCipher


@MODELS.register_module()
class EncryptClsDataPreprocessor(ClsDataPreprocessor):
    """Encrypt plain images on the device, after Mixup and CutMix.

    For whoever may see the images and wants to know what training on
    encrypted ones gives: data sets, pipelines and batch augmentations stay
    those of the plain training, and every image of every batch is encrypted
    with a draw of its own, in training, validation and test alike. The
    paper's code works in this order; an engineer without originals can only
    mix images up that are encrypted already.

    The order is: padding, batch augmentations, encryption, channel order,
    normalization. Augmentations thus see pixels on the 0–255 scale; those
    that average or copy pixels give the same as after normalization.

    All arguments of :class:`ClsDataPreprocessor` that are not named here keep
    their meaning and defaults, but for ``pad_value``, which is on the 0–255
    scale.

    Args:
        cipher (str | dict | Sequence | :obj:`Cipher`): As
            :class:`hime_mm.transforms.Encrypt`'s.
        patch_size (int, optional): Side of a patch in pixels. None is the
            cipher's own, or 16. Defaults to None.
        seed (int, optional): None draws from the operating system, anew for
            every image. A number makes a simulation that can be repeated,
            each process of a distributed run with draws of its own; it starts
            over with every run, a resumed one too. Defaults to None.
        quantize (bool): Round to whole grey levels before and while
            encrypting, as the 8-bit files of an owner are; the output then
            equals that of the pipeline transform for the same draw. Without,
            all is done in floating point, as in the paper's code. Defaults to
            True.

    Raises:
        ValueError: If the cipher makes no sense, one of its steps draws once
            for a whole data set, or it does not go with padding.
    """

    def __init__(self,
                 cipher: Union[str, dict, Sequence, Cipher],
                 patch_size: Optional[int] = None,
                 seed: Optional[int] = None,
                 quantize: bool = True,
                 mean: Optional[Sequence[float]] = None,
                 std: Optional[Sequence[float]] = None,
                 pad_size_divisor: int = 1,
                 to_rgb: bool = False,
                 **kwargs) -> None:
        super().__init__(
            mean=mean,
            std=std,
            pad_size_divisor=pad_size_divisor,
            to_rgb=to_rgb,
            **kwargs)
        name = f'hime_mm.{type(self).__name__}'
        try:
            self.batch_cipher = BatchCipher(cipher, patch_size)
            if pad_size_divisor > 1:
                self.cipher.check_fit('pad')
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from None
        if seed is not None and (isinstance(seed, bool)
                                 or not isinstance(seed, int) or seed < 0):
            raise ValueError(f'{name}: `seed` must be a whole number of at '
                             f'least 0, or None, got {seed!r}')
        self.seed = seed
        self.quantize = quantize
        self._source = None
        if seed is not None:
            self._source = np.random.default_rng([seed, get_rank()])

    @property
    def cipher(self) -> Cipher:
        """Cipher: What images are encrypted with."""
        return self.batch_cipher.cipher

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
            ValueError: If the size of the batch is no multiple of the patch
                size.
        """
        # What the host does but for what must come after the encryption.
        to_rgb, normalize = self.to_rgb, self._enable_normalize
        self.to_rgb = self._enable_normalize = False
        try:
            data = super().forward(data, training)
        finally:
            self.to_rgb, self._enable_normalize = to_rgb, normalize
        inputs = self.encrypt(data['inputs'])
        if to_rgb and inputs.size(1) == 3:
            inputs = inputs.flip(1)
        inputs = inputs.float()
        if normalize:
            inputs = (inputs - self.mean) / self.std
        for sample in data['data_samples'] or ():
            if 'img_shape' in sample:
                sample.set_metainfo(dict(img_shape=tuple(inputs.shape[-2:])))
        return dict(inputs=inputs, data_samples=data['data_samples'])

    @torch.no_grad()
    def encrypt(self, images: Tensor) -> Tensor:
        """Encrypt a batch with new draws.

        Args:
            images (Tensor): Shape (B, C, H, W), on the 0–255 scale.

        Returns:
            Tensor: Shape (B, C, H', W'); uint8 with ``quantize``.

        Raises:
            ValueError: If H or W is no multiple of the patch size.
        """
        height, width = images.shape[-2:]
        side = self.cipher.patch_size
        if height % side or width % side:
            raise ValueError(
                f'hime_mm.{type(self).__name__} got a batch of {height}x'
                f'{width} pixels, which holds no whole number of patches of '
                f'side {side}: have the pipelines crop or resize to a '
                f'multiple, or set `pad_size_divisor={side}`')
        if self.quantize:
            images = images.round().clamp_(0, 255).to(torch.uint8)
        return self.batch_cipher(images, self._source)

    def extra_repr(self) -> str:
        """What is shown of the module: no secret."""
        return (f'cipher={str(self.cipher)!r}, '
                f'patch_size={self.cipher.patch_size}, seed={self.seed}, '
                f'quantize={self.quantize}')
