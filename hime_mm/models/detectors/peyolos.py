# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""YOLOS for encrypted images."""

from mmdet.utils import ConfigType, OptConfigType, OptMultiConfig

from hime_mm.errors import ConfigError
from hime_mm.registry import MODELS

from ..weights.hooks import load_foreign
from .single_stage import PESingleStageDetector


@MODELS.register_module()
class PEYOLOS(PESingleStageDetector):
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
