# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Text: what is written on a picture."""

import logging
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from .base import Reader, Reading

#: A picture is at most so many times longer than wide.
_LONGEST = 4
#: Runs of so many letters are counted: single ones are read everywhere.
RUN = 3


@dataclass(frozen=True, eq=False)
class Text(Reading):
    """What is written on a picture.

    Attributes:
        lines (tuple[str, ...]): As they were read.
    """

    lines: tuple[str, ...]

    @property
    def runs(self) -> Counter:
        """Counter: All runs of three letters and digits, in lower case, within lines."""
        found: Counter = Counter()
        for line in self.lines:
            text = unicodedata.normalize('NFKC', line).casefold()
            text = ''.join(letter for letter in text if letter.isalnum())
            found.update(text[i : i + RUN] for i in range(len(text) - RUN + 1))
        return found

    def share(self, read: 'Text') -> float:
        """The share of this text's runs that were read, wherever they stand."""
        runs = self.runs
        return (runs & read.runs).total() / runs.total()


class TextReader(Reader):
    """RapidOCR: PaddleOCR's detector, direction classifier and recogniser in ONNX."""

    name = 'text'
    title = 'text read'
    source = 'PP-OCRv4 by RapidOCR (rapidocr-onnxruntime), as it is'
    requires = ('rapidocr_onnxruntime', 'onnxruntime')

    def _load(self) -> Any:
        from rapidocr_onnxruntime import RapidOCR

        logging.getLogger('rapidocr').setLevel(logging.ERROR)
        # One thread: pictures are read by as many processes as there are workers.
        return RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)

    def _read(self, img: np.ndarray, places: np.ndarray | None) -> Text:
        # It scales the shorter side up: a long, narrow picture would become a huge one.
        more = [max(0, max(img.shape[:2]) // _LONGEST - side) for side in img.shape[:2]]
        img = cv2.copyMakeBorder(img, 0, more[0], 0, more[1], cv2.BORDER_REPLICATE)
        found, _ = self.model(img)
        return Text(tuple(str(line) for _, line, _ in found or ()))
