# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Necks."""

from .vit_projector import ViTProjector

__all__ = ['ViTProjector']
