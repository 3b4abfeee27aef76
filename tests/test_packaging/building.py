# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Builds wheels of a copy of the sources, without a network."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    'CHANGELOG.md',
    'LICENSE',
    'MANIFEST.in',
    'Makefile',
    'README.md',
    'configs',
    'hime_mm',
    'model-index.yml',
    'pyproject.toml',
    'pytest.ini',
    'requirements',
    'setup.py',
    'tools',
)
RESOURCES = ('configs', 'tools', 'model-index.yml')
PIP_ENV = dict(os.environ, PIP_NO_INDEX='1', PIP_DISABLE_PIP_VERSION_CHECK='1')


def run(*command, **kwargs):
    """Run a command; its output is in the error if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **kwargs,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def pip_wheel(source, target):
    """Build the wheel of a source tree and return it."""
    run(
        sys.executable,
        '-m',
        'pip',
        'wheel',
        '--no-build-isolation',
        '--no-deps',
        '-w',
        target,
        source,
        env=PIP_ENV,
    )
    (wheel,) = target.glob('*.whl')
    return wheel


def copy_sources(target):
    """Copy what git would hold, stale leftovers of earlier builds not among it."""
    target.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, target / name, ignore=shutil.ignore_patterns('__pycache__', '.mim')
            )
        else:
            shutil.copy(ROOT / name, target / name)
    return target


def resources_of(tree):
    """Return ``{path: content}`` of the resources in a folder."""
    files = {}
    for name in RESOURCES:
        paths = [tree / name] if (tree / name).is_file() else (tree / name).rglob('*')
        files.update(
            {
                path.relative_to(tree).as_posix(): path.read_bytes()
                for path in paths
                if path.is_file() and '__pycache__' not in path.parts
            }
        )
    return files


def mim_of(wheel):
    """Return ``{path: content}`` below ``hime_mm/.mim`` of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            name[len('hime_mm/.mim/') :]: archive.read(name)
            for name in archive.namelist()
            if name.startswith('hime_mm/.mim/')
        }


def metadata_of(wheel):
    """Return the METADATA of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith('.dist-info/METADATA'))
        return Parser().parsestr(archive.read(name).decode())


def make_venv(folder):
    """Return the Python of a new environment that sees this one's packages."""
    run(sys.executable, '-m', 'venv', '--without-pip', folder)
    paths = sysconfig.get_paths(vars={'base': str(folder), 'platbase': str(folder)})
    Path(paths['purelib'], 'outer.pth').write_text(sysconfig.get_paths()['purelib'] + '\n')
    return folder / 'bin' / 'python'


def install(python, *what):
    """Install into the environment of a Python, without what it requires."""
    pip = (sys.executable, '-m', 'pip', '--python', python)
    run(*pip, 'install', '--no-deps', *what, env=PIP_ENV)
