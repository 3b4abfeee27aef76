# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Augmentation of images that are encrypted already.

None of it needs a key, an original, or to know where a patch came from. Its
randomness is no secret: it comes from NumPy's global state, which the runner
seeds, so that a run can be repeated. As with the hosts' own augmentations, it
starts over in the new workers of every epoch where these are not persistent;
``PatchReshuffle`` alone, which is there for new orders, draws as
``hime_mm.Encrypt`` with ``randomness='numpy'`` does.
"""

from .base import EncryptedAugment
from .color_jitter import EncryptedColorJitter
from .patch_drop import PatchDrop
from .patch_reshuffle import PatchReshuffle

__all__ = ['EncryptedAugment', 'EncryptedColorJitter', 'PatchDrop', 'PatchReshuffle']
