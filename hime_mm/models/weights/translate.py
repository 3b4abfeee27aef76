# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Tensors of others under the names used here, not fitted to a model yet."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hime_mm.errors import ConversionError

from .formats import (
    DETECTORS,
    FORMATS,
    NATIVE,
    QKV,
    describe_format,
    detect_format,
    matches,
    refusal_reason,
    rename,
    strip_prefix,
)
from .reader import CheckpointInfo
from .report import Entry, Shape
from .warm_start import EMBED_CIPHER, start_warm

PATCH = 'backbone.patch_embed.'


@dataclass
class Item:
    """A tensor under its new name, what it was made of and how."""

    tensor: Tensor
    src: list[tuple[str, Shape]]
    why: str = ''
    resized: bool = False

    @property
    def shape(self) -> Shape:
        return tuple(self.tensor.shape)

    def change(self, tensor: Tensor, why: str) -> None:
        """Replace the values by others of another shape."""
        self.tensor, self.resized = tensor, True
        self.why = f'{self.why}; {why}' if self.why else why

    def placed(self, target: str) -> list[Entry]:
        return [Entry(*name_and_shape, target, self.shape, self.why) for name_and_shape in self.src]

    def dropped(self, why: str) -> list[Entry]:
        if self.why and not self.resized:
            why = f'{self.why}: {why}'
        return [Entry(*name_and_shape, why=why) for name_and_shape in self.src]


