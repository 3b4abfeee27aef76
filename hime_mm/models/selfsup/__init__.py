# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Algorithms that learn without labels."""

from .shuffle_distillation import ShuffleDistillation

__all__ = ['ShuffleDistillation']
