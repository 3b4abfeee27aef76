# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Shuffled patches as a jigsaw puzzle."""

from .oriented import OrientedJigsaw
from .paikin_tal import PaikinTal
from .solver import Jigsaw, solve

__all__ = ['Jigsaw', 'OrientedJigsaw', 'PaikinTal', 'solve']
