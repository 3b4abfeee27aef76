# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a pipeline sees: ciphers, encrypted data sets, their augmentation."""

from .augment import EncryptedAugment, EncryptedColorJitter, PatchDrop, PatchReshuffle
from .encrypt import Encrypt, PatchShuffle, SubPatchMix
from .loading import LoadEncryptedMeta

__all__ = [
    'Encrypt',
    'EncryptedAugment',
    'EncryptedColorJitter',
    'LoadEncryptedMeta',
    'PatchDrop',
    'PatchReshuffle',
    'PatchShuffle',
    'SubPatchMix',
]
