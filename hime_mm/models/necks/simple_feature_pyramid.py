# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""ViTDet's pyramid on the one map of a plain ViT."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, ModuleList, Sequential
from torch import Tensor, nn

from hime_mm.errors import ConfigError
from hime_mm.registry import MODELS

#: What can be made, and by how many doublings of the sides.
DOUBLINGS = {4: 2, 2: 1, 1: 0, 0.5: -1, 0.25: -2}
#: Over the channels of each point.
LAYER_NORM = dict(type='mmpretrain.LN2d', eps=1e-6)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """ViTDet's pyramid: several maps, each made of the last map of a plain ViT.

    For a :class:`PEViT` or :class:`TIMMPEViT` with ``out_type='featmap'``,
    whose patches stay in place (plain, MI). A level has the stride of the
    backbone's patches divided by its factor: 4, 8, 16 and 32 pixels for
    patches of 16, and half of them on compact MI.

    Reference: Li et al., "Exploring Plain Vision Transformer Backbones for
    Object Detection", ECCV 2022.

    Args:
        in_channels (int): Width of the backbone.
        out_channels (int): Channels of each level. Defaults to 256.
        scale_factors (Sequence[float]): Sides of the levels in sides of the
            backbone's map, finest first; each is 4, 2, 1, 0.5 or 0.25.
            Sides that are halved are rounded up. Defaults to
            (4.0, 2.0, 1.0, 0.5).
        num_outs (int, optional): Number of levels. Those that no factor
            makes take every second point of the level before, as in
            MMDetection's ``FPN``. Defaults to None, one for each factor.
        norm_cfg (dict, optional): Normalization of the layers. Defaults to
            ``dict(type='mmpretrain.LN2d', eps=1e-6)``, ViTDet's.
        init_cfg (dict | list[dict], optional): Initialization config.
            Defaults to None.

    Raises:
        ConfigError: If there is no factor or one that cannot be made, or
            ``num_outs`` is smaller than the number of factors.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        scale_factors: Sequence[float] = (4.0, 2.0, 1.0, 0.5),
        num_outs: int | None = None,
        norm_cfg: dict | None = LAYER_NORM,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        unknown = [factor for factor in scale_factors if factor not in DOUBLINGS]
        if unknown or not scale_factors:
            raise ConfigError(
                f'`scale_factors` {tuple(scale_factors)} cannot be made: choose some of '
                f'{tuple(DOUBLINGS)}'
            )
        self.num_outs = len(scale_factors) if num_outs is None else num_outs
        if self.num_outs < len(scale_factors):
            raise ConfigError(
                f'`num_outs` is {num_outs}, but there are {len(scale_factors)} `scale_factors`: '
                'leave some of them out, or set `num_outs` to at least their number'
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.scale_factors = tuple(scale_factors)
        self.norm_cfg = norm_cfg
        self.levels = ModuleList(self._level(DOUBLINGS[factor]) for factor in scale_factors)

    def _level(self, doublings: int) -> Sequential:
        layers, width = [], self.in_channels
        for left in range(doublings, 0, -1):
            # Between two of them, and only there, a norm and an activation.
            between = (self.norm_cfg, dict(type='GELU')) if left > 1 else (None, None)
            layers.append(
                ConvModule(
                    width,
                    width // 2,
                    kernel_size=2,
                    stride=2,
                    bias=True,
                    conv_cfg=dict(type='deconv'),
                    norm_cfg=between[0],
                    act_cfg=between[1],
                )
            )
            width //= 2
        layers += [nn.MaxPool2d(2, ceil_mode=True) for _ in range(-doublings)]
        common = dict(norm_cfg=self.norm_cfg, act_cfg=None)
        layers.append(ConvModule(width, self.out_channels, 1, **common))
        layers.append(ConvModule(self.out_channels, self.out_channels, 3, padding=1, **common))
        return Sequential(*layers)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Make the levels.

        Args:
            inputs (Sequence[Tensor]): Maps of the backbone, each of shape (B,
                in_channels, rows, cols). The last is used.

        Returns:
            tuple[Tensor]: Of each level (B, out_channels, rows, cols), finest
            first.
        """
        outs = [level(inputs[-1]) for level in self.levels]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)
