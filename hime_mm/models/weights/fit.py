# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A translated checkpoint on a model: every tensor is accounted for."""

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hime_mm.errors import ConversionError

from .formats import CLASSIFIERS, COCO_CATEGORY_IDS, DETECTORS, NATIVE, describe_format, matches
from .positions import find_grid, interpolate
from .report import ConversionReport, Entry
from .translate import PATCH, Checkpoint, Item
from .warm_start import EMBED_CIPHER

_DETECTION = r'backbone\.(det_token|(mid_)?det_pos_embed)'
# What may be left out of the checkpoint: names there, the part of the model
# that is for them, and why they have no use without it.
_UNUSED = (
    (
        r'backbone\.(mid_)?(det_)?pos_embed',
        'backbone.pos_embed',
        'the model has no learned positions',
    ),
    (r'backbone\.cls_token', 'backbone.cls_token', 'the model has no class token'),
    (rf'backbone\.{EMBED_CIPHER}', f'backbone.{EMBED_CIPHER}', 'the model names no cipher'),
    (_DETECTION, 'backbone.det_token', 'the model has no detection tokens'),
    (r'head\..*', 'head.', 'the model has no such head'),
    (r'bbox_head\..*', 'bbox_head.', 'the model has no such head'),
)


def fit(
    ckpt: Checkpoint,
    target: Mapping[str, Tensor],
    *,
    allow_missing: Sequence[str] = (),
    interpolate_mode: str = 'bicubic',
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Fit a translated checkpoint, which is used up, to a model.

    Every tensor of the checkpoint is mapped, or dropped for a reason; every
    one of the model is filled, or left at its initial values for a reason or
    because it matches a pattern of `allow_missing`. Of what remains, a
    :class:`ConversionError` names all.

    Of `target`, the model's tensors, only shapes are read, and the grid of
    its positions; its backbone, a :class:`PEViT`, has the prefix
    ``backbone.``. The weights that are returned are views of those given
    where nothing was changed.
    """
    run = _Fit(ckpt, target, allow_missing, interpolate_mode)
    run.map_checkpoint()
    run.check_missing()
    lines, max_lines = ckpt.problems, 12
    if lines:
        more = [f'and {len(lines) - max_lines} more'] if len(lines) > max_lines else []
        raise ConversionError(
            '\n  '.join(
                [
                    f'{describe_format(ckpt.format)} cannot be taken over completely:',
                    *lines[:max_lines],
                    *more,
                ]
            )
        )
    return run.out, run.report


class _Fit:
    """What :func:`fit` knows on its way."""

    def __init__(
        self,
        ckpt: Checkpoint,
        target: Mapping[str, Tensor],
        allow_missing: Sequence[str],
        mode: str,
    ) -> None:
        self.ckpt, self.target = ckpt, target
        self.items, self.problems = ckpt.items, ckpt.problems
        self.allow_missing, self.mode = allow_missing, mode
        self.report = ConversionReport(ckpt.format, dropped=ckpt.dropped)
        self.out: dict[str, Tensor] = {}
        self.detector = any(
            re.fullmatch(rf'{_DETECTION}|bbox_head\.cls_branch\..*', name) for name in self.items
        )
        mixed, to_mixed = ckpt.mixed, f'{PATCH}mapping.weight' in target
        self.other_embedding = mixed != to_mixed
        self.new_embedding = to_mixed and not mixed
        # The patch embedding tells some of it, and may be left out.
        self.grids = {
            'backbone.pos_embed': ckpt.grid(),
            'backbone.mid_pos_embed': ckpt.grid(mid=True),
        }

    def map_checkpoint(self) -> None:
        """Give every tensor of the checkpoint its place."""
        self._drop_embedding()
        for name, item in self.items.items():
            if name == 'backbone.pos_grid':
                continue
            if name in self.target:
                self._fit(name, item)
            else:
                self._handle_unexpected(name, item)

    def check_missing(self) -> None:
        """Account for everything that the model has."""
        for name, value in self.target.items():
            if name == 'backbone.pos_grid':
                self.out[name] = value
            if name in self.out:
                continue
            shape = tuple(value.shape)
            why = self._reason_for_initial(name)
            if why is None and matches(name, self.allow_missing):
                why = 'allowed on demand'
            if why is not None:
                self.report.initial.append(Entry(target=name, target_shape=shape, why=why))
            elif name not in self.items:
                self.problems.append(
                    f'{name} {shape} of the model is not in the checkpoint; '
                    f'`allow_missing` {name!r} leaves it at its initial '
                    'values'
                )

    def _drop(self, item: Item, why: str) -> None:
        self.report.dropped += item.dropped(why)

    def _refuse(self, item: Item, why: str) -> None:
        names = ', '.join(f'{n} {s}' for n, s in item.src)
        self.problems.append(f'{names} {why}')

    def _drop_embedding(self) -> None:
        """Leave a patch embedding out as a whole, or not at all.

        A bias without its weight means nothing.
        """
        found = [n for n in self.items if n.startswith(PATCH)]
        other = self.other_embedding or any(
            n not in self.target or self.items[n].tensor.shape != self.target[n].shape
            for n in found
        )
        if self.new_embedding:
            why = 'the mixed embedding of the model starts anew'
        elif other and matches(f'{PATCH}projection.weight', self.allow_missing):
            why = 'another embedding than that of the model'
        else:
            # What does not fit is named one by one.
            return
        for name in found:
            self._drop(self.items.pop(name), why)

    def _fit(self, name: str, item: Item) -> None:
        if name in self.grids and not self._resize(name, item):
            return
        shape = tuple(self.target[name].shape)
        if (
            self.ckpt.format in DETECTORS
            and name.startswith('bbox_head.cls_branch.')
            and item.shape[:1] == (92,)
            and shape[:1] == (81,)
        ):
            item.change(
                item.tensor[[*COCO_CATEGORY_IDS, 91]],
                'the rows of the 80 category ids of COCO, and no object',
            )
        if item.shape == shape:
            self.out[name] = item.tensor
            group = self.report.resized if item.resized else self.report.mapped
            group += item.placed(name)
        elif matches(name, self.allow_missing):
            self._drop(item, f'{name} of the model has the shape {shape}')
        else:
            remedy = f'; `allow_missing` {name!r} leaves that at its initial values'
            if re.fullmatch(_DETECTION, name):
                tokens = self.items.get('backbone.det_token')
                remedy = (
                    ''
                    if tokens is None
                    else (f': set `num_det_tokens={tokens.shape[1]}` in the backbone')
                )
            self._refuse(item, f'does not fit {name} {shape} of the model{remedy}')

    def _resize(self, name: str, item: Item) -> bool:
        """Positions on the model's grid."""
        if item.tensor.ndim != 3:
            self._refuse(item, 'is no table of positions')
            return False
        known = self.grids[name]
        target = tuple(self.target['backbone.pos_grid'].tolist())
        extra = int('backbone.cls_token' in self.target)
        # timm's `no_embed_class`: the class token has no position.
        length = item.shape[1]
        num_patches = known[0] * known[1] if known else math.isqrt(length) ** 2
        if (
            extra
            and length == num_patches
            and not self.detector
            and self.ckpt.format in CLASSIFIERS
        ):
            table = item.tensor
            item.change(
                torch.cat((torch.zeros_like(table[:, :1]), table), 1),
                'a row of zeros for the class token, which has no position there',
            )
        first = item.src[0][0]
        try:
            table, grid = find_grid(first, item.tensor, extra, known, target)
        except ConversionError as error:
            self.problems.append(str(error))
            return False
        if known is None and (grid[0] != grid[1] or self.detector):
            assumed = 'a square' if grid[0] == grid[1] else "the model's"
            self.report.notes.append(
                f'{first} does not say of which grid it is: taken for {assumed}, '
                f'{grid[0]}x{grid[1]}'
            )
        if table.shape[1] != item.shape[1]:
            item.change(table, 'without the row of the class token')
        if grid != target:
            item.change(
                interpolate(table, grid, target, extra, self.mode),
                f'{grid[0]}x{grid[1]} resized to {target[0]}x{target[1]}',
            )
        return True

    def _handle_unexpected(self, name: str, item: Item) -> None:
        """Drop what the model has no use for, or refuse."""
        for pattern, part, why in _UNUSED:
            if part == 'bbox_head.' and self.ckpt.format not in NATIVE:
                # Other detectors have a head of that name, too.
                part = 'bbox_head.cls_branch.'
            if not re.fullmatch(pattern, name) or any(
                other.startswith(part) for other in self.target
            ):
                continue
            if part == 'backbone.pos_embed' and ('backbone.rpe.reference' in self.items):
                why += '; a model that used them beside its reference gives other numbers'
            self._drop(item, why)
            return
        why = f'would be {name}, which the model has not'
        if name.startswith('backbone.mid_'):
            why = 'holds positions for the layers between: set `mid_positions=True` in the backbone'
        elif name.startswith('backbone.rpe.'):
            why = "belongs to a reference encoding: set `pos_encoding='rpe'` in the backbone"
        self._refuse(item, f'{why}, or leave it out with `allow_drop` {item.src[0][0]!r}')

    def _reason_for_initial(self, name: str) -> str | None:
        """Why it is right that a checkpoint of this kind has it not."""
        if name.startswith('backbone.rpe.'):
            if not any(n.startswith('backbone.rpe.') for n in self.items):
                return 'the checkpoint has no reference encoding'
        elif name.startswith(PATCH):
            if self.new_embedding:
                return 'the checkpoint embeds whole patches'
        elif not self.detector:
            plain = re.compile(r'(backbone|head)\.').match
            new = re.fullmatch(rf'{_DETECTION}|backbone\.mid_pos_embed', name)
            if new or not plain(name) and all(map(plain, self.items)):
                return 'the checkpoint is of no detector'
        return None
