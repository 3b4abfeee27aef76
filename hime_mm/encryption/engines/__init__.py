# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Who does the tasks of a run."""

from .tasks import run_tasks

__all__ = ['run_tasks']
