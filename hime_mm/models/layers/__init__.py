# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Layers of the backbones."""

from .embedding import MixedPatchEmbed, ReferencePositionEncoding

__all__ = ['MixedPatchEmbed', 'ReferencePositionEncoding']
