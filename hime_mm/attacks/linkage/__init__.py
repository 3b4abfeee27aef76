# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Which picture of a gallery is the original: linkage, or re-identification."""

from .gallery import Linkage
from .histogram import Histogram
from .patch_hash import PatchHash
from .texture import Texture

__all__ = ['Histogram', 'Linkage', 'PatchHash', 'Texture']
