# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Heads of detectors."""

from .det_token_head import DetTokenHead
from .patch_token_head import PatchTokenHead

__all__ = ['DetTokenHead', 'PatchTokenHead']
