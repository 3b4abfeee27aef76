# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a person calls."""

from .config import check_config, force_safe_loading

__all__ = ['check_config', 'force_safe_loading']
