# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""MMDetection's single-stage detector on backbones that know padding."""

from mmdet.models.detectors import SingleStageDetector
from mmdet.structures import OptSampleList
from mmdet.utils import ConfigType, OptConfigType, OptMultiConfig
from torch import Tensor, nn

from hime_mm.errors import ConfigError
from hime_mm.registry import MODELS

from ..dense_heads import PatchTokenHead
from .padding_aware import TellsPadding


@MODELS.register_module()
class PESingleStageDetector(TellsPadding, SingleStageDetector):
    """MMDetection's single-stage detector, whose backbone gets the data samples too.

    So each image of a padded batch gives what it would give alone. Arguments
    as :class:`SingleStageDetector`'s.

    Args:
        backbone (dict): A :class:`PEViT` or :class:`TIMMPEViT`.
        neck (dict, optional): What mixes neighbouring tokens goes with images
            whose patches stay in place only. Defaults to None.
        bbox_head (dict): Such as a :class:`PatchTokenHead`.
        train_cfg (dict, optional): The head's, in place of what it has
            itself. Defaults to None.
        test_cfg (dict, optional): The head's, in place of what it has itself.
            Defaults to None.
        data_preprocessor (dict, optional): Usually a ``DetDataPreprocessor``.
            Defaults to None.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If the backbone does not know padding, or the head's slots
            are not its patches.
    """

    def __init__(
        self,
        backbone: ConfigType,
        neck: OptConfigType = None,
        bbox_head: OptConfigType = None,
        train_cfg: OptConfigType = None,
        test_cfg: OptConfigType = None,
        data_preprocessor: OptConfigType = None,
        init_cfg: OptMultiConfig = None,
    ) -> None:
        # The host replaces what a head has by its own, be it None.
        train_cfg = train_cfg or (bbox_head or {}).get('train_cfg')
        test_cfg = test_cfg or (bbox_head or {}).get('test_cfg')
        super().__init__(
            backbone=backbone,
            neck=neck,
            bbox_head=bbox_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.check_backbone()
        if isinstance(self.bbox_head, PatchTokenHead) and not self.with_neck:
            self._check_slots(self.backbone, self.bbox_head)

    @staticmethod
    def _check_slots(backbone: nn.Module, head: PatchTokenHead) -> None:
        if backbone.out_type != 'featmap':
            raise ConfigError(
                'the head reads patch tokens on their grid, but the backbone gives '
                f"{backbone.out_type!r}: set its `out_type='featmap'`"
            )
        if len(backbone.out_indices) != 1:
            raise ConfigError(
                f'the head reads one feature map, but the backbone gives '
                f'{len(backbone.out_indices)}: set its `out_indices=-1`'
            )
        stride = backbone.patch_stride
        if head.patch_size != stride:
            raise ConfigError(
                f'the backbone has a token for each {stride} pixels of the images that come in, '
                f'the head for each {head.patch_size}: set `bbox_head.patch_size={stride}`'
            )
        if head.in_channels != backbone.embed_dims:
            raise ConfigError(
                f'the backbone is {backbone.embed_dims} wide, the head expects '
                f'{head.in_channels}: set `bbox_head.in_channels={backbone.embed_dims}`'
            )

    def extract_feat(
        self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None
    ) -> tuple[Tensor, ...]:
        """Compute features.

        Args:
            batch_inputs (Tensor): Images, shape (B, C, H, W).
            batch_data_samples (list[:obj:`DetDataSample`], optional): Their
                ``img_shape`` tells image from padding. Defaults to None.

        Returns:
            tuple[Tensor]: What backbone and neck give.
        """
        x = self.backbone(batch_inputs, data_samples=batch_data_samples)
        return self.neck(x) if self.with_neck else x
