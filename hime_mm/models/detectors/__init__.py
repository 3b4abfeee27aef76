# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Detectors."""

from .peyolos import PEYOLOS

__all__ = ['PEYOLOS']
