# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Plain and encrypted batches side by side, on the device."""

from collections.abc import Sequence

import torch
from mmengine.logging import MessageHub
from torch import Tensor

from hime_mm.ciphers import Cipher
from hime_mm.ciphers.randomness import RNG
from hime_mm.errors import ConfigError
from hime_mm.registry import MODELS

from .encrypt import EncryptClsDataPreprocessor


@MODELS.register_module()
class DistillDataPreprocessor(EncryptClsDataPreprocessor):
    """Give each image plain and encrypted, and say which patch went where.

    For :class:`ShuffleDistillation`: a teacher sees the plain image,
    a student the encrypted one. For public images only: what comes out undoes
    the shuffling.

    All arguments of :class:`EncryptClsDataPreprocessor` that are not named
    here keep their meaning; ``mean`` and ``std`` are those of the student.
    With a ``seed`` each draw follows from the iteration, so that a run that is
    resumed draws as if it had never stopped.

    Args:
        cipher (str | dict | Sequence | :obj:`Cipher`): As
            :class:`EncryptClsDataPreprocessor`'s, but there must be one.
        mean, std (Sequence[float], optional): What the encrypted images are
            normalized by, in the order of channels after ``to_rgb``.
            Default to None, no normalization.
        plain_mean, plain_std (Sequence[float], optional): The same of the
            plain images: what the teacher was trained with. Default to None,
            ``mean`` and ``std``.

    Raises:
        CipherError: As :class:`EncryptClsDataPreprocessor`.
        ConfigError: If there is no cipher, or one of ``plain_mean`` and
            ``plain_std`` comes without the other, or without ``mean``.
    """

    def __init__(
        self,
        cipher: str | dict | Sequence | Cipher,
        patch_size: int | None = None,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        plain_mean: Sequence[float] | None = None,
        plain_std: Sequence[float] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(cipher, patch_size, mean=mean, std=std, **kwargs)
        self._step: int | None = None
        if self.batch_cipher is None:
            raise ConfigError(f'{self._name} needs a `cipher`, the one that the student learns')
        if (plain_mean is None) != (plain_std is None) or (plain_mean and mean is None):
            raise ConfigError(
                f'{self._name}: `plain_mean` and `plain_std` come together, beside `mean` and `std`'
            )
        for name, value in (('plain_mean', plain_mean or mean), ('plain_std', plain_std or std)):
            table = None if value is None else torch.tensor(value).view(-1, 1, 1)
            self.register_buffer(name, table, persistent=False)

    def _rng(self, training: bool) -> RNG:
        step = MessageHub.get_current_instance().get_info('iter', 0)
        if self._step != step:
            self._step = step
            self._rngs.clear()
        return super()._rng(training)

    @torch.no_grad()
    def _model_inputs(
        self, images: Tensor, training: bool
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int]]:
        """The plain and the encrypted batch, and which plain patch each slot holds, (B, N)."""
        cipher = self.batch_cipher
        drawn = cipher.draw(images.shape, self._rng(training), images.device)
        encrypted = cipher.apply(images, drawn)
        num = images[0, 0].numel() // self.cipher.patch_size**2
        origins = cipher.origins(drawn, len(images), num).to(images.device)
        plain = self._normalized(images, 'plain_')
        encrypted = self._normalized(encrypted)
        return (plain, encrypted, origins), tuple(encrypted.shape[-2:])
