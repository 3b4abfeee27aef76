# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Packages of the extra ``audit``, imported when something is measured."""

import importlib
from typing import Any

from hime_mm.errors import HimeError


def needed(module: str) -> Any:
    """Import a module of SciPy or scikit-image, or say how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = {'scipy': 'SciPy', 'skimage': 'scikit-image'}[module.split('.')[0]]
        raise HimeError(
            f'measuring leakage needs {package}, which is not installed: '
            "pip install 'hime-mm[audit]'"
        ) from None
