# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Weights of other implementations under the names of this one.

One implementation for the load hooks of the models and for
``tools/model_converters/convert.py``: :func:`translate` gives every tensor the
name it has here, :func:`convert_state_dict` also fits it to a model.
"""

import argparse
import math
import re
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from mmengine.logging import MMLogger
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor

from hime_mm.errors import ConversionError

Grid = Tuple[int, int]
Shape = Tuple[int, ...]

#: What is recognised, and what it is.
FORMATS = {
    'timm': 'ViT or DeiT of timm or of the DeiT repository',
    'paper-classifier': "PEViT of the paper's code",
    'paper-detector': "PEYOLOS of the paper's code",
    'yolos': 'YOLOS of its authors',
    'hf-yolos': 'YOLOS of Hugging Face transformers',
    'mmpretrain': 'ViT or DeiT of MMPretrain',
    'hime_mm': 'a model of hime_mm',
}
#: Formats whose names are the ones used here.
NATIVE = ('mmpretrain', 'hime_mm')
#: Detectors of others, which all have detection tokens.
DETECTORS = ('paper-detector', 'yolos', 'hf-yolos')
#: Ids of the 80 classes of COCO in the order of MMDetection's labels. DETR and
#: YOLOS have a row for every id up to 90, used or not.
COCO_CATEGORY_IDS = tuple(
    i for i in range(1, 91)
    if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))

_WB = r'(weight|bias)'
_BLOCK = r'blocks\.(\d+)\.'
_LAYER = r'backbone.layers.\1.'
_HEAD = r'\.(layers\.\d+\.(?:weight|bias))'
_TIMM_RULES = (
    (r'(cls_token|pos_embed|det_token|mid_pos_embed)', r'backbone.\1'),
    (rf'patch_embed\.proj\.{_WB}', r'backbone.patch_embed.projection.\1'),
    (rf'(?:patch_embed\.)?proj_siat\.{_WB}',
     r'backbone.patch_embed.projection.\1'),
    (rf'(?:patch_embed\.)?proj_siat_embed\.{_WB}',
     r'backbone.patch_embed.mapping.\1'),
    (r'(?:patch_embed\.)?reference', 'backbone.rpe.reference'),
    (r'(?:patch_embed\.)?(ref_encoding\.[02]\.(?:weight|bias))',
     r'backbone.rpe.\1'),
    (rf'{_BLOCK}norm([12])\.{_WB}', rf'{_LAYER}ln\2.\3'),
    (rf'{_BLOCK}attn\.(qkv|proj)\.{_WB}', rf'{_LAYER}attn.\2.\3'),
    (rf'{_BLOCK}mlp\.fc1\.{_WB}', rf'{_LAYER}ffn.layers.0.0.\2'),
    (rf'{_BLOCK}mlp\.fc2\.{_WB}', rf'{_LAYER}ffn.layers.1.\2'),
    # Layer scale, of timm and of the DeiT repository.
    (rf'{_BLOCK}(?:ls1\.gamma|gamma_1)', rf'{_LAYER}attn.gamma1.weight'),
    (rf'{_BLOCK}(?:ls2\.gamma|gamma_2)', rf'{_LAYER}ffn.gamma2.weight'),
    (rf'norm\.{_WB}', r'backbone.ln1.\1'),
    (rf'fc_norm\.{_WB}', r'backbone.ln2.\1'),
    (rf'norm_pre\.{_WB}', r'backbone.pre_norm.\1'),
    (rf'head\.{_WB}', r'head.layers.head.\1'),
    (rf'pre_logits\.fc\.{_WB}', r'head.layers.pre_logits.\1'),
    (rf'class_embed{_HEAD}', r'bbox_head.cls_branch.\1'),
    (rf'bbox_embed{_HEAD}', r'bbox_head.reg_branch.\1'),
)
_HF_BLOCK = r'encoder\.layer\.(\d+)\.'
_HF_RULES = (
    (r'embeddings\.cls_token', 'backbone.cls_token'),
    (r'embeddings\.detection_tokens', 'backbone.det_token'),
    (r'embeddings\.position_embeddings', 'backbone.pos_embed'),
    (r'encoder\.mid_position_embeddings', 'backbone.mid_pos_embed'),
    (rf'embeddings\.patch_embeddings\.projection\.{_WB}',
     r'backbone.patch_embed.projection.\1'),
    (rf'{_HF_BLOCK}layernorm_before\.{_WB}', rf'{_LAYER}ln1.\2'),
    (rf'{_HF_BLOCK}layernorm_after\.{_WB}', rf'{_LAYER}ln2.\2'),
    (rf'{_HF_BLOCK}attention\.attention\.(query|key|value)\.{_WB}',
     rf'{_LAYER}attn.qkv.\3'),
    (rf'{_HF_BLOCK}attention\.output\.dense\.{_WB}', rf'{_LAYER}attn.proj.\2'),
    (rf'{_HF_BLOCK}intermediate\.dense\.{_WB}', rf'{_LAYER}ffn.layers.0.0.\2'),
    (rf'{_HF_BLOCK}output\.dense\.{_WB}', rf'{_LAYER}ffn.layers.1.\2'),
    (rf'layernorm\.{_WB}', r'backbone.ln1.\1'),
    (rf'class_labels_classifier{_HEAD}', r'bbox_head.cls_branch.\1'),
    (rf'bbox_predictor{_HEAD}', r'bbox_head.reg_branch.\1'),
)
#: Why a key has no place here.
_REFUSED = (
    (r'(.*\.)?(dist_token|head_dist.*|layers\.head_dist.*)',
     'belongs to a distillation token, which PEViT has not (MMPretrain has a '
     'DistilledVisionTransformer)'),
    (r'(.*\.)?reg_token', 'register tokens, which PEViT has not'),
    (r'attn_pool\..*', 'attention pooling, which PEViT has not'),
    (r'.*\.[qk]_norm\..*',
     'queries and keys are normalised, which the attention here does not do'),
    (r'.*(relative_position|rel_pos).*', 'relative positions, which PEViT '
     'has not'),
)
#: Keys in which checkpoints hold their weights, and smoothed ones.
_HOLDERS = ('model', 'state_dict', 'module')
_EMA_HOLDERS = ('model_ema', 'state_dict_ema', 'ema_state_dict')

# The files of the DeiT and YOLOS repositories hold the command line they were
# trained with. The class is a bag of attributes: making one runs nothing.
torch.serialization.add_safe_globals([argparse.Namespace])


@dataclass(frozen=True)
class Entry:
    """What became of one tensor.

    Attributes:
        source (str, optional): Its name in the checkpoint; None where the
            model keeps what it started with.
        source_shape (tuple[int, ...], optional): Its shape there.
        target (str, optional): Its name in the model; None where it was
            dropped.
        target_shape (tuple[int, ...], optional): Its shape there.
        why (str): What was done to it, or why it is left out.
    """

    source: Optional[str]
    source_shape: Optional[Shape]
    target: Optional[str]
    target_shape: Optional[Shape]
    why: str = ''

    def __str__(self) -> str:
        parts = []
        if self.source is not None:
            parts.append(f'{self.source} {self.source_shape}')
        if self.target is not None:
            parts.append(f'{self.target} {self.target_shape}')
        return ' -> '.join(parts) + (f': {self.why}' if self.why else '')


@dataclass
class ConversionReport:
    """What became of every tensor of a checkpoint and of a model.

    Attributes:
        format (str): A key of :data:`FORMATS`.
        mapped (list[Entry]): Taken over value by value.
        resized (list[Entry]): Taken over in another shape: positions on
            another grid, some rows of a table, another number of axes.
        dropped (list[Entry]): Left out of the model.
        initial (list[Entry]): Of the model, as it was initialised.
        notes (list[str]): What else should be known.
    """

    format: str
    mapped: List[Entry] = field(default_factory=list)
    resized: List[Entry] = field(default_factory=list)
    dropped: List[Entry] = field(default_factory=list)
    initial: List[Entry] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f'{FORMATS[self.format]} ({self.format})']
        for title, entries in (('mapped', self.mapped),
                               ('resized or selected', self.resized),
                               ('dropped', self.dropped),
                               ('left at initial values', self.initial)):
            lines.append(f'{title}: {len(entries)}')
            lines += [f'  {entry}' for entry in entries]
        return '\n'.join(lines + [f'note: {note}' for note in self.notes])


@dataclass
class SourceInfo:
    """What a checkpoint says of its model beside the weights.

    Attributes:
        grid (tuple[int, int], optional): Rows and columns of its positions.
        mid_grid (tuple[int, int], optional): Those of the positions between
            the layers, where they differ.
        image_size (tuple[int, int], optional): Height and width that the
            grid is of.
        mid_image_size (tuple[int, int], optional): The same for `mid_grid`.
        patch_size (int, optional): Side of a patch; None is the stride of
            the embedding, or twice that of a mixed one, as in the paper.
        num_heads (int, optional): Heads of the attention.
        num_layers (int, optional): Layers of the encoder.
        norm_eps (float, optional): Of its layer norms.
    """

    grid: Optional[Grid] = None
    mid_grid: Optional[Grid] = None
    image_size: Optional[Grid] = None
    mid_image_size: Optional[Grid] = None
    patch_size: Optional[int] = None
    num_heads: Optional[int] = None
    num_layers: Optional[int] = None
    norm_eps: Optional[float] = None

    def with_grids(self, items: Mapping[str, 'Item']) -> 'SourceInfo':
        """Work out what the image sizes mean for the positions.

        Args:
            items (dict): The translated tensors.

        Returns:
            SourceInfo: A copy with patch size and grids. What remains of a
            side that is no multiple of the patch has no position.
        """
        info = replace(self)
        weight = items.get(f'{_PATCH}projection.weight')
        if info.patch_size is None and weight is not None:
            factor = 2 if embeds_mixed(items) else 1
            info.patch_size = weight.tensor.shape[-1] * factor
        if info.grid is None and 'backbone.pos_grid' in items:
            info.grid = tuple(items['backbone.pos_grid'].tensor.tolist())
        for size, grid in (('image_size', 'grid'),
                           ('mid_image_size', 'mid_grid')):
            pixels = getattr(info, size)
            if getattr(info, grid) is None and pixels and info.patch_size:
                setattr(info, grid,
                        tuple(n // info.patch_size for n in pixels))
        return info


def _size(value: Any) -> Optional[Grid]:
    """Height and width from a number or a pair, None from anything else."""
    if isinstance(value, int):
        value = (value, value)
    if (isinstance(value, (list, tuple)) and len(value) == 2
            and all(isinstance(v, int) and v > 0 for v in value)):
        return tuple(value)
    return None


def unwrap(checkpoint: Mapping,
           ema: bool = False) -> Tuple[Dict[str, Tensor], SourceInfo]:
    """Find the weights in what a file holds.

    Args:
        checkpoint (dict): A state dict, or a dict with one under ``model``,
            ``state_dict`` or ``module``, and perhaps the command line of the
            training under ``args``.
        ema (bool): Take the smoothed weights, ``model_ema``,
            ``state_dict_ema`` or ``ema_state_dict``. Defaults to False.

    Returns:
        tuple: Names and tensors, without the ``module.`` of distributed
        training, and a :class:`SourceInfo`.

    Raises:
        ConversionError: If there are none, or something else among them.
    """
    state, info = checkpoint, SourceInfo()
    holders = _EMA_HOLDERS if ema else _HOLDERS
    for name in holders:
        if isinstance(checkpoint.get(name), Mapping):
            state = checkpoint[name]
            break
    else:
        if ema:
            raise ConversionError('the checkpoint has no smoothed weights: '
                                  f'none of {", ".join(holders)}')
    args = checkpoint.get('args')
    if state is not checkpoint and args is not None:
        args = args if isinstance(args, Mapping) else vars(args)
        info.image_size = (
            _size(args.get('init_pe_size')) or _size(args.get('input_size')))
        info.mid_image_size = _size(args.get('mid_pe_size'))
    if not state:
        raise ConversionError('the checkpoint holds no weights')
    found = {}
    for name, value in state.items():
        if ema and name == 'steps':
            # MMEngine counts its updates there.
            continue
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ConversionError(
                f'{name!r} of the checkpoint is a {type(value).__name__}, no '
                'tensor: give a state dict, or a dict that has one under '
                f'one of {", ".join(_HOLDERS)}')
        found[name] = value
    while all(name.startswith('module.') for name in found):
        found = {name[7:]: value for name, value in found.items()}
    return found, info


def _bare(name: str) -> str:
    return name[9:] if name.startswith('backbone.') else name


def detect_format(state_dict: Mapping[str, Any]) -> str:
    """Recognise whose names these are.

    Args:
        state_dict (dict): Names and tensors, see :func:`unwrap`.

    Returns:
        str: A key of :data:`FORMATS`.

    Raises:
        ConversionError: If they are nobody's that is known here.
    """
    names = [_bare(name) for name in state_dict if isinstance(name, str)]

    def any_name(pattern: str) -> bool:
        return any(re.match(pattern, name) for name in names)

    if any_name(r'layers\.\d+\.(ln[12]|attn|ffn)\.'):
        own = any_name(r'rpe\.|pos_grid$|det_token$|patch_embed\.mapping\.|'
                       r'bbox_head\.cls_branch\.')
        return 'hime_mm' if own else 'mmpretrain'
    if any_name(r'blocks\.\d+\.(norm[12]|attn|mlp)\.'):
        mixed = any_name(r'(patch_embed\.)?proj_siat(_embed)?\.')
        if any_name(r'det_token$|class_embed\.|bbox_embed\.'):
            return 'paper-detector' if mixed else 'yolos'
        rpe = any_name(r'(patch_embed\.)?(reference$|ref_encoding\.)')
        return 'paper-classifier' if mixed or rpe else 'timm'
    if any_name(r'(vit\.)?encoder\.layer\.\d+\.') and any_name(
            r'(vit\.)?embeddings\.detection_tokens$'):
        return 'hf-yolos'
    known = '; '.join(f'{k} ({v})' for k, v in FORMATS.items())
    raise ConversionError(
        f'the names of the checkpoint, such as {", ".join(names[:4])}, are of '
        f'no known format. Known are: {known}')


@dataclass
class Item:
    """A tensor under its new name.

    Attributes:
        tensor (Tensor): The values.
        sources (list[tuple[str, tuple]]): Names and shapes they come from.
        why (str): What was done.
        resized (bool): Whether the shape was changed.
    """

    tensor: Tensor
    sources: List[Tuple[str, Shape]]
    why: str = ''
    resized: bool = False

    def change(self, tensor: Tensor, why: str) -> None:
        """Replace the values by others of another shape."""
        self.tensor, self.resized = tensor, True
        self.why = f'{self.why}; {why}' if self.why else why


def embeds_mixed(items: Mapping[str, Item]) -> bool:
    """Whether the patch embedding of translated tensors is a mixed one.

    Args:
        items (dict): As :func:`translate` gives them.

    Returns:
        bool: True also where parts of it are missing.
    """
    return any(
        name.startswith(f'{_PATCH}mapping.') or 'proj_siat' in source
        for name, item in items.items() for source, _ in item.sources)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _shape(tensor: Tensor) -> Shape:
    return tuple(tensor.shape)


def _rename(name: str, fmt: str) -> Optional[str]:
    """The name here, None if there is none."""
    if fmt in NATIVE:
        if any(re.fullmatch(p, _bare(name)) for p, _ in _REFUSED[:1]):
            return None
        bare = re.match(
            r'(layers|ln[12]|pre_norm|patch_embed|rpe)\.|(cls_token|pos_embed|'
            r'pos_grid|det_token|det_pos_embed|mid_pos_embed|'
            r'mid_det_pos_embed)$', name)
        return f'backbone.{name}' if bare else name
    rules = _HF_RULES if fmt == 'hf-yolos' else _TIMM_RULES
    name = name[4:] if name.startswith('vit.') else _bare(name)
    for pattern, target in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(target)
    return None


def translate(
    state_dict: Mapping[str, Tensor],
    fmt: str,
    allow_drop: Sequence[str] = ()
) -> Tuple[Dict[str, Item], List[Entry], Dict[str, str]]:
    """Give every tensor the name it has here.

    Nothing is fitted to a model yet.

    Args:
        state_dict (dict): Names and tensors, see :func:`unwrap`.
        fmt (str): Their format, see :func:`detect_format`.
        allow_drop (Sequence[str]): Patterns of names, as in a shell, that may
            be left out. Defaults to ().

    Returns:
        tuple: The tensors by their name in a whole model (``backbone.``,
        ``head.``, ``bbox_head.``), :class:`Entry` of what was left out, and
        the reasons, by name, why some have no place.

    Raises:
        ConversionError: If two tensors claim one place, a detector has no
            detection tokens, or a table has no possible shape.
    """
    items: Dict[str, Item] = {}
    dropped: List[Entry] = []
    problems: Dict[str, str] = {}
    parts: Dict[str, Dict[str, str]] = {}
    mixed = any('proj_siat.' in name for name in state_dict)
    left_out = set()
    for name, tensor in state_dict.items():
        shape = _shape(tensor)
        why = None
        target = _rename(name, fmt)
        if _matches(name, allow_drop):
            why = 'dropped on demand'
        elif mixed and re.search(r'(^|\.)patch_embed\.proj\.', name):
            why = 'left over: the mixed embedding has a projection of its own'
        elif fmt == 'hf-yolos' and re.match(r'(vit\.)?pooler\.', name):
            why = "detection does not use the class token's pooler"
        if why is not None:
            dropped.append(Entry(name, shape, None, None, why))
            left_out.add(_bare(name))
        elif target is None:
            problems[name] = next(
                (reason for pattern, reason in _REFUSED
                 if re.fullmatch(pattern, _bare(name))),
                f'has no place in a model of this package ({fmt})')
        elif fmt == 'hf-yolos' and target.rpartition('.')[0].endswith('qkv'):
            kind = re.search('query|key|value', name).group()
            parts.setdefault(target, {})[kind] = name
        elif target in items:
            raise ConversionError(
                f'{items[target].sources[0][0]} and {name} of the checkpoint '
                f'are both {target} of the model: take one out')
        else:
            items[target] = Item(tensor, [(name, shape)])
    for target, names in parts.items():
        missing = [k for k in ('query', 'key', 'value') if k not in names]
        if missing:
            for name in names.values():
                problems[name] = f'comes without its {" and ".join(missing)}'
            continue
        names = [names[k] for k in ('query', 'key', 'value')]
        if len({_shape(state_dict[name]) for name in names}) > 1:
            for name in names:
                problems[name] = ('has not the shape of the other two of '
                                  'query, key and value')
            continue
        items[target] = Item(
            torch.cat([state_dict[name] for name in names]),
            [(name, _shape(state_dict[name])) for name in names],
            'query, key and value in one')
    for name, shape in (('pos_embed', '(1, L, D)'), ('det_token', '(1, Q, D)'),
                        ('cls_token', '(1, 1, D)')):
        item = items.get(f'backbone.{name}')
        if item is not None and (item.tensor.ndim != 3
                                 or len(item.tensor) != 1):
            raise ConversionError(
                f'{item.sources[0][0]} of the checkpoint has the shape '
                f'{item.sources[0][1]}, not {shape}')
    if 'dist_token' in left_out and 'backbone.pos_embed' in items:
        item = items['backbone.pos_embed']
        table = item.tensor
        item.change(
            torch.cat((table[:, :1], table[:, 2:]), 1),
            'without the row of the distillation token')
    if fmt in DETECTORS and 'backbone.det_token' not in items:
        raise ConversionError(f'the checkpoint is of {FORMATS[fmt]} ({fmt}), '
                              'but has no detection tokens')
    if fmt not in NATIVE:
        _reshape(items)
        _split_tables(items)
    return items, dropped, problems


def _reshape(items: Dict[str, Item]) -> None:
    """Axes of size 1 that others write differently."""
    item = items.get('backbone.rpe.reference')
    if item is not None and item.tensor.ndim != 3:
        item.change(
            item.tensor.reshape(1, 1, -1), 'the same values with three axes')
    item = items.get('backbone.patch_embed.mapping.weight')
    if item is not None and item.tensor.ndim == 2:
        item.change(item.tensor[:, :, None, None],
                    'the linear layer as a 1x1 convolution')


def _split_tables(items: Dict[str, Item]) -> None:
    """Part positions of detection tokens from those of the others.

    YOLOS has them in one table, and a table for every layer but the first.
    """
    tokens = items.get('backbone.det_token')
    if tokens is None:
        return
    count = tokens.tensor.shape[1]
    for name, det_name in (('pos_embed', 'det_pos_embed'),
                           ('mid_pos_embed', 'mid_det_pos_embed')):
        item = items.get(f'backbone.{name}')
        if item is None:
            continue
        table = item.tensor
        if table.ndim == 4 and table.shape[1] == 1:
            table = table.squeeze(1)
        if table.ndim != 3 or table.shape[1] <= count + 1:
            raise ConversionError(
                f'{item.sources[0][0]} of the checkpoint, '
                f'{item.sources[0][1]}, does not hold positions of a class '
                f'token, patches and {count} detection tokens')
        items[f'backbone.{name}'] = Item(table[:, :-count], item.sources,
                                         'class and patches')
        items[f'backbone.{det_name}'] = Item(table[:, -count:], item.sources,
                                             'detection tokens')


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
        ValueError: If the table fits none.
    """
    count = table.shape[1] - num_extra_tokens
    if count < 1:
        raise ConversionError(f'{name} of the checkpoint has the shape '
                              f'{_shape(table)}, no positions of patches')
    grid = source
    if source is not None:
        patches = source[0] * source[1]
    else:
        patches = math.isqrt(count)**2
    if num_extra_tokens == 0 and count == patches + 1:
        table, count = table[:, 1:], count - 1
    if source is None:
        side = math.isqrt(count)
        grid = (side, side) if side * side == count else target
    if grid is None or grid[0] * grid[1] != count:
        if source is not None:
            raise ConversionError(
                f'{name} of the checkpoint holds {count} patch positions, '
                f'which is no grid of {source[0]}x{source[1]}: give the '
                'height and width of the images it was trained with '
                '(--img-size)')
        raise ConversionError(
            f'{name} of the checkpoint holds {count} patch positions, '
            'which is no square, and does not say of which grid: load it '
            'into a model of the `img_size` it was trained with, and save '
            'that, or convert it with tools/model_converters/convert.py and '
            '--img-size')
    return table, tuple(grid)


