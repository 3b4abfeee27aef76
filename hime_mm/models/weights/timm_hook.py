# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What TIMMPEViT does with a checkpoint it loads: names are timm's."""
import math
from typing import Any, Dict

from mmengine.logging import MMLogger
from torch import Tensor, nn

from .positions import grid_of, resize_logged
from .report import log_gaps

#: Parts of timm's ViTs that have none in any output here.
HEADS = ('head', 'head_dist', 'attn_pool')


def load_timm(model: nn.Module, state_dict: Dict[str, Any],
              prefix: str) -> None:
    """Fit in place what a :class:`TIMMPEViT` is about to load.

    Takes timm's names as they are, adds or drops positions as the model
    needs them, and resizes positions and patch embedding. All of it is
    logged.
    """
    inner = f'{prefix}timm_model.'
    names = [name for name in state_dict if name.startswith(prefix)]
    if not any(name.startswith(inner) for name in names):
        for name in names:
            if not name.startswith((f'{prefix}rpe.', f'{prefix}pos_grid')):
                state_dict[inner + name[len(prefix):]] = state_dict.pop(name)
    _fit_positions(model, state_dict, prefix, inner)
    _fit_embedding(model, state_dict, inner)
    own = {prefix + name for name in model.state_dict()}
    unused = tuple(f'{inner}{name}.'
                   for name in (*HEADS, 'norm', 'fc_norm', 'blocks'))
    dropped = [name for name in state_dict
               if name.startswith(unused) and name not in own]
    for name in dropped:
        del state_dict[name]
    # A new encoding is what one asks for with the weights of a plain ViT.
    missing = [name for name in sorted(own.difference(state_dict))
               if not name.startswith(f'{prefix}rpe.')]
    log_gaps('the state dict', missing, dropped)


def fold_positions(tokens: Dict[str, Tensor],
                   table: Tensor) -> Dict[str, Tensor]:
    """Tokens before the patches with their positions, which come first in the
    table, added."""
    counts = [token.shape[1] for token in tokens.values()]
    parts = table[:, :sum(counts)].split(counts, dim=1)
    return {name: token + part
            for (name, token), part in zip(tokens.items(), parts)}


def _fit_positions(model: nn.Module, state_dict: Dict[str, Any], prefix: str,
                   inner: str) -> None:
    from timm.layers import resample_abs_pos_embed
    vit, name = model.timm_model, f'{inner}pos_embed'
    source = state_dict.pop(f'{prefix}pos_grid', None)
    source = None if source is None else tuple(source.tolist())
    if model.pos_grid is not None:
        # Checkpoints of timm have none.
        state_dict[f'{prefix}pos_grid'] = model.pos_grid
    table = state_dict.pop(name, None)
    if table is None:
        return
    extra = 0 if vit.no_embed_class else model.num_extra_tokens
    if vit.pos_embed is not None:
        target = tuple(vit.patch_embed.grid_size)
        grid = grid_of(name, table.shape[1] - extra, source, target)
        state_dict[name] = resize_logged(
            name, table, grid, target, lambda: resample_abs_pos_embed(
                table, target, old_size=grid, num_prefix_tokens=extra))
        return
    logger = MMLogger.get_current_instance()
    logger.info(f'Dropped {name} {tuple(table.shape)}: pos_encoding='
                f'{model.pos_encoding!r} has no learned positions.')
    tokens = {token: state_dict.get(inner + token)
              for token in model.prefix_tokens}
    # A square table is one of a model that gives those tokens none.
    side = math.isqrt(table.shape[1])
    if extra and None not in tokens.values() and side**2 != table.shape[1]:
        for token, value in fold_positions(tokens, table).items():
            state_dict[inner + token] = value
        logger.info(f'Added its first {extra} entries to '
                    f'{", ".join(tokens)}.')


def _fit_embedding(model: nn.Module, state_dict: Dict[str, Any],
                   inner: str) -> None:
    """Resample the patch embedding of another patch size."""
    from timm.layers import resample_patch_embed
    name = f'{inner}patch_embed.proj.weight'
    weight = state_dict.get(name)
    size = list(model.timm_model.patch_embed.proj.kernel_size)
    if weight is None or list(weight.shape[2:]) == size:
        return
    state_dict[name] = resample_patch_embed(weight, size)
    MMLogger.get_current_instance().info(
        f'Resampled {name} from {tuple(weight.shape)} to '
        f'{tuple(state_dict[name].shape)}.')
