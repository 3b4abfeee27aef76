# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What ``make env`` needs beside Make: a Python, a compiler, a lock and a cache.

``setup_env.py`` has ``env.mk`` make ``.venv``.  ``setup_env.py wheel``, run by the Python in it,
prints the path of mmcv's wheel, which is compiled once per machine and kept in ``$HIME_MM_CACHE``,
else in ``$XDG_CACHE_HOME/hime_mm``, else in ``~/.cache/hime_mm``.

Standard library only, and it parses on Python 3.6: an unsuitable Python gets a sentence.
"""

import contextlib
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile

SUPPORTED = ((3, 12), (3, 11), (3, 10))
SCRIPT = os.path.realpath(__file__)
ROOT = os.path.dirname(os.path.dirname(SCRIPT))
VENV = os.path.join(ROOT, '.venv')
VENV_PYTHON = os.path.join(VENV, 'bin', 'python')
MAKE = ['make', '--no-print-directory', '-C', ROOT, '-f', '.dev_scripts/env.mk']
# Not another Python's packages, nor what the outer make was told.
FOREIGN = ('PYTHONHOME', 'PYTHONPATH', 'MAKEFLAGS', 'MAKELEVEL')
ENV = {name: value for name, value in os.environ.items() if name not in FOREIGN}
ENV.update(PIP_USER='0', PIP_DISABLE_PIP_VERSION_CHECK='1', PYTHON=sys.executable)


def say(text):
    """Print a line of progress; not to stdout, which has the path of the wheel."""
    print(f'[env] {text}', file=sys.stderr, flush=True)


def output_of(*command):
    """Return what a command prints, or None if it cannot be run or fails."""
    try:
        text = subprocess.check_output(command, stderr=subprocess.DEVNULL, env=ENV)
    except (OSError, subprocess.CalledProcessError):
        return None
    return text.decode('utf-8', 'replace').strip()


@contextlib.contextmanager
def locked(path, waiting):
    """Hold a lock on a file until the block is left; give the file, for children to keep it."""
    import fcntl  # not on Windows

    with open(path, 'a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f'{waiting}; waiting')
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield file


def run(command, lock, saying=None, **kwargs):
    """Return the status of a command that keeps the lock; all that it starts ends with us."""
    process = subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, pass_fds=[lock.fileno()], **kwargs
    )
    try:
        while True:
            if saying:
                say(saying)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


# What the machine must have.


def version_of(python, module='sys'):
    """Return ``(3, 11)`` of a Python that runs and has a module, else None."""
    code = f'import sys, {module}; print("%d %d" % sys.version_info[:2])'
    text = output_of(python, '-c', code) or ''
    return tuple(map(int, text.split())) if re.match(r'\d+ \d+$', text) else None


def venv_version():
    """Return the version of the Python in ``.venv``, or None if it has to be made (anew)."""
    with contextlib.suppress(OSError), open(os.path.join(VENV, 'bin', 'pip'), 'rb') as file:
        if os.path.join(VENV, 'bin').encode() in file.read(4096):  # else it was moved
            # After an upgrade of the Python behind it, its pip is not found any more.
            version = version_of(VENV_PYTHON, 'pip')
            return version if version in SUPPORTED else None


def choose_python():
    """Return if this Python will do, else go on with one that does, else say what to install."""
    if sys.version_info[:2] in SUPPORTED:
        return
    here = 'Python {}.{} ({})'.format(*sys.version_info[:2], sys.executable)
    for version in SUPPORTED:
        # Run it: a version manager's python3.X may be on PATH and yet start nothing.
        python = 'python{}.{}'.format(*version)
        if version_of(python) == version:
            say(f'{here} is not supported; going on with {python}')
            os.execvp(python, [python, SCRIPT])
    sys.exit(
        f'[env] {here} is not supported and no python3.12, python3.11 or python3.10 runs from '
        'PATH: install one of them, or name one with `make env PYTHON=/path/to/python3.11`.'
    )


def find_compiler(python):
    """Return the C++ compiler that compiles a module of a Python."""
    wanted = os.environ.get('CXX') or 'c++ or g++'
    include = output_of(python, '-c', 'import sysconfig; print(sysconfig.get_paths()["include"])')
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, 'probe.cpp')
        with open(source, 'w') as file:
            file.write('#include <vector>\n#include <Python.h>\nstd::vector<PyObject*> objects;\n')
        for compiler in wanted.split(' or '):
            command = [*compiler.split(), f'-I{include}', '-c', source, '-o', f'{source}.o']
            if output_of(*command) is not None:
                return compiler
    sys.exit(
        f'[env] No working C++ compiler ({wanted}) that finds {include}/Python.h, for mmcv: '
        f'install them (Debian, Ubuntu: apt install g++ {os.path.basename(str(include))}-dev).'
    )


# mmcv's ops.


def pinned(name, requirements):
    """Return the version of a distribution that a file in ``requirements/`` pins."""
    with open(os.path.join(ROOT, 'requirements', requirements)) as file:
        return re.search(rf'^{name}==([^\s;#]+)', file.read(), re.MULTILINE).group(1)


def wheels(python, torch, flavour):
    """Return the cached wheels that fit, and their folder; ``*`` stands for anything."""
    mmcv = pinned('onedl-mmcv', 'mmcv.txt')
    base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    cache = os.environ.get('HIME_MM_CACHE') or os.path.join(base, 'hime_mm')
    platform = sysconfig.get_platform().replace('-', '_')
    key = 'cp{}{}-torch{}-mmcv{}-{}-{}'.format(*python, torch, mmcv, platform, flavour)
    folder = os.path.join(os.path.abspath(cache), 'wheels', key)
    return sorted(glob.glob(os.path.join(folder, '*mmcv-*.whl'))), folder


def choose_flavour(torch, cuda_home):
    """Return ``(flavour, variables)`` of the ops: for these GPUs, or for the CPU."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    if not gpus and os.environ.get('FORCE_CUDA') != '1':
        return 'cpu', {}
    text = output_of(os.path.join(cuda_home or '', 'bin', 'nvcc'), '--version')
    nvcc = re.search(r'release (\d+)\.(\d+)', text or '')
    # torch refuses to compile with another major version of CUDA than its own.
    if not nvcc or nvcc.group(1) != str(torch.version.cuda).split('.')[0]:
        say(
            f"mmcv's ops will be for the CPU only: there is no nvcc of CUDA {torch.version.cuda}, "
            'which torch is built for; to have them on the GPU install it, delete .venv, run again'
        )
        return 'cpu', {'CUDA_VISIBLE_DEVICES': '', 'FORCE_CUDA': '0'}
    archs = sorted({'{}{}'.format(*torch.cuda.get_device_capability(gpu)) for gpu in gpus})
    archs = os.environ.get('TORCH_CUDA_ARCH_LIST') or '+'.join(archs)
    return 'cu{}.{}_sm{}'.format(*nvcc.groups(), re.sub(r'[^\w.+]+', '_', archs)), {}


