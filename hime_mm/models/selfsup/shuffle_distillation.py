# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Trained weights, adapted to a cipher on public images without labels."""

from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models.selfsup import BaseSelfSupervisor
from torch import Tensor, nn

from hime_mm.errors import ConfigError
from hime_mm.registry import MODELS

from ..data_preprocessors import DistillDataPreprocessor


@MODELS.register_module()
class ShuffleDistillation(BaseSelfSupervisor):
    """A student that sees encrypted images learns the features that a teacher has of plain ones.

    The teacher is a trained ViT with its positions and sees the plain image.
    The student starts from the same weights and sees the image encrypted; if
    the cipher moves patches, it has no positions. Each patch token of the
    student is to equal the teacher's for the patch that is there, which the
    draw of the cipher tells, and its class token the teacher's class token::

        loss = w_patch · smooth_l1(n(s_k), n(t_π(k))) + w_cls · smooth_l1(n(s_cls), n(t_cls))

    where n is a layer norm without weights, and the mean is over tokens,
    but for dropped patches, and channels. It needs public plain images, no
    label and no key; what is learnt, the student, works on images that
    anybody encrypted with the cipher.

    Args:
        backbone (dict): The student, a :class:`PEViT` or :class:`TIMMPEViT`
            with ``out_type='raw'``, without detection tokens, that drops no
            patches.
        teacher (dict): The same with ``pos_encoding='learned'``, of the same
            width, for the plain patches of the cipher. It is not trained:
            it must name its weights, by ``init_cfg`` or ``pretrained``, and
            these must fill it.
        data_preprocessor (dict): A :class:`DistillDataPreprocessor`.
        patch_weight (float): w_patch. Defaults to 1.
        cls_weight (float): w_cls. Models without a class token have no such
            loss. Defaults to 1.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If student, teacher and cipher do not go together.
    """

    def __init__(
        self,
        backbone: dict,
        teacher: dict,
        data_preprocessor: dict,
        patch_weight: float = 1.0,
        cls_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(backbone, data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        path = teacher.get('checkpoint_path')
        if path:
            # timm takes a file that fills half of the model.
            raise ConfigError(
                f'hime_mm.{type(self).__name__}: the teacher names its file by `checkpoint_path`: '
                f"use `init_cfg=dict(type='Pretrained', checkpoint={path!r})`"
            )
        self.teacher = MODELS.build(teacher)
        self._has_weights = _names_weights(teacher)
        self.patch_weight = patch_weight
        self.cls_weight = cls_weight
        self._check()
        self.teacher.eval().requires_grad_(False)
        # It comes after the teacher's own, which converts what is foreign.
        self.teacher._register_load_state_dict_pre_hook(_check_complete, with_module=True)

    def _check(self) -> None:
        name = f'hime_mm.{type(self).__name__}'
        if not isinstance(self.data_preprocessor, DistillDataPreprocessor):
            raise ConfigError(
                f'{name} needs `data_preprocessor=dict(type="hime_mm.DistillDataPreprocessor")`, '
                f'got {type(self.data_preprocessor).__name__}'
            )
        cipher = self.data_preprocessor.cipher
        for role, vit, side in (
            ('backbone', self.backbone, cipher.encrypted_patch_size),
            ('teacher', self.teacher, cipher.patch_size),
        ):
            if getattr(vit, 'out_type', None) != 'raw' or not hasattr(vit, 'pos_encoding'):
                raise ConfigError(
                    f'{name}: the {role} must be a hime_mm.PEViT or hime_mm.TIMMPEViT with '
                    "`out_type='raw'`"
                )
            if vit.patch_stride != side:
                raise ConfigError(
                    f'{name}: the {role} has patches of {vit.patch_stride} pixels, those of the '
                    f'cipher {cipher!r} are of {side}: set its `patch_size`, or that of the cipher'
                )
            if getattr(vit, 'num_det_tokens', 0):
                raise ConfigError(
                    f'{name}: the {role} has detection tokens, of which nothing is learnt: leave '
                    '`num_det_tokens` out, the detector starts from the weights without them'
                )
            if not isinstance(getattr(_inner(vit), 'patch_drop', nn.Identity()), nn.Identity):
                raise ConfigError(
                    f'{name}: the {role} drops patches, of which nothing is learnt then: leave '
                    '`patch_drop_rate` out'
                )
        if self.teacher.pos_encoding != 'learned':
            raise ConfigError(
                f'{name}: the teacher needs the positions that it was trained with, '
                f"`pos_encoding='learned'`, got {self.teacher.pos_encoding!r}"
            )
        if cipher.shuffles and self.backbone.pos_encoding == 'learned':
            raise ConfigError(
                f'{name}: {cipher!r} moves patches: the `pos_encoding` of the student, `backbone`, '
                "must be 'rpe' or 'none'"
            )
        if self.teacher.embed_dims != self.backbone.embed_dims:
            raise ConfigError(
                f'{name}: the student is {self.backbone.embed_dims} wide, the teacher '
                f'{self.teacher.embed_dims}'
            )

    def init_weights(self) -> None:
        """Load the weights of both.

        Raises:
            ConfigError: If the teacher names none, or they do not fit it.
        """
        if not self._has_weights:
            raise ConfigError(
                f'hime_mm.{type(self).__name__}: the teacher names no weights, and nothing could '
                "be learnt from it: set its `init_cfg=dict(type='Pretrained', checkpoint=...)`"
            )
        super().init_weights()

    def train(self, mode: bool = True) -> 'ShuffleDistillation':
        """Set the mode; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def extract_feat(self, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
        """The student's tokens for what the data preprocessor gives."""
        return self.backbone(inputs[1])

    def loss(self, inputs: tuple[Tensor, Tensor, Tensor], data_samples: list | None = None) -> dict:
        """Compare the student's tokens with the teacher's.

        Args:
            inputs (tuple[Tensor]): Plain images (B, C, H, W), encrypted ones
                (B, C, H', W'), and which plain patch each slot holds (B, N).
            data_samples (list, optional): Not used.

        Returns:
            dict[str, Tensor]: ``loss_patch`` and ``loss_cls``.
        """
        plain, encrypted, origins = inputs
        student = self._tokens(self.backbone, encrypted)
        with torch.no_grad():
            target = self._tokens(self.teacher, plain)
        num = origins.shape[1]
        kept = origins >= 0
        index = origins.clamp(min=0).unsqueeze(-1).expand(-1, -1, target.shape[-1])
        matched = target[:, -num:].gather(1, index)
        losses = dict(
            loss_patch=self.patch_weight * F.smooth_l1_loss(student[:, -num:][kept], matched[kept])
        )
        if _has_cls(self.backbone) and _has_cls(self.teacher):
            losses['loss_cls'] = self.cls_weight * F.smooth_l1_loss(student[:, 0], target[:, 0])
        return losses

    @staticmethod
    def _tokens(vit: nn.Module, images: Tensor) -> Tensor:
        tokens = vit(images)[-1]
        return F.layer_norm(tokens.float(), tokens.shape[-1:])


def _check_complete(
    teacher: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Refuse weights that leave parts of the teacher untrained; hosts only log these."""
    own = {name: tuple(value.shape) for name, value in teacher.state_dict().items()}
    found = {
        name: tuple(state_dict[prefix + name].shape) for name in own if prefix + name in state_dict
    }
    misfits = [name for name, shape in own.items() if found.get(name) != shape]
    if misfits:
        first = misfits[0]
        raise ConfigError(
            f'the weights do not fill {len(misfits)} tensors of the teacher, such as {first!r} '
            f'{own[first]} ({found.get(first, "not there")}): nothing could be learnt from it'
        )


def _names_weights(vit: dict) -> bool:
    init = vit.get('init_cfg') or ()
    entries = [init] if isinstance(init, dict) else init
    return any(one['type'] == 'Pretrained' for one in entries) or bool(vit.get('pretrained'))


def _inner(vit: nn.Module) -> nn.Module:
    return getattr(vit, 'timm_model', vit)


def _has_cls(vit: nn.Module) -> bool:
    return getattr(_inner(vit), 'cls_token', None) is not None
