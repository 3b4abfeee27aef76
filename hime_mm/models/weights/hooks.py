# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What PEViT and the models around it do with a checkpoint they load."""
from typing import Any, Dict

from mmengine.logging import MMLogger
from torch import nn

from hime_mm.errors import ConversionError
from .fit import fit
from .formats import NATIVE, bare, detect_format
from .positions import find_grid, interpolate, resize_logged
from .reader import unwrap
from .translate import translate

#: What need not come with a checkpoint that a model loads by itself: the same
#: as the hosts allow, and it is logged.
_MAY_MISS = ('backbone.patch_embed.*', 'backbone.pos_embed', 'backbone.ln2.*',
             'bbox_head.*')


def load_foreign(model: nn.Module,
                 state_dict: Dict[str, Any],
                 prefix: str,
                 outside: str = 'check') -> None:
    """Convert in place what a model is about to load, if it is foreign.

    Weights under the names of MMPretrain or of this package, and those of no
    known format, stay as they are. What becomes of the others is logged.

    Args:
        model (nn.Module): A :class:`PEViT`, or a whole model with one.
        state_dict (dict): What a load hook of the module gets.
        prefix (str): The module's prefix in it.
        outside (str): ``'check'`` for a whole model. For a backbone
            ``'drop'``, or ``'pass'`` if `state_dict` is for the whole model
            around it. Defaults to 'check'.

    Raises:
        ConversionError: If the weights are of a known format but not complete
            or not for this model.
    """
    names = [name for name in state_dict if str(name).startswith(prefix)]
    try:
        state, info = unwrap({n[len(prefix):]: state_dict[n] for n in names})
        fmt = detect_format(state)
    except ConversionError:
        # The host says what it expected.
        return
    if fmt in NATIVE:
        return
    target = model.state_dict()
    if outside != 'check':
        target = {f'backbone.{name}': v for name, v in target.items()}
    converted, report = fit(
        translate(state, fmt, info=info),
        target,
        allow_missing=_MAY_MISS,
        interpolate_mode=getattr(model, 'backbone', model).interpolate_mode,
        outside=outside)
    for name in names:
        del state_dict[name]
    for name, tensor in converted.items():
        name = bare(name) if outside == 'drop' else name
        state_dict[prefix + name] = tensor
    report.log()


def load_backbone(vit: nn.Module, state_dict: Dict[str, Any],
                  prefix: str) -> None:
    """Fit in place what a :class:`PEViT` is about to load.

    Foreign weights are converted. Positions that the model has not are
    dropped, others are resized; a patch embedding of another shape is dropped
    and stays as initialised. All of it is logged.
    """
    load_foreign(vit, state_dict, prefix, 'drop')
    logger = MMLogger.get_current_instance()
    source = state_dict.pop(f'{prefix}pos_grid', None)
    source = None if source is None else tuple(source.tolist())
    if vit.pos_grid is not None:
        # Checkpoints of other ViTs have none.
        state_dict[f'{prefix}pos_grid'] = vit.pos_grid
    extra, target = vit.num_extra_tokens, tuple(vit.patch_resolution)
    for name in (f'{prefix}pos_embed', f'{prefix}mid_pos_embed'):
        table = state_dict.pop(name, None)
        if table is None:
            continue
        if vit.pos_embed is None:
            logger.info(f'Dropped {name} {tuple(table.shape)}: '
                        f'pos_encoding={vit.pos_encoding!r} has no learned '
                        'positions.')
            continue
        table, grid = find_grid(name, table, extra, source, target)
        state_dict[name] = resize_logged(
            name, table, grid, target, lambda: interpolate(
                table, grid, target, extra, vit.interpolate_mode))
    own = {prefix + n: tuple(v.shape) for n, v in vit.state_dict().items()}
    found = {n: tuple(v.shape) for n, v in state_dict.items()
             if n.startswith(f'{prefix}patch_embed.')}
    if any(own.get(name) != shape for name, shape in found.items()):
        # All of it: a bias without its weight means nothing.
        for name, shape in found.items():
            del state_dict[name]
            logger.info(f'Dropped {name} {shape}: this model has '
                        f'{own.get(name, "none")}; the patch embedding stays '
                        'as initialised.')
