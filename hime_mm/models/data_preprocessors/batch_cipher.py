# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Ciphers on batches of tensors, on whatever device these are.

The steps themselves, their order, layouts and randomness are those of
:mod:`hime_mm.ciphers`; here is the same arithmetic for many images at once,
each with a draw of its own.  The tests hold every step against it, bit by bit
for 8-bit images.
"""

from functools import lru_cache
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from hime_mm.ciphers import Cipher, PatchLayout
from hime_mm.ciphers import functional as F
from hime_mm.ciphers.randomness import (RandomSource, draw_bytes, draw_codes,
                                        draw_noise)


GREY = F.mid_grey(np.dtype(np.uint8))
WHITE = F.peak_value(np.dtype(np.uint8))


def _patches(x: Tensor, layout: PatchLayout) -> Tensor:
    """A batch as a view of shape (B, C, rows, P, cols, P)."""
    rows, cols = layout.grid
    side = layout.patch_size
    return x.contiguous().view(*x.shape[:2], rows, side, cols, side)


def _per_patch(values: Tensor, layout: PatchLayout) -> Tensor:
    """Values of shape (B, N) so that they broadcast over :func:`_patches`."""
    rows, cols = layout.grid
    return values.view(len(values), 1, rows, 1, cols, 1)


def _saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Integer results, clipped; floating-point ones as they are."""
    return x if dtype.is_floating_point else x.clamp_(0, WHITE).to(dtype)


def _draw_permutations(count: int, num: int, source: RandomSource,
                       device: torch.device) -> Tensor:
    """:func:`~hime_mm.ciphers.randomness.draw_permutations` on a device."""
    raw = np.frombuffer(
        bytearray(draw_bytes(8 * count * num, source)), np.int64)
    words = torch.from_numpy(raw).view(count, num)
    # Torch sorts signed words only: the sign bit flipped, their order is that
    # of the unsigned ones.
    words = words.to(device, non_blocking=True) ^ torch.iinfo(torch.int64).min
    return words.argsort(dim=1, stable=True)


# --- shuffle ---------------------------------------------------------------


def _draw_shuffle(step, layout, channels, batch, source, device):
    return _draw_permutations(batch, layout.num_patches, source, device)


def _shuffle(step, x, layout, perms):
    rows, cols = layout.grid
    side = layout.patch_size
    batch, channels = x.shape[:2]
    # The P pixels of one patch row, side by side in memory, move as one; as
    # few wide items where they make such.
    runs = x.contiguous().view(-1, side)
    size = x.element_size()
    if side * size % 8 == 0 and runs.storage_offset() * size % 8 == 0:
        runs = runs.view(torch.int64)
    # Row y of patch p of an image is run (p // cols · P + y) · cols + p % cols
    first = perms + perms // cols * ((side - 1) * cols)
    lines = torch.arange(side, device=x.device) * cols
    planes = torch.arange(batch * channels, device=x.device) * (rows * side *
                                                                cols)
    index = (
        first.view(batch, 1, rows, 1, cols) + lines.view(1, 1, 1, side, 1) +
        planes.view(batch, channels, 1, 1, 1))
    moved = runs.index_select(0, index.view(-1))
    return moved.view(x.dtype).view(x.shape)


# --- mix, erode, center ----------------------------------------------------


