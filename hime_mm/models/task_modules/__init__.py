# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What heads are built with: assigners and box coders."""

from .patch_token import PatchTokenAssigner, PatchTokenCoder

__all__ = ['PatchTokenAssigner', 'PatchTokenCoder']
