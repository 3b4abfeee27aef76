# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Scripts of the checkout, which belong to no package, as modules."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
#: Runs scripts one after the other, with a mark between their outputs.
RUN = """
import os, runpy, sys
sys.stdout.reconfigure(line_buffering=True)
for args in {}:
    sys.argv = args
    # As Python does; of this script only.
    sys.path.insert(0, os.path.dirname(args[0]))
    try:
        runpy.run_path(args[0], run_name='__main__')
    except SystemExit as stopped:
        if stopped.code:
            raise
    sys.path.pop(0)
    print('=== next')
"""


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


def run_script(path: str, *args):
    """Call the ``main`` of a script in this process, with these arguments.

    What it sets in the environment, and which logger it makes MMEngine's
    current one, does not stay.
    """
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    argv = [path, *map(str, args)]
    try:
        with (
            mock.patch.dict(os.environ),
            mock.patch.dict(MMLogger._instance_dict),
            mock.patch.object(sys, 'argv', argv),
        ):
            return load_script(path).main()
    finally:
        logger.setLevel(level)


def run_fresh(code: str) -> str:
    """Run code in a process in which nothing is imported yet."""
    done = subprocess.run(
        [sys.executable, '-c', code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def run_tools(*calls: tuple) -> list[str]:
    """Run scripts as a person does, in one process that imports once.

    Args:
        calls (tuple): A path relative to the checkout, and arguments.

    Returns:
        list[str]: What each of them printed, errors included.
    """
    argv = [[str(ROOT / path), *map(str, args)] for path, *args in calls]
    return run_fresh(RUN.format(argv)).split('=== next\n')[:-1]
