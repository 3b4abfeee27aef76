# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How a model of MMDetection or MMPretrain looks at one picture.

torch and the model's packages are only imported once a model is called.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from hime_mm.errors import ClientError
from hime_mm.images.codec import as_loaded


def unwrapped(model: Any) -> Any:
    """The model of an inferencer, or the model itself.

    Refuses one that would change or encrypt the picture.
    """
    if not hasattr(model, 'test_step'):
        model = getattr(model, 'model', model)
    if not hasattr(model, 'test_step'):
        raise TypeError(
            'a model is an inferencer of MMDetection or MMPretrain, or what '
            'their `init_detector`, `get_model` or `MODELS.build` give, got '
            f'{type(model).__name__}'
        )
    if hasattr(model, 'tta_cfg'):
        raise ClientError(
            'a model for test-time augmentation resizes and '
            'flips encrypted pictures: give its `.module`'
        )
    inner = getattr(model, 'module', model)
    preprocessor = getattr(inner, 'data_preprocessor', None)
    if getattr(preprocessor, 'batch_cipher', None) is not None:
        raise ClientError(
            f'the {type(preprocessor).__name__} of this model encrypts what it '
            'gets, and the picture is encrypted already: build the model with '
            '`data_preprocessor.cipher=None`'
        )
    return model


def _sample_type(model: Any) -> type:
    """The kind of data sample that a model writes its results to."""
    # Models of other packages derive from one of these two.
    for base in type(model).__mro__:
        module = base.__module__.split('.')[0]
        if module == 'mmdet':
            from mmdet.structures import DetDataSample

            return DetDataSample
        if module == 'mmpretrain':
            from mmpretrain.structures import DataSample

            return DataSample
    from mmengine.structures import BaseDataElement

    return BaseDataElement


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients; all modes are as before then."""
    import torch

    modes: list[tuple[Any, bool]] = []
    if isinstance(model, torch.nn.Module):
        modes = [(module, module.training) for module in model.modules()]
        if any(training for _, training in modes):
            model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def run_model(model: Any, img: np.ndarray, color_type: str, metainfo: dict) -> Any:
    """What a model says of a picture as it is: its data sample, in pixels of the picture.

    The picture is of shape (H, W) or (H, W, C), BGR, uint8 or uint16.
    """
    import torch

    inner = model
    if isinstance(model, torch.nn.Module):
        from mmengine.model import is_model_wrapper

        while is_model_wrapper(inner):
            inner = inner.module
        _align_device(inner)
    img = as_loaded(img, color_type)
    img = img[None] if img.ndim == 2 else img.transpose(2, 0, 1)
    # Preprocessors of models convert to float32 anyway, and 16 bits fit.
    inputs = torch.from_numpy(np.ascontiguousarray(img, np.float32))
    shape = tuple(inputs.shape[1:])
    sample = _sample_type(inner)(
        metainfo={
            **metainfo,
            'img_id': 0,
            'ori_shape': shape,
            'img_shape': shape,
            'pad_shape': shape,
            'batch_input_shape': shape,
            'scale_factor': (1.0, 1.0),
            'flip': False,
            'flip_direction': None,
            'homography_matrix': np.eye(3, dtype=np.float32),
        }
    )
    with _evaluating(model):
        results = model.test_step(dict(inputs=[inputs], data_samples=[sample]))
    if not isinstance(results, (list, tuple)) or len(results) != 1:
        got = (
            f'{len(results)} results'
            if isinstance(results, (list, tuple))
            else type(results).__name__
        )
        raise ClientError(f'{type(inner).__name__} gave {got} for one picture, not a list of one')
    return results[0]


def _align_device(model: Any) -> None:
    """Have a data preprocessor put pictures where the model's weights are.

    It does not notice when a module around the model is moved.
    """
    device = getattr(getattr(model, 'data_preprocessor', None), 'device', None)
    weights = {param.device for param in model.parameters()}
    if device is not None and len(weights) == 1 and device not in weights:
        model.to(weights.pop())