@dataclass
class Checkpoint:
    """A checkpoint under the names of a whole model here.

    Names begin with ``backbone.``, ``head.`` or ``bbox_head.``. It holds the tensors, what was
    left out, and what has no place here and why.
    """

    format: str
    info: CheckpointInfo
    num_splits: int = 2
    items: dict[str, Item] = field(default_factory=dict)
    dropped: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    #: Side of a plain patch, once the embedding is one for encrypted ones.
    plain_patch_size: int | None = None

    @property
    def mixed(self) -> bool:
        """bool: Whether it embeds mixed patches, even if parts are missing."""
        return any(
            name.startswith(f'{PATCH}mapping.') or 'proj_siat' in src_name
            for name, item in self.items.items()
            for src_name, _ in item.src
        )

    @property
    def patch_size(self) -> int | None:
        """int: Side of a patch; None without an embedding."""
        weight = self.items.get(f'{PATCH}projection.weight')
        if weight is None:
            return None
        return weight.shape[-1] * (self.num_splits if self.mixed else 1)

    def grid(self, mid: bool = False) -> tuple[int, int] | None:
        """Rows and columns of the positions, or of those between the layers.

        What remains of a side that is no multiple of the patch has none.
        """
        own = self.items.get('backbone.pos_grid')
        size = self.info.mid_image_size if mid else None
        if size is None and own is not None:
            return tuple(own.tensor.tolist())
        size, patch = size or self.info.image_size, self.plain_patch_size or self.patch_size
        return (size[0] // patch, size[1] // patch) if size and patch else None

    def start_warm(self, backbone: nn.Module) -> None:
        """Adapt the patch embedding to the cipher of a model, where it names one."""
        name = f'backbone.{EMBED_CIPHER}'
        own, known = getattr(backbone, EMBED_CIPHER, None), self.items.get(name)
        embed = {n: i for n, i in self.items.items() if n.startswith(PATCH)}
        found = start_warm(
            backbone,
            {n.removeprefix(PATCH): item.tensor for n, item in embed.items()},
            known and known.tensor,
        )
        if own is not None:
            self.items[name] = Item(own, known.src if known else [(name, tuple(own.shape))])
        if found is None:
            return
        self.plain_patch_size = self.patch_size
        src = [one for item in embed.values() for one in item.src]
        for part, tensor in found[0].items():
            old = embed.get(PATCH + part)
            self.items[PATCH + part] = item = old or Item(tensor, src)
            item.change(tensor, found[1])


def translate(
    state_dict: Mapping[str, Tensor],
    fmt: str | None = None,
    *,
    info: CheckpointInfo | None = None,
    allow_drop: Sequence[str] = (),
    num_splits: int = 2,
) -> Checkpoint:
    """Give every tensor the name it has here; `state_dict` is not changed.

    `fmt` is a key of :data:`FORMATS`, None recognises it. `allow_drop` are
    patterns of names that may be left out. What has no place is among the
    problems of the result; two tensors for one place, a detector without
    detection tokens or a table of an impossible shape are a
    :class:`ConversionError`.
    """
    fmt = fmt or detect_format(state_dict)
    if fmt not in FORMATS:
        raise ConversionError(f'unknown format {fmt!r}: choose from {", ".join(FORMATS)}')
    ckpt = Checkpoint(fmt, info or CheckpointInfo(), num_splits)
    items = ckpt.items
    refused: dict[str, str] = {}
    parts: dict[str, dict[str, Item]] = {}
    mixed = any('proj_siat.' in name for name in state_dict)
    for name, tensor in state_dict.items():
        target = rename(name, fmt)
        item = Item(tensor, [(name, tuple(tensor.shape))])
        why = None
        if matches(name, allow_drop):
            why = 'dropped on demand'
        elif mixed and re.search(r'(^|\.)patch_embed\.proj\.', name):
            why = 'left over: the mixed embedding has a projection of its own'
        elif fmt == 'hf-yolos' and re.match(r'(vit\.)?pooler\.', name):
            why = "detection does not use the class token's pooler"
        if why is not None:
            ckpt.dropped += item.dropped(why)
        elif target is None:
            refused[name] = refusal_reason(name, fmt)
        elif fmt == 'hf-yolos' and '.qkv.' in target:
            kind = next(k for k in QKV if f'.{k}.' in name)
            parts.setdefault(target, {})[kind] = item
        elif target in items:
            raise ConversionError(
                f'{items[target].src[0][0]} and {name} of the checkpoint '
                f'are both {target} of the model: take one out'
            )
        else:
            items[target] = item
    for target, qkv in parts.items():
        missing = [kind for kind in QKV if kind not in qkv]
        found = [qkv[kind] for kind in QKV if kind in qkv]
        src = [name_and_shape for item in found for name_and_shape in item.src]
        if missing:
            why = f'comes without its {" and ".join(missing)}'
        elif len({item.shape for item in found}) > 1:
            why = 'has not the shape of the other two of query, key and value'
        else:
            items[target] = Item(
                torch.cat([item.tensor for item in found]), src, 'query, key and value in one'
            )
            continue
        refused.update((name, why) for name, _ in src)
    ckpt.problems += [
        f'{name} {tuple(state_dict[name].shape)} {why}; `allow_drop` {name!r} leaves it out'
        for name, why in refused.items()
    ]
    _check_tokens(ckpt)
    table = items.get('backbone.pos_embed')
    if table is not None and any(
        strip_prefix(entry.src_name) == 'dist_token' for entry in ckpt.dropped
    ):
        rows = table.tensor
        table.change(
            torch.cat((rows[:, :1], rows[:, 2:]), 1), 'without the row of the distillation token'
        )
    if fmt not in NATIVE:
        _reshape(items)
        _split_tables(items)
    return ckpt


def _check_tokens(ckpt: Checkpoint) -> None:
    """Shapes that the rest relies on."""
    for name, shape in (
        ('pos_embed', '(1, L, D)'),
        ('det_token', '(1, Q, D)'),
        ('cls_token', '(1, 1, D)'),
    ):
        item = ckpt.items.get(f'backbone.{name}')
        if item is not None and (item.tensor.ndim != 3 or len(item.tensor) != 1):
            raise ConversionError(
                f'{item.src[0][0]} of the checkpoint has the shape {item.src[0][1]}, not {shape}'
            )
    fmt = ckpt.format
    if fmt in DETECTORS and 'backbone.det_token' not in ckpt.items:
        raise ConversionError(
            f'the checkpoint is of {describe_format(fmt)}, but has no detection tokens'
        )


def _reshape(items: dict[str, Item]) -> None:
    """Axes of size 1 that others write differently."""
    item = items.get('backbone.rpe.reference')
    if item is not None and item.tensor.ndim != 3:
        item.change(item.tensor.reshape(1, 1, -1), 'the same values with three axes')
    item = items.get(f'{PATCH}mapping.weight')
    if item is not None and item.tensor.ndim == 2:
        item.change(item.tensor[:, :, None, None], 'the linear layer as a 1x1 convolution')


def _split_tables(items: dict[str, Item]) -> None:
    """Part positions of detection tokens from those of the others.

    YOLOS has them in one table, and a table for every layer but the first.
    """
    tokens = items.get('backbone.det_token')
    for mid in ('', 'mid_'):
        item = items.get(f'backbone.{mid}pos_embed')
        if tokens is None or item is None:
            continue
        table, count = item.tensor, tokens.shape[1]
        if table.ndim == 4 and table.shape[1] == 1:
            table = table.squeeze(1)
        if table.ndim != 3 or table.shape[1] <= count + 1:
            raise ConversionError(
                f'{item.src[0][0]} of the checkpoint, '
                f'{item.src[0][1]}, does not hold positions of a class '
                f'token, patches and {count} detection tokens'
            )
        items[f'backbone.{mid}pos_embed'] = Item(table[:, :-count], item.src, 'class and patches')
        items[f'backbone.{mid}det_pos_embed'] = Item(
            table[:, -count:], item.src, 'detection tokens'
        )
