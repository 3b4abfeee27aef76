# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A translated checkpoint on a model: every tensor is accounted for."""
import math
import re
from typing import Dict, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor

from hime_mm.errors import ConversionError
from .formats import (CLASSIFIERS, COCO_CATEGORY_IDS, DETECTORS, FORMATS,
                      NATIVE, matches)
from .positions import find_grid, interpolate
from .report import ConversionReport, Entry, Shape
from .translate import PATCH, Item, Source

_DETECTION = r'backbone\.(det_token|(mid_)?det_pos_embed)'
# What may be left out of the checkpoint: names there, the part of the model
# that is for them, and why they have no use without it.
_UNUSED = (
    (r'backbone\.(mid_)?(det_)?pos_embed', 'backbone.pos_embed',
     'the model has no learned positions'),
    (r'backbone\.cls_token', 'backbone.cls_token',
     'the model has no class token'),
    (_DETECTION, 'backbone.det_token', 'the model has no detection tokens'),
    (r'head\..*', 'head.', 'the model has no such head'),
    (r'bbox_head\..*', 'bbox_head.', 'the model has no such head'),
)


def fit(source: Source,
        target: Mapping[str, Tensor],
        *,
        allow_missing: Sequence[str] = (),
        interpolate_mode: str = 'bicubic',
        outside: str = 'check') -> Tuple[Dict[str, Tensor], ConversionReport]:
    """Fit a translated checkpoint to a model.

    Every tensor of the checkpoint is mapped, or dropped for a reason; every
    one of the model is filled, or left at its initial values for a reason.

    Args:
        source (Source): The checkpoint, see :func:`translate`. It is used up.
        target (dict): Names and tensors of the model, whose backbone, a
            :class:`PEViT`, has the prefix ``backbone.``. Only shapes are
            read, and the grid of its positions.
        allow_missing (Sequence[str]): Patterns of names of the model, as in a
            shell, that may stay at their initial values. Defaults to ().
        interpolate_mode (str): How positions are resized. Defaults to
            'bicubic'.
        outside (str): What becomes of tensors outside the backbone:
            ``'check'``, they are part of `target`; ``'pass'``, they are given
            back without a look at `target`; or ``'drop'``. Defaults to
            'check'.

    Returns:
        tuple: The weights by their name in the model, views of those given
        where nothing was changed, and a :class:`ConversionReport`.

    Raises:
        ConversionError: If something remains that is not accounted for. All
            of it is named.
    """
    run = _Fit(source, target, allow_missing, interpolate_mode, outside)
    run.place()
    run.fill()
    lines, most, fmt = source.problems, 12, source.format
    if lines:
        more = [f'and {len(lines) - most} more'] if len(lines) > most else []
        raise ConversionError(
            f'{FORMATS[fmt]} ({fmt}) cannot be taken over completely:\n  ' +
            '\n  '.join(lines[:most] + more))
    return run.out, run.report


