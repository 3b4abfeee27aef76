# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import difflib
import math
from functools import partial
from typing import Iterator, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.logging import MMLogger
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.utils import require
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hime_mm.registry import MODELS
from ..layers import ReferencePositionEncoding
from .pevit import POS_ENCODINGS

OUT_TYPES = ('cls_token', 'featmap', 'avg_featmap', 'raw')

# Classes of timm whose forward pass is the one below.
_VITS = ('VisionTransformer', 'VisionTransformerDistilled')
# The tokens before the patches, in timm's order.
_PREFIX = ('cls_token', 'dist_token', 'reg_token')
# What has no part in any `out_type`.
_HEADS = ('head', 'head_dist', 'attn_pool')
_SET_HERE = ('num_classes', 'in_chans', 'features_only', 'dynamic_img_size',
             'dynamic_img_pad')
# Modules of timm and torch that commute with a permutation of the tokens.
_NORMS = ('LayerNorm', 'LayerNormFp32', 'RMSNorm', 'RmsNorm', 'RmsNormFp32',
          'SimpleNorm', 'SimpleNormFp32', 'Identity')
_ACTIVATIONS = ('GELU', 'GELUTanh', 'GeluTanh', 'QuickGELU', 'QuickGelu',
                'ReLU', 'ReLU6', 'LeakyReLU', 'ELU', 'CELU', 'SELU', 'SiLU',
                'Swish', 'Mish', 'Sigmoid', 'Tanh', 'Hardswish', 'HardSwish',
                'Hardsigmoid', 'HardSigmoid', 'Softplus')
_TOKENWISE = frozenset(
    _NORMS + _ACTIVATIONS +
    ('Block', 'ResPostBlock', 'ParallelScalingBlock', 'ParallelThingsBlock',
     'DiffParallelScalingBlock', 'Attention', 'DiffAttention', 'Mlp', 'GluMlp',
     'SwiGLU', 'SwiGLUPacked', 'LayerScale', 'DropPath', 'Dropout', 'Linear',
     'Sequential', 'ModuleList'))


def _trusted(module: nn.Module, names: Sequence[str]) -> bool:
    """Whether the class is one of these names, and timm's or torch's own."""
    kind = type(module)
    return kind.__name__ in names and kind.__module__.partition('.')[0] in (
        'timm', 'torch')


def _order_signs(model: nn.Module) -> Iterator[Tuple[str, str]]:
    """What makes a model depend on the patch order, and where it is."""
    for name, module in model.named_modules():
        if not name:
            continue
        kind = type(module).__name__.lower()
        window = getattr(module, 'window_size', None)
        held = {**module._parameters, **module._buffers}
        if 'rotary' in kind or 'rope' in kind:
            yield 'rotary positions', name
        if 'relpos' in kind or kind == 'gpsa' or any(
                'relative_position' in key or 'rel_pos' in key
                for key, value in held.items() if value is not None):
            yield 'relative position biases', name
        if 'window' in kind or (isinstance(window, int) and window > 0) or (
                window and hasattr(module, 'shift_size')):
            yield 'windowed attention', name
        if kind.startswith('spatialgating') or name.endswith(
            ('mlp_tokens', 'linear_tokens')):
            yield 'layers that mix tokens by their place', name
        if isinstance(module, (nn.AvgPool2d, nn.MaxPool2d)):
            yield 'pooling over neighbouring patches', name
        # Kernel = stride is a patch embedding, which sees its patch only.
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 and (
                module.kernel_size != module.stride):
            yield 'convolutions over neighbouring pixels or patches', name


