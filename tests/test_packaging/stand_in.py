# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A checkout whose `make env` runs against a stand-in for Python, pip, torch and the compiler.

The stand-in plays the Python that makes ``.venv`` and, as ``.venv/bin/python``, pip and mmcv's
build. Make and the scripts are the real ones.
"""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCH = '2.11.0+local'
#: What `make env` runs, as the first words of each.
ALL = [
    'venv',
    'pip install',
    'pip wheel',
    'pip install',
    'pip install',
    'pip install',
    'pip install',
    'pip check',
    'smoke',
]
PYTHON = r"""#!{python} -S
import os, pathlib, shutil, sys, time
home, args = pathlib.Path({home!r}), sys.argv[1:]
setting = lambda name: (home / name).exists() and ((home / name).read_text() or '1')
if args[:2] == ['-m', 'venv']:
    binaries = pathlib.Path(args[2], 'bin').absolute()
    binaries.mkdir(parents=True)
    shutil.copy(home / 'python', binaries / 'python')
    (binaries / 'pip').write_text('#!%s/python' % binaries)
    note = 'venv by ' + sys.argv[0]
elif args[:1] == ['-m']:
    note = ' '.join(args[1:])
elif 'mmcv.ops' in args[-1]:
    note = 'smoke'
elif args[0].endswith('setup_env.py'):
    code = ('import sys, runpy; sys.path.insert(0, %r); sys.executable = %r; '
            'sys.version_info = %s or sys.version_info; sys.argv = %r; '
            'runpy.run_path(sys.argv[0], run_name="__main__")'
            % (str(home / 'modules'), sys.argv[0],
               sys.argv[0] == str(home / 'python') and setting('version') or None, args))
    os.execv({python!r}, [{python!r}, "-S", "-c", code])
elif 'get_paths' in args[-1] and setting('headers'):
    print(setting('headers'))
    sys.exit()
elif ', pip;' in args[-1]:
    args[-1] = args[-1].replace(', pip;', ', %s;' % (setting('pip-module') or 'sys'))
    os.execv({python!r}, [{python!r}, "-S"] + args)
else:
    os.execv({python!r}, [{python!r}, "-S"] + args)
failing = setting('fail') and setting('fail') in note
# What another Python was told must not reach this one.
failing = failing or 'PYTHONPATH' in os.environ
with open(home / 'calls', 'a') as calls:
    calls.write(note.replace(str(home), '') + '\n')
if 'pip wheel' in note:
    (home / 'session').write_text(str(os.getpgid(os.getppid())))
    (home / 'compiling').touch()
    time.sleep(float(setting('compile-seconds') or 0))
    if not failing:
        out = pathlib.Path(args[args.index('-w') + 1])
        out.mkdir(parents=True)
        (out / 'onedl_mmcv-2.3.6-py3-none-any.whl').write_text(os.environ['MMCV_WITH_OPS'])
if '-e' in args:
    pathlib.Path(args[-1], 'hime_mm', '.mim', 'configs').mkdir(parents=True, exist_ok=True)
if failing:
    print('pip says why')
    sys.exit(3)
"""
TORCH_MODULE = """
import pathlib
__version__ = {torch!r}
class version:
    cuda = '13.0'
class cuda:
    is_available = pathlib.Path({home!r}, 'gpu').exists
    device_count = lambda: 2
    get_device_capability = lambda gpu: (9, 0)
"""
#: Compiles all but what includes Python.h from nowhere: `c++ -I... -c FILE`.
COMPILER = """#!/bin/sh
case "$1" in *nowhere*)
    while read -r line; do case "$line" in *Python.h*) exit 1;; esac; done < "$3";;
esac
"""


class Project:
    """A checkout, and a machine."""

    def __init__(self, folder):
        self.folder = folder / 'a checkout'
        self.home = folder / 'home'
        for path in (self.home, folder / 'bin', self.folder / 'hime_mm'):
            path.mkdir(parents=True)
        shutil.copytree(ROOT / 'requirements', self.folder / 'requirements')
        (self.folder / '.dev_scripts').mkdir()
        for name in (
            'Makefile',
            '.dev_scripts/setup_env.py',
            '.dev_scripts/env.mk',
            'setup.py',
            'pyproject.toml',
            'hime_mm/version.py',
        ):
            shutil.copy(ROOT / name, self.folder / name)
        stand_in = PYTHON.format(python=sys.executable, home=str(self.home))
        self.python = self.executable(self.home / 'python', stand_in)
        self.bin = folder / 'bin'
        for name in ('make', 'mkdir', 'rm', 'touch'):
            (self.bin / name).symlink_to(shutil.which(name))
        self.compiler = self.executable(self.bin / 'c++', COMPILER)
        (self.home / 'modules' / 'torch' / 'utils').mkdir(parents=True)
        torch = TORCH_MODULE.format(torch=TORCH, home=str(self.home))
        self.set('modules/torch/__init__.py', torch)
        self.set('modules/torch/utils/__init__.py')
        self.set('modules/torch/utils/cpp_extension.py', f'CUDA_HOME = {str(self.home / "cuda")!r}')
        self.cache = self.home / 'cache'
        self.env = dict(PATH=str(self.bin), HIME_MM_CACHE=str(self.cache), PYTHONPATH='/nowhere')

    @staticmethod
    def executable(path, text):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def set(self, name, value=''):
        (self.home / name).write_text(str(value))

    def clear(self, *names):
        for name in names:
            (self.home / name).unlink(missing_ok=True)

    def start(self):
        """Start `make env` in a session of its own."""
        # Jobs in the background of a shell start with Ctrl-C ignored; a person's does not.
        return subprocess.Popen(
            ['make', 'env', f'PYTHON={self.python}'],
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def make_env(self):
        """Run `make env`; return the exit status and what it printed."""
        process = self.start()
        output = process.communicate()[0]
        assert 'Traceback' not in output, output
        return process.returncode, output

    def start_compiling(self):
        """Start `make env`, and return once mmcv's ops are being compiled."""
        self.clear('compiling')
        process = self.start()
        deadline = time.monotonic() + 60
        while not (self.home / 'compiling').exists():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return process

    def calls(self):
        """Return what was run since the last call, as the first words of each."""
        path = self.home / 'calls'
        lines = path.read_text().splitlines() if path.exists() else []
        self.clear('calls')
        return [re.match(r'(pip \w+|\w+)', line).group() for line in lines]

    def wheels(self):
        return list(self.cache.glob('wheels/*/*.whl'))
