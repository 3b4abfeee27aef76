# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the models here do with a checkpoint that they load."""

import math
from typing import Any

from mmengine.logging import MMLogger
from torch import Tensor, nn

from hime_mm.errors import ConversionError

from .fit import fit
from .formats import NATIVE, detect_format, strip_prefix
from .positions import Grid, find_grid, grid_of, interpolate
from .reader import unwrap
from .report import log_gaps
from .translate import translate
from .warm_start import EMBED_CIPHER, resampled, start_warm

#: What need not come with a checkpoint that a model loads by itself: the same
#: as the hosts allow, and it is logged.
_MAY_MISS = ('backbone.patch_embed.*', 'backbone.pos_embed', 'backbone.ln2.*', 'bbox_head.*')
#: Parts of timm's ViTs that have none in any output of TIMMPEViT.
HEADS = ('head', 'head_dist', 'attn_pool')


def load_foreign(
    model: nn.Module, state_dict: dict[str, Any], prefix: str, outside: str = 'check'
) -> None:
    """Convert in place what a model is about to load, if it is foreign.

    Weights under the names of MMPretrain or of this package, and those of no
    known format, stay as they are. What becomes of the others is logged;
    those not complete or not for this model are a :class:`ConversionError`.

    The model is a whole one, or a :class:`PEViT` with another `outside`: what
    is not of the backbone is left out (``'drop'``), or passed on (``'pass'``)
    for the model around it.
    """
    names = [name for name in state_dict if name.startswith(prefix)]
    try:
        state, info = unwrap({n[len(prefix) :]: state_dict[n] for n in names})
        fmt = detect_format(state)
    except ConversionError:
        # The host says what it expected.
        return
    if fmt in NATIVE:
        return
    ckpt, target = translate(state, fmt, info=info), model.state_dict()
    ckpt.start_warm(getattr(model, 'backbone', model))
    other_items = {}
    if outside != 'check':
        target = {f'backbone.{name}': v for name, v in target.items()}
        other_items = {
            name: ckpt.items.pop(name)
            for name in list(ckpt.items)
            if not name.startswith('backbone.')
        }
    converted, report = fit(
        ckpt,
        target,
        allow_missing=_MAY_MISS,
        interpolate_mode=getattr(model, 'backbone', model).interpolate_mode,
    )
    for name, item in other_items.items():
        if outside == 'pass':
            converted[name] = item.tensor
            report.mapped += item.placed(name)
        else:
            report.dropped += item.dropped('only the backbone is loaded')
    for name in names:
        del state_dict[name]
    for name, tensor in converted.items():
        name = strip_prefix(name) if outside == 'drop' else name
        state_dict[prefix + name] = tensor
    report.log()