def _mix(step, x, layout, drawn):
    rows, cols = layout.grid
    g = step.num_splits
    side = layout.patch_size // g
    batch, channels = x.shape[:2]
    split = x.contiguous().view(batch, channels, rows, g, side, cols, g, side)
    if x.dtype.is_floating_point:
        mixed = split.mean(dim=(3, 6))
    else:
        total = split.sum(dim=(3, 6), dtype=torch.int32)
        mixed = ((total + g * g // 2) // (g * g)).to(x.dtype)
    if step.form == 'compact':
        return mixed.reshape(batch, channels, rows * side, cols * side)
    mixed = mixed.view(batch, channels, rows, 1, side, cols, 1, side)
    return mixed.expand_as(split).reshape(x.shape)


def _erode(step, x, layout, drawn):
    kept = slice(step.border, layout.patch_size - step.border)
    inner = _patches(x, layout)[:, :, :, kept, :, kept]
    if step.form == 'compact':
        height, width = (n * inner.shape[3] for n in layout.grid)
        return inner.reshape(*x.shape[:2], height, width)
    out = torch.full(x.shape, GREY, dtype=x.dtype, device=x.device)
    _patches(out, layout)[:, :, :, kept, :, kept] = inner
    return out


def _center(step, x, layout, drawn):
    view = _patches(x, layout)
    num = layout.patch_size**2
    if x.dtype.is_floating_point:
        mean = view.mean(dim=(3, 5), keepdim=True)
        return (view - (mean - GREY)).view(x.shape)
    total = view.sum(dim=(3, 5), keepdim=True, dtype=torch.int32)
    mean = (total + num // 2) // num
    return _saturated(view.to(torch.int16) + (GREY - mean).to(torch.int16),
                      x.dtype).view(x.shape)


# --- drop, noise -----------------------------------------------------------


def _draw_drop(step, layout, channels, batch, source, device):
    num = layout.num_patches
    order = _draw_permutations(batch, num, source, device)
    # Those that come first in the order.
    dropped = torch.zeros(batch, num, dtype=torch.bool, device=device)
    return dropped.scatter_(1, order[:, :num * step.percent // 100], True)


def _drop(step, x, layout, dropped):
    view = _patches(x, layout)
    return view.masked_fill(_per_patch(dropped, layout), GREY).view(x.shape)


def _draw_noise(step, layout, channels, batch, source, device):
    noise = draw_noise((batch, *channels, *layout.shape), step.std, source)
    return torch.from_numpy(noise).to(device, non_blocking=True)


def _noise(step, x, layout, noise):
    if x.dtype.is_floating_point:
        return x + noise
    return _saturated(x + noise, x.dtype)


# --- the steps for comparison ----------------------------------------------


def _draw_orient(step, layout, channels, batch, source, device):
    num = layout.num_patches
    codes = torch.from_numpy(draw_codes(batch * num, 3, source))
    return codes.view(batch, num).long().to(device)


@lru_cache(maxsize=8)
def _orientations(side: int) -> np.ndarray:
    """Which pixel each one shows, for the eight ways: (8, P²)."""
    pixels = np.arange(side * side, dtype=np.float64).reshape(side, side)
    ways = [
        F.orient_patches(pixels, np.array([code]), side) for code in range(8)
    ]
    return np.stack(ways).reshape(8, -1).astype(np.int64)


def _orient(step, x, layout, codes):
    rows, cols = layout.grid
    side = layout.patch_size
    table = torch.from_numpy(_orientations(side)).to(x.device)
    batch, channels = x.shape[:2]
    patches = _patches(x, layout).permute(0, 1, 2, 4, 3, 5)
    patches = patches.reshape(batch, channels, rows * cols, side * side)
    index = table[codes].unsqueeze(1).expand_as(patches)
    turned = patches.gather(3, index).view(batch, channels, rows, cols, side,
                                           side)
    return turned.permute(0, 1, 2, 4, 3, 5).reshape(x.shape)


def _draw_negate(step, layout, channels, batch, source, device):
    num = layout.num_patches
    flags = torch.from_numpy(draw_codes(batch * num, 1, source))
    return flags.view(batch, num).bool().to(device)


def _negate(step, x, layout, flags):
    view = _patches(x, layout)
    return torch.where(_per_patch(flags, layout), WHITE - view,
                       view).view(x.shape)


def _draw_permute_channels(step, layout, channels, batch, source, device):
    if not channels or channels[0] < 2:
        # The step's own error.
        step.draw(layout, channels, source)
    num = layout.num_patches
    perms = _draw_permutations(batch * num, channels[0], source, device)
    return perms.view(batch, num, channels[0])


def _permute_channels(step, x, layout, perms):
    view = _patches(x, layout)
    rows, cols = layout.grid
    index = perms.view(len(x), rows, cols, -1).permute(0, 3, 1, 2)
    return view.gather(
        1, index[:, :, :, None, :, None].expand_as(view)).view(x.shape)


_STEPS: Dict[str, Tuple[Optional[Callable], Callable]] = {
    'shuffle': (_draw_shuffle, _shuffle),
    'mix': (None, _mix),
    'erode': (None, _erode),
    'drop': (_draw_drop, _drop),
    'center': (None, _center),
    'noise': (_draw_noise, _noise),
    'orient': (_draw_orient, _orient),
    'negate': (_draw_negate, _negate),
    'permute_channels': (_draw_permute_channels, _permute_channels),
}


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
        ValueError: If the cipher makes no sense, one of its steps draws once
            for a whole data set, or has no batched form.
    """

    def __init__(self,
                 cipher: Union[str, dict, Sequence, Cipher],
                 patch_size: Optional[int] = None) -> None:
        self.cipher = Cipher.build(cipher, patch_size)
        for step in self.cipher.steps:
            if step.scope == 'dataset':
                raise ValueError(
                    f'{step.name!r} draws once for all images of a data set, '
                    'which the processes and runs of a training cannot share. '
                    'Encrypt the data set with `hime encrypt` and load it '
                    'with `hime_mm.LoadEncryptedMeta`')
            if step.name not in _STEPS:
                raise ValueError(
                    f'{step.name!r} has no form for batches on a device: use '
                    'the pipeline transform `hime_mm.Encrypt`')

    def draw(self,
             shape: Tuple[int, int, int, int],
             source: RandomSource = None,
             device: Union[str, torch.device] = 'cpu') -> List[Any]:
        """Draw all randomness for a batch, independently for each image.

        Args:
            shape (tuple[int]): Of the batch, (B, C, H, W).
            source (optional): See
                :func:`~hime_mm.ciphers.randomness.draw_bytes`. Defaults to
                None, the operating system.
            device (str | torch.device): Where the draw goes. Defaults to
                'cpu'.

        Returns:
            list: One entry per step: None, or a tensor whose first axis is
            the image. Whoever holds it can undo what can be undone.
        """
        batch, *channels = shape[:-2]
        device = torch.device(device)
        drawn = []
        for step, layout in zip(self.cipher.steps,
                                self.cipher.layouts(tuple(shape[-2:]))):
            draw = _STEPS[step.name][0]
            drawn.append(None if draw is None else draw(
                step, layout, tuple(channels), batch, source, device))
        return drawn

    def stack(self,
              draws: Sequence[Sequence],
              device: Union[str, torch.device] = 'cpu') -> List[Any]:
        """Make one draw for a batch out of those of its images.

        Args:
            draws (Sequence[Sequence]): From :meth:`Cipher.draw`, one per
                image, for shapes of (H, W) or (H, W, C).
            device (str | torch.device): Where it goes. Defaults to 'cpu'.

        Returns:
            list: What :meth:`apply` takes.
        """
        stacked = []
        for step, values in zip(self.cipher.steps, zip(*draws)):
            if values[0] is None:
                stacked.append(None)
                continue
            value = torch.from_numpy(np.stack(values))
            if step.name == 'noise':
                value = (value.permute(0, 3, 1, 2)
                         if value.ndim == 4 else value[:, None])
            elif step.name == 'orient':
                value = value.long()
            stacked.append(value.to(device))
        return stacked

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
            ValueError: If the shape or the draw does not fit.
        """
        if images.ndim != 4:
            raise ValueError('a batch has the shape (B, C, H, W), got '
                             f'{tuple(images.shape)}')
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise TypeError('images must be uint8 or floating-point on the '
                            f'0–255 scale, got {images.dtype}')
        steps = self.cipher.steps
        if len(drawn) != len(steps):
            raise ValueError(f'{self.cipher!r} has {len(steps)} steps, but '
                             f'{len(drawn)} draws were given')
        for value in drawn:
            if value is not None and len(value) != len(images):
                raise ValueError(f'a draw for {len(value)} images does not '
                                 f'fit a batch of {len(images)}')
        out = images
        for step, layout, value in zip(steps,
                                       self.cipher.layouts(
                                           tuple(images.shape[-2:])),
                                       drawn):
            out = _STEPS[step.name][1](step, out, layout, value)
        return out

    def __call__(self, images: Tensor, source: RandomSource = None) -> Tensor:
        """Draw and apply. Bytes come from the CPU: eight for each patch that
        is shuffled, two for each value of noise; the rest is on the device.
        """
        return self.apply(images,
                          self.draw(images.shape, source, images.device))

    def __repr__(self) -> str:
        return (f'BatchCipher({str(self.cipher)!r}, '
                f'patch_size={self.cipher.patch_size})')
