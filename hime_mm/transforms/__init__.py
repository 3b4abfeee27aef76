# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a pipeline sees: ciphers and encrypted data sets as transforms."""

from .encrypt import Encrypt, PatchShuffle, SubPatchMix
from .loading import LoadEncryptedMeta

__all__ = ['Encrypt', 'LoadEncryptedMeta', 'PatchShuffle', 'SubPatchMix']
