# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Faces: where they are, and whose."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np

from .base import Reader, Reading, overlaps

#: From this overlap on, a face that is found is the one that is known to be there.
SAME = 0.4
#: The detector looks at twice the size: it was trained on faces of 80 pixels and more.
_UPSAMPLE = 1


@dataclass(frozen=True, eq=False)
class Faces(Reading):
    """The faces of a picture.

    Attributes:
        boxes (np.ndarray): float64 of shape (n, 4), (x1, y1, x2, y2), the
            largest first.
        codes (np.ndarray): float64 of shape (n, 128): those of one person are
            less than 0.6 apart.
        known (np.ndarray): float64 of shape (k, 128), the codes at the places
            that were known: of the face that was found there, else of what is there.
    """

    boxes: np.ndarray
    codes: np.ndarray
    known: np.ndarray


class FaceReader(Reader):
    """dlib's face detector (HOG) and face recognition (a ResNet of 128 numbers)."""

    name = 'faces'
    title = 'faces found, and people recognised by them'
    source = "dlib's frontal face detector and face recognition model (King, 2017), as they are"
    requires = ('dlib', 'face_recognition_models')

    def _load(self) -> Any:
        import dlib

        # Importing the package takes `pkg_resources`, which is on its way out.
        spec = find_spec('face_recognition_models')
        assert spec is not None and spec.submodule_search_locations
        folder = os.path.join(spec.submodule_search_locations[0], 'models')

        def path(name: str) -> str:
            return os.path.join(folder, f'{name}.dat')

        return SimpleNamespace(
            find=dlib.get_frontal_face_detector(),
            points=dlib.shape_predictor(path('shape_predictor_5_face_landmarks')),
            code=dlib.face_recognition_model_v1(path('dlib_face_recognition_resnet_model_v1')),
            rectangle=dlib.rectangle,
        )

    def _read(self, img: np.ndarray, places: np.ndarray | None) -> Faces:
        img = np.ascontiguousarray(img[..., ::-1])  # dlib takes RGB
        found = self.model.find(img, _UPSAMPLE)
        boxes: np.ndarray = np.array(
            [(one.left(), one.top(), one.right() + 1, one.bottom() + 1) for one in found], float
        ).reshape(-1, 4)
        sizes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        boxes = boxes[np.argsort(-sizes, kind='stable')]
        known: list[Any] = []
        for place in () if places is None else places:
            near = overlaps(place, boxes)[0] if len(boxes) else np.zeros(1)
            known.append(boxes[near.argmax()] if near.max() >= SAME else place)
        return Faces(boxes, self._codes(img, boxes), self._codes(img, known))

    def _codes(self, img: np.ndarray, boxes: Any) -> np.ndarray:
        codes = []
        for box in boxes:
            left, top, right, bottom = (int(round(value)) for value in box)
            points = self.model.points(img, self.model.rectangle(left, top, right - 1, bottom - 1))
            codes.append(self.model.code.compute_face_descriptor(img, points))
        return np.array(codes, float).reshape(-1, 128)
