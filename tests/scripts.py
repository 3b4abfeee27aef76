# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Scripts of the checkout, which belong to no package, as modules."""
import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def load_script(path: str) -> ModuleType:
    """Import a script.

    Args:
        path (str): Relative to the checkout, such as ``'tools/demo.py'``.

    Returns:
        ModuleType: A module of its own for every call.
    """
    spec = importlib.util.spec_from_file_location(
        Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
