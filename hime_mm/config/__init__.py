# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Reads a config into a plan, checks it before work starts, and makes it encrypt."""

from . import validators  # noqa: F401  registers them
from .check import check_config, check_run, cipher_on_device
from .findings import Finding, error, validate, validator, warning
from .loading import load_config
from .plan import Node, Pipeline, Plan, Use, Way
from .reading import read
from .rewriters.differences import config_diff
from .rewriters.mending import use_tta
from .rewriters.stock import encrypt_config

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
    'config_diff',
    'encrypt_config',
    'error',
    'load_config',
    'read',
    'use_tta',
    'validate',
    'validator',
    'warning',
]