_POSITIONS = re.compile(r'backbone\.(mid_)?(det_)?pos_embed')
_DETECTION = re.compile(r'backbone\.(det_token|(mid_)?det_pos_embed)')
_PATCH = 'backbone.patch_embed.'


class _Fit:
    """Fits translated tensors to a model, see :func:`convert_state_dict`."""

    def __init__(self, items: Dict[str, Item], target: Mapping[str, Tensor],
                 report: ConversionReport, info: SourceInfo,
                 allow_missing: Sequence[str], mode: str,
                 outside: str) -> None:
        self.items = items
        self.target = target
        self.report = report
        self.info = info
        self.allow_missing = allow_missing
        self.mode = mode
        self.outside = outside
        self.problems: List[str] = []
        self.out: Dict[str, Tensor] = {}
        self.extra = int('backbone.cls_token' in target)
        self.detector = any(
            _DETECTION.fullmatch(n) or n.startswith('bbox_head.cls_branch.')
            for n in items)
        self.mixed = embeds_mixed(items)
        self.to_mixed = f'{_PATCH}mapping.weight' in target
        self.learned = 'backbone.pos_embed' in target

    def run(self) -> Dict[str, Tensor]:
        self._drop_patch_embed()
        for name, item in self.items.items():
            if name == 'backbone.pos_grid':
                continue
            if self.outside != 'check' and not name.startswith('backbone.'):
                if self.outside == 'pass':
                    self._take(name, item)
                else:
                    self._drop(item, 'only the backbone is loaded')
            elif name in self.target:
                self._fit(name, item)
            else:
                self._without_place(name, item)
        self._fill()
        return self.out

    def _take(self, name: str, item: Item) -> None:
        group = self.report.resized if item.resized else self.report.mapped
        self.out[name] = item.tensor
        for source, shape in item.sources:
            group.append(
                Entry(source, shape, name, _shape(item.tensor), item.why))

    def _drop(self, item: Item, why: str) -> None:
        if item.why and not item.resized:
            why = f'{item.why}: {why}'
        for source, shape in item.sources:
            self.report.dropped.append(Entry(source, shape, None, None, why))

    def _refuse(self, item: Item, why: str) -> None:
        names = ', '.join(f'{n} {s}' for n, s in item.sources)
        self.problems.append(f'{names} {why}')

    def _drop_patch_embed(self) -> None:
        """Take over a patch embedding as a whole or not at all.

        A bias without its weight means nothing.
        """
        names = [n for n in self.items if n.startswith(_PATCH)]
        fits = all(n in self.target and _shape(self.items[n].tensor) == _shape(
            self.target[n]) for n in names)
        if fits and self.mixed == self.to_mixed:
            return
        if not self.mixed and self.to_mixed:
            why = 'the mixed embedding of the model starts anew'
        elif _matches(f'{_PATCH}projection.weight', self.allow_missing):
            why = 'another embedding than that of the model'
        else:
            # Named one by one.
            return
        for name in names:
            self._drop(self.items.pop(name), why)

    def _fit(self, name: str, item: Item) -> None:
        want = _shape(self.target[name])
        if name in ('backbone.pos_embed', 'backbone.mid_pos_embed'):
            if not self._resize(name, item):
                return
        self._select_classes(name, item, want)
        if _shape(item.tensor) == want:
            self._take(name, item)
        elif _matches(name, self.allow_missing):
            self._drop(item, f'{name} of the model has the shape {want}')
        else:
            self._refuse(item, f'does not fit {name} {want} of the model'
                         f'{self._remedy(name)}')

    def _remedy(self, name: str) -> str:
        if _DETECTION.fullmatch(name):
            tokens = self.items.get('backbone.det_token')
            if tokens is None:
                return ''
            count = tokens.tensor.shape[1]
            return f': set `num_det_tokens={count}` in the backbone'
        return (f'; --allow-missing {name!r} leaves that at its initial '
                'values')

    def _resize(self, name: str, item: Item) -> bool:
        """Positions on the model's grid."""
        mid = name == 'backbone.mid_pos_embed'
        source = self.info.mid_grid if mid else None
        table = item.tensor
        source = source or self.info.grid
        if table.ndim != 3:
            self._refuse(item, 'is no table of positions')
            return False
        patches = table.shape[1]
        # timm's `no_embed_class`: the class token has no position.
        bare = source[0] * source[1] if source else math.isqrt(patches)**2
        if (self.extra and patches == bare and not self.detector
                and self.report.format in ('timm', 'paper-classifier')):
            table = torch.cat((torch.zeros_like(table[:, :1]), table), 1)
            item.change(table, 'a row of zeros for the class token, which '
                        'has no position there')
        target = tuple(self.target['backbone.pos_grid'].tolist())
        try:
            table, grid = find_grid(item.sources[0][0], table, self.extra,
                                    source, target)
        except ConversionError as error:
            self.problems.append(str(error))
            return False
        if source is None and grid[0] != grid[1]:
            self.report.notes.append(
                f'{item.sources[0][0]} does not say of which grid it is: '
                f"taken for the model's, {grid[0]}x{grid[1]}")
        elif source is None and self.detector:
            self.report.notes.append(
                f'{item.sources[0][0]} does not say of which grid it is: '
                f'taken for a square, {grid[0]}x{grid[1]}')
        if table.shape[1] != item.tensor.shape[1]:
            item.change(table, 'without the row of the class token')
        if grid != target:
            item.change(
                torch.cat([
                    resize_pos_embed(one, grid, target, self.mode, self.extra)
                    for one in table.split(1)
                ]), f'{grid[0]}x{grid[1]} resized to {target[0]}x{target[1]}')
        return True

    def _select_classes(self, name: str, item: Item, want: Shape) -> None:
        """Rows of COCO's classes from rows of its category ids."""
        rows = item.tensor.shape[:1]
        if (self.report.format in DETECTORS
                and name.startswith('bbox_head.cls_branch.')
                and rows == (92, ) and want[:1] == (81, )):
            item.change(
                item.tensor[[*COCO_CATEGORY_IDS, 91]],
                'the rows of the 80 category ids of COCO, and no object')

    def _without_place(self, name: str, item: Item) -> None:
        """Drop what the model has no use for, or refuse."""
        if _POSITIONS.fullmatch(name) and not self.learned:
            why = 'the model has no learned positions'
            if 'backbone.rpe.reference' in self.items:
                why += ('; a model that used them beside its reference '
                        'gives other numbers')
            self._drop(item, why)
        elif name == 'backbone.cls_token':
            self._drop(item, 'the model has no class token')
        elif (_DETECTION.fullmatch(name)
              and 'backbone.det_token' not in self.target):
            self._drop(item, 'the model has no detection tokens')
        elif name.startswith(('head.', 'bbox_head.')) and self._no_head(name):
            self._drop(item, 'the model has no such head')
        elif name.startswith('backbone.mid_'):
            self._refuse(item, 'holds positions for the layers between: set '
                         '`mid_positions=True` in the backbone'
                         f'{self._drop_remedy(item)}')
        elif name.startswith('backbone.rpe.'):
            self._refuse(item, 'belongs to a reference encoding: set '
                         "`pos_encoding='rpe'` in the backbone"
                         f'{self._drop_remedy(item)}')
        else:
            self._refuse(item, f'would be {name}, which the model has not'
                         f'{self._drop_remedy(item)}')

    def _no_head(self, name: str) -> bool:
        """Whether the model has no head that such weights are for."""
        kind = name.partition('.')[0] + '.'
        if kind == 'bbox_head.' and self.report.format not in NATIVE:
            # Other detectors have a head of that name, too.
            kind = 'bbox_head.cls_branch.'
        return not any(n.startswith(kind) for n in self.target)

    def _drop_remedy(self, item: Item) -> str:
        return f', or leave it out with --allow-drop {item.sources[0][0]!r}'

    def _fill(self) -> None:
        """Account for everything that the model has."""
        for name, value in self.target.items():
            if name in self.out:
                continue
            if name == 'backbone.pos_grid':
                self.out[name] = value
                continue
            if self.outside != 'check' and not name.startswith('backbone.'):
                continue
            why = self._initial(name)
            if why is None and _matches(name, self.allow_missing):
                why = 'allowed on demand'
            if why is not None:
                self.report.initial.append(
                    Entry(None, None, name, _shape(value), why))
            elif name not in self.items:
                self.problems.append(
                    f'{name} {_shape(value)} of the model is not in the '
                    f'checkpoint; --allow-missing {name!r} leaves it at its '
                    'initial values')

    def _initial(self, name: str) -> Optional[str]:
        """Why it is right that a checkpoint of this kind has it not."""
        if name.startswith('backbone.rpe.'):
            if not any(n.startswith('backbone.rpe.') for n in self.items):
                return 'the checkpoint has no reference encoding'
        elif name.startswith(_PATCH):
            if not self.mixed and self.to_mixed:
                return 'the checkpoint embeds whole patches'
        elif _DETECTION.fullmatch(name) or name == 'backbone.mid_pos_embed':
            if not self.detector:
                return 'the checkpoint is of no detector'
        elif not name.startswith(('backbone.', 'head.')):
            if not self.detector and all(
                    n.startswith(('backbone.', 'head.')) for n in self.items):
                return 'the checkpoint is of no detector'
        return None


