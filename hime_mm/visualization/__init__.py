# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Pictures for people to look at."""

from .pictures import draw_boxes, side_by_side, stack_rows

__all__ = ['draw_boxes', 'side_by_side', 'stack_rows']
