# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from .attention import masked_attention
from .embedding import MixedPatchEmbed
from .position import ReferencePositionEncoding

__all__ = ['MixedPatchEmbed', 'ReferencePositionEncoding', 'masked_attention']
