# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Images of several sizes in one padded batch, seen as tokens."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import MultiheadAttention, resize_pos_embed
from torch import Tensor

from hime_mm.errors import ConfigError

Grid = tuple[int, int]


def image_shapes(data_samples: Sequence, batch_size: int) -> list[Grid]:
    """Height and width of each image in a padded batch, in pixels."""
    if len(data_samples) != batch_size:
        raise ConfigError(f'{len(data_samples)} data samples for a batch of {batch_size} images')
    shapes = [sample.metainfo.get('img_shape') for sample in data_samples]
    if None in shapes:
        raise ConfigError(
            'a data sample has no `img_shape`, which tells '
            'image from padding: keep it in the `meta_keys` '
            'of the packing transform'
        )
    return shapes


def token_grids(batch_shape: Grid, img_shapes: Sequence[Grid], patch_size: int) -> list[Grid]:
    """Rows and columns of tokens that show something of each image.

    Sizes are heights and widths in pixels; an image is at the top left of
    the batch, and one that is larger is a :class:`ConfigError`.
    """
    for shape in img_shapes:
        if shape[0] > batch_shape[0] or shape[1] > batch_shape[1]:
            raise ConfigError(
                f'`img_shape` {tuple(shape[:2])} is larger than the batch '
                f'{tuple(batch_shape)}: a transform after the encryption '
                'changed the image without updating `img_shape`'
            )
    return [(-(-shape[0] // patch_size), -(-shape[1] // patch_size)) for shape in img_shapes]


def key_mask(grid: Grid, token_grids: Sequence[Grid], device: torch.device) -> Tensor | None:
    """Which tokens of a padded batch hold a pixel of their image.

    Of the rows and columns of the batch and of each image; bool, shape (B,
    N), row-major. None where all do.
    """
    if all(size == tuple(grid) for size in token_grids):
        return None
    sizes = torch.tensor(token_grids, device=device)
    rows = torch.arange(grid[0], device=device) < sizes[:, :1]
    cols = torch.arange(grid[1], device=device) < sizes[:, 1:]
    return (rows[:, :, None] & cols[:, None, :]).flatten(1)


class KnowsPadding:
    """A backbone that can tell image from padding.

    By the data samples that its ``forward`` gets, or those that it was told
    of: most detectors call a backbone with images only. It has a
    ``patch_stride``.
    """

    _told: Sequence | None = None

    @contextmanager
    def told(self, data_samples: Sequence | None) -> Iterator[None]:
        """Tell of the data samples of the batches that come meanwhile.

        An attribute, not a variable of the context or thread: what compiles
        models watches those only.
        """
        before, self._told = self._told, data_samples
        try:
            yield
        finally:
            self._told = before

    def _token_grids(self, x: Tensor, data_samples: Sequence | None) -> list[Grid] | None:
        """Of each image its own rows and columns of tokens, None where padding is not known."""
        samples = self._told if data_samples is None else data_samples
        if samples is None:
            return None
        shapes = image_shapes(samples, x.shape[0])
        return token_grids(x.shape[-2:], shapes, self.patch_stride)


def masked_attention(attn: MultiheadAttention, x: Tensor, key_mask: Tensor) -> Tensor:
    """Run MMPretrain's attention on tokens (B, L, D) with some keys left out.

    `key_mask`, bool (B, L), is True where a token may be attended to, at
    least once in a row. MMPretrain's module takes no mask. This one is
    broadcast over heads and queries by the fused kernels: no map of tokens x
    tokens is made for it.
    """
    b, length, _ = x.shape
    q, k, v = (
        attn.qkv(x).reshape(b, length, 3, attn.num_heads, attn.head_dims).permute(2, 0, 3, 1, 4)
    )
    out = attn.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=key_mask[:, None, None, :],
        dropout_p=attn.attn_drop if attn.training else 0.0,
    )
    out = attn.proj(out.transpose(1, 2).reshape(b, length, attn.embed_dims))
    out = attn.out_drop(attn.gamma1(attn.proj_drop(out)))
    return v.squeeze(1) + out if attn.v_shortcut else out


class MaskedEncoderLayer(TransformerEncoderLayer):
    """MMPretrain's layer, which may leave keys out.

    All of it is in its ``forward``: what wraps layers (FSDP) gathers their
    weights there.
    """

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Run on tokens (B, L, D), with those keys that :func:`masked_attention` tells."""
        if key_mask is None:
            return super().forward(x)
        x = x + masked_attention(self.attn, self.ln1(x), key_mask)
        return self.ffn(self.ln2(x), identity=x)


def positions_on_grids(
    learned: Tensor,
    table_grid: Grid,
    grid: Grid,
    token_grids: Sequence[Grid] | None,
    mode: str,
    num_extra_tokens: int,
) -> Tensor:
    """Learned positions, interpolated to each image's own grid.

    An image in a padded batch thus has the positions it has alone. The table
    (1, num_extra_tokens + N, D) is of the grid `table_grid`; `grid` is the batch's,
    all of it image without `token_grids`. The result, of shape (B or 1,
    num_extra_tokens + rows * cols, D), is zero where there is padding.
    """

    def on_grid(size: Grid) -> Tensor:
        return resize_pos_embed(
            learned, table_grid, size, mode=mode, num_extra_tokens=num_extra_tokens
        )

    if token_grids is None:
        return on_grid(grid)
    tables = {}
    for size in set(token_grids):
        table = on_grid(size)
        # Padding gets zeros: it is masked anyway.
        patches = F.pad(
            table[:, num_extra_tokens:].reshape(1, *size, -1),
            (0, 0, 0, grid[1] - size[1], 0, grid[0] - size[0]),
        )
        tables[size] = torch.cat((table[:, :num_extra_tokens], patches.flatten(1, 2)), dim=1)
    return torch.cat([tables[size] for size in token_grids])


def mean_token(patches: Tensor, mask: Tensor | None) -> Tensor:
    """Of tokens (B, N, D), those that ``mask``, bool (B, N), leaves in, if there is one."""
    if mask is None:
        return patches.mean(dim=1)
    # Half precision neither holds the sum nor counts so far.
    wide = torch.promote_types(patches.dtype, torch.float)
    weight = mask.unsqueeze(-1).to(wide)
    return ((patches.to(wide) * weight).sum(1) / weight.sum(1)).to(patches.dtype)
