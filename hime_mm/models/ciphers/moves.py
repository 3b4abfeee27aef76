# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The steps that keep all values: patches, pixels or channels move."""

from functools import lru_cache

import numpy as np
import torch

from hime_mm.ciphers.steps import orient_patches
from .base import (TorchForm, draw_patch_codes, draw_permutations, patch_view,
                   register_torch)


@register_torch('shuffle')
class TorchShuffle(TorchForm):

    def draw(self, layout, batch, channels, source, device):
        return draw_permutations(batch, layout.num_patches, source, device)

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
        planes = torch.arange(
            batch * channels, device=x.device) * (rows * side * cols)
        index = (
            first.view(batch, 1, rows, 1, cols) + lines.view(1, 1, 1, side, 1)
            + planes.view(batch, channels, 1, 1, 1))
        moved = runs.index_select(0, index.view(-1))
        return moved.view(x.dtype).view(x.shape)


@lru_cache(maxsize=8)
def _orientations(side: int) -> np.ndarray:
    """Which pixel each one shows, for the eight ways: (8, P²)."""
    pixels = np.arange(side * side, dtype=np.float64).reshape(side, side)
    ways = [
        orient_patches(pixels, np.array([code]), side) for code in range(8)
    ]
    return np.stack(ways).reshape(8, -1).astype(np.int64)


@register_torch('orient')
class TorchOrient(TorchForm):

    def draw(self, layout, batch, channels, source, device):
        shape = (batch, layout.num_patches)
        return draw_patch_codes(shape, 3, source, device).long()

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
        turned = patches.gather(3, index).view(batch, channels, rows, cols,
                                               side, side)
        return turned.permute(0, 1, 2, 4, 3, 5).reshape(x.shape)


@register_torch('permute_channels')
class TorchPermuteChannels(TorchForm):

    def draw(self, layout, batch, channels, source, device):
        self.step.check_channels((channels, ))
        num = layout.num_patches
        perms = draw_permutations(batch * num, channels, source, device)
        return perms.view(batch, num, channels)

    def apply(self, x, layout, drawn):
        view = patch_view(x, layout)
        index = drawn.view(len(x), *layout.grid, -1).permute(0, 3, 1, 2)
        return view.gather(
            1, index[:, :, :, None, :, None].expand_as(view)).view(x.shape)
