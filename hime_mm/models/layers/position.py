# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn


class ReferencePositionEncoding(BaseModule):
    r"""Reference-based positional encoding (RPE).

    A content-based stand-in for position: with a learnable reference
    :math:`r`,

    .. math::
        z_i \leftarrow z_i + \sigma(W_2\,\mathrm{relu}(W_1 (z_i - r) + b_1)
        + b_2).

    Each token is treated alone, so permuting the tokens permutes the output.

    Source: Hao et al., "Human-imperceptible, Machine-recognizable Images",
    IJCAI 2025, RPE.

    Args:
        embed_dims (int): Width D of the tokens.
        init_cfg (dict, optional): Initialization config. Defaults to None.
    """

    def __init__(self, embed_dims: int, init_cfg=None) -> None:
        super().__init__(init_cfg)
        self.reference = nn.Parameter(torch.empty(1, 1, embed_dims))
        self.ref_encoding = nn.Sequential(
            nn.Linear(embed_dims, embed_dims), nn.ReLU(inplace=True),
            nn.Linear(embed_dims, embed_dims), nn.Sigmoid())
        trunc_normal_(self.reference, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Add the encoding to patch tokens.

        Args:
            x (Tensor): Patch tokens without class token, shape (B, N, D).

        Returns:
            Tensor: Shape (B, N, D).
        """
        first, act, second, gate = self.ref_encoding
        # W1 (z - r) + b1 = W1 z + (b1 - W1 r): no second copy of the tokens.
        bias = F.linear(-self.reference.flatten(), first.weight, first.bias)
        return x + gate(second(act(F.linear(x, first.weight, bias))))
