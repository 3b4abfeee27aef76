# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Scripts of the checkout, which belong to no package, as modules."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def load_script(path: str) -> ModuleType:
    """Import a script, which may import its neighbours.

    Args:
        path (str): Relative to the checkout, such as ``'tools/demo.py'``.

    Returns:
        ModuleType: A module of its own for every call.
    """
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str((ROOT / path).parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module
