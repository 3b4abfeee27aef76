# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""PEViT on MMPretrain's vision transformer."""

from collections.abc import Sequence
from numbers import Integral

import torch
import torch.nn.functional as F
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.utils import build_2d_sincos_position_embedding
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hime_mm.errors import ConfigError
from hime_mm.registry import MODELS
from hime_mm.run_check import check_current_run

from ..layers import MixedPatchEmbed, ReferencePositionEncoding
from ..layers.padding import (
    KnowsPadding,
    MaskedEncoderLayer,
    key_mask,
    mean_token,
    positions_on_grids,
)
from ..weights.hooks import load_backbone, load_foreign
from ..weights.warm_start import check_warm_start, register_warm_start

POS_ENCODINGS = ('rpe', 'none', 'learned')
PATCH_EMBEDS = ('linear', 'mixed')
POS_INITS = ('trunc_normal', 'sincos')


@MODELS.register_module()
class PEViT(KnowsPadding, VisionTransformer):
    """Permutation-equivariant vision transformer.

    MMPretrain's :class:`VisionTransformer` without a patch order
    (``pos_encoding='rpe'`` or ``'none'``): permuting the patches of an image
    permutes the patch tokens and leaves the class token as it is, so the same
    weights serve an image and its randomly shuffled (RS) version. With
    ``pos_encoding='learned'`` it is a plain ViT, for images whose patches
    stay in place (MI).

    Which tokens of a padded batch are padding is known from the data samples,
    which :class:`PESingleStageDetector`, :class:`PEYOLOS` and
    :class:`PEDINO` hand over, and :class:`PaddingAware` does for
    MMDetection's own detectors: these call a backbone with images only, and
    padding then counts as image.

    Reference: Hao et al., "Human-imperceptible, Machine-recognizable Images",
    IJCAI 2025. All arguments of :class:`VisionTransformer` that are not named
    here keep their meaning and defaults.

    Args:
        arch (str | dict): As MMPretrain's, among others 'deit-tiny',
            'deit-small' and 'deit-base' (MMPretrain's 'small' is no DeiT-S).
            Defaults to 'deit-small'.
        img_size (int | tuple[int, int]): The most common height and width of
            the full-size images, on which learned positions are defined. Any
            other size works. Defaults to 224.
        patch_size (int): Side of a patch of the full-size image in pixels.
            Defaults to 16.
        out_type (str): ``'cls_token'`` (B, D), ``'featmap'`` (B, D, rows,
            cols), ``'avg_featmap'`` (B, D), ``'raw'`` (B, L, D), all tokens
            in the order class, patches, detection, or ``'det_tokens'``
            (B, num_det_tokens, D). Defaults to 'cls_token'.
        pos_encoding (str): ``'rpe'``, reference-based positional encoding;
            ``'none'``; or ``'learned'``, absolute positions, with which
            shuffled patches are not recognised. Defaults to 'rpe'.
        patch_embed (str): ``'linear'``, or ``'mixed'`` for images whose
            sub-patches were mixed (MI). Defaults to 'linear'.
        num_splits (int): g of the mixed embedding. Defaults to 2.
        input_form (str): For the mixed embedding, what :meth:`forward` gets:
            ``'compact'`` images, or ``'full'`` for tiled or plain images.
            Defaults to 'compact'.
        num_det_tokens (int): Number of learnable detection tokens appended to
            the patch tokens. Defaults to 0.
        mid_positions (bool): Add learned positions to the input of every
            layer, not of the first alone, as YOLOS-S and YOLOS-B do. They
            need ``pos_encoding='learned'``. Defaults to False.
        pos_init (str): How learned positions of patches start:
            ``'trunc_normal'`` with std 0.02, or ``'sincos'``, the 2D sine and
            cosine table, which helps short training from scratch. Defaults to
            'trunc_normal'.
        warm_start (str | dict, optional): A cipher, or a dict of the
            arguments of :class:`WarmStart`: plain weights that are loaded get
            a patch embedding for its patches, linear or mixed, by what the
            cipher does to them, in place of one that starts anew. Checkpoints
            say that it was done, so that it is not done twice. Defaults to
            None.
        with_cp (bool): Recompute each layer in the backward pass instead of
            keeping its activations. Defaults to False.

    Raises:
        ConfigError: If an option is unknown, ``out_indices`` names no layer,
            ``out_type='det_tokens'`` comes without detection tokens or
            ``mid_positions`` without learned positions.
    """

    OUT_TYPES = VisionTransformer.OUT_TYPES | {'det_tokens'}

    def __init__(
        self,
        arch: str | dict = 'deit-small',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = -1,
        out_type: str = 'cls_token',
        frozen_stages: int = -1,
        *,
        pos_encoding: str = 'rpe',
        patch_embed: str = 'linear',
        num_splits: int = 2,
        input_form: str = 'compact',
        num_det_tokens: int = 0,
        mid_positions: bool = False,
        pos_init: str = 'trunc_normal',
        warm_start: None | str | dict = None,
        with_cp: bool = False,
        **kwargs,
    ) -> None:
        for name, value, choices in (
            ('pos_encoding', pos_encoding, POS_ENCODINGS),
            ('patch_embed', patch_embed, PATCH_EMBEDS),
            ('pos_init', pos_init, POS_INITS),
        ):
            if value not in choices:
                raise ConfigError(f'unknown `{name}` {value!r}: choose from {choices}')
        if not isinstance(patch_size, int):
            raise ConfigError(
                'the patches of a cipher are square: '
                '`patch_size` must be a whole number, got '
                f'{patch_size!r}'
            )
        min_det_tokens = int(out_type == 'det_tokens')
        if num_det_tokens < min_det_tokens:
            raise ConfigError(
                f'`out_type={out_type!r}` needs `num_det_tokens`'
                f' of at least {min_det_tokens}, got {num_det_tokens}'
            )
        if mid_positions and pos_encoding != 'learned':
            raise ConfigError(
                '`mid_positions` are learned positions: set `pos_encoding='
                f"'learned'`, got {pos_encoding!r}"
            )
        # What else is no number, the host refuses.
        if isinstance(out_indices, Sequence):
            if not out_indices or not all(isinstance(i, Integral) for i in out_indices):
                raise ConfigError(f'`out_indices` must be whole numbers, got {out_indices!r}')
            # The host writes to it, which a tuple does not let.
            out_indices = list(out_indices)
        super().__init__(
            arch=arch,
            img_size=img_size,
            patch_size=patch_size,
            in_channels=in_channels,
            out_indices=out_indices,
            out_type=out_type,
            frozen_stages=-1,
            **kwargs,
        )
        if max(self.out_indices) == self.num_layers:
            raise ConfigError(
                f'`out_indices` {self.out_indices} for {self.num_layers} layers: '
                f'choose from {-self.num_layers} to {self.num_layers - 1}'
            )
        # The host makes layers of its own class, and takes no other.
        for layer in self.layers:
            layer.__class__ = MaskedEncoderLayer
        self.pos_encoding = pos_encoding
        self.num_det_tokens = num_det_tokens
        self.with_cp = with_cp

        if patch_embed == 'mixed':
            if kwargs.get('patch_cfg'):
                raise ConfigError(
                    '`patch_cfg` configures the linear patch '
                    "embedding; with `patch_embed='mixed'` use "
                    '`num_splits` and `input_form`'
                )
            self.patch_embed = MixedPatchEmbed(
                in_channels=in_channels,
                embed_dims=self.embed_dims,
                patch_size=patch_size,
                num_splits=num_splits,
                input_form=input_form,
                input_size=img_size,
            )
            self.patch_resolution = self.patch_embed.init_out_size
        register_warm_start(self, warm_start)
        check_warm_start(self)

        learned, grid = pos_encoding == 'learned', None
        if learned:
            trunc_normal_(self.pos_embed, std=0.02)
            if pos_init == 'sincos':
                self.pos_embed.data[:, self.num_extra_tokens :] = (
                    build_2d_sincos_position_embedding(self.patch_resolution, self.embed_dims)
                )
            grid = torch.tensor(self.patch_resolution)
        else:
            self.pos_embed = None
        # Says in a checkpoint which grid the flat table is of.
        self.register_buffer('pos_grid', grid)
        self.rpe = (
            ReferencePositionEncoding(self.embed_dims) if pos_encoding == 'rpe' else nn.Identity()
        )
        if self.cls_token is not None:
            trunc_normal_(self.cls_token, std=0.02)
        self.det_token = self._init_tokens(num_det_tokens)
        self.det_pos_embed = self._init_tokens(num_det_tokens if learned else 0)
        self.mid_pos_embed = self.mid_det_pos_embed = None
        if mid_positions:
            num_tables = self.num_layers - 1
            self.mid_pos_embed = self._init_tokens(self.pos_embed.shape[1], num_tables)
            self.mid_det_pos_embed = self._init_tokens(num_det_tokens, num_tables)

        if frozen_stages > self.num_layers:
            raise ConfigError(
                f'`frozen_stages` is {frozen_stages}, but there are {self.num_layers} layers'
            )
        self.frozen_stages = frozen_stages
        if frozen_stages > 0:
            self._freeze_stages()
        check_current_run()

    def _init_tokens(self, num: int, tables: int = 1) -> nn.Parameter | None:
        if not num:
            return None
        tokens = nn.Parameter(torch.empty(tables, num, self.embed_dims))
        return trunc_normal_(tokens, std=0.02)

    @property
    def patch_stride(self) -> int:
        """int: Side of a patch in pixels of the images that come in."""
        if isinstance(self.patch_embed, MixedPatchEmbed):
            return self.patch_embed.stride
        # `patch_cfg` may have set another stride.
        return self.patch_embed.projection.stride[0]

    def init_weights(self) -> None:
        """Initialize the weights, or load those that ``init_cfg`` names."""
        super(VisionTransformer, self).init_weights()

    def train(self, mode: bool = True) -> 'PEViT':
        """Set the mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        if mode and self.frozen_stages > 0:
            self._freeze_stages()
        return self

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        self.rpe.eval().requires_grad_(False)

    def _prepare_pos_embed(self, state_dict, prefix, *args, **kwargs) -> None:
        """Fit a checkpoint to this model; the host registers it as a hook."""
        load_backbone(self, state_dict, prefix)

    def _checkpoint_filter(self, state_dict, prefix, *args, **kwargs) -> None:
        """Translate a whole foreign checkpoint that MMPretrain's classifiers are about to load.

        The head is included.
        """
        load_foreign(self, state_dict, prefix, 'pass')

    def _positions(
        self,
        table: Tensor,
        det_table: Tensor | None,
        grid: tuple[int, int],
        grids: list[tuple[int, int]] | None,
    ) -> Tensor:
        """Learned positions; those of detection tokens come last."""
        out = positions_on_grids(
            table,
            self.patch_resolution,
            grid,
            grids,
            self.interpolate_mode,
            self.num_extra_tokens,
        )
        if det_table is not None:
            out = torch.cat((out, det_table.expand(out.shape[0], -1, -1)), dim=1)
        return out

    def forward(
        self, x: Tensor, data_samples: list | None = None, input_form: str | None = None
    ) -> tuple[Tensor, ...]:
        """Compute features.

        Args:
            x (Tensor): Images, shape (B, C, H, W), any size.
            data_samples (list[:obj:`BaseDataElement`], optional): Their
                ``img_shape`` (height and width of the image within the
                padded batch, in pixels) decides which tokens are padding;
                those are attended to by none, so that each image gives what
                it would give alone. None takes every token for image, unless
                the detector has told of them. Defaults to None.
            input_form (str, optional): For the mixed embedding, ``'compact'``
                or ``'full'`` in place of the module's own. Defaults to None.

        Returns:
            tuple[Tensor]: One entry per ``out_indices``, as ``out_type``
            says. The padding of a ``featmap`` is zero.
        """
        grids = self._token_grids(x, data_samples)
        form = {} if input_form is None else dict(input_form=input_form)
        if form and not isinstance(self.patch_embed, MixedPatchEmbed):
            raise ConfigError(
                "`input_form` is for the mixed patch embedding: set `patch_embed='mixed'`"
            )
        # `len(x)` would be a constant of every exported graph.
        batch, mask = x.shape[0], None
        x, grid = self.patch_embed(x, **form)
        x = self.rpe(x)
        if grids is not None:
            mask = key_mask(grid, grids, x.device)
            if mask is None:
                grids = None
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(batch, -1, -1), x), dim=1)
        if self.pos_embed is not None:
            x = x + self._positions(self.pos_embed, None, grid, grids)
        if self.det_token is not None:
            det = self.det_token
            if self.det_pos_embed is not None:
                det = det + self.det_pos_embed
            x = torch.cat((x, det.expand(batch, -1, -1)), dim=1)
        x = self.pre_norm(self.drop_after_pos(x))

        # Layers that somebody put in place of ours, as the host's, take tokens only.
        keys: tuple[Tensor, ...] = ()
        if mask is not None:
            # Class and detection tokens are never padding.
            keys = (F.pad(mask, (self.num_extra_tokens, self.num_det_tokens), value=True),)

        outs = []
        for i, layer in enumerate(self.layers):
            if i and self.mid_pos_embed is not None:
                det = self.mid_det_pos_embed
                x = x + self._positions(
                    self.mid_pos_embed[i - 1 : i],
                    None if det is None else det[i - 1 : i],
                    grid,
                    grids,
                )
            if self.with_cp and self.training and torch.is_grad_enabled():
                x = checkpoint(layer, x, *keys, use_reentrant=False)
            else:
                x = layer(x, *keys)
            if i == len(self.layers) - 1 and self.final_norm:
                x = self.ln1(x)
            if i in self.out_indices:
                outs.append(self._format_output(x, grid, mask))
        return tuple(outs)

    def _format_output(self, x: Tensor, hw: tuple[int, int], mask: Tensor | None = None) -> Tensor:
        if self.out_type == 'det_tokens':
            return x[:, -self.num_det_tokens :]
        if self.out_type in ('raw', 'cls_token'):
            return super()._format_output(x, hw)
        patches = x[:, self.num_extra_tokens :][:, : hw[0] * hw[1]]
        if self.out_type == 'avg_featmap':
            return self.ln2(mean_token(patches, mask))
        if mask is not None:
            patches = patches * mask.unsqueeze(-1).to(patches.dtype)
        return patches.transpose(1, 2).reshape(x.shape[0], -1, *hw)

    def get_layer_depth(self, param_name: str, prefix: str = ''):
        """Get the layer-wise depth of a parameter, as :class:`VisionTransformer` does it.

        All that makes the first layer's input has depth 0, but for the
        reference encoding: no trained ViT brings one, so it learns as a head does.
        """
        if param_name.startswith(f'{prefix}rpe.'):
            return self.num_layers + 1, self.num_layers + 2
        stem = ('det_token', 'det_pos_embed', 'mid_pos_embed', 'mid_det_pos_embed')
        if param_name.startswith(tuple(prefix + name for name in stem)):
            return 0, self.num_layers + 2
        return super().get_layer_depth(param_name, prefix)
