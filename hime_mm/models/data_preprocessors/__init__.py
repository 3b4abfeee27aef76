# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Data preprocessors."""

from hime_mm.models.ciphers import BatchCipher

from .distill import DistillDataPreprocessor
from .encrypt import EncryptClsDataPreprocessor

__all__ = ['BatchCipher', 'DistillDataPreprocessor', 'EncryptClsDataPreprocessor']
