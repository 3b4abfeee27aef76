# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a runner calls."""

from .hooks import EncryptedVisualizationHook, EncryptionCheckHook
from .loading import force_safe_loading

__all__ = ['EncryptedVisualizationHook', 'EncryptionCheckHook', 'force_safe_loading']
