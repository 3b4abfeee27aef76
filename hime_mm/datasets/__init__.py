# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Data that the package makes itself. Needs neither torch nor mm packages."""

from .demo_coco import CLASSES, make_demo_coco

__all__ = ['CLASSES', 'make_demo_coco']
