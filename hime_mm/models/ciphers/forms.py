# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The torch forms of the steps.

First those that move patches, pixels or channels, then those that change values.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from hime_mm.ciphers.pixels import mid_grey, peak_value
from hime_mm.ciphers.randomness import draw_noise
from hime_mm.ciphers.steps import orient_patches

from .base import (
    TorchForm,
    draw_patch_codes,
    draw_permutations,
    patch_view,
    per_patch,
    register_torch,
)
from .prediction import compose, predict_mixed, predict_patch

GREY = mid_grey(np.dtype(np.uint8))
WHITE = peak_value(np.dtype(np.uint8))


@register_torch('shuffle')
class TorchShuffle(TorchForm):
    """The torch form of :class:`~hime_mm.ciphers.Shuffle`."""

    def draw(self, layout, batch, channels, rng, device):
        return draw_permutations(batch, layout.num_patches, rng, device)

    def apply(self, x, layout, drawn):
        rows, cols = layout.grid
        side = layout.patch_size
        batch, channels = x.shape[:2]
        # The P pixels of one patch row, side by side in memory, move as one;
        # as few wide items where they make such.
        runs = x.contiguous().view(-1, side)
        size = x.element_size()
        if side * size % 8 == 0 and runs.storage_offset() * size % 8 == 0:
            runs = runs.view(torch.int64)
        # Row y of patch p of an image is run (p // cols · P + y) · cols
        # + p % cols
        first = drawn + drawn // cols * ((side - 1) * cols)
        lines = torch.arange(side, device=x.device) * cols
        planes = torch.arange(batch * channels, device=x.device) * (rows * side * cols)
        index = (
            first.view(batch, 1, rows, 1, cols)
            + lines.view(1, 1, 1, side, 1)
            + planes.view(batch, channels, 1, 1, 1)
        )
        moved = runs.index_select(0, index.view(-1))
        return moved.view(x.dtype).view(x.shape)

    def trace(self, origins, drawn):
        return origins.gather(1, drawn)


@lru_cache(maxsize=8)
def _orientations(side: int) -> np.ndarray:
    """Which pixel each one shows, for the eight orientations: (8, P²)."""
    pixels = np.arange(side * side, dtype=np.float64).reshape(side, side)
    orientations = [orient_patches(pixels, np.array([code]), side) for code in range(8)]
    return np.stack(orientations).reshape(8, -1).astype(np.int64)


@register_torch('orient')
class TorchOrient(TorchForm):
    """The torch form of :class:`~hime_mm.ciphers.Orient`."""

    def draw(self, layout, batch, channels, rng, device):
        shape = (batch, layout.num_patches)
        return draw_patch_codes(shape, 3, rng, device).long()

    def stack(self, draws):
        return super().stack(draws).long()

    def apply(self, x, layout, drawn):
        rows, cols = layout.grid
        side = layout.patch_size
        table = torch.from_numpy(_orientations(side)).to(x.device)
        batch, channels = x.shape[:2]
        patches = patch_view(x, layout).permute(0, 1, 2, 4, 3, 5)
        patches = patches.reshape(batch, channels, rows * cols, side * side)
        index = table[drawn].unsqueeze(1).expand_as(patches)
        turned = patches.gather(3, index).view(batch, channels, rows, cols, side, side)
        return turned.permute(0, 1, 2, 4, 3, 5).reshape(x.shape)


@register_torch('permute_channels')
class TorchPermuteChannels(TorchForm):
    """The torch form of :class:`~hime_mm.ciphers.PermuteChannels`."""

    def draw(self, layout, batch, channels, rng, device):
        self.step.check_channels((channels,))
        num = layout.num_patches
        perms = draw_permutations(batch * num, channels, rng, device)
        return perms.view(batch, num, channels)

    def apply(self, x, layout, drawn):
        view = patch_view(x, layout)
        index = drawn.view(x.shape[0], *layout.grid, -1).permute(0, 3, 1, 2)
        return view.gather(1, index[:, :, :, None, :, None].expand_as(view)).view(x.shape)


