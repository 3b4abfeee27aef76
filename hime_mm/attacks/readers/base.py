# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a reader is, and what it says."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import cv2
import numpy as np

from hime_mm.errors import AttackError, HimeError


@dataclass(frozen=True, eq=False)
class Reading:
    """What a reader says of one picture."""


@dataclass(frozen=True, eq=False)
class Named(Reading):
    """Of what class a picture is.

    Attributes:
        scores (np.ndarray): Shape (k, ), the larger, the likelier.
    """

    scores: np.ndarray


@dataclass(frozen=True, eq=False)
class Objects(Reading):
    """What is where.

    Attributes:
        boxes (np.ndarray): float64 of shape (n, 4), (x1, y1, x2, y2) in pixels.
        labels (np.ndarray): int64 of shape (n, ).
    """

    boxes: np.ndarray
    labels: np.ndarray


class Reader(ABC):
    """A model that reads plain pictures.

    It is loaded when it reads for the first time, and once in each process:
    readers travel to workers without their models.
    """

    #: Name in commands and reports.
    name: str
    #: What it does, in a line.
    title: str
    #: Whose model it is.
    source: str
    #: Packages that must be there.
    requires: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self._model: Any = None
        # The originals are read again for every cipher.
        self._known: dict[bytes, Reading] = {}

    @classmethod
    def missing(cls) -> str:
        """Packages that it needs and that are not there; empty if all are."""
        return ', '.join(name for name in cls.requires if find_spec(name) is None)

    def __getstate__(self) -> dict:
        return {**vars(self), '_model': None, '_known': {}}

    @property
    def model(self) -> Any:
        """What it reads with.

        Raises:
            AttackError: If it cannot be loaded, such as without a library of the system.
        """
        if self._model is None:
            with _named(f'{self.name} cannot be loaded'):
                self._model = self._load()
        return self._model

    def read(self, img: np.ndarray, places: np.ndarray | None = None) -> Any:
        """Read a picture.

        Args:
            img (np.ndarray): uint8 of shape (H, W) or (H, W, 3), BGR.
            places (np.ndarray, optional): float64 of shape (k, 4), boxes of
                what is known to be there, as boxes are handed over with a data
                set. Defaults to None.

        Raises:
            AttackError: If it fails on this picture.
        """
        img = np.ascontiguousarray(img)
        asked = (img.shape, None if places is None else places.tolist())
        told = hashlib.sha256(repr(asked).encode())
        told.update(img.tobytes())
        key = told.digest()
        if key not in self._known:
            colour = cv2.cvtColor(img, cv2.COLOR_GRAY2BGR) if img.ndim == 2 else img
            with _named(f'{self.name} does not take this picture'):
                self._known[key] = self._read(colour, places)
        return self._known[key]

    @abstractmethod
    def _load(self) -> Any:
        """Load the model."""

    @abstractmethod
    def _read(self, img: np.ndarray, places: np.ndarray | None) -> Reading:
        """Read a picture, uint8 of shape (H, W, 3), BGR."""


@contextmanager
def _named(what: str) -> Iterator[None]:
    """What others' packages raise, which has no common class, as an error of ours."""
    try:
        yield
    except HimeError:
        raise
    except Exception as error:
        text = ' '.join(str(error).split())
        raise AttackError(f'{what}: {type(error).__name__}: {text}') from error


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of each box with each other one, float64 of shape (n, m)."""
    boxes, others = boxes.reshape(-1, 1, 4), others.reshape(1, -1, 4)
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., 2:], others[..., 2:])
    both = (high - low).clip(0).prod(-1)
    areas = [(one[..., 2:] - one[..., :2]).clip(0).prod(-1) for one in (boxes, others)]
    return both / np.maximum(areas[0] + areas[1] - both, 1e-9)
