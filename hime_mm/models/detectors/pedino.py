# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""MMDetection's DINO on a plain ViT."""

from collections.abc import Callable
from typing import Any

import torch
from mmdet.models.detectors import DINO
from mmdet.models.layers.transformer.utils import coordinate_to_encoding
from mmdet.structures import OptSampleList, SampleList
from mmengine.model import ModuleList
from torch import Tensor, nn

from hime_mm.errors import ConfigError
from hime_mm.registry import MODELS

from ..necks import ViTProjector
from .padding_aware import TellsPadding


@MODELS.register_module()
class PEDINO(TellsPadding, DINO):
    """MMDetection's DINO on a plain ViT, laid out as LW-DETR, for images whose patches stay (MI).

    The backbone knows which tokens are padding, and queries have their places in the image, not in
    the padded batch, so that each image gives what it would give alone. Without ``encoder`` there
    is none: the ViT has mixed the tokens already, and the queries of DINO's two stages come from
    what the neck, a :class:`ViTProjector`, gives.

    Reference: Chen et al., "LW-DETR: A Transformer Replacement to YOLO for Real-Time Detection",
    2024 (arXiv 2406.03459); Zhang et al., "DINO: DETR with Improved DeNoising Anchor Boxes for
    End-to-End Object Detection", ICLR 2023. Of LW-DETR it has not the groups of queries,
    whose place DINO's denoising takes, nor the windows of the ViT's attention.

    Args:
        backbone (dict): A :class:`PEViT` or :class:`TIMMPEViT` with ``out_type='featmap'``.
        encoder (dict, optional): A deformable encoder behind the neck, as DINO has one. Defaults
            to None.
        **kwargs: As MMDetection's ``DINO`` has them.

    Raises:
        ConfigError: If the backbone does not know padding, the decoder reads another number of
            maps than the neck gives, or an image has fewer tokens than there are queries.
    """

    def __init__(self, backbone: dict, encoder: dict | None = None, **kwargs) -> None:
        super().__init__(backbone=backbone, encoder=encoder, **kwargs)
        self.check_backbone()
        if isinstance(getattr(self, 'neck', None), ViTProjector):
            maps = len(self.neck.scales)
            read = self.decoder.layers[0].cross_attn.num_levels
            if not maps == read == self.num_feature_levels:
                raise ConfigError(
                    f'the neck gives {maps} maps, the decoder reads {read}: set '
                    f'`num_feature_levels={maps}` and '
                    f'`decoder.layer_cfg.cross_attn_cfg.num_levels={maps}`'
                )

    def _init_layers(self) -> None:
        bare = self.encoder is None
        if bare:
            # The host reads the width off an encoder's layer.
            dims = self.decoder['layer_cfg']['self_attn_cfg']['embed_dims']
            parts = ('self_attn_cfg', 'ffn_cfg')
            self.encoder = dict(
                num_layers=1, layer_cfg={part: dict(embed_dims=dims) for part in parts}
            )
        super()._init_layers()
        if bare:
            # Without layers it passes on what it gets, and uses no positions.
            self.encoder.layers, self.encoder.num_layers = ModuleList(), 0
            self.level_embed.requires_grad_(False)
        for layer in self.decoder.layers:
            layer.register_forward_pre_hook(self._place_queries, with_kwargs=True)

    def _place_queries(self, layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Positions of queries in their image, where the host has those in the padded batch."""
        ratios = kwargs['valid_ratios'][:, None, 0].repeat(1, 1, 2)
        boxes = kwargs['reference_points'][:, :, 0] / ratios
        encoded = coordinate_to_encoding(boxes, num_feats=self.embed_dims)
        return args, dict(kwargs, query_pos=self.decoder.ref_point_head(encoded))

    def _detect(self, head: Callable, images: Tensor, data_samples: OptSampleList, **kwargs) -> Any:
        with self.backbone.told(data_samples):
            x = self.extract_feat(images)
        # Half precision would move boxes by a pixel: under AMP it ends here.
        with torch.autocast(images.device.type, enabled=False):
            x = tuple(one.to(self.level_embed.dtype) for one in x)
            return head(**self.forward_transformer(x, data_samples), **kwargs)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict:
        """Compute losses, see MMDetection's ``DINO``."""
        return self._detect(
            self.bbox_head.loss,
            batch_inputs,
            batch_data_samples,
            batch_data_samples=batch_data_samples,
        )

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True
    ) -> SampleList:
        """Detect, see MMDetection's ``DINO``."""
        results = self._detect(
            self.bbox_head.predict,
            batch_inputs,
            batch_data_samples,
            batch_data_samples=batch_data_samples,
            rescale=rescale,
        )
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None
    ) -> tuple[list[Tensor], ...]:
        return self._detect(self.bbox_head.forward, batch_inputs, batch_data_samples)

    def pre_decoder(self, memory: Tensor, *args, **kwargs) -> tuple[dict, dict]:
        """Choose the queries, see MMDetection's ``DINO``."""
        if memory.shape[1] < self.num_queries:
            raise ConfigError(
                f'{memory.shape[1]} tokens are fewer than the {self.num_queries} queries: set '
                '`num_queries` to as many as the smallest images have tokens, or use larger ones'
            )
        return super().pre_decoder(memory, *args, **kwargs)