class _Fit:
    """What :func:`fit` knows on its way."""

    def __init__(self, source: Source, target: Mapping[str, Tensor],
                 allow_missing: Sequence[str], mode: str,
                 outside: str) -> None:
        self.source, self.target = source, target
        self.items, self.problems = source.items, source.problems
        self.allow_missing, self.mode = allow_missing, mode
        self.outside = outside
        self.report = ConversionReport(source.format, dropped=source.dropped)
        self.out: Dict[str, Tensor] = {}
        self.detector = any(
            re.fullmatch(rf'{_DETECTION}|bbox_head\.cls_branch\..*', name)
            for name in self.items)
        self.mixed = source.mixed
        self.to_mixed = f'{PATCH}mapping.weight' in target
        # The patch embedding tells some of it, and may be left out.
        self.grids = {
            'backbone.pos_embed': source.grid(),
            'backbone.mid_pos_embed': source.grid(mid=True)
        }

    def place(self) -> None:
        """Give every tensor of the checkpoint its place."""
        self._drop_embedding()
        for name, item in self.items.items():
            if name == 'backbone.pos_grid':
                continue
            if not self._is_ours(name):
                if self.outside == 'pass':
                    self._take(name, item)
                else:
                    self._drop(item, 'only the backbone is loaded')
            elif name in self.target:
                self._fit(name, item)
            else:
                self._without_place(name, item)

    def fill(self) -> None:
        """Account for everything that the model has."""
        for name, value in self.target.items():
            if name == 'backbone.pos_grid':
                self.out[name] = value
            if name in self.out or not self._is_ours(name):
                continue
            shape = tuple(value.shape)
            why = self._initial(name)
            if why is None and matches(name, self.allow_missing):
                why = 'allowed on demand'
            if why is not None:
                self.report.initial.append(Entry(None, None, name, shape, why))
            elif name not in self.items:
                self.problems.append(
                    f'{name} {shape} of the model is not in the checkpoint; '
                    f'`allow_missing` {name!r} leaves it at its initial '
                    'values')

    def _is_ours(self, name: str) -> bool:
        return self.outside == 'check' or name.startswith('backbone.')

    def _take(self, name: str, item: Item) -> None:
        group = self.report.resized if item.resized else self.report.mapped
        self.out[name] = item.tensor
        group += [Entry(source, shape, name, item.shape, item.why)
                  for source, shape in item.sources]

    def _drop(self, item: Item, why: str) -> None:
        if item.why and not item.resized:
            why = f'{item.why}: {why}'
        self.report.dropped += [Entry(source, shape, None, None, why)
                                for source, shape in item.sources]

    def _refuse(self, item: Item, why: str) -> None:
        names = ', '.join(f'{n} {s}' for n, s in item.sources)
        self.problems.append(f'{names} {why}')

    def _drop_embedding(self) -> None:
        """Leave a patch embedding out as a whole, or not at all.

        A bias without its weight means nothing.
        """
        found = [n for n in self.items if n.startswith(PATCH)]
        if self.mixed == self.to_mixed and all(
                n in self.target
                and self.items[n].tensor.shape == self.target[n].shape
                for n in found):
            return
        if self.to_mixed and not self.mixed:
            why = 'the mixed embedding of the model starts anew'
        elif matches(f'{PATCH}projection.weight', self.allow_missing):
            why = 'another embedding than that of the model'
        else:
            # Named one by one.
            return
        for name in found:
            self._drop(self.items.pop(name), why)

    def _fit(self, name: str, item: Item) -> None:
        want = tuple(self.target[name].shape)
        if name in self.grids and not self._resize(name, item):
            return
        self._select_classes(name, item, want)
        if item.shape == want:
            self._take(name, item)
        elif matches(name, self.allow_missing):
            self._drop(item, f'{name} of the model has the shape {want}')
        else:
            remedy = (f'; `allow_missing` {name!r} leaves that at its initial '
                      'values')
            if re.fullmatch(_DETECTION, name):
                tokens = self.items.get('backbone.det_token')
                remedy = '' if tokens is None else (
                    f': set `num_det_tokens={tokens.shape[1]}` in the '
                    'backbone')
            self._refuse(item, f'does not fit {name} {want} of the model'
                         f'{remedy}')

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
        alone = known[0] * known[1] if known else math.isqrt(length)**2
        if (extra and length == alone and not self.detector
                and self.source.format in CLASSIFIERS):
            table = item.tensor
            item.change(
                torch.cat((torch.zeros_like(table[:, :1]), table), 1),
                'a row of zeros for the class token, which has no position '
                'there')
        first = item.sources[0][0]
        try:
            table, grid = find_grid(first, item.tensor, extra, known, target)
        except ConversionError as error:
            self.problems.append(str(error))
            return False
        if known is None and (grid[0] != grid[1] or self.detector):
            guess = 'a square' if grid[0] == grid[1] else "the model's"
            self.report.notes.append(
                f'{first} does not say of which grid it is: taken for '
                f'{guess}, {grid[0]}x{grid[1]}')
        if table.shape[1] != item.shape[1]:
            item.change(table, 'without the row of the class token')
        if grid != target:
            item.change(
                interpolate(table, grid, target, extra, self.mode),
                f'{grid[0]}x{grid[1]} resized to {target[0]}x{target[1]}')
        return True

    def _select_classes(self, name: str, item: Item, want: Shape) -> None:
        """Rows of COCO's classes from rows of its category ids."""
        if (self.source.format in DETECTORS
                and name.startswith('bbox_head.cls_branch.')
                and item.shape[:1] == (92, ) and want[:1] == (81, )):
            item.change(
                item.tensor[[*COCO_CATEGORY_IDS, 91]],
                'the rows of the 80 category ids of COCO, and no object')

    def _without_place(self, name: str, item: Item) -> None:
        """Drop what the model has no use for, or refuse."""
        for pattern, part, why in _UNUSED:
            if part == 'bbox_head.' and self.source.format not in NATIVE:
                # Other detectors have a head of that name, too.
                part = 'bbox_head.cls_branch.'
            if not re.fullmatch(pattern, name) or any(
                    other.startswith(part) for other in self.target):
                continue
            if part == 'backbone.pos_embed' and (
                    'backbone.rpe.reference' in self.items):
                why += ('; a model that used them beside its reference gives '
                        'other numbers')
            self._drop(item, why)
            return
        why = f'would be {name}, which the model has not'
        if name.startswith('backbone.mid_'):
            why = ('holds positions for the layers between: set '
                   '`mid_positions=True` in the backbone')
        elif name.startswith('backbone.rpe.'):
            why = ('belongs to a reference encoding: set '
                   "`pos_encoding='rpe'` in the backbone")
        self._refuse(item, f'{why}, or leave it out with `allow_drop` '
                     f'{item.sources[0][0]!r}')

    def _initial(self, name: str) -> Optional[str]:
        """Why it is right that a checkpoint of this kind has it not."""
        if name.startswith('backbone.rpe.'):
            if not any(n.startswith('backbone.rpe.') for n in self.items):
                return 'the checkpoint has no reference encoding'
        elif name.startswith(PATCH):
            if self.to_mixed and not self.mixed:
                return 'the checkpoint embeds whole patches'
        elif not self.detector:
            plain = re.compile(r'(backbone|head)\.').match
            new = re.fullmatch(rf'{_DETECTION}|backbone\.mid_pos_embed', name)
            if new or not plain(name) and all(map(plain, self.items)):
                return 'the checkpoint is of no detector'
        return None
