# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Reads a config into a plan, and checks it before work starts."""

from . import validators  # noqa: F401  registers them
from .check import check_config, check_run, cipher_on_device
from .findings import Finding, error, validate, validator, warning
from .plan import Node, Pipeline, Plan, Use, Way
from .reading import read
from .rewrite import use_tta

__all__ = [
    'Finding',
    'Node',
    'Pipeline',
    'Plan',
    'Use',
    'Way',
    'check_config',
    'check_run',
    'cipher_on_device',
    'error',
    'read',
    'use_tta',
    'validate',
    'validator',
    'warning',
]
