# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Patches to tokens, and what tokens get in place of positions."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from mmengine.utils import to_2tuple
from torch import Tensor, nn

from hime_mm.errors import ConfigError

INPUT_FORMS = ('compact', 'full')


class MixedPatchEmbed(BaseModule):
    """Patch embedding for images whose sub-patches were mixed (MI).

    The token of a patch is::

        z = W_b · gelu(W_a · y + b_a) + b_b

    where y is the average of the g x g sub-patches of a patch, W_a a
    convolution with kernel and stride P/g and W_b a 1x1 convolution. W_a is
    linear, so embedding all sub-patches of the full-size image and averaging
    them gives the same tokens: plain, tiled and compact images of one picture
    are embedded alike.

    Reference: Hao et al., "Human-imperceptible, Machine-recognizable Images",
    IJCAI 2025, MI.

    Args:
        in_channels (int): Number of image channels. Defaults to 3.
        embed_dims (int): Width D of the tokens. Defaults to 768.
        patch_size (int): Side P of a patch of the full-size image in pixels.
            Defaults to 16.
        num_splits (int): g, dividing P. Defaults to 2.
        input_form (str): What :meth:`forward` gets unless told otherwise:
            ``'compact'``, the image shrunk by g, or ``'full'``, full-size
            images, either plain (they are mixed here) or tiled. Defaults to
            'compact'.
        input_size (int | tuple[int, int]): Usual height and width of the
            *full-size* image, which fixes ``init_out_size``. Defaults to 224.
        init_cfg (dict, optional): Initialization config. Defaults to None.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: int = 768,
        patch_size: int = 16,
        num_splits: int = 2,
        input_form: str = 'compact',
        input_size: int | tuple[int, int] = 224,
        init_cfg=None,
    ) -> None:
        super().__init__(init_cfg)
        if num_splits < 1 or patch_size % num_splits:
            raise ConfigError(
                f'patches of side {patch_size} cannot be cut into '
                f'{num_splits}x{num_splits} sub-patches: choose a '
                '`num_splits` that divides `patch_size`'
            )
        self.patch_size = patch_size
        self.num_splits = num_splits
        self.input_form = input_form
        self._stride(input_form)
        sub_patch_size = patch_size // num_splits
        self.projection = nn.Conv2d(in_channels, embed_dims, sub_patch_size, stride=sub_patch_size)
        self.act = nn.GELU()
        self.mapping = nn.Conv2d(embed_dims, embed_dims, 1)
        h, w = to_2tuple(input_size)
        self.init_out_size = (-(-h // patch_size), -(-w // patch_size))

    def _stride(self, form: str) -> int:
        if form not in INPUT_FORMS:
            raise ConfigError(f'unknown `input_form` {form!r}: choose from {INPUT_FORMS}')
        return self.patch_size // (self.num_splits if form == 'compact' else 1)

    @property
    def stride(self) -> int:
        """int: Side of a patch in pixels of the images :meth:`forward` gets by default."""
        return self._stride(self.input_form)

    def forward(self, x: Tensor, input_form: str | None = None) -> tuple[Tensor, tuple[int, int]]:
        """Embed a batch of images.

        Args:
            x (Tensor): Images, shape (B, C, H, W). A size that holds no whole
                number of patches is filled up with zeros, below and right.
            input_form (str, optional): ``'compact'`` or ``'full'`` in place
                of the module's own. Defaults to None.

        Returns:
            tuple: Tokens of shape (B, N, D), row-major, and the grid (rows,
            cols).
        """
        form = input_form or self.input_form
        stride = self._stride(form)
        pad_h, pad_w = -x.shape[-2] % stride, -x.shape[-1] % stride
        if pad_h or pad_w:
            x = F.pad(x, (0, pad_w, 0, pad_h))
        x = self.projection(x)
        if form == 'full':
            x = F.avg_pool2d(x, self.num_splits)
        x = self.mapping(self.act(x))
        return x.flatten(2).transpose(1, 2), tuple(x.shape[-2:])


class ReferencePositionEncoding(BaseModule):
    """Reference-based positional encoding (RPE).

    A content-based stand-in for position: with a learnable reference r::

        z_i ← z_i + sigmoid(W_2 · relu(W_1 · (z_i - r) + b_1) + b_2)

    Each token is treated alone, so permuting the tokens permutes the output.

    Reference: Hao et al., "Human-imperceptible, Machine-recognizable Images",
    IJCAI 2025, RPE.

    Args:
        embed_dims (int): Width D of the tokens.
        init_cfg (dict, optional): Initialization config. Defaults to None.
    """

    def __init__(self, embed_dims: int, init_cfg=None) -> None:
        super().__init__(init_cfg)
        self.reference = nn.Parameter(torch.empty(1, 1, embed_dims))
        self.ref_encoding = nn.Sequential(
            nn.Linear(embed_dims, embed_dims),
            nn.ReLU(inplace=True),
            nn.Linear(embed_dims, embed_dims),
            nn.Sigmoid(),
        )
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
