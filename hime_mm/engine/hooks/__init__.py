# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Hooks of the runners."""

from .visualization_hook import EncryptedVisualizationHook

__all__ = ['EncryptedVisualizationHook']
