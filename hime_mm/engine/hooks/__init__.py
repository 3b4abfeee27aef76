# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Hooks of the runners."""

from .encryption_check_hook import EncryptionCheckHook
from .epoch_seed import EpochSeedHook
from .visualization_hook import EncryptedVisualizationHook

__all__ = ['EncryptedVisualizationHook', 'EncryptionCheckHook', 'EpochSeedHook']
