# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Classes or objects, by a model of the user's: an ONNX file."""

import json
import os
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import cv2
import numpy as np

from hime_mm.errors import AttackError

from .base import Named, Objects, Reader, Reading

#: A picture of this side tells what a model gives.
_ANY = 224
_TYPES = {
    'tensor(float)': np.float32,
    'tensor(float16)': np.float16,
    'tensor(double)': np.float64,
    'tensor(uint8)': np.uint8,
}


def _is_number(value: Any) -> bool:
    """Whether it is a number that is no truth value, and no larger than any of use."""
    return type(value) in (int, float) and abs(value) < 1e9


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes the input: ``FILE.json`` beside ``FILE.onnx`` says what differs.

    Attributes:
        mean (tuple[float, ...]): Taken from each channel, of values up to 255.
            Defaults to ImageNet's.
        std (tuple[float, ...]): Each is then divided by this. Defaults to
            ImageNet's.
        order (str): Of the channels, 'rgb' or 'bgr'. Defaults to 'rgb'.
        threshold (float): Objects of a lower score are left out. Defaults to
            0.5.
    """

    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    order: str = 'rgb'
    threshold: float = 0.5

    @classmethod
    def beside(cls, path: str) -> 'Preparation':
        """Read it, or take what is usual."""
        place = os.path.splitext(path)[0] + '.json'
        if not os.path.exists(place):
            return cls()
        with open(place, encoding='utf-8') as file:
            try:
                said = json.load(file)
            except ValueError as error:
                raise AttackError(f'{place} is no JSON: {error}') from None
        known = [one.name for one in fields(cls)]
        if not isinstance(said, dict) or not said.keys() <= set(known):
            raise AttackError(
                f'{place} may hold {", ".join(known)}, as an object, and nothing else'
            )
        made = cls(**said)
        lists = (made.mean, made.std, [made.threshold])
        shaped = all(isinstance(one, (tuple, list)) for one in lists)
        if not shaped or [*map(len, lists)] != [3, 3, 1] or not all(map(_is_number, chain(*lists))):
            raise AttackError(
                f'{place}: `mean` and `std` are three numbers, and `threshold` is one'
            )
        if not all(made.std):
            raise AttackError(f'{place}: none of `std` is 0, which all is divided by')
        if made.order not in ('rgb', 'bgr'):
            raise AttackError(f"{place}: `order` is 'rgb' or 'bgr', not {made.order!r}")
        return made


class OnnxReader(Reader):
    """A classifier or a detector, as MMDeploy, torchvision and many others export them.

    It takes one picture, of shape (1, 3, H, W) or (1, H, W, 3), and gives
    either scores of classes, (1, K); or labels (n, ) of whole numbers with
    boxes, (n, 5) where the score is the last, or (n, 4) with scores (n, ).

    Args:
        path (str): The file.

    Raises:
        AttackError: If it cannot be loaded, or reads something else.
    """

    requires = ('onnxruntime',)

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.name = os.path.splitext(os.path.basename(path))[0]
        self.preparation = Preparation.beside(path)
        first = self.read(np.full((_ANY, _ANY, 3), 128, np.uint8))
        self.title = 'classes named' if isinstance(first, Named) else 'objects found'
        self.source = f'{os.path.basename(path)}, a model of the user'

    def _load(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            model = onnxruntime.InferenceSession(
                self.path, options, providers=['CPUExecutionProvider']
            )
        except Exception as error:  # its exceptions have no common class but this one
            raise AttackError(f'{self.path} cannot be loaded as an ONNX model: {error}') from None
        inputs = [(one.shape, one.type) for one in model.get_inputs()]
        (shape, kind), *more = inputs or [([], '')]
        if more or len(shape) != 4 or 3 not in (shape[1], shape[3]) or kind not in _TYPES:
            raise AttackError(
                f'{self.path} has inputs {inputs}: one is needed, (1, 3, H, W) or (1, H, W, 3), of '
                'floats or uint8'
            )
        return model

    def _read(self, img: np.ndarray, places: np.ndarray | None) -> Reading:
        (given,) = self.model.get_inputs()
        last = given.shape[1] != 3
        sides = given.shape[1:3] if last else given.shape[2:]
        height, width = (
            side if isinstance(side, int) else there
            for side, there in zip(sides, img.shape, strict=False)
        )
        made = cv2.resize(img, (width, height), interpolation=cv2.INTER_AREA)
        if self.preparation.order == 'rgb':
            made = made[..., ::-1]
        kind = _TYPES.get(given.type)
        if kind != np.uint8:  # else it prepares them itself
            made = (made - np.array(self.preparation.mean)) / np.array(self.preparation.std)
        made = (made if last else made.transpose(2, 0, 1)).astype(kind)
        outputs = self.model.run(None, {given.name: np.ascontiguousarray(made[None])})
        scale = np.array([img.shape[1] / width, img.shape[0] / height] * 2)
        return self._said([np.asarray(one) for one in outputs], scale)

    def _said(self, outputs: list[np.ndarray], scale: np.ndarray) -> Reading:
        shapes = [one.shape for one in outputs]
        if len(outputs) == 1 and len(shapes[0]) == 2 and shapes[0][0] == 1 and shapes[0][1] > 1:
            return Named(outputs[0][0].astype(float))
        # With or without an axis of the batch: the labels tell how many there are.
        labels = [one.ravel() for one in outputs if np.issubdtype(one.dtype, np.integer)]
        n = len(labels[0]) if labels else 0
        rest: list[Any] = [one for one in outputs if np.issubdtype(one.dtype, np.floating)]
        boxes = [one for one in rest if one.ndim > 1 and one.shape[-1] in (4, 5)]
        boxes = [one.reshape(-1, one.shape[-1]) for one in boxes if one.size // one.shape[-1] == n]
        scores: list[Any] = [one.ravel() for one in rest if one.size == n and one.ndim < 3]
        if boxes and boxes[0].shape[1] == 5:
            scores = [boxes[0][:, 4]]
        if len(labels) != 1 or not boxes or not scores:
            raise AttackError(
                f'{self.path} gives outputs of shape {shapes}: scores of classes, (1, K), or boxes '
                'with labels and scores are needed'
            )
        sure = scores[0] >= self.preparation.threshold
        return Objects(boxes[0][sure, :4].astype(float) * scale, labels[0][sure].astype(np.int64))
