# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Necks."""

from .simple_feature_pyramid import SimpleFeaturePyramid
from .vit_projector import ViTProjector

__all__ = ['SimpleFeaturePyramid', 'ViTProjector']
