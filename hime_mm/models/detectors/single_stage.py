# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""MMDetection's single-stage detector on backbones that know padding."""

from mmdet.models.detectors import SingleStageDetector
from mmdet.structures import OptSampleList, SampleList
from mmdet.utils import ConfigType, OptConfigType, OptMultiConfig
from torch import Tensor

from hime_mm.errors import ConfigError
from hime_mm.registry import MODELS


@MODELS.register_module()
class PESingleStageDetector(SingleStageDetector):
    """MMDetection's single-stage detector, whose backbone gets the data samples too.

    So each image of a padded batch gives what it would give alone. Arguments
    as :class:`SingleStageDetector`'s.

    Args:
        backbone (dict): A :class:`PEViT` or :class:`TIMMPEViT`.
        neck (dict, optional): What mixes neighbouring tokens goes with images
            whose patches stay in place only. Defaults to None.
        bbox_head (dict): Such as a :class:`PatchTokenHead`.
        train_cfg (dict, optional): The head's. Defaults to None.
        test_cfg (dict, optional): The head's. Defaults to None.
        data_preprocessor (dict, optional): Usually a ``DetDataPreprocessor``.
            Defaults to None.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If the slots of the head are not the patches of the
            backbone.
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
        super().__init__(
            backbone=backbone,
            neck=neck,
            bbox_head=bbox_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        slot = getattr(self.bbox_head, 'patch_size', None)
        if slot is not None and not self.with_neck:
            self._check_slots(slot)

    def _check_slots(self, slot: int) -> None:
        if self.backbone.out_type != 'featmap':
            raise ConfigError(
                'the head reads patch tokens on their grid, but the backbone gives '
                f"{self.backbone.out_type!r}: set its `out_type='featmap'`"
            )
        stride = self.backbone.patch_stride
        if slot != stride:
            raise ConfigError(
                f'the backbone has a token for each {stride} pixels of the images that come '
                f'in, the head for each {slot}: set `bbox_head.patch_size={stride}`'
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

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict:
        """Compute losses, see :meth:`SingleStageDetector.loss`."""
        x = self.extract_feat(batch_inputs, batch_data_samples)
        return self.bbox_head.loss(x, batch_data_samples)

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True
    ) -> SampleList:
        """Detect, see :meth:`SingleStageDetector.predict`."""
        x = self.extract_feat(batch_inputs, batch_data_samples)
        results = self.bbox_head.predict(x, batch_data_samples, rescale=rescale)
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None
    ) -> tuple[list[Tensor], ...]:
        x = self.extract_feat(batch_inputs, batch_data_samples)
        return self.bbox_head.forward(x)

    def get_layer_depth(self, param_name: str, prefix: str = ''):
        """Get the layer-wise depth of a parameter, see :class:`PEViT`'s."""
        return self.backbone.get_layer_depth(param_name, f'{prefix}backbone.')
