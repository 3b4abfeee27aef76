# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A dense head that looks at each patch token by itself."""

import torch
from mmcv.cnn import ConvModule
from mmdet.models.dense_heads import AnchorHead
from mmdet.models.losses import QualityFocalLoss
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import ConfigType, OptConfigType, OptMultiConfig
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from hime_mm.errors import ConfigError
from hime_mm.registry import MODELS

from ..layers.padding import token_grids

#: Each object belongs to the token whose slot holds its centre.
DEFAULT_TRAIN_CFG = dict(
    assigner=dict(type='hime_mm.PatchTokenAssigner'), allowed_border=-1, pos_weight=-1
)
#: Neither clipping nor a suppression: who maps boxes back does both.
DEFAULT_TEST_CFG = dict(score_thr=0.01, nms_pre=1000, max_per_img=300)


@MODELS.register_module()
class PatchTokenHead(AnchorHead):
    """Reads classes and boxes from each patch token, without a look at its neighbours.

    So it learns from images whose patches have moved, as boxes have with
    them, and never has to know where a patch came from. A token predicts a
    few boxes, each with K class scores, its centre strictly inside the
    token's slot, and its width and height
    (:class:`~hime_mm.models.task_modules.PatchTokenCoder`); so each box comes
    back with the patch of the token that predicted it. An object is learnt by
    the one token whose slot holds its centre
    (:class:`~hime_mm.models.task_modules.PatchTokenAssigner`); all others are
    background. Convolutions are 1×1. The last of them and the losses, which
    are MMDetection's, are float32 also under automatic mixed precision.

    Boxes are not clipped and nothing is suppressed: in encrypted coordinates
    a box may stick out of the image, and neighbours are not neighbours. The
    holder of the permutation maps boxes back, clips them and suppresses
    (:class:`~hime_mm.evaluation.metrics.OriginalCocoMetric`, ``hime boxes``, the client). Where
    patches stay in place, as in plain and MI images, ``test_cfg.nms`` makes
    the head do both, as any head of MMDetection does.

    Args:
        num_classes (int): Number K of classes without background.
        in_channels (int): Width of the tokens.
        patch_size (int): Side of a slot, in pixels of the images that come in:
            the backbone's patch stride. Defaults to 16.
        num_preds (int): Boxes that a token predicts, so that objects whose
            centres lie in one patch all have a place. Defaults to 2.
        stacked_convs (int): Number of 1×1 convolutions before the last ones.
            Defaults to 2.
        feat_channels (int): Their width. Defaults to 256.
        loss_cls (dict): Defaults to ``QualityFocalLoss``: scores learn to say
            how well boxes fit (IoU). With ``FocalLoss``, the other one that
            was tried, they say whether there is an object.
        loss_bbox (dict): Of decoded boxes. Defaults to GIoU with weight 2.
        train_cfg (dict, optional): Replaces the assigner,
            ``PatchTokenAssigner``, and what else :class:`AnchorHead` asks for.
            Defaults to None.
        test_cfg (dict, optional): ``score_thr`` (0.01 where it is not given),
            ``nms_pre`` (1000), ``max_per_img`` (300), ``min_bbox_size`` and
            ``nms`` (none) as for MMDetection's heads. Defaults to None.
        init_cfg (dict | list[dict], optional): Initialization config.

    Raises:
        ConfigError: If a number is not positive, or ``loss_cls`` does not say
            which scores it is for.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        patch_size: int = 16,
        num_preds: int = 2,
        stacked_convs: int = 2,
        feat_channels: int = 256,
        *,
        loss_cls: ConfigType = dict(
            type='mmdet.QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0
        ),
        loss_bbox: ConfigType = dict(type='mmdet.GIoULoss', loss_weight=2.0),
        train_cfg: OptConfigType = None,
        test_cfg: OptConfigType = None,
        init_cfg: OptMultiConfig = dict(
            type='Xavier',
            layer='Conv2d',
            distribution='uniform',
            override=[
                dict(type='Normal', name='conv_cls', std=0.01, bias_prob=0.01),
                dict(type='Normal', name='conv_reg', std=0.01),
            ],
        ),
    ) -> None:
        for name, value in (('patch_size', patch_size), ('num_preds', num_preds)):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f'`{name}` must be a whole number from 1 on, got {value!r}')
        self.patch_size = patch_size
        self.stacked_convs = stacked_convs
        super().__init__(
            num_classes,
            in_channels,
            feat_channels,
            # The anchors of a location are its slot, once for each prediction.
            anchor_generator=dict(
                type='mmdet.AnchorGenerator',
                strides=[patch_size],
                ratios=[1.0],
                scales=[1.0] * num_preds,
                center_offset=0.5,
            ),
            bbox_coder=dict(type='hime_mm.PatchTokenCoder'),
            reg_decoded_bbox=True,
            loss_cls=loss_cls,
            loss_bbox=loss_bbox,
            train_cfg=ConfigDict({**DEFAULT_TRAIN_CFG, **(train_cfg or {})}),
            test_cfg=ConfigDict({**DEFAULT_TEST_CFG, **(test_cfg or {})}),
            init_cfg=init_cfg,
        )
        sigmoid = getattr(self.loss_cls, 'use_sigmoid', self.use_sigmoid_cls)
        if sigmoid != self.use_sigmoid_cls:
            # The host's heads go by what the config says, its losses by their own defaults.
            raise ConfigError(
                f'`loss_cls` is a {type(self.loss_cls).__name__} with `use_sigmoid={sigmoid}`, '
                'which the head has to know: write it into `loss_cls`'
            )

    def _init_layers(self) -> None:
        self.cls_convs, self.reg_convs = self._tower(), self._tower()
        width = self.feat_channels if self.stacked_convs else self.in_channels
        self.conv_cls = nn.Conv2d(width, self.num_base_priors * self.cls_out_channels, 1)
        self.conv_reg = nn.Conv2d(width, self.num_base_priors * self.bbox_coder.encode_size, 1)

    def _tower(self) -> nn.Sequential:
        widths = [self.in_channels] + [self.feat_channels] * self.stacked_convs
        return nn.Sequential(
            *(
                ConvModule(before, after, 1, act_cfg=dict(type='GELU'))
                for before, after in zip(widths, widths[1:], strict=False)
            )
        )

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Classify and locate.

        Args:
            x (Tensor): Tokens on their grid, shape (B, D, rows, cols).

        Returns:
            tuple[Tensor]: Class logits, shape (B, num_preds · K, rows, cols),
            and what :class:`PatchTokenCoder` decodes, shape (B, num_preds ·
            4, rows, cols), float32 or wider.
        """
        outs = []
        for tower, last in ((self.cls_convs, self.conv_cls), (self.reg_convs, self.conv_reg)):
            tokens = tower(x)
            # Half precision would round logarithms of widths, and so widths by a percent.
            with torch.autocast(x.device.type, enabled=False):
                # Of a wrapped one (FSDP) the weights have their type while it runs only.
                if isinstance(last, nn.Conv2d):
                    tokens = tokens.to(last.weight.dtype)
                out = last(tokens)
            outs.append(out.to(torch.promote_types(out.dtype, torch.float)))
        return outs[0], outs[1]

    def get_anchors(
        self,
        featmap_sizes: list[tuple[int, int]],
        batch_img_metas: list[dict],
        device: torch.device | str = 'cuda',
    ) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """The slots, and which of them are of the image. Arguments as :class:`AnchorHead`'s."""
        # Tokens of padding are no background.
        metas = [dict(meta, pad_shape=meta['img_shape']) for meta in batch_img_metas]
        return super().get_anchors(featmap_sizes, metas, device)

    def loss_by_feat_single(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        anchors: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        avg_factor: int,
    ) -> tuple[Tensor, Tensor]:
        """Losses of the one level. Arguments as :class:`AnchorHead`'s."""
        labels, label_weights = labels.flatten(), label_weights.flatten()
        scores = cls_score.permute(0, 2, 3, 1).reshape(-1, self.cls_out_channels)
        held = (labels < self.num_classes).nonzero().squeeze(1)
        coded = bbox_pred.permute(0, 2, 3, 1).reshape(-1, self.bbox_coder.encode_size)[held]
        boxes = self.bbox_coder.decode(anchors.flatten(0, 1)[held], coded)
        targets = bbox_targets.flatten(0, 1)[held]
        truth: Tensor | tuple[Tensor, Tensor] = labels
        if isinstance(self.loss_cls, QualityFocalLoss):
            quality = scores.new_zeros(len(scores))
            quality[held] = bbox_overlaps(boxes.detach(), targets, is_aligned=True)
            truth = (labels, quality)
        return (
            self.loss_cls(scores, truth, label_weights, avg_factor=avg_factor),
            # Without an object it is zero, and every parameter has a gradient.
            self.loss_bbox(boxes, targets, avg_factor=avg_factor) + 0 * boxes.sum(),
        )

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list[None],
        mlvl_priors: list[Tensor],
        img_meta: dict,
        **kwargs,
    ) -> InstanceData:
        """Boxes of one image, of its own tokens. Arguments as :class:`BaseDenseHead`'s."""
        cls_score, bbox_pred, priors = cls_score_list[0], bbox_pred_list[0], mlvl_priors[0]
        grid = cls_score.shape[-2:]
        shape = (grid[0] * self.patch_size, grid[1] * self.patch_size)
        ((rows, cols),) = token_grids(shape, [img_meta['img_shape']], self.patch_size)
        priors = priors.unflatten(0, (*grid, -1))[:rows, :cols].flatten(0, 2)
        return super()._predict_by_feat_single(
            [cls_score[:, :rows, :cols]],
            [bbox_pred[:, :rows, :cols]],
            score_factor_list,
            [priors],
            img_meta,
            **kwargs,
        )

    def _bbox_post_process(
        self,
        results: InstanceData,
        cfg: ConfigDict,
        rescale: bool = False,
        with_nms: bool = True,
        img_meta: dict | None = None,
    ) -> InstanceData:
        """Clip and suppress where ``nms`` is set only. Arguments as :class:`BaseDenseHead`'s."""
        with_nms = with_nms and cfg.get('nms') is not None
        if with_nms:
            layout = img_meta.get('patch_layout')
            if layout is not None and layout.shuffled:
                raise ConfigError(
                    "`test_cfg.nms` of hime_mm.PatchTokenHead is set, but the image's patches "
                    'have moved, so that boxes that overlap are not of one object: set '
                    '`test_cfg.nms=None`; whoever maps boxes back suppresses there'
                )
            h, w = img_meta['img_shape'][:2]
            results.bboxes[:, 0::2] = results.bboxes[:, 0::2].clamp(0, w)
            results.bboxes[:, 1::2] = results.bboxes[:, 1::2].clamp(0, h)
        results = super()._bbox_post_process(results, cfg, rescale, with_nms, img_meta)
        return results[: cfg.get('max_per_img', len(results))]
