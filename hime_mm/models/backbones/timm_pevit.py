# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""PEViT on vision transformers of timm."""

from collections.abc import Sequence
from numbers import Integral

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.utils import require
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hime_mm.errors import ConfigError
from hime_mm.registry import MODELS
from hime_mm.run_check import check_current_run

from ..layers import ReferencePositionEncoding
from ..layers.padding import KnowsPadding, key_mask, mean_token
from ..weights.hooks import HEADS, fold_positions, load_timm
from ..weights.warm_start import check_warm_start, register_warm_start
from .pevit import POS_ENCODINGS
from .timm_inspection import PREFIX_TOKENS, build_vit, check_masks

OUT_TYPES = ('cls_token', 'featmap', 'avg_featmap', 'raw')
_SET_HERE = {'num_classes', 'in_chans', 'features_only', 'dynamic_img_size', 'dynamic_img_pad'}


@MODELS.register_module()
class TIMMPEViT(KnowsPadding, BaseBackbone):
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
        warm_start (str | dict, optional): A cipher, or a dict of the
            arguments of :class:`WarmStart`: plain weights that are loaded get
            a patch embedding for its patches, by what the cipher does to
            them, in place of one that is resampled. Checkpoints say that it
            was done, so that it is not done twice. Defaults to None.
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
        ConfigError: If timm does not know the name, the model depends on the
            patch order by more than its positions (the message says by
            what), or an option is unknown or does not fit the model.
    """

    # The pin keeps pip from replacing torch.
    @require(
        'timm>=1.0',
        install=f'pip install "timm>=1.0" "torch=={torch.__version__.partition("+")[0]}"',
    )
    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        checkpoint_path: str = '',
        pos_encoding: str = 'rpe',
        out_type: str = 'cls_token',
        out_indices: int | Sequence[int] = -1,
        *,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | None = None,
        in_channels: int = 3,
        warm_start: None | str | dict = None,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(init_cfg)
        register_warm_start(self, warm_start)
        if not isinstance(pretrained, bool):
            raise TypeError(
                '`pretrained` must be True or False, got '
                f'{pretrained!r}: the path of a file goes to '
                '`checkpoint_path`'
            )
        if pos_encoding not in POS_ENCODINGS:
            raise ConfigError(
                f'unknown `pos_encoding` {pos_encoding!r}: choose from {POS_ENCODINGS}'
            )
        if out_type not in OUT_TYPES:
            raise ConfigError(
                f'unknown `out_type` {out_type!r}: choose from '
                f'{OUT_TYPES}; only hime_mm.PEViT has detection '
                'tokens'
            )
        if patch_size is not None and not isinstance(patch_size, int):
            raise ConfigError(
                'the patches of a cipher are square: '
                '`patch_size` must be a whole number, got '
                f'{patch_size!r}'
            )
        conflicts = sorted(_SET_HERE.intersection(kwargs))
        if conflicts:
            raise ConfigError(
                f'`{conflicts[0]}` is set by TIMMPEViT: leave it out (channels are `in_channels`)'
            )
        if out_type == 'featmap' and kwargs.get('patch_drop_rate'):
            raise ConfigError("`out_type='featmap'` needs every patch: leave out `patch_drop_rate`")
        source = (pretrained, checkpoint_path)
        options = dict(kwargs, in_chans=in_channels)
        vit = build_vit(
            model_name,
            # With a warm start, weights are those of plain patches, and are loaded below.
            *(source if warm_start is None else (False, '')),
            img_size=img_size,
            patch_size=patch_size,
            **options,
        )
        self.model_name = model_name
        self.pos_encoding = pos_encoding
        self.out_type = out_type
        self.with_cp = with_cp
        self.embed_dims = vit.embed_dim
        self.num_extra_tokens = vit.num_prefix_tokens
        self.prefix_tokens = tuple(
            name for name in PREFIX_TOKENS if getattr(vit, name, None) is not None
        )
        if out_type == 'cls_token' and vit.cls_token is None:
            raise ConfigError(f"{model_name!r} has no class token: use `out_type='avg_featmap'`")
        for name in HEADS:
            setattr(vit, name, None)

        grid = None
        if pos_encoding == 'learned':
            if vit.pos_embed is None:
                raise ConfigError(
                    f"{model_name!r} has no learned positions: use `pos_encoding='rpe'` or 'none'"
                )
            grid = torch.tensor(vit.patch_embed.grid_size)
        elif vit.pos_embed is not None:
            if not vit.no_embed_class:
                state = vit.state_dict()
                tokens = {name: state[name] for name in self.prefix_tokens}
                folded = fold_positions(tokens, state['pos_embed'])
                for name, value in folded.items():
                    tokens[name].copy_(value)
            vit.pos_embed = None
        # Says in a checkpoint which grid the flat table is of.
        self.register_buffer('pos_grid', grid)
        self.rpe = (
            ReferencePositionEncoding(self.embed_dims) if pos_encoding == 'rpe' else nn.Identity()
        )
        self.out_indices = self._positive(out_indices, len(vit.blocks))
        self.num_layers = max(self.out_indices) + 1
        if self.num_layers < len(vit.blocks):
            vit.blocks = vit.blocks[: self.num_layers]
            # They belong to the last block.
            vit.norm, vit.fc_norm = nn.Identity(), nn.Identity()
        # timm has initialised it, and may have loaded weights into it:
        # `init_weights` must not do that again.
        vit.is_init = True
        self.timm_model = vit
        check_warm_start(self)
        # A model around this one initialises all that is in it first, be it
        # trained or not; `init_weights` puts trained weights back.
        self._trained = None
        self._register_load_state_dict_pre_hook(self._adapt_state)
        if any(source):
            if warm_start is not None:
                side = self.warm_start.cipher.patch_size
                plain = build_vit(model_name, *source, patch_size=side, **options)
                self.load_state_dict(plain.state_dict(), strict=False)
            self._trained = {
                name: value.detach().cpu().clone() for name, value in vit.state_dict().items()
            }

        if frozen_stages > self.num_layers:
            raise ConfigError(
                f'`frozen_stages` is {frozen_stages}, but there are {self.num_layers} blocks'
            )
        self.frozen_stages = frozen_stages
        if frozen_stages > 0:
            self._freeze_stages()
        check_current_run()

    @staticmethod
    def _positive(indices: int | Sequence[int], depth: int) -> tuple[int, ...]:
        if isinstance(indices, Integral):
            indices = (indices,)
        if not isinstance(indices, Sequence) or not all(isinstance(i, Integral) for i in indices):
            raise ConfigError(f'`out_indices` must be whole numbers, got {indices!r}')
        invalid = [i for i in indices if not -depth <= i < depth]
        if invalid or not len(indices):
            raise ConfigError(
                f'`out_indices` {tuple(indices)} for {depth} '
                f'blocks: choose from {-depth} to {depth - 1}'
            )
        return tuple(i % depth for i in indices)

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
            self.rpe,
            vit.patch_embed,
            vit.pos_drop,
            vit.patch_drop,
            vit.norm_pre,
            *vit.blocks[: self.frozen_stages],
        ]
        if self.frozen_stages == self.num_layers:
            frozen += [vit.norm, vit.fc_norm]
        for module in frozen:
            module.eval().requires_grad_(False)
        for name in (*self.prefix_tokens, 'pos_embed'):
            if getattr(vit, name) is not None:
                getattr(vit, name).requires_grad_(False)

    def init_weights(self) -> None:
        """Initialize the weights that timm has not loaded."""
        if self._trained is not None:
            self.timm_model.load_state_dict(self._trained)
            self._trained = None
        super().init_weights()

    def _adapt_state(self, state_dict, prefix, *args, **kwargs) -> None:
        """Fit a checkpoint to this model, and say what was done."""
        self._trained = None
        load_timm(self, state_dict, prefix)

    def forward(self, x: Tensor, data_samples: list | None = None) -> tuple[Tensor, ...]:
        """Compute features.

        Args:
            x (Tensor): Images, shape (B, C, H, W), any size. A size that
                holds no whole number of patches is filled up with zeros,
                below and right.
            data_samples (list[:obj:`BaseDataElement`], optional): Their
                ``img_shape`` (height and width of the image within the
                padded batch, in pixels) decides which tokens are padding;
                those are attended to by none, so that each image gives what
                it would give alone. None takes every token for image, unless
                the detector has told of them. Defaults to None.

        Returns:
            tuple[Tensor]: One entry per ``out_indices``, as ``out_type``
            says. The padding of a ``featmap`` is zero.

        Raises:
            ConfigError: If the data samples do not fit the batch; or if some
                tokens are padding, and the model drops patches in training or
                timm is too old.
        """
        vit, grids, mask = self.timm_model, self._token_grids(x, data_samples), None
        x = vit.patch_embed(x)
        batch, *grid, _ = x.shape
        if grids is not None:
            mask = key_mask(grid, grids, x.device)
        if self.pos_encoding != 'learned':
            x = self.rpe(x.flatten(1, 2))
            tokens = [getattr(vit, name).expand(batch, -1, -1) for name in self.prefix_tokens]
            x = vit.pos_drop(torch.cat((*tokens, x), dim=1))
        elif mask is None:
            x = vit._pos_embed(x)
        else:
            x = torch.cat([self._embed(x[i : i + 1], size) for i, size in enumerate(grids)])
        # Where it is not there, blocks that somebody put in place of timm's take tokens only.
        keys = {}
        if mask is not None:
            check_masks()
            if vit.patch_drop.training and not isinstance(vit.patch_drop, nn.Identity):
                raise ConfigError(
                    'some tokens of this batch are padding, of which '
                    '`patch_drop_rate` knows nothing: leave it out'
                )
            mask = F.pad(mask, (self.num_extra_tokens, 0), value=True)
            keys = dict(attn_mask=mask[:, None, None, :])
        x = vit.norm_pre(vit.patch_drop(x))

        outs = []
        for i, block in enumerate(vit.blocks):
            if self.with_cp and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, **keys)
            else:
                x = block(x, **keys)
            if i in self.out_indices:
                last = i == self.num_layers - 1
                outs.append(self._format_output(x, grid, last, mask))
        return tuple(outs)

    def _embed(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """One image's tokens, with the positions that it has alone, and padding behind each row."""
        rows, cols = size
        embedded = self.timm_model._pos_embed(x[:, :rows, :cols].contiguous())
        extra, patches = embedded.split((self.num_extra_tokens, rows * cols), dim=1)
        pad = (0, 0, 0, x.shape[2] - cols, 0, x.shape[1] - rows)
        patches = F.pad(patches.unflatten(1, size), pad)
        return torch.cat((extra, patches.flatten(1, 2)), dim=1)

    def _format_output(
        self, x: Tensor, grid: Sequence[int], last: bool, mask: Tensor | None
    ) -> Tensor:
        vit = self.timm_model
        if last:
            x = vit.norm(x)
        norm = vit.fc_norm if last else nn.Identity()
        if self.out_type == 'raw':
            return norm(x)
        if self.out_type == 'cls_token':
            return norm(x[:, 0])
        patches = x[:, self.num_extra_tokens :]
        if mask is not None:
            mask = mask[:, self.num_extra_tokens :]
        if self.out_type == 'avg_featmap':
            return norm(mean_token(patches, mask))
        patches = norm(patches)
        if mask is not None:
            patches = patches * mask.unsqueeze(-1).to(patches.dtype)
        return patches.transpose(1, 2).reshape(x.shape[0], -1, *grid)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Get the layer-wise depth of a parameter, as MMPretrain's backbones do it.

        All that makes the first block's input has depth 0, as in :class:`VisionTransformer`, but
        for the reference encoding: no model of timm brings one, so it learns as a head does.
        """
        num_layers = self.num_layers + 2
        # All else is behind the blocks, as a head is.
        depth = num_layers - 1
        if param_name.startswith(prefix):
            name = param_name[len(prefix) :].removeprefix('timm_model.')
            if name.startswith('blocks.'):
                depth = int(name.split('.')[1]) + 1
            elif name.startswith((*PREFIX_TOKENS, 'pos_embed', 'patch_embed', 'norm_pre')):
                depth = 0
        return depth, num_layers
