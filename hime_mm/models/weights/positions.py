# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Tables of positions: of which grid they are, and on another one."""

import math

import torch
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor

from hime_mm.errors import ConversionError

Grid = tuple[int, int]


def grid_of(name: str, count: int, src_grid: Grid | None, target: Grid | None) -> Grid:
    """Rows and columns of a number of positions of patches.

    Where `src_grid` does not tell, they are of a square, or else of the
    model's grid, `target`.
    """
    side = math.isqrt(max(count, 0))
    grid = src_grid or ((side, side) if side * side == count else target)
    if grid is not None and count > 0 and grid[0] * grid[1] == count:
        return tuple(grid)
    why = (
        f'grid of {src_grid[0]}x{src_grid[1]}: give'
        if src_grid
        else 'square, and does not say of which grid: load it into a model for '
        'images of the size it was trained with, and save that, or, for '
        'PEViT, convert it and give'
    )
    raise ConversionError(
        f'{name} of the checkpoint holds {count} patch positions, which is no '
        f'{why} the height and width of the images it was trained with '
        '(`img_size`)'
    )


def find_grid(
    name: str,
    table: Tensor,
    num_extra_tokens: int,
    src_grid: Grid | None = None,
    target: Grid | None = None,
) -> tuple[Tensor, Grid]:
    """Find out of which grid of patches a table (tables, L, D) is.

    For a model without class token, `num_extra_tokens` of 0, the row of one
    is taken out of the table. For the grids see :func:`grid_of`.
    """
    count = table.shape[1] - num_extra_tokens
    if count < 1:
        raise ConversionError(
            f'{name} of the checkpoint has the shape {tuple(table.shape)}, no positions of patches'
        )
    patches = src_grid[0] * src_grid[1] if src_grid else math.isqrt(count) ** 2
    if num_extra_tokens == 0 and count == patches + 1:
        table, count = table[:, 1:], count - 1
    return table, grid_of(name, count, src_grid, target)


def interpolate(table: Tensor, grid: Grid, target: Grid, extra: int, mode: str) -> Tensor:
    """Resize as MMPretrain's ViT does it, each table by itself."""
    return torch.cat(
        [resize_pos_embed(layer, grid, target, mode, extra) for layer in table.split(1)]
    )
