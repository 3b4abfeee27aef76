# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Heads of detectors."""

from .det_token_head import DetTokenHead

__all__ = ['DetTokenHead']
