# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Tables of positions: of which grid they are, and on another one."""
import math
from typing import Callable, Optional, Tuple

import torch
from mmengine.logging import MMLogger
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor

from hime_mm.errors import ConversionError

Grid = Tuple[int, int]


def grid_of(name: str, count: int, source: Optional[Grid],
            target: Optional[Grid]) -> Grid:
    """Rows and columns of a number of positions of patches.

    Where `source` does not tell, they are of a square, or else of the
    model's grid, `target`.
    """
    side = math.isqrt(max(count, 0))
    grid = source or ((side, side) if side * side == count else target)
    if grid is not None and count > 0 and grid[0] * grid[1] == count:
        return tuple(grid)
    holds = f'{name} of the checkpoint holds {count} patch positions, which is'
    if source is not None:
        raise ConversionError(
            f'{holds} no grid of {source[0]}x{source[1]}: give the height and '
            'width of the images it was trained with (`img_size`)')
    raise ConversionError(
        f'{holds} no square, and does not say of which grid: load it into a '
        'model for images of the size it was trained with, and save that, '
        'or, for PEViT, convert it with that size (`img_size`)')


def find_grid(name: str,
              table: Tensor,
              num_extra_tokens: int,
              source: Optional[Grid] = None,
              target: Optional[Grid] = None) -> Tuple[Tensor, Grid]:
    """Find out of which grid of patches a table of positions is.

    Args:
        name (str): Its name, for messages.
        table (Tensor): Positions, shape (tables, L, D).
        num_extra_tokens (int): 1 if the model has a class token, else 0. A
            table with one row more than patches loses it then.
        source (tuple[int, int], optional): Rows and columns, where known.
            Defaults to None.
        target (tuple[int, int], optional): The model's grid, which is taken
            for the table's where nothing is known and the table belongs to no
            square. Defaults to None.

    Returns:
        tuple: The table and (rows, cols).

    Raises:
        ConversionError: If the table fits none.
    """
    count = table.shape[1] - num_extra_tokens
    if count < 1:
        raise ConversionError(f'{name} of the checkpoint has the shape '
                              f'{tuple(table.shape)}, no positions of patches')
    patches = source[0] * source[1] if source else math.isqrt(count)**2
    if num_extra_tokens == 0 and count == patches + 1:
        table, count = table[:, 1:], count - 1
    return table, grid_of(name, count, source, target)


def interpolate(table: Tensor, grid: Grid, target: Grid, extra: int,
                mode: str) -> Tensor:
    """Resize as MMPretrain's ViT does it, each table by itself."""
    return torch.cat([resize_pos_embed(one, grid, target, mode, extra)
                      for one in table.split(1)])


def resize_logged(name: str, table: Tensor, grid: Grid, target: Grid,
                  resize: Callable[[], Tensor]) -> Tensor:
    """Positions on a model's grid; it is logged if that is another one."""
    if grid == target:
        return table
    resized = resize()
    MMLogger.get_current_instance().info(
        f'Resized {name} from {tuple(table.shape)}, a grid of '
        f'{grid[0]}x{grid[1]}, to {tuple(resized.shape)}, '
        f'{target[0]}x{target[1]}.')
    return resized
