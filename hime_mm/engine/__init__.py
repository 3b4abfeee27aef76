# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a runner calls."""

from .hooks import *  # noqa: F401,F403
from .loading import force_safe_loading  # noqa: F401