def convert_state_dict(
        state_dict: Mapping[str, Tensor],
        target: Mapping[str, Tensor],
        fmt: Optional[str] = None,
        info: Optional[SourceInfo] = None,
        allow_missing: Sequence[str] = (),
        allow_drop: Sequence[str] = (),
        interpolate_mode: str = 'bicubic',
        outside: str = 'check'
) -> Tuple[Dict[str, Tensor], ConversionReport]:
    """Make weights of another implementation those of a model.

    Every tensor of the checkpoint is mapped, or dropped for a reason; every
    one of the model is filled, or left at its initial values for a reason.

    Args:
        state_dict (dict): Names and tensors, see :func:`unwrap`; they are not
            changed.
        target (dict): Names and tensors of the model, whose backbone, a
            :class:`PEViT`, has the prefix ``backbone.``. Only shapes are
            read, and the grid of its positions.
        fmt (str, optional): A key of :data:`FORMATS`. None recognises it.
            Defaults to None.
        info (SourceInfo, optional): What else is known of the checkpoint.
            Defaults to None.
        allow_missing (Sequence[str]): Patterns of names of the model, as in a
            shell, that may stay at their initial values. Defaults to ().
        allow_drop (Sequence[str]): Patterns of names of the checkpoint that
            may be left out. Defaults to ().
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
    fmt = fmt or detect_format(state_dict)
    if fmt not in FORMATS:
        raise ConversionError(f'unknown format {fmt!r}: choose from '
                              f'{", ".join(FORMATS)}')
    items, dropped, problems = translate(state_dict, fmt, allow_drop)
    info = (info or SourceInfo()).with_grids(items)
    report = ConversionReport(fmt, dropped=dropped)
    fit = _Fit(items, target, report, info, allow_missing, interpolate_mode,
               outside)
    out = fit.run()
    lines = [
        f'{name} {_shape(state_dict[name])} {why}; --allow-drop {name!r} '
        'leaves it out' for name, why in problems.items()
    ] + fit.problems
    if lines:
        most = 12
        more = [f'and {len(lines) - most} more'] if len(lines) > most else []
        raise ConversionError(
            f'{FORMATS[fmt]} ({fmt}) cannot be taken over completely:\n  ' +
            '\n  '.join(lines[:most] + more))
    return out, report


#: What need not come with a checkpoint that a model loads by itself: the same
#: as the hosts allow, and it is logged.
_HOOK_MISSING = ('backbone.patch_embed.*', 'backbone.pos_embed',
                 'backbone.ln2.*', 'bbox_head.*')


def load_foreign(state_dict: Dict[str, Any], prefix: str,
                 target: Mapping[str, Tensor], part: str,
                 interpolate_mode: str) -> None:
    """Convert in place what a model is about to load, if it is foreign.

    Weights under the names of MMPretrain or of this package, and those of no
    known format, stay as they are. What becomes of the others is logged.

    Args:
        state_dict (dict): What a load hook of a module gets.
        prefix (str): The module's prefix in it.
        target (dict): Names and tensors of the module without prefix.
        part (str): What the module is: ``'backbone'``, ``'model'``, a whole
            model, or ``'classifier'``, a whole model of which `target` has
            the backbone only.
        interpolate_mode (str): How positions are resized.

    Raises:
        ConversionError: If the weights are of a known format but not complete
            or not for this model.
    """
    names = [name for name in state_dict if str(name).startswith(prefix)]
    found = {name[len(prefix):]: state_dict[name] for name in names}
    try:
        state, info = unwrap(found)
        fmt = detect_format(state)
    except ConversionError:
        # The host says what it expected.
        return
    if fmt in NATIVE:
        return
    backbone = part == 'backbone'
    if backbone:
        target = {f'backbone.{name}': v for name, v in target.items()}
    converted, report = convert_state_dict(
        state,
        target,
        fmt,
        info,
        allow_missing=_HOOK_MISSING,
        interpolate_mode=interpolate_mode,
        outside={
            'backbone': 'drop',
            'model': 'check',
            'classifier': 'pass'
        }[part])
    for name in names:
        del state_dict[name]
    for name, tensor in converted.items():
        state_dict[prefix + (_bare(name) if backbone else name)] = tensor
    logger = MMLogger.get_current_instance()
    logger.info(f'Weights of {FORMATS[fmt]} ({fmt}): {len(report.mapped)} '
                'tensors taken over.')
    for verb, entries in (('Resized', report.resized),
                          ('Dropped', report.dropped), ('Left as initialised',
                                                        report.initial)):
        for entry in entries:
            logger.info(f'{verb}: {entry}')
