# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What docs/architecture.md says, against the code."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECKS = '\n## Checks that keep things in\n'
#: Rows of that section. It only grows.
LEAST_CHECKS = 341


def checks():
    """Rows of the tables of checks, each a list of its four cells."""
    text = (ROOT / 'docs' / 'architecture.md').read_text()
    section = text.split(CHECKS)[1].split('\n## ')[0]
    rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in section.splitlines()
        if line.startswith('|')
    ]
    return [row for row in rows if row[0] != 'what must not get out' and set(row[0]) != {'-'}]


@cache
def defined(path):
    """Names of the classes and functions of a file, with their classes'."""
    names = set()

    def look(node, before):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef)):
                names.add(before + child.name)
                if isinstance(child, ast.ClassDef):
                    look(child, f'{before}{child.name}.')

    look(ast.parse(path.read_text()), '')
    return names


def has_place(module, name):
    """Whether ``package.module:Class.method`` is there."""
    path = ROOT.joinpath(*module.split('.'))
    for file in (path.with_suffix('.py'), path / '__init__.py'):
        if file.is_file():
            return name in defined(file)
    return False


def has_test(path, name):
    """Whether ``tests/path.py::Class::test`` is there."""
    file = ROOT / path
    return file.is_file() and name.replace('::', '.') in defined(file)


def test_checks_that_keep_things_in():
    """Each has a place and a test, and the list never gets shorter."""
    rows, wrong = checks(), []
    for row in rows:
        if len(row) != 4 or not all(row):
            wrong.append(f'not four cells: {row}')
            continue
        places = re.findall(r'`((?:hime_mm|tools)[\w.]*):([\w.]+)`', row[2])
        tests = re.findall(r'`(tests/[\w/]+\.py)::([\w:]+)`', row[3])
        if not places or len(places) != row[2].count('`') // 2:
            wrong.append(f'no place: {row[2]}')
        if not tests or len(tests) != row[3].count('`') // 2:
            wrong.append(f'no test: {row[3]}')
        wrong += [
            f'{module}:{name} is not there'
            for module, name in places
            if not has_place(module, name)
        ]
        wrong += [
            f'{path}::{name} is not there' for path, name in tests if not has_test(path, name)
        ]
    assert not wrong, '\n'.join(wrong)
    assert len(rows) >= LEAST_CHECKS
