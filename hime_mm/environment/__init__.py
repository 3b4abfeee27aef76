# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is installed, whether it works and what would break. Standard library only."""

from .diagnosis import check_environment, diagnose, format_report
from .probes import collect

__all__ = ['check_environment', 'collect', 'diagnose', 'format_report']