def order_dependence(model: nn.Module) -> List[str]:
    """Why a timm model cannot be made permutation-equivariant.

    Decided by what the model consists of, not by its name: every module that
    the tokens pass has to be known to treat them alike.

    Args:
        model (nn.Module): A timm model, on any device, 'meta' among them.

    Returns:
        list[str]: The reasons; empty for a model that can be made so.
    """
    reasons = []
    if not _trusted(model, _VITS):
        reasons.append(f'it is a {type(model).__name__}, and only the '
                       'VisionTransformer of timm is supported')
        places = {}
        for sign, name in _order_signs(model):
            places.setdefault(sign, name)
        return reasons + [f'it has {sign} (`{name}`)'
                          for sign, name in places.items()]

    embed = model.patch_embed
    if not _trusted(embed, ('PatchEmbed', )):
        sign = next(_order_signs(embed), ('an unknown forward pass', ''))[0]
        reasons.append(f'its stem is a {type(embed).__name__}, not the '
                       f'PatchEmbed of timm: it has {sign}')
    else:
        conv = embed.proj
        if conv.kernel_size != conv.stride or any(conv.padding) or max(
                conv.dilation) > 1:
            reasons.append(f'its patches overlap: kernel {conv.kernel_size}, '
                           f'stride {conv.stride}, padding {conv.padding}')
        elif conv.stride[0] != conv.stride[1]:
            reasons.append(f'its patches are not square: {conv.stride}')
        if not _trusted(embed.norm, _NORMS):
            reasons.append('`patch_embed.norm` is a '
                           f'{type(embed.norm).__name__}')
    for part in ('norm_pre', 'norm', 'fc_norm'):
        module = getattr(model, part, None)
        if module is not None and not _trusted(module, _NORMS):
            reasons.append(f'`{part}` is a {type(module).__name__}')
    unknown = {}
    for name, module in model.blocks.named_modules(prefix='blocks'):
        if not _trusted(module, _TOKENWISE):
            unknown.setdefault(type(module).__name__, name)
    reasons += [f'`{name}` is a {kind}, not known to treat all tokens alike'
                for kind, name in unknown.items()]
    tokens = sum(
        getattr(model, name).shape[1] for name in _PREFIX
        if getattr(model, name, None) is not None)
    if tokens != model.num_prefix_tokens:
        reasons.append(f'it counts {model.num_prefix_tokens} tokens before '
                       f'the patches, but has {tokens}')
    return reasons


def _check_name(model_name: str) -> None:
    """See that timm knows the model, and its weights where it names some."""
    import timm
    if ':' in model_name:
        # timm's own schemes, `hf-hub:` and `local-dir:`.
        return
    arch, _, tag = model_name.partition('.')
    if not timm.is_model(arch):
        close = difflib.get_close_matches(arch, timm.list_models(), n=5)
        raise ValueError(
            f'timm has no model {arch!r}: ' +
            (f'did you mean {" or ".join(map(repr, close))}?' if close else
             'see `timm.list_models()`'))
    if tag:
        tags = [
            name for name in timm.list_pretrained(f'{arch}.*')
            if name.partition('.')[0] == arch
        ]
        # Deprecated names have no list, and timm resolves them.
        if tags and model_name not in tags:
            raise ValueError(f'timm has no weights {tag!r} of {arch!r}: '
                             f'choose from {tags}')


def _outline(model_name: str, **kwargs) -> nn.Module:
    """A model without weights: costs no memory and no download."""
    import timm
    with torch.device('meta'):
        return timm.create_model(model_name, pretrained=False, **kwargs)


def timm_patch_size(model_name: str) -> Optional[int]:
    """Side of a patch of a timm ViT, without making its weights.

    Args:
        model_name (str): As :class:`TIMMPEViT` takes it.

    Returns:
        int | None: In pixels. None where timm is missing, does not know the
        name, or the model is none that :class:`TIMMPEViT` takes; building it
        says why.
    """
    try:
        _check_name(model_name)
        if ':' in model_name:
            # Its description may have to be downloaded.
            return None
        model = _outline(model_name)
    except (ImportError, ValueError, RuntimeError):
        return None
    if order_dependence(model):
        return None
    return model.patch_embed.proj.stride[0]


