# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Augmentations of encrypted batches."""

from .patch_cutmix import PatchCutMix

__all__ = ['PatchCutMix']
