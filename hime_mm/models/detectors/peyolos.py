# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""YOLOS for encrypted images."""

from mmdet.models.detectors import SingleStageDetector
from mmdet.structures import OptSampleList, SampleList
from mmdet.utils import ConfigType, OptConfigType, OptMultiConfig
from torch import Tensor

from hime_mm.errors import ConfigError
from hime_mm.registry import MODELS

from ..weights.hooks import load_foreign


@MODELS.register_module()
class PEYOLOS(SingleStageDetector):
    """The YOLOS detector on (mixed-up) encrypted images.

    A :class:`PEViT` with detection tokens and a :class:`DetTokenHead`. With
    ``patch_embed='linear'`` and learned positions it is YOLOS.

    Reference: Hao et al., "Human-imperceptible, Machine-recognizable Images",
    IJCAI 2025, PEYOLOS; Fang et al., "You Only Look at One Sequence", NeurIPS
    2021.

    Args:
        backbone (dict): A :class:`PEViT` with ``out_type='det_tokens'``.
        bbox_head (dict): A :class:`DetTokenHead` of the backbone's width.
        train_cfg (dict, optional): The head's. Defaults to None.
        test_cfg (dict, optional): The head's. Defaults to None.
        data_preprocessor (dict, optional): Usually a ``DetDataPreprocessor``.
            Defaults to None.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        ConfigError: If backbone and head do not fit each other.
    """

    def __init__(
        self,
        backbone: ConfigType,
        bbox_head: ConfigType,
        train_cfg: OptConfigType = None,
        test_cfg: OptConfigType = None,
        data_preprocessor: OptConfigType = None,
        init_cfg: OptMultiConfig = None,
    ) -> None:
        super().__init__(
            backbone=backbone,
            bbox_head=bbox_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        out_type = getattr(self.backbone, 'out_type', None)
        if out_type != 'det_tokens':
            raise ConfigError(
                'PEYOLOS reads detection tokens, but its '
                f'backbone gives {out_type!r}: set '
                "`out_type='det_tokens'` and `num_det_tokens`"
            )
        width, expected = self.backbone.embed_dims, self.bbox_head.embed_dims
        if width != expected:
            raise ConfigError(
                f'the backbone is {width} wide, the head expects {expected}: '
                f'set `bbox_head.embed_dims={width}`'
            )
        self._register_load_state_dict_pre_hook(self._checkpoint_filter)

    def _checkpoint_filter(self, state_dict, prefix, *args, **kwargs) -> None:
        """Translate a whole foreign checkpoint, such as YOLOS's."""
        load_foreign(self, state_dict, prefix)

    def extract_feat(
        self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None
    ) -> tuple[Tensor, ...]:
        """Compute detection tokens.

        Args:
            batch_inputs (Tensor): Images, shape (B, C, H, W).
            batch_data_samples (list[:obj:`DetDataSample`], optional): Their
                ``img_shape`` tells image from padding. Defaults to None.

        Returns:
            tuple[Tensor]: Tokens of shape (B, Q, D) for each output layer.
        """
        return self.backbone(batch_inputs, data_samples=batch_data_samples)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict:
        """Compute losses, see :meth:`SingleStageDetector.loss`."""
        tokens = self.extract_feat(batch_inputs, batch_data_samples)
        return self.bbox_head.loss(tokens, batch_data_samples)

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True
    ) -> SampleList:
        """Detect, see :meth:`SingleStageDetector.predict`."""
        tokens = self.extract_feat(batch_inputs, batch_data_samples)
        results = self.bbox_head.predict(tokens, batch_data_samples, rescale=rescale)
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: SampleList | None = None
    ) -> tuple[Tensor, Tensor]:
        tokens = self.extract_feat(batch_inputs, batch_data_samples)
        return self.bbox_head.forward(tokens)

    def get_layer_depth(self, param_name: str, prefix: str = ''):
        """Get the layer-wise depth of a parameter, see :class:`PEViT`'s."""
        return self.backbone.get_layer_depth(param_name, f'{prefix}backbone.')
