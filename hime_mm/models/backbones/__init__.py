# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Backbones."""

from .pevit import PEViT
from .timm_pevit import TIMMPEViT

__all__ = ['PEViT', 'TIMMPEViT']
