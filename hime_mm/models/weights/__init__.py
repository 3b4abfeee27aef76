# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Weights of other implementations, under the names of this one.

A file is read (``reader``), its names are recognised and translated
(``formats``, ``translate``) and its tensors fitted to a model (``fit``,
``positions``): for the converter (``infer``, ``convert``) and for models that
load a file themselves (``hooks``).
"""

from .fit import fit
from .formats import COCO_CATEGORY_IDS, FORMATS, detect_format
from .positions import find_grid
from .reader import CheckpointInfo, read_checkpoint, unwrap
from .translate import translate

__all__ = [
    'COCO_CATEGORY_IDS',
    'FORMATS',
    'CheckpointInfo',
    'detect_format',
    'find_grid',
    'fit',
    'read_checkpoint',
    'translate',
    'unwrap',
]
