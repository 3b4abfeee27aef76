# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The checks of a config, one subject a file; importing them registers them."""

from . import agreement, evaluation, metrics, model, pipelines, types

__all__ = ['agreement', 'evaluation', 'metrics', 'model', 'pipelines', 'types']
