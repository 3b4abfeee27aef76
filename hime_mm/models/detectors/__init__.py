# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Detectors."""

from .padding_aware import PaddingAware
from .pedino import PEDINO
from .peyolos import PEYOLOS
from .single_stage import PESingleStageDetector

__all__ = ['PEDINO', 'PEYOLOS', 'PESingleStageDetector', 'PaddingAware']
