# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The steps that keep all places: values change, or go."""

import numpy as np
import torch

from hime_mm.ciphers.pixels import mid_grey, peak_value
from hime_mm.ciphers.randomness import draw_noise
from .base import (TorchForm, draw_patch_codes, draw_permutations, patch_view,
                   per_patch, register_torch)

GREY = mid_grey(np.dtype(np.uint8))
WHITE = peak_value(np.dtype(np.uint8))


def _saturated(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Integer results, clipped; floating-point ones as they are."""
    return x if dtype.is_floating_point else x.clamp_(0, WHITE).to(dtype)


@register_torch('mix')
class TorchMix(TorchForm):

    def apply(self, x, layout, drawn):
        rows, cols = layout.grid
        g = self.step.num_splits
        side = layout.patch_size // g
        batch, channels = x.shape[:2]
        split = x.contiguous().view(batch, channels, rows, g, side, cols, g,
                                    side)
        if x.dtype.is_floating_point:
            mixed = split.mean(dim=(3, 6))
        else:
            total = split.sum(dim=(3, 6), dtype=torch.int32)
            mixed = ((total + g * g // 2) // (g * g)).to(x.dtype)
        if self.step.form == 'compact':
            return mixed.reshape(batch, channels, rows * side, cols * side)
        mixed = mixed.view(batch, channels, rows, 1, side, cols, 1, side)
        return mixed.expand_as(split).reshape(x.shape)


@register_torch('erode')
class TorchErode(TorchForm):

    def apply(self, x, layout, drawn):
        kept = slice(self.step.border, layout.patch_size - self.step.border)
        inner = patch_view(x, layout)[:, :, :, kept, :, kept]
        if self.step.form == 'compact':
            height, width = (n * inner.shape[3] for n in layout.grid)
            return inner.reshape(*x.shape[:2], height, width)
        out = torch.full_like(
            x, GREY, memory_format=torch.contiguous_format)
        patch_view(out, layout)[:, :, :, kept, :, kept] = inner
        return out


@register_torch('drop')
class TorchDrop(TorchForm):

    def draw(self, layout, batch, channels, source, device):
        num = layout.num_patches
        order = draw_permutations(batch, num, source, device)
        # Those that come first in the order.
        dropped = torch.zeros(batch, num, dtype=torch.bool, device=device)
        return dropped.scatter_(1, order[:, :num * self.step.percent // 100],
                                True)

    def apply(self, x, layout, drawn):
        view = patch_view(x, layout)
        return view.masked_fill(per_patch(drawn, layout), GREY).view(x.shape)


@register_torch('center')
class TorchCenter(TorchForm):

    def apply(self, x, layout, drawn):
        view = patch_view(x, layout)
        num = layout.patch_size**2
        if x.dtype.is_floating_point:
            mean = view.mean(dim=(3, 5), keepdim=True)
            return (view - (mean - GREY)).view(x.shape)
        total = view.sum(dim=(3, 5), keepdim=True, dtype=torch.int32)
        shift = (GREY - (total + num // 2) // num).to(torch.int16)
        return _saturated(view.to(torch.int16) + shift, x.dtype).view(x.shape)


@register_torch('noise')
class TorchNoise(TorchForm):

    def draw(self, layout, batch, channels, source, device):
        noise = draw_noise((batch, channels, *layout.shape), self.step.std,
                           source)
        return torch.from_numpy(noise).to(device, non_blocking=True)

    def stack(self, draws):
        noise = super().stack(draws)
        return noise.permute(0, 3, 1, 2) if noise.ndim == 4 else noise[:, None]

    def apply(self, x, layout, drawn):
        return _saturated(x + drawn, x.dtype)


@register_torch('negate')
class TorchNegate(TorchForm):

    def draw(self, layout, batch, channels, source, device):
        shape = (batch, layout.num_patches)
        return draw_patch_codes(shape, 1, source, device).bool()

    def apply(self, x, layout, drawn):
        view = patch_view(x, layout)
        return torch.where(per_patch(drawn, layout), WHITE - view,
                           view).view(x.shape)