def mmcv_wheel():
    """Return the wheel for this Python, torch and GPU; compile it if the cache has none."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    flavour, variables = choose_flavour(torch, CUDA_HOME)
    key = sys.version_info[:2], torch.__version__, flavour
    found, folder = wheels(*key)
    if not found:
        os.makedirs(folder, exist_ok=True)
        with locked(os.path.join(folder, 'lock'), "another run compiles mmcv's ops") as lock:
            if not wheels(*key)[0]:
                build_wheel(folder, lock, variables)
    return wheels(*key)[0][-1]


def build_wheel(folder, lock, variables):
    """Compile mmcv's ops into ``folder``: all of the wheel appears there or nothing."""
    for left in glob.glob(os.path.join(folder, 'tmp-*')):  # of runs that were killed
        shutil.rmtree(left, ignore_errors=True)
    log = os.path.join(folder, 'build.log')
    with tempfile.TemporaryDirectory(prefix='tmp-', dir=folder) as work, open(log, 'w') as file:
        env = dict(ENV, MMCV_WITH_OPS='1', CXX=find_compiler(VENV_PYTHON), TMPDIR=work, **variables)
        # pip's own cache would hand out a wheel compiled for another torch.
        options = '-v --no-cache-dir --no-build-isolation --no-deps --no-binary onedl-mmcv'
        command = [VENV_PYTHON, '-m', 'pip', 'wheel', *options.split(), '-w', f'{work}/out']
        command += ['-r', 'requirements/mmcv.txt']
        saying = f"compiling mmcv's ops, once for this machine, 8 to 10 minutes on two cores: {log}"
        status = run(command, lock, saying, env=env, stdout=file, stderr=file)
        built = glob.glob(f'{work}/out/*.whl')
        if status or len(built) != 1:
            sys.exit(f"[env] Compiling mmcv's ops failed: the reason is near the end of {log}.")
        os.rename(built[0], os.path.join(folder, os.path.basename(built[0])))


def is_done(stamp):
    """Tell whether a step, and all before it, are done."""
    return subprocess.call([*MAKE, '-q', f'.venv/stamps/{stamp}'], env=ENV) == 0


def make_environment():
    """Run the steps that are not done yet."""
    if venv_version() and is_done('check'):
        return say('.venv is ready')
    choose_python()
    # The script itself is the lock: it is there before .venv and outlives it.
    with locked(SCRIPT, 'another run makes .venv') as lock:
        version = venv_version()
        # Now, not in ten minutes. The torch to come may be one for a platform, such as 2.11.0+cpu.
        key = version or sys.version_info[:2], pinned('torch', 'build.txt') + '*', '*'
        if not (version and is_done('mmcv') or wheels(*key)[0]):
            find_compiler(VENV_PYTHON if version else sys.executable)
        if not version:
            subprocess.check_call(['rm', '-rf', VENV])
        if run(MAKE, lock, env=ENV):
            sys.exit('[env] Stopped, see the lines above; `make env` goes on at this step.')
        say('.venv is ready')


if __name__ == '__main__':
    if os.name != 'posix':
        sys.exit('[env] `make env` runs on Linux and macOS: on Windows use WSL.')
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print(mmcv_wheel()) if sys.argv[1:] == ['wheel'] else make_environment()
    except OSError as error:  # such as a cache that cannot be written
        sys.exit(f'[env] {error}')
    except KeyboardInterrupt:
        sys.exit('[env] Interrupted; run again to go on from here.')
