# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a runner calls."""

from .backend import HimeBackend
from .hooks import EncryptedVisualizationHook, EncryptionCheckHook, EpochSeedHook
from .loading import force_safe_loading

__all__ = [
    'EncryptedVisualizationHook',
    'EncryptionCheckHook',
    'EpochSeedHook',
    'HimeBackend',
    'force_safe_loading',
]
