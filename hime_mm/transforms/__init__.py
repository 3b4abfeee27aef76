# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a pipeline sees: the ciphers as registered transforms."""

from .encrypt import Encrypt, PatchShuffle, SubPatchMix

__all__ = ['Encrypt', 'PatchShuffle', 'SubPatchMix']
