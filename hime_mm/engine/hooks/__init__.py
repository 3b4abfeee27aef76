# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
from .visualization_hook import EncryptedVisualizationHook

__all__ = ['EncryptedVisualizationHook']
