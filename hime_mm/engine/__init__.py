# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a runner calls."""

from .hooks import EncryptedVisualizationHook
from .loading import force_safe_loading

__all__ = ['EncryptedVisualizationHook', 'force_safe_loading']