def load_backbone(vit: nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
    """Fit in place what a :class:`PEViT` is about to load.

    Foreign weights are converted. Positions that the model has not are
    dropped, others are resized; a patch embedding of another shape is dropped
    and stays as initialised. All of it is logged.
    """
    load_foreign(vit, state_dict, prefix, 'drop')
    _start_warm(vit, state_dict, prefix, f'{prefix}patch_embed.', 'projection')
    src_grid = _swap_grid(vit, state_dict, prefix)
    extra, target = vit.num_extra_tokens, tuple(vit.patch_resolution)
    for name in (f'{prefix}pos_embed', f'{prefix}mid_pos_embed'):
        table = _pop_positions(vit, state_dict, name)
        if table is not None and vit.pos_embed is not None:
            table, grid = find_grid(name, table, extra, src_grid, target)
            state_dict[name] = interpolate(table, grid, target, extra, vit.interpolate_mode)
            _log_resized(name, table, grid, state_dict[name], target)
    own = {prefix + n: tuple(v.shape) for n, v in vit.state_dict().items()}
    found = {
        n: tuple(v.shape) for n, v in state_dict.items() if n.startswith(f'{prefix}patch_embed.')
    }
    if any(own.get(name) != shape for name, shape in found.items()):
        # All of it: a bias without its weight means nothing.
        for name, shape in found.items():
            del state_dict[name]
            _log(
                f'Dropped {name} {shape}: this model has '
                f'{own.get(name, "none")}; the patch embedding stays as '
                'initialised.'
            )


def _swap_grid(model: nn.Module, state_dict: dict[str, Any], prefix: str) -> Grid | None:
    """The grid that a checkpoint says its positions are of, if it does.

    The model's own takes its place.
    """
    src_grid = state_dict.pop(f'{prefix}pos_grid', None)
    if model.pos_grid is not None:
        state_dict[f'{prefix}pos_grid'] = model.pos_grid
    return None if src_grid is None else tuple(src_grid.tolist())


def _pop_positions(model: nn.Module, state_dict: dict[str, Any], name: str) -> Tensor | None:
    """Take a table out; that a model has none for it is logged."""
    table = state_dict.pop(name, None)
    if table is not None and model.pos_grid is None:
        _log(
            f'Dropped {name} {tuple(table.shape)}: pos_encoding='
            f'{model.pos_encoding!r} has no learned positions.'
        )
    return table


def _log_resized(name: str, table: Tensor, grid: Grid, resized: Tensor, target: Grid) -> None:
    if grid != target:
        _log(
            f'Resized {name} from {tuple(table.shape)}, a grid of '
            f'{grid[0]}x{grid[1]}, to {tuple(resized.shape)}, '
            f'{target[0]}x{target[1]}.'
        )


def _log(message: str) -> None:
    MMLogger.get_current_instance().info(message)


def _start_warm(
    model: nn.Module, state_dict: dict[str, Any], prefix: str, part: str, projection: str
) -> None:
    """Adapt a patch embedding to the model's cipher, unless it was before.

    The checkpoint says for which cipher it is; the model's own mark takes the place of that.
    """
    mark = state_dict.pop(f'{prefix}{EMBED_CIPHER}', None)
    if model.warm_start is not None:
        state_dict[f'{prefix}{EMBED_CIPHER}'] = getattr(model, EMBED_CIPHER)
    embed = {
        name[len(part) :].replace(projection, 'projection', 1): value
        for name, value in state_dict.items()
        if name.startswith(part)
    }
    found = start_warm(model, embed, mark)
    if found is not None:
        for name, value in found[0].items():
            state_dict[part + name.replace('projection', projection, 1)] = value
        _log(f'{part}: {found[1]}.')


def load_timm(model: nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
    """Fit in place what a :class:`TIMMPEViT` is about to load.

    Takes timm's names as they are, adds or drops positions as the model
    needs them, and resizes positions and patch embedding. All of it is
    logged.
    """
    inner = f'{prefix}timm_model.'
    names = [name for name in state_dict if name.startswith(prefix)]
    if not any(name.startswith(inner) for name in names):
        for name in names:
            if not name.startswith(
                (f'{prefix}rpe.', f'{prefix}pos_grid', f'{prefix}{EMBED_CIPHER}')
            ):
                state_dict[inner + name[len(prefix) :]] = state_dict.pop(name)
    _fit_positions(model, state_dict, prefix, inner)
    name = f'{inner}patch_embed.proj.weight'
    _start_warm(model, state_dict, prefix, f'{inner}patch_embed.', 'proj')
    if name in state_dict:
        state_dict[name] = resampled(state_dict[name], model.patch_stride)
    own = {prefix + name for name in model.state_dict()}
    unused = tuple(f'{inner}{name}.' for name in (*HEADS, 'norm', 'fc_norm', 'blocks'))
    dropped = [name for name in state_dict if name.startswith(unused) and name not in own]
    for name in dropped:
        del state_dict[name]
    # A new encoding is what one asks for with the weights of a plain ViT.
    missing = [
        name for name in sorted(own.difference(state_dict)) if not name.startswith(f'{prefix}rpe.')
    ]
    log_gaps('the state dict', missing, dropped)


def _fit_positions(model: nn.Module, state_dict: dict[str, Any], prefix: str, inner: str) -> None:
    from timm.layers import resample_abs_pos_embed

    vit, name = model.timm_model, f'{inner}pos_embed'
    src_grid = _swap_grid(model, state_dict, prefix)
    table = _pop_positions(model, state_dict, name)
    if table is None:
        return
    extra = 0 if vit.no_embed_class else model.num_extra_tokens
    if vit.pos_embed is not None:
        target = tuple(vit.patch_embed.grid_size)
        grid = grid_of(name, table.shape[1] - extra, src_grid, target)
        state_dict[name] = resample_abs_pos_embed(
            table, target, old_size=grid, num_prefix_tokens=extra
        )
        _log_resized(name, table, grid, state_dict[name], target)
        return
    tokens = {token: state_dict.get(inner + token) for token in model.prefix_tokens}
    # A square table is one of a model that gives those tokens none.
    side = math.isqrt(table.shape[1])
    if extra and None not in tokens.values() and side**2 != table.shape[1]:
        for token, value in fold_positions(tokens, table).items():
            state_dict[inner + token] = value
        _log(f'Added its first {extra} entries to {", ".join(tokens)}.')


def fold_positions(tokens: dict[str, Tensor], table: Tensor) -> dict[str, Tensor]:
    """Tokens before the patches, with their positions added, which come first in the table."""
    counts = [token.shape[1] for token in tokens.values()]
    parts = table[:, : sum(counts)].split(counts, dim=1)
    return {name: token + part for (name, token), part in zip(tokens.items(), parts, strict=True)}