def _saturate(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Integer results, clipped; floating-point ones as they are."""
    return x if dtype.is_floating_point else x.clamp_(0, WHITE).to(dtype)


@register_torch('mix')
class TorchMix(TorchForm):
    """The torch form of :class:`~hime_mm.ciphers.Mix`."""

    def apply(self, x, layout, drawn):
        rows, cols = layout.grid
        g = self.step.num_splits
        side = layout.patch_size // g
        batch, channels = x.shape[:2]
        split = x.contiguous().view(batch, channels, rows, g, side, cols, g, side)
        if x.dtype.is_floating_point:
            mixed = split.mean(dim=(3, 6))
        else:
            total = split.sum(dim=(3, 6), dtype=torch.int32)
            mixed = ((total + g * g // 2) // (g * g)).to(x.dtype)
        if self.step.form == 'compact':
            return mixed.reshape(batch, channels, rows * side, cols * side)
        mixed = mixed.view(batch, channels, rows, 1, side, cols, 1, side)
        return mixed.expand_as(split).reshape(x.shape)

    def embed(self, weight, centred):
        g = self.step.num_splits
        mixed = compose(weight, predict_mixed(weight.shape[-1], g, centred))
        return mixed if self.step.form == 'compact' else mixed.repeat(1, 1, g, g) / g**2


@register_torch('erode')
class TorchErode(TorchForm):
    """The torch form of :class:`~hime_mm.ciphers.Erode`."""

    def apply(self, x, layout, drawn):
        kept = slice(self.step.border, layout.patch_size - self.step.border)
        inner = patch_view(x, layout)[:, :, :, kept, :, kept]
        if self.step.form == 'compact':
            height, width = (n * inner.shape[3] for n in layout.grid)
            return inner.reshape(*x.shape[:2], height, width)
        out = torch.full_like(x, GREY, memory_format=torch.contiguous_format)
        patch_view(out, layout)[:, :, :, kept, :, kept] = inner
        return out

    def embed(self, weight, centred):
        border = self.step.border
        inside = compose(weight, predict_patch(weight.shape[-1], border, centred))
        return inside if self.step.form == 'compact' else F.pad(inside, (border,) * 4)


@register_torch('drop')
class TorchDrop(TorchForm):
    """The torch form of :class:`~hime_mm.ciphers.Drop`."""

    def draw(self, layout, batch, channels, rng, device):
        num = layout.num_patches
        order = draw_permutations(batch, num, rng, device)
        # Those that come first in the order.
        dropped = torch.zeros(batch, num, dtype=torch.bool, device=device)
        return dropped.scatter_(1, order[:, : num * self.step.percent // 100], True)

    def apply(self, x, layout, drawn):
        view = patch_view(x, layout)
        return view.masked_fill(per_patch(drawn, layout), GREY).view(x.shape)

    def trace(self, origins, drawn):
        return origins.masked_fill(drawn, -1)


@register_torch('center')
class TorchCenter(TorchForm):
    """The torch form of :class:`~hime_mm.ciphers.Center`."""

    def apply(self, x, layout, drawn):
        view = patch_view(x, layout)
        num = layout.patch_size**2
        if x.dtype.is_floating_point:
            mean = view.mean(dim=(3, 5), keepdim=True)
            return (view - (mean - GREY)).view(x.shape)
        total = view.sum(dim=(3, 5), keepdim=True, dtype=torch.int32)
        shift = (GREY - (total + num // 2) // num).to(torch.int16)
        return _saturate(view.to(torch.int16) + shift, x.dtype).view(x.shape)

    def embed(self, weight, centred):
        return weight - weight.mean(dim=(2, 3), keepdim=True)


@register_torch('noise')
class TorchNoise(TorchForm):
    """The torch form of :class:`~hime_mm.ciphers.Noise`."""

    def draw(self, layout, batch, channels, rng, device):
        noise = draw_noise((batch, channels, *layout.shape), self.step.std, rng)
        return torch.from_numpy(noise).to(device, non_blocking=True)

    def stack(self, draws):
        noise = super().stack(draws)
        return noise.permute(0, 3, 1, 2) if noise.ndim == 4 else noise[:, None]

    def apply(self, x, layout, drawn):
        return _saturate(x + drawn, x.dtype)


@register_torch('negate')
class TorchNegate(TorchForm):
    """The torch form of :class:`~hime_mm.ciphers.Negate`."""

    def draw(self, layout, batch, channels, rng, device):
        shape = (batch, layout.num_patches)
        return draw_patch_codes(shape, 1, rng, device).bool()

    def apply(self, x, layout, drawn):
        view = patch_view(x, layout)
        return torch.where(per_patch(drawn, layout), WHITE - view, view).view(x.shape)
