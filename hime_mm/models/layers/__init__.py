# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from .attention import masked_attention
from .embedding import MixedPatchEmbed
from .padding import image_shapes, key_mask, positions_on_grids
from .position import ReferencePositionEncoding

__all__ = [
    'MixedPatchEmbed', 'ReferencePositionEncoding', 'image_shapes',
    'key_mask', 'masked_attention', 'positions_on_grids'
]
