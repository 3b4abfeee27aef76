# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from .pevit import PEViT

__all__ = ['PEViT']
