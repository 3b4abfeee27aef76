# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""YOLOS's head: a box and its class for each detection token."""

from collections.abc import Sequence
from copy import deepcopy
from numbers import Real

import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.layers import MLP
from mmdet.utils import ConfigType, InstanceList, OptConfigType, OptMultiConfig
from torch import Tensor

from hime_mm.errors import ConfigError
from hime_mm.registry import MODELS

#: The set loss of DETR: Hungarian matching with class, L1 and GIoU costs.
DEFAULT_TRAIN_CFG = dict(
    assigner=dict(
        type='mmdet.HungarianAssigner',
        match_costs=[
            dict(type='mmdet.ClassificationCost', weight=1.0),
            dict(type='mmdet.BBoxL1Cost', weight=5.0, box_format='xywh'),
            dict(type='mmdet.IoUCost', iou_mode='giou', weight=2.0),
        ],
    )
)


def _class_weights(
    weight: None | float | Sequence[float], background: float | None, num_classes: int
) -> list[float] | None:
    """Weights of the classes and, last, of no object; None where none are given."""
    if weight is None and background is None:
        return None
    if weight is None or isinstance(weight, Real):
        weight = [1.0 if weight is None else weight] * num_classes
        background = weight[0] if background is None else background
    try:
        weights = [float(value) for value in weight]
        if background is not None and weights[num_classes:] != [float(background)]:
            weights.append(float(background))
    except (TypeError, ValueError):
        weights = []
    if len(weights) != num_classes + 1:
        raise ConfigError(
            f'`loss_cls` of {num_classes} classes has `class_weight` {weight!r} and '
            f'`bg_cls_weight` {background!r}: give a number or {num_classes} numbers, and '
            f'`bg_cls_weight`; or {num_classes + 1} numbers, of which the last is that of no object'
        )
    return weights


