# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Several layers of a plain ViT as one map, or a few of several sizes."""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule, build_norm_layer
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from hime_mm.errors import ConfigError
from hime_mm.registry import MODELS

SCALES = (2, 1, 0.5)
#: Of each token by itself, so that neither padding nor other images matter.
NORM = dict(type='mmpretrain.LN2d', eps=1e-6)
LAYER = dict(norm_cfg=NORM, act_cfg=dict(type='SiLU'))


class C2f(BaseModule):
    """YOLOv8's C2f block without shortcuts: a chain of convolutions, all of whose links count.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output; half as many inside.
        num_blocks (int): Pairs of 3x3 convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int) -> None:
        super().__init__()
        mid = out_channels // 2
        self.expand = ConvModule(in_channels, 2 * mid, 1, **LAYER)
        self.blocks = ModuleList(
            ModuleList(ConvModule(mid, mid, 3, padding=1, **LAYER) for _ in range(2))
            for _ in range(num_blocks)
        )
        self.fuse = ConvModule((2 + num_blocks) * mid, out_channels, 1, **LAYER)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """Run on (B, C, H, W); `padding`, bool (B, 1, H, W), is zero to each convolution."""
        parts = list(self.expand(x).chunk(2, dim=1))
        for block in self.blocks:
            x = parts[-1]
            for conv in block:
                x = conv(x.masked_fill(padding, 0))
            parts.append(x)
        return self.fuse(torch.cat(parts, dim=1))


@MODELS.register_module()
class ViTProjector(BaseModule):
    """LW-DETR's projector: from the layers of a plain ViT to the maps of a detector.

    The maps of several layers, all on the grid of the patches, are normalised, resized to each
    scale, concatenated and mixed by a :class:`C2f` block. Where the backbone gives zeros, as
    :class:`PEViT` and :class:`TIMMPEViT` do, there is padding: it stays zero and reaches no
    token, so that an image in a padded batch gives what it would give alone. That is why norms
    are those of single tokens, where LW-DETR has batch norm; that of the inputs is an addition.

    Neighbouring tokens are mixed: for images whose patches stay in place.

    Reference: Chen et al., "LW-DETR: A Transformer Replacement to YOLO for Real-Time Detection",
    2024 (arXiv 2406.03459); its scales are those of Li et al., "Exploring Plain Vision
    Transformer Backbones for Object Detection", ECCV 2022.

    Args:
        in_channels (Sequence[int]): Channels of each map that comes in, such as ``[384] * 4``
            for four layers of a ViT-S.
        out_channels (int): Channels of each map that is given. Defaults to 256.
        scales (Sequence[float]): Of each of these, its size, as a factor on that of the grid: 2,
            1 or 0.5, which for patches of 16 pixels is a stride of 8, 16 or 32. Defaults to (1,).
        num_blocks (int): Pairs of convolutions in each block. Defaults to 3.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If there is no such scale.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        scales: Sequence[float] = (1,),
        num_blocks: int = 3,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not scales or not set(scales) <= set(SCALES):
            raise ConfigError(f'unknown `scales` {tuple(scales)}: choose from {SCALES}')
        self.scales = tuple(scales)
        self.norms = ModuleList(build_norm_layer(NORM, width)[1] for width in in_channels)
        self.resizers, self.blocks, self.out_norms = ModuleList(), ModuleList(), ModuleList()
        for scale in self.scales:
            self.resizers.append(ModuleList(self._resizer(width, scale) for width in in_channels))
            width = sum(w // 2 if scale == 2 else w for w in in_channels)
            self.blocks.append(C2f(width, out_channels, num_blocks))
            self.out_norms.append(build_norm_layer(NORM, out_channels)[1])

    @staticmethod
    def _resizer(width: int, scale: float) -> nn.Module:
        if scale == 2:
            return nn.ConvTranspose2d(width, width // 2, 2, stride=2)
        if scale == 1:
            return nn.Identity()
        return ConvModule(width, width, 3, stride=2, padding=1, **LAYER)

    @staticmethod
    def _resized(padding: Tensor, scale: float) -> Tensor:
        if scale == 2:
            return padding.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
        return padding if scale == 1 else padding[..., ::2, ::2]

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Project.

        Args:
            inputs (tuple[Tensor]): Maps of several layers, each (B, C, rows, cols), zero where
                there is padding.

        Returns:
            tuple[Tensor]: For each scale a map, (B, ``out_channels``, rows, cols) times the
            scale, rounded up; zero where there is padding.
        """
        if len(inputs) != len(self.norms):
            raise ConfigError(
                f'the projector is for {len(self.norms)} maps, but the backbone gives '
                f'{len(inputs)}: give `in_channels` one entry for each of its `out_indices`'
            )
        padding = inputs[-1].eq(0).all(dim=1, keepdim=True)
        inputs = [
            norm(x).masked_fill(padding, 0) for norm, x in zip(self.norms, inputs, strict=True)
        ]
        outs = []
        for scale, resizers, block, norm in zip(
            self.scales, self.resizers, self.blocks, self.out_norms, strict=True
        ):
            there = self._resized(padding, scale)
            x = torch.cat([f(x) for f, x in zip(resizers, inputs, strict=True)], dim=1)
            outs.append(norm(block(x, there)).masked_fill(there, 0))
        return tuple(outs)
