# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The rules of docstrings hold where the names that people import are defined."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from hime_mm.apis import _PLACES
from hime_mm.ciphers import __all__ as CIPHERS

ROOT = Path(__file__).resolve().parents[1]
UNDESCRIBED = 'class Name:\n    """A name."""\n\n    def method(self):\n        pass\n'


def defined_in(module, name):
    """The file in which a name of a module is defined."""
    path = ROOT.joinpath('hime_mm', *module.split('.'))
    if not path.is_dir():
        return path.with_suffix('.py').relative_to(ROOT).as_posix()
    for node in ast.parse((path / '__init__.py').read_text()).body:
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return defined_in(f'{module}.{node.module}', name)
    raise AssertionError(f'hime_mm.{module} does not import {name}')


FILES = sorted(
    {defined_in(module, name) for name, module in _PLACES.items()}
    | {defined_in('ciphers', name) for name in CIPHERS}
)


def test_files_are_found():
    assert {'hime_mm/config/check.py', 'hime_mm/ciphers/steps/mix.py'} < set(FILES)


@pytest.mark.parametrize('file', FILES)
def test_lint_asks_for_docstrings(file):
    """Of a step's methods it does not: they have those of :class:`Step`."""
    pytest.importorskip('ruff')
    done = subprocess.run(
        [sys.executable, '-m', 'ruff', 'check', '--stdin-filename', file, '-'],
        input=UNDESCRIBED,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1 and 'D100' in done.stdout
    step = file.startswith('hime_mm/ciphers/steps/') and not file.endswith('base.py')
    assert ('D102' in done.stdout) is not step