@MODELS.register_module()
class DetTokenHead(DETRHead):
    """Reads classes and boxes from detection tokens, as YOLOS does.

    Two 3-layer ReLU MLPs of the tokens' width: K + 1 class logits, and
    sigmoid (cx, cy, w, h) relative to the image; the set loss of DETR. The
    MLPs, the matching and the losses run in float32 also under automatic
    mixed precision. Where the parameters are of another type (``.half()``,
    ``.bfloat16()``, ``.double()``, FSDP's ``param_dtype``) the MLPs run in
    it, and all that follows them in float32. Several layers of tokens give
    auxiliary losses as DETR's decoder layers do.

    Reference: Fang et al., "You Only Look at One Sequence", NeurIPS 2021.

    Args:
        num_classes (int): Number K of classes without background.
        embed_dims (int): Width of the tokens. Defaults to 384.
        num_mlp_layers (int): Depth of both MLPs. Defaults to 3.
        loss_cls (dict): Classification loss. Of a cross-entropy,
            ``class_weight`` is a number for all classes or a list of K or K +
            1 numbers, and ``bg_cls_weight`` the weight of the no-object class,
            which comes last in a list and else is that of the classes.
            Defaults to cross-entropy with no-object weight 0.1.
        loss_bbox (dict): Defaults to L1 with weight 5.
        loss_iou (dict): Defaults to GIoU with weight 2.
        train_cfg (dict, optional): Holds the assigner. None is DETR's
            matching (class 1, L1 5, GIoU 2). Defaults to None.
        test_cfg (dict, optional): ``max_per_img`` limits the boxes per image.
            None gives one box per token. Defaults to None.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If the weights of the classes do not fit their number.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dims: int = 384,
        num_mlp_layers: int = 3,
        *,
        sync_cls_avg_factor: bool = False,
        loss_cls: ConfigType = dict(
            type='mmdet.CrossEntropyLoss', bg_cls_weight=0.1, use_sigmoid=False, loss_weight=1.0
        ),
        loss_bbox: ConfigType = dict(type='mmdet.L1Loss', loss_weight=5.0),
        loss_iou: ConfigType = dict(type='mmdet.GIoULoss', loss_weight=2.0),
        train_cfg: OptConfigType = None,
        test_cfg: OptConfigType = None,
        init_cfg: OptMultiConfig = None,
    ) -> None:
        self.num_mlp_layers = num_mlp_layers
        # DETRHead edits the dict and sets class weights for itself alone.
        loss_cls = deepcopy(loss_cls)
        weights, background = None, loss_cls.pop('bg_cls_weight', None)
        if not loss_cls.get('use_sigmoid'):
            weights = _class_weights(loss_cls.get('class_weight'), background, num_classes)
        elif background is not None:
            raise ConfigError(
                '`loss_cls` has `use_sigmoid=True`, with which no class stands for no object: '
                'leave `bg_cls_weight` out'
            )
        if weights is not None:
            loss_cls['class_weight'] = weights
        super().__init__(
            num_classes=num_classes,
            embed_dims=embed_dims,
            sync_cls_avg_factor=sync_cls_avg_factor,
            loss_cls=loss_cls,
            loss_bbox=loss_bbox,
            loss_iou=loss_iou,
            train_cfg=train_cfg or deepcopy(DEFAULT_TRAIN_CFG),
            test_cfg=test_cfg or {},
            init_cfg=init_cfg,
        )
        if weights is not None:
            self.bg_cls_weight = weights[-1]

    def _init_layers(self) -> None:
        self.cls_branch = MLP(
            self.embed_dims, self.embed_dims, self.cls_out_channels, self.num_mlp_layers
        )
        self.reg_branch = MLP(self.embed_dims, self.embed_dims, 4, self.num_mlp_layers)

    def forward(self, hidden_states: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Classify and locate.

        Args:
            hidden_states (Tensor | Sequence[Tensor]): Detection tokens of one
                or more layers, each of shape (B, Q, D), or stacked.

        Returns:
            tuple[Tensor]: Class logits of shape (layers, B, Q,
            cls_out_channels) and boxes (cx, cy, w, h) relative to the image,
            shape (layers, B, Q, 4), float32, or float64 where the parameters
            are.
        """
        if not isinstance(hidden_states, Tensor):
            hidden_states = torch.stack(tuple(hidden_states))
        with torch.autocast(hidden_states.device.type, enabled=False):
            # Of a wrapped branch (FSDP) the weights have their type while it runs only.
            if isinstance(self.cls_branch, MLP):
                hidden_states = hidden_states.to(self.cls_branch.layers[0].weight.dtype)
            outs = (self.cls_branch(hidden_states), self.reg_branch(hidden_states))
            # Half precision would round boxes to 1/2048 of the image, and
            # areas of boxes in pixels overflow it.
            logits, boxes = (out.to(torch.promote_types(out.dtype, torch.float)) for out in outs)
            return logits, boxes.sigmoid()

    def loss_by_feat(
        self, all_layers_cls_scores: Tensor, all_layers_bbox_preds: Tensor, *args, **kwargs
    ) -> dict[str, Tensor]:
        """The set loss, in float32. Arguments as :class:`DETRHead`'s."""
        with torch.autocast(all_layers_cls_scores.device.type, enabled=False):
            return super().loss_by_feat(
                all_layers_cls_scores.float(), all_layers_bbox_preds.float(), *args, **kwargs
            )

    def predict_by_feat(
        self,
        layer_cls_scores: Tensor,
        layer_bbox_preds: Tensor,
        batch_img_metas: list[dict],
        rescale: bool = True,
    ) -> InstanceList:
        """Turn outputs into boxes. Arguments as :class:`DETRHead`'s.

        Raises:
            ConfigError: If ``test_cfg.max_per_img`` asks for more boxes than
                the tokens can give.
        """
        tokens = layer_cls_scores.shape[-2]
        max_dets = tokens * (self.num_classes if self.loss_cls.use_sigmoid else 1)
        max_per_img = self.test_cfg.get('max_per_img', tokens)
        if max_per_img > max_dets:
            raise ConfigError(
                f'`test_cfg.max_per_img` is {max_per_img}, but {tokens} detection '
                f'tokens give at most {max_dets} boxes: lower it, or raise '
                "the backbone's `num_det_tokens`"
            )
        return super().predict_by_feat(
            layer_cls_scores.float(),
            layer_bbox_preds.float(),
            batch_img_metas=batch_img_metas,
            rescale=rescale,
        )
