# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Detectors of MMDetection whose backbone knows padding."""

from functools import cache
from typing import Any

from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS as HOST_MODELS
from mmdet.structures import OptSampleList, SampleList
from torch import Tensor

from hime_mm.errors import ConfigError
from hime_mm.registry import MODELS

from ..layers.padding import KnowsPadding


class TellsPadding:
    """What a detector does besides: it tells its backbone of the data samples of each batch."""

    def check_backbone(self) -> None:
        """Refuse a backbone that padding cannot be told to."""
        backbone = getattr(self, 'backbone', None)
        if not isinstance(backbone, KnowsPadding):
            raise ConfigError(
                f'a {type(backbone).__name__} cannot tell image from padding: take '
                "hime_mm.PEViT or hime_mm.TIMMPEViT as backbone, with `pos_encoding='learned'` "
                "for a plain ViT, or MMDetection's own detectors"
            )

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList, **kwargs: Any):
        """Compute losses, as the detector does it."""
        with self.backbone.told(batch_data_samples):
            return super().loss(batch_inputs, batch_data_samples, **kwargs)

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, *args: Any, **kwargs: Any
    ) -> SampleList:
        """Detect, as the detector does it."""
        with self.backbone.told(batch_data_samples):
            return super().predict(batch_inputs, batch_data_samples, *args, **kwargs)

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None, **kwargs: Any
    ):
        with self.backbone.told(batch_data_samples):
            return super()._forward(batch_inputs, batch_data_samples, **kwargs)

    def get_layer_depth(self, param_name: str, prefix: str = ''):
        """Get the layer-wise depth of a parameter, see :class:`PEViT`'s."""
        return self.backbone.get_layer_depth(param_name, f'{prefix}backbone.')


@MODELS.register_module()
class PaddingAware(TellsPadding):
    """A detector of MMDetection whose backbone knows which tokens are padding.

    MMDetection's detectors call a backbone with images only, and padding then
    counts as image. This one is of a class derived from the detector's, which
    tells a :class:`PEViT` or :class:`TIMMPEViT` of the data samples: so each
    image of a padded batch has the feature map that it has alone. All else
    is the detector's, arguments, names in checkpoints and methods. In a
    config the type is what changes::

        model = dict(type='hime_mm.PaddingAware', detector='mmdet.FasterRCNN', ...)

    Behind the backbone padding is zero, as it is known there only to what
    masks it by itself (DETR and its kin): convolutions of necks and heads mix it
    in along the border, and norms over whole maps count it. One model takes
    one batch at a time, as other threads would be told of it, too.

    Args:
        detector (str | type): A detector in MMDetection's registry, or its
            class.
        **kwargs: The detector's own arguments, ``backbone`` among them.

    Raises:
        ConfigError: If there is no such detector, or its backbone does not
            know padding.
    """

    def __new__(cls, detector: str | type | None = None, **kwargs: Any):
        """Make an object of a class that derives from the detector's."""
        # Copies are made of the class that was derived, without arguments.
        return super().__new__(_derived(detector) if cls is PaddingAware else cls)

    def __init__(self, detector: str | type, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check_backbone()


def _derived(detector: str | type | None) -> type:
    host = HOST_MODELS.get(detector) if isinstance(detector, str) else detector
    if not (isinstance(host, type) and issubclass(host, BaseDetector)):
        raise ConfigError(
            f"`detector` is {detector!r}, which is no detector of MMDetection's: name one, such "
            "as 'mmdet.FasterRCNN'"
        )
    return _class_of(host)


@cache
def _class_of(host: type) -> type:
    # The detector's metaclass makes it.
    return type(host)(
        f'PaddingAware{host.__name__}', (PaddingAware, host), {'__module__': __name__}
    )
