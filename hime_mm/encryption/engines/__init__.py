# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Who does the tasks of a run."""

from .shards import EngineLike, Foreign, InProcess, Local, OnRay, choose_engine, run_shards
from .tasks import run_tasks

__all__ = [
    'EngineLike',
    'Foreign',
    'InProcess',
    'Local',
    'OnRay',
    'choose_engine',
    'run_shards',
    'run_tasks',
]
