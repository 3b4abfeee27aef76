# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The map of docs/architecture.md against what the code imports."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'hime_mm'
OWNER_ROOMS = ('ciphers', 'images', 'datasets', 'encryption', 'mapping', 'cli')
HOSTS = (
    'torch',
    'torchvision',
    'mmengine',
    'mmcv',
    'mmdet',
    'mmpretrain',
    'timm',
    'transformers',
    'pycocotools',
    # What only data sets at URLs and clusters need.
    'fsspec',
    'ray',
    'distributed',
)


def floors():
    """The floor of each room, as the map has it."""
    text = (ROOT / 'docs' / 'architecture.md').read_text()
    return {room: int(floor) for floor, room in re.findall(r'^\| (\d) \| `(\w+)` \|', text, re.M)}


def modules():
    return [p for p in PACKAGE.rglob('*.py') if '.mim' not in p.parts]


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imported(path):
    """Rooms that a file names in its imports, and the line of each."""
    parts = path.relative_to(ROOT).with_suffix('').parts
    package = parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = '.'.join([*above, *filter(None, [base])])
            names = [f'{base}.{alias.name}' for alias in node.names]
        for name in names:
            found = name.split('.')
            if found[0] == 'hime_mm' and len(found) > 1:
                yield found[1], node.lineno


def test_every_room_is_on_the_map():
    there = {room(path) for path in modules()} - {'__init__'}
    assert there == set(floors())


def test_rooms_are_entered_from_above_only():
    floor = floors()
    wrong = []
    for path in modules():
        here = room(path)
        if here == '__init__':
            continue
        for other, line in imported(path):
            if other in floor and other != here and (floor[other] >= floor[here]):
                wrong.append(f'{path.relative_to(ROOT)}:{line} imports {other}')
    assert not wrong, '\n'.join(wrong)


def test_rooms_are_really_looked_at():
    seen = {(room(path), other) for path in modules() for other, _ in imported(path)}
    assert {
        ('encryption', 'images'),
        ('cli', 'encryption'),
        ('transforms', 'images'),
        ('config', 'transforms'),
        ('models', 'ciphers'),
    } <= seen


def names_of(name):
    """All modules of a room."""
    found = []
    for path in sorted((PACKAGE / name).rglob('*.py')):
        parts = path.relative_to(ROOT).with_suffix('').parts
        if parts[-1] != '__main__':
            found.append('.'.join(parts).removesuffix('.__init__'))
    return found


@pytest.mark.parametrize('name', ['', *OWNER_ROOMS])
def test_owner_rooms_import_no_host(name):
    wanted = ['hime_mm', *(names_of(name) if name else ['hime_mm.apis'])]
    code = (
        f'import sys\nfor name in {wanted!r}:\n    __import__(name)\n'
        f'print([n for n in {HOSTS!r} if n in sys.modules])'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == '[]'


def test_facade_defines_nothing():
    tree = ast.parse((PACKAGE / 'apis' / '__init__.py').read_text())
    defined = {
        node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    assert defined == {'__getattr__', '__dir__'}
    assert [p.name for p in (PACKAGE / 'apis').glob('*.py')] == ['__init__.py']


def raised(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and node.exc is not None:
            call = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(call, ast.Name):
                yield call.id, node.lineno


def test_errors_of_users_are_ours():
    wrong = [
        f'{path.relative_to(ROOT)}:{line}'
        for path in modules()
        for name, line in raised(path)
        if name == 'ValueError'
    ]
    assert not wrong, 'bare ValueError: ' + ', '.join(wrong)


def test_every_error_derives_from_one():
    from hime_mm import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) > 10
    assert all(issubclass(kind, errors.HimeError) for kind in kinds)
    assert issubclass(errors.HimeError, ValueError)


def test_tools_import_no_private_name():
    wrong = []
    for path in (ROOT / 'tools').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('hime_mm'):
                wrong += [
                    f'{path.relative_to(ROOT)}: {alias.name}'
                    for alias in node.names
                    if alias.name[0] == '_'
                ]
    assert not wrong, wrong
