# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A cipher for batches on a device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hime_mm.ciphers import Cipher
from hime_mm.ciphers.randomness import RNG
from hime_mm.errors import CipherError, PictureError

from .base import FORMS


class BatchCipher:
    """A cipher for batches of images on a device, each with its own draw.

    For 8-bit images :meth:`apply` gives exactly what :meth:`Cipher.apply`
    gives for each of them, for floating-point ones up to rounding.

    Args:
        cipher (str | dict | Sequence | :obj:`Cipher`): See
            :meth:`Cipher.build`.
        patch_size (int, optional): Side of a patch in pixels. None is the
            cipher's own, or 16. Defaults to None.

    Raises:
        CipherError: If the cipher makes no sense, one of its steps draws once
            for a whole data set, or has no batched form.
    """

    def __init__(
        self, cipher: str | dict | Sequence | Cipher, patch_size: int | None = None
    ) -> None:
        self.cipher = Cipher.build(cipher, patch_size)
        self.cipher.check_unshared()
        for step in self.cipher.steps:
            if step.name not in FORMS:
                raise CipherError(
                    f'{step.name!r} has no form for batches on a device: use '
                    'the pipeline transform `hime_mm.Encrypt`'
                )
        self._forms = [FORMS[step.name](step) for step in self.cipher.steps]

    def draw(
        self,
        shape: tuple[int, int, int, int],
        rng: RNG = None,
        device: str | torch.device = 'cpu',
    ) -> list[Any]:
        """Draw all randomness for a batch, independently for each image.

        Args:
            shape (tuple[int]): Of the batch, (B, C, H, W).
            rng (optional): See
                :func:`~hime_mm.ciphers.randomness.draw_bytes`. Defaults to
                None, the operating system.
            device (str | torch.device): Where the draw goes. Defaults to
                'cpu'.

        Returns:
            list: One entry per step: None, or a tensor whose first axis is
            the image. Whoever holds it can undo what can be undone.
        """
        batch, channels, height, width = shape
        layouts = self.cipher.layouts((height, width))
        return [
            form.draw(layout, batch, channels, rng, torch.device(device))
            for form, layout in zip(self._forms, layouts, strict=False)
        ]

    def stack(self, draws: Sequence[Sequence], device: str | torch.device = 'cpu') -> list[Any]:
        """Make one draw for a batch out of those of its images.

        Args:
            draws (Sequence[Sequence]): From :meth:`Cipher.draw`, one per
                image, for shapes of (H, W) or (H, W, C).
            device (str | torch.device): Where it goes. Defaults to 'cpu'.

        Returns:
            list: What :meth:`apply` takes.
        """
        return [
            None if values[0] is None else form.stack(values).to(device)
            for form, values in zip(self._forms, zip(*draws, strict=True), strict=True)
        ]

    def apply(self, images: Tensor, drawn: Sequence) -> Tensor:
        """Encrypt a batch, deterministically.

        Args:
            images (Tensor): Shape (B, C, H, W), H and W multiples of the
                patch size; uint8, or floating-point on the 0–255 scale.
            drawn (Sequence): From :meth:`draw` or :meth:`stack` for this
                shape, on the same device.

        Returns:
            Tensor: A new batch, (B, C, H', W'), same dtype.

        Raises:
            TypeError: If the dtype is not supported.
            PictureError: If the shape does not fit.
            CipherError: If the draw does not fit.
        """
        if images.ndim != 4:
            raise PictureError(f'a batch has the shape (B, C, H, W), got {tuple(images.shape)}')
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise TypeError(
                f'images must be uint8 or floating-point on the 0–255 scale, got {images.dtype}'
            )
        steps = self.cipher.drawn_steps(images.shape[-2:], drawn)
        for form, (_, layout, value) in zip(self._forms, steps, strict=True):
            if value is not None and value.shape[0] != images.shape[0]:
                raise CipherError(
                    f'a draw for {value.shape[0]} images does not fit a batch of {images.shape[0]}'
                )
            images = form.apply(images, layout, value)
        return images

    def origins(self, drawn: Sequence, batch: int, num_patches: int) -> Tensor:
        """Which patch of the plain image each slot of the encrypted one holds.

        Args:
            drawn (Sequence): From :meth:`draw` or :meth:`stack`. What comes
                out is as secret.
            batch (int): Number of images.
            num_patches (int): Of each image.

        Returns:
            Tensor: int64, shape (B, N), row-major slots, on the device of the
            draw; -1 where the patch was dropped.
        """
        device = next((value.device for value in drawn if value is not None), None)
        origins = torch.arange(num_patches, device=device).repeat(batch, 1)
        for form, value in zip(self._forms, drawn, strict=True):
            origins = form.trace(origins, value)
        return origins

    def __call__(self, images: Tensor, rng: RNG = None) -> Tensor:
        """Draw and apply.

        Bytes come from the CPU: eight for each patch that is shuffled, two for each value of
        noise; the rest is on the device.
        """
        return self.apply(images, self.draw(images.shape, rng, images.device))

    def __repr__(self) -> str:
        return f'BatchCipher({str(self.cipher)!r}, patch_size={self.cipher.patch_size})'
