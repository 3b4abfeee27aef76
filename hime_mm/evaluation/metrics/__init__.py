# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Metrics of MMDetection for boxes that travelled with their patches."""

try:
    import mmdet.evaluation  # noqa: F401
except (ImportError, AssertionError):
    # Without MMDetection there are none; hime_mm.models logs what is missing.
    __all__ = []
else:
    from .original import OriginalCocoMetric
    from .slots import SlotCocoMetric

    __all__ = ['OriginalCocoMetric', 'SlotCocoMetric']
