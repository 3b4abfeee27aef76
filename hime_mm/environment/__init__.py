# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is installed, whether it works and what would break. Standard library only."""

from .diagnosis import diagnose
from .installed import ENGINEER, OWNER, collect
from .problems import Problem
from .report import check_environment, format_report

__all__ = [
    'ENGINEER',
    'OWNER',
    'Problem',
    'check_environment',
    'collect',
    'diagnose',
    'format_report',
]