@MODELS.register_module()
class TIMMPEViT(BaseBackbone):
    """A ViT of timm, made permutation-equivariant.

    Takes timm's model as it is, patch embedding, blocks and norms, and leaves
    out what knows the patch order: with ``pos_encoding='rpe'`` or ``'none'``
    permuting the patches of an image permutes the patch tokens and leaves
    class, distillation and register tokens as they are. DeiT, DeiT-III,
    AugReg, DINO, DINOv2, MAE, CLIP and SigLIP models are among those that
    work. Where a model gives the tokens before the patches learned positions
    too, these are constants that hold no patch order, and are added to those
    tokens for good: only the positions of the patches are lost.

    The model is kept as ``timm_model``, with timm's names. A checkpoint of
    timm, of MMPretrain's ``TIMMBackbone`` or of this class loads by
    ``init_cfg=dict(type='Pretrained', ...)``; what does not fit is logged.

    Every token of a padded batch counts as image.

    Args:
        model_name (str): A name of timm, with or without the tag of its
            weights, such as 'deit_small_patch16_224',
            'vit_base_patch16_224.augreg_in21k', 'deit3_small_patch16_224' or
            'vit_small_patch14_reg4_dinov2.lvd142m'.
        pretrained (bool): Download timm's weights. Defaults to False.
        checkpoint_path (str): A file of weights in any format that timm reads
            for its ViTs, '.safetensors' and '.npz' among them. Defaults to
            '', none.
        pos_encoding (str): ``'rpe'``, reference-based positional encoding;
            ``'none'``; or ``'learned'``, timm's model as it is, with which
            shuffled patches are not recognised. Defaults to 'rpe'.
        out_type (str): ``'cls_token'`` (B, D), ``'featmap'`` (B, D, rows,
            cols), ``'avg_featmap'`` (B, D), the mean of the patch tokens, or
            ``'raw'`` (B, L, D), all tokens in the order class, distillation,
            registers, patches. After the last block the model's own final
            norm applies: to each token, or, where the model was made with a
            norm behind its average pooling (``fc_norm``), to the mean for
            'avg_featmap' and to each token otherwise. Defaults to
            'cls_token'.
        out_indices (int | Sequence[int]): The blocks whose output is given;
            negative ones count from the end. Blocks behind the last of them
            are left out of the model. Defaults to -1.
        img_size (int | tuple[int, int], optional): The height and width on
            which learned positions are defined. Any other size works.
            Defaults to None, timm's.
        patch_size (int, optional): Side of a patch in pixels. Other than
            timm's, the weights of the patch embedding are resampled.
            Defaults to None, timm's.
        in_channels (int): Number of image channels. Defaults to 3.
        frozen_stages (int): Number of blocks, counted from the input, to
            keep fixed together with all that is before them; -1 or 0 freezes
            nothing. Defaults to -1.
        with_cp (bool): Recompute each block in the backward pass instead of
            keeping its activations. Defaults to False.
        init_cfg (dict | list[dict], optional): Initialization config.
            Defaults to None.
        **kwargs: Passed to ``timm.create_model``, such as ``drop_path_rate``.

    Raises:
        ImportError: If timm is not installed.
        TypeError: If ``pretrained`` is no bool or the model does not take an
            argument.
        ValueError: If timm does not know the name, the model depends on the
            patch order by more than its positions (the message says by
            what), or an option is unknown or does not fit the model.
    """

    # The pin keeps pip from replacing torch.
    @require(
        'timm>=1.0',
        install='pip install "timm>=1.0" "torch=='
        f'{torch.__version__.partition("+")[0]}"')
    def __init__(self,
                 model_name: str,
                 pretrained: bool = False,
                 checkpoint_path: str = '',
                 pos_encoding: str = 'rpe',
                 out_type: str = 'cls_token',
                 out_indices: Union[int, Sequence[int]] = -1,
                 img_size: Union[int, Tuple[int, int], None] = None,
                 patch_size: Optional[int] = None,
                 in_channels: int = 3,
                 frozen_stages: int = -1,
                 with_cp: bool = False,
                 init_cfg: Union[dict, List[dict], None] = None,
                 **kwargs) -> None:
        super().__init__(init_cfg)
        if not isinstance(pretrained, bool):
            raise TypeError('`pretrained` must be True or False, got '
                            f'{pretrained!r}: the path of a file goes to '
                            '`checkpoint_path`')
        if pos_encoding not in POS_ENCODINGS:
            raise ValueError(f'unknown `pos_encoding` {pos_encoding!r}: '
                             f'choose from {POS_ENCODINGS}')
        if out_type == 'det_tokens':
            raise ValueError("`out_type='det_tokens'`: models of timm have no "
                             'detection tokens, use hime_mm.PEViT')
        if out_type not in OUT_TYPES:
            raise ValueError(f'unknown `out_type` {out_type!r}: choose from '
                             f'{OUT_TYPES}')
        if patch_size is not None and not isinstance(patch_size, int):
            raise ValueError('the patches of a cipher are square: '
                             '`patch_size` must be a whole number, got '
                             f'{patch_size!r}')
        for name in _SET_HERE:
            if name in kwargs:
                raise ValueError(
                    f'`{name}` is set by TIMMPEViT: leave it out' +
                    (', and use `in_channels`' if name == 'in_chans' else ''))
        if out_type == 'featmap' and kwargs.get('patch_drop_rate'):
            raise ValueError("`out_type='featmap'` needs every patch: leave "
                             'out `patch_drop_rate`')
        vit = self._build(
            model_name,
            pretrained=pretrained,
            checkpoint_path=checkpoint_path,
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_channels,
            **kwargs)
        self.model_name = model_name
        self.pos_encoding = pos_encoding
        self.out_type = out_type
        self.with_cp = with_cp
        self.embed_dims = vit.embed_dim
        self.num_extra_tokens = vit.num_prefix_tokens
        self._prefix = tuple(name for name in _PREFIX
                             if getattr(vit, name, None) is not None)
        if out_type == 'cls_token' and vit.cls_token is None:
            raise ValueError(f'{model_name!r} has no class token: use '
                             "`out_type='avg_featmap'`")
        for name in _HEADS:
            if getattr(vit, name, None) is not None:
                setattr(vit, name, None)

        grid = None
        if pos_encoding == 'learned':
            if vit.pos_embed is None:
                raise ValueError(f'{model_name!r} has no learned positions: '
                                 "use `pos_encoding='rpe'` or 'none'")
            grid = torch.tensor(vit.patch_embed.grid_size)
        elif vit.pos_embed is not None:
            if not vit.no_embed_class:
                tokens = {name: getattr(vit, name) for name in self._prefix}
                with torch.no_grad():
                    for name, value in self._folded(tokens,
                                                    vit.pos_embed).items():
                        tokens[name].copy_(value)
            vit.pos_embed = None
        # Says in a checkpoint which grid the flat table is of.
        self.register_buffer('pos_grid', grid)
        self.rpe = (
            ReferencePositionEncoding(self.embed_dims)
            if pos_encoding == 'rpe' else nn.Identity())
        self.out_indices = self._positive(out_indices, len(vit.blocks))
        self._trim(vit, max(self.out_indices) + 1)
        self.num_layers = len(vit.blocks)
        # timm has initialised it, and may have loaded weights into it:
        # `init_weights` must not do that again.
        vit.is_init = True
        self.timm_model = vit
        # A model around this one initialises all that is in it first, be it
        # trained or not; `init_weights` puts trained weights back.
        self._trained = None
        if pretrained or checkpoint_path:
            self._trained = {
                name: value.detach().cpu().clone()
                for name, value in vit.state_dict().items()
            }
        self._register_load_state_dict_pre_hook(self._adapt_state)

        if frozen_stages > self.num_layers:
            raise ValueError(f'`frozen_stages` is {frozen_stages}, but there '
                             f'are {self.num_layers} blocks')
        self.frozen_stages = frozen_stages
        if frozen_stages > 0:
            self._freeze_stages()

    @staticmethod
    def _build(model_name: str, pretrained: bool, checkpoint_path: str,
               **kwargs) -> nn.Module:
        """The model of timm, after a look at what it consists of."""
        import timm
        from timm.models import load_checkpoint
        from timm.models.vision_transformer import checkpoint_filter_fn
        _check_name(model_name)
        # Any size comes in; what is no whole patch is filled up with zeros.
        kwargs = dict(
            num_classes=0,
            dynamic_img_size=True,
            dynamic_img_pad=True,
            **{k: v for k, v in kwargs.items() if v is not None})
        error = None
        try:
            model = _outline(model_name, **kwargs)
        except TypeError as caught:
            # Other models do not take a ViT's arguments.
            error, model = caught, _outline(model_name)
        reasons = order_dependence(model)
        if reasons:
            raise ValueError(
                f'{model_name!r} cannot be made permutation-equivariant: ' +
                '; '.join(reasons) + '. Use a plain ViT such as '
                "'deit_small_patch16_224' or "
                "'vit_small_patch14_reg4_dinov2'")
        if error is not None:
            raise error
        model = timm.create_model(model_name, pretrained=pretrained, **kwargs)
        if checkpoint_path:
            # `create_model` would refuse a checkpoint that has a head.
            found = load_checkpoint(
                model,
                checkpoint_path,
                strict=False,
                filter_fn=partial(
                    checkpoint_filter_fn, adapt_layer_scale=True),
                weights_only=True)
            if found is not None:
                _report(checkpoint_path, found.missing_keys,
                        found.unexpected_keys)
        return model

    @staticmethod
    def _positive(indices: Union[int, Sequence[int]],
                  depth: int) -> Tuple[int, ...]:
        if isinstance(indices, int):
            indices = (indices, )
        bad = [i for i in indices if not -depth <= i < depth]
        if bad or not len(indices):
            raise ValueError(f'`out_indices` {tuple(indices)} for {depth} '
                             f'blocks: choose from {-depth} to {depth - 1}')
        return tuple(i % depth for i in indices)

    def _trim(self, vit: nn.Module, depth: int) -> None:
        """Leave out the blocks that no output needs."""
        if depth < len(vit.blocks):
            vit.blocks = vit.blocks[:depth]
            # They belong to the last block.
            vit.norm, vit.fc_norm = nn.Identity(), nn.Identity()

    @property
    def patch_stride(self) -> int:
        """int: Side of a patch in pixels of the images that come in."""
        return self.timm_model.patch_embed.proj.stride[0]

    def train(self, mode: bool = True) -> 'TIMMPEViT':
        """Set the mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        if mode and self.frozen_stages > 0:
            self._freeze_stages()
        return self

    def _freeze_stages(self) -> None:
        vit = self.timm_model
        frozen = [
            self.rpe, vit.patch_embed, vit.pos_drop, vit.patch_drop,
            vit.norm_pre, *vit.blocks[:self.frozen_stages]
        ]
        if self.frozen_stages == self.num_layers:
            frozen += [vit.norm, vit.fc_norm]
        for module in frozen:
            module.eval()
            module.requires_grad_(False)
        for name in (*self._prefix, 'pos_embed'):
            if getattr(vit, name) is not None:
                getattr(vit, name).requires_grad_(False)

    def _folded(self, tokens: dict, table: Tensor) -> dict:
        """The tokens before the patches with their positions added."""
        counts = [tokens[name].shape[1] for name in self._prefix]
        parts = table[:, :sum(counts)].split(counts, dim=1)
        return {
            name: tokens[name] + part
            for name, part in zip(self._prefix, parts)
        }

    def init_weights(self) -> None:
        """Initialize the weights that timm has not loaded."""
        if self._trained is not None:
            self.timm_model.load_state_dict(self._trained)
            self._trained = None
        super().init_weights()

    def _adapt_state(self, state_dict, prefix, *args, **kwargs) -> None:
        """Fit a checkpoint to this model, and say what was done.

        Takes timm's names as they are, adds or drops positions as this model
        needs them, and resizes positions and patch embedding.
        """
        self._trained = None
        inner = f'{prefix}timm_model.'
        names = [k for k in state_dict if k.startswith(prefix)]
        if not any(k.startswith(inner) for k in names):
            for name in names:
                if not name.startswith((f'{prefix}rpe.', f'{prefix}pos_grid')):
                    state_dict[inner + name[len(prefix):]] = state_dict.pop(
                        name)
        self._adapt_positions(state_dict, prefix, inner)
        self._adapt_embedding(state_dict, inner)
        own = {prefix + name for name in self.state_dict()}
        unused = tuple(f'{inner}{name}.' for name in (*_HEADS, 'norm',
                                                      'fc_norm', 'blocks'))
        dropped = [
            name for name in state_dict
            if name.startswith(unused) and name not in own
        ]
        for name in dropped:
            del state_dict[name]
        # A new encoding is what one asks for with the weights of a plain ViT.
        missing = [
            name for name in sorted(own.difference(state_dict))
            if not name.startswith(f'{prefix}rpe.')
        ]
        _report('the state dict', missing, dropped)

    def _adapt_positions(self, state_dict, prefix: str, inner: str) -> None:
        vit = self.timm_model
        logger = MMLogger.get_current_instance()
        name = f'{inner}pos_embed'
        source = state_dict.pop(f'{prefix}pos_grid', None)
        if self.pos_grid is not None:
            # Checkpoints of timm have none.
            state_dict[f'{prefix}pos_grid'] = self.pos_grid
        if name not in state_dict:
            return
        table = state_dict[name]
        extra = 0 if vit.no_embed_class else self.num_extra_tokens
        if vit.pos_embed is not None:
            state_dict[name] = self._fitted_positions(name, table, source,
                                                      extra)
            return
        del state_dict[name]
        logger.info(f'Dropped {name} {tuple(table.shape)}: pos_encoding='
                    f'{self.pos_encoding!r} has no learned positions.')
        tokens = {token: state_dict.get(inner + token)
                  for token in self._prefix}
        # A square table is one of a model that gives those tokens none.
        side = math.isqrt(table.shape[1])
        if extra and None not in tokens.values() and side**2 != table.shape[1]:
            folded = self._folded(tokens, table)
            state_dict.update({inner + k: v for k, v in folded.items()})
            logger.info(f'Added its first {extra} entries to '
                        f'{", ".join(self._prefix)}.')

    def _fitted_positions(self, name: str, table: Tensor,
                          source: Optional[Tensor], extra: int) -> Tensor:
        """The positions of a checkpoint on this model's grid."""
        from timm.layers import resample_abs_pos_embed
        target = tuple(self.timm_model.patch_embed.grid_size)
        count = table.shape[1] - extra
        side = math.isqrt(max(count, 0))
        if source is not None:
            grid = tuple(source.tolist())
        else:
            grid = (side, side) if side * side == count else target
        if grid[0] * grid[1] != count:
            raise ValueError(
                f'{name} of the checkpoint holds {count} patch positions, '
                'which is no square, and does not say of which grid: load it '
                'into a model of the `img_size` it was trained with, and save '
                'that')
        if grid == target:
            return table
        MMLogger.get_current_instance().info(
            f'Resized {name} {tuple(table.shape)} from a grid of '
            f'{grid[0]}x{grid[1]} to {target[0]}x{target[1]}.')
        return resample_abs_pos_embed(
            table, target, old_size=grid, num_prefix_tokens=extra)

    def _adapt_embedding(self, state_dict, inner: str) -> None:
        """Resample the patch embedding of another patch size."""
        from timm.layers import resample_patch_embed
        name = f'{inner}patch_embed.proj.weight'
        weight, own = state_dict.get(name), self.timm_model.patch_embed.proj
        if weight is None or weight.shape[2:] == own.weight.shape[2:]:
            return
        state_dict[name] = resample_patch_embed(weight,
                                                list(own.weight.shape[2:]))
        MMLogger.get_current_instance().info(
            f'Resampled {name} from {tuple(weight.shape)} to '
            f'{tuple(state_dict[name].shape)}.')

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute features.

        Args:
            x (Tensor): Images, shape (B, C, H, W), any size. A size that
                holds no whole number of patches is filled up with zeros,
                below and right.

        Returns:
            tuple[Tensor]: One entry per ``out_indices``, as ``out_type``
            says.
        """
        vit = self.timm_model
        x = vit.patch_embed(x)
        batch, *grid, _ = x.shape
        if self.pos_encoding == 'learned':
            x = vit._pos_embed(x)
        else:
            x = self.rpe(x.flatten(1, 2))
            tokens = [getattr(vit, name).expand(batch, -1, -1)
                      for name in self._prefix]
            x = vit.pos_drop(torch.cat((*tokens, x), dim=1))
        x = vit.norm_pre(vit.patch_drop(x))

        outs = []
        for i, block in enumerate(vit.blocks):
            if self.with_cp and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if i in self.out_indices:
                last = i == self.num_layers - 1
                outs.append(self._format_output(x, grid, last))
        return tuple(outs)

    def _format_output(self, x: Tensor, grid: Sequence[int],
                       last: bool) -> Tensor:
        vit = self.timm_model
        if last:
            x = vit.norm(x)
        norm = vit.fc_norm if last else nn.Identity()
        if self.out_type == 'raw':
            return norm(x)
        if self.out_type == 'cls_token':
            return norm(x[:, 0])
        patches = x[:, self.num_extra_tokens:]
        if self.out_type == 'avg_featmap':
            return norm(patches.mean(dim=1))
        return norm(patches).transpose(1, 2).reshape(len(x), -1, *grid)

    def get_layer_depth(self,
                        param_name: str,
                        prefix: str = '') -> Tuple[int, int]:
        """Get the layer-wise depth of a parameter.

        Args:
            param_name (str): The name of the parameter.
            prefix (str): The prefix for the parameter.
                Defaults to an empty string.

        Returns:
            tuple[int, int]: The layer-wise depth and the number of layers.
            Everything that makes the first block's input has depth 0.
        """
        num_layers = self.num_layers + 2
        if not param_name.startswith(prefix):
            # For subsequent module like head
            return num_layers - 1, num_layers
        name = param_name[len(prefix):]
        if name.startswith('rpe.'):
            return 0, num_layers
        name = name.removeprefix('timm_model.')
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, num_layers
        if name.startswith((*_PREFIX, 'pos_embed', 'patch_embed', 'norm_pre')):
            return 0, num_layers
        return num_layers - 1, num_layers


def _report(source: str, missing: Sequence[str],
            dropped: Sequence[str]) -> None:
    """Log what a checkpoint lacks, and what of it has no place."""

    def listed(names: Sequence[str]) -> str:
        rest = len(names) - 20
        return ', '.join(names[:20]) + (f' and {rest} more' if rest > 0 else
                                        '')

    logger = MMLogger.get_current_instance()
    if dropped:
        logger.info(f'Dropped from {source}, as this model has no such '
                    f'parts: {listed(dropped)}.')
    if missing:
        logger.warning(f'Missing in {source}, and left as initialised: '
                       f'{listed(missing)}.')
