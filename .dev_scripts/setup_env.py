# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Make ``.venv`` from the pinned requirements: ``make env``.

Standard library only, and it parses on Python 2.7, so that an unsuitable Python gets a sentence
and no traceback.  Each finished step is written to ``.venv/hime_mm_env.json`` with a hash of what
it was made from: a second run returns at once, an interrupted one goes on at the step it was in.

mmcv's ops are compiled once per machine.  The wheel is kept in ``$HIME_MM_CACHE``, else in
``$XDG_CACHE_HOME/hime_mm``, else in ``~/.cache/hime_mm``.  pip reads its usual variables.
"""

from __future__ import print_function

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time

SUPPORTED = ((3, 12), (3, 11), (3, 10))
SCRIPT = os.path.realpath(__file__)
ROOT = os.path.dirname(os.path.dirname(SCRIPT))
VENV = os.path.join(ROOT, '.venv')
VENV_PYTHON = os.path.join(VENV, 'bin', 'python')
STATE = os.path.join(VENV, 'hime_mm_env.json')
SMOKE = 'import cv2, torch, mmcv.ops, mmdet.models, mmpretrain.models, hime_mm.registry'
HEARTBEAT_SECONDS = 30
#: Printed by the environment's Python once torch is there: what mmcv's ops would be compiled for.
PROBE = """
import json, os, re, subprocess, torch
from torch.utils.cpp_extension import CUDA_HOME
nvcc = None
if CUDA_HOME:
    try:
        text = subprocess.check_output([os.path.join(CUDA_HOME, 'bin', 'nvcc'), '--version'])
        nvcc = re.search(r'release (\\d+\\.\\d+)', text.decode()).group(1)
    except (OSError, subprocess.CalledProcessError, AttributeError):
        pass
gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
archs = sorted({'%d%d' % torch.cuda.get_device_capability(gpu) for gpu in gpus})
print(json.dumps({
    'torch': torch.__version__, 'cuda': torch.version.cuda, 'gpu': bool(gpus), 'nvcc': nvcc,
    'archs': os.environ.get('TORCH_CUDA_ARCH_LIST') or '+'.join(archs)}))
"""


class SetupError(Exception):
    """Something that the user has to know, said in a sentence."""


def say(text):
    """Print a line of progress."""
    print('[env] ' + text)
    sys.stdout.flush()


def minutes(seconds):
    """Return a duration as ``3 min 05 s``."""
    return '%d min %02d s' % divmod(int(seconds), 60)


def environment(**changes):
    """Return the variables for a child process."""
    env = dict(os.environ, PIP_USER='0', PIP_DISABLE_PIP_VERSION_CHECK='1', **changes)
    # They would mix another Python's packages into the new environment.
    for name in ('PYTHONHOME', 'PYTHONPATH'):
        env.pop(name, None)
    return env


def output_of(command, **kwargs):
    """Return what a command prints, or None if it cannot be run or fails."""
    try:
        with open(os.devnull, 'w') as devnull:
            text = subprocess.check_output(command, stderr=devnull, env=environment(), **kwargs)
    except (OSError, subprocess.CalledProcessError):
        return None
    return text.decode('utf-8', 'replace').strip()


def run(command, what, remedy='see the lines above', **changes):
    """Run a command in the foreground; a failure is one sentence."""
    status = subprocess.call(command, cwd=ROOT, env=environment(**changes))
    if status:
        raise SetupError('%s failed (exit status %d): %s.' % (what, status, remedy))


def pip(*args, **kwargs):
    """Run the environment's pip."""
    what = kwargs.pop('what', 'pip ' + ' '.join(args))
    run([VENV_PYTHON, '-m', 'pip'] + list(args), what, **kwargs)


def requirement_file(name):
    """Return the path of ``requirements/<name>.txt``."""
    return os.path.join(ROOT, 'requirements', name + '.txt')


def pin(name, package):
    """Return the version that ``requirements/<name>.txt`` pins a package to."""
    with open(requirement_file(name)) as file:
        match = re.search(r'^%s==([^\s;#]+)' % re.escape(package), file.read(), re.MULTILINE)
    if not match:
        raise SetupError('%s pins no %s==VERSION: add one.' % (requirement_file(name), package))
    return match.group(1)


def python_version(python):
    """Return ``(major, minor)`` of an interpreter, or None if it does not run."""
    text = output_of([python, '-c', 'import sys; print("%d %d" % sys.version_info[:2])'])
    try:
        return tuple(int(number) for number in text.split())
    except (AttributeError, ValueError):
        return None


@contextlib.contextmanager
def locked(file, waiting):
    """Hold a lock on an open file until the process ends or the block is left."""
    import fcntl  # not on Windows

    started = said = time.time()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except (IOError, OSError) as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                break  # a file system without locks
            if said == started or time.time() - said > HEARTBEAT_SECONDS:
                said = time.time()
                say('%s; waiting (%s)' % (waiting, minutes(said - started)))
            time.sleep(0.5)
    yield


# What has been done already.


def hashes():
    """Return ``[(step, hash)]``; a hash covers the step's inputs and all steps before it."""
    inputs = [
        ('venv', [SCRIPT]),
        ('build', [requirement_file('build'), requirement_file('constraints')]),
        ('mmcv', [requirement_file('mmcv')]),
        ('pinned', [requirement_file('pinned')]),
        (
            'package',
            [requirement_file(name) for name in ('core', 'mminstall', 'tests')]
            + [
                os.path.join(ROOT, *parts)
                for parts in (('setup.py',), ('pyproject.toml',), ('hime_mm', 'version.py'))
            ],
        ),
        ('check', []),
    ]
    digest = hashlib.sha256()
    result = []
    for step, files in inputs:
        for path in files:
            if not os.path.isfile(path):
                raise SetupError('%s is missing: run this in a complete checkout.' % path)
            with open(path, 'rb') as file:
                digest.update(file.read() + b'\0')
        result.append((step, digest.hexdigest()))
    return result


def read_state():
    """Return ``{'python': 'X.Y', 'done': {step: hash}}``, empty for a foreign `.venv`."""
    try:
        with open(STATE) as file:
            state = json.load(file)
        return {'python': state['python'], 'done': dict(state['done'])}
    except (IOError, OSError, ValueError, KeyError, TypeError):
        return {'python': None, 'done': {}}


def write_state(state):
    """Write the state so that a killed run leaves the old or the new one."""
    with open(STATE + '.new', 'w') as file:
        json.dump(state, file, indent=1)
    os.rename(STATE + '.new', STATE)


def pending(state):
    """Return the steps to run, in order."""
    steps = hashes()
    todo = [step for step, digest in steps if state['done'].get(step) != digest]
    if not todo and not os.path.exists(os.path.join(ROOT, 'hime_mm', '.mim', 'configs')):
        todo = ['package']
    if not todo:
        return []
    names = [step for step, _ in steps]
    return names[names.index(todo[0]) :]


def venv_is_moved():
    """Tell whether `.venv` was made elsewhere: its scripts would start another Python, or none."""
    try:
        with open(os.path.join(VENV, 'bin', 'pip'), 'rb') as file:
            return os.path.join(VENV, 'bin').encode() not in file.read(4096)
    except (IOError, OSError):
        return True


def ready():
    """Tell whether nothing is left to do; takes a fraction of a second."""
    state = read_state()
    if not state['python'] or pending(state) or venv_is_moved():
        return False
    version = python_version(VENV_PYTHON)
    return version is not None and '%d.%d' % version == state['python']


# What the machine must have.


def choose_python():
    """Return if this Python will do, else go on with one that does, else say what to install."""
    if sys.version_info[:2] in SUPPORTED:
        return
    here = 'Python %d.%d (%s)' % (sys.version_info[:2] + (sys.executable,))
    for version in SUPPORTED:
        # Run it: a version manager's python3.X may be on PATH and yet start nothing.
        python = 'python%d.%d' % version
        if python_version(python) == version:
            say('%s is not supported; going on with %s' % (here, python))
            os.execvp(python, [python, SCRIPT] + sys.argv[1:])
    raise SetupError(
        '%s is not supported and no python3.12, python3.11 or python3.10 runs from PATH: install '
        'one of them, or name one with `make env PYTHON=/path/to/python3.11`.' % here
    )


def find_compiler():
    """Return the C++ compiler that turns a small program into an object file, or None."""
    folder = tempfile.mkdtemp()
    try:
        source = os.path.join(folder, 'probe.cpp')
        with open(source, 'w') as file:
            file.write('#include <vector>\nint main() { return std::vector<int>().size(); }\n')
        for compiler in [os.environ.get('CXX')] if os.environ.get('CXX') else ['c++', 'g++']:
            command = compiler.split() + ['-c', source, '-o', os.path.join(folder, 'probe.o')]
            if output_of(command) is not None:
                return compiler
    finally:
        shutil.rmtree(folder)
    return None


def missing_tools(python, venv, build):
    """Return a sentence for each thing that the machine lacks.

    Args:
        python (str): The interpreter.
        venv (bool): Whether a virtual environment has to be made.
        build (bool): Whether mmcv's ops have to be compiled.
    """
    version = '%d.%d' % python_version(python)
    sentences = []
    if venv and output_of([python, '-c', 'import venv, ensurepip']) is None:
        sentences.append(
            '%s has no venv and ensurepip modules: install them (Debian, Ubuntu: '
            'apt install python%s-venv).' % (python, version)
        )
    if build and find_compiler() is None:
        sentences.append(
            'No working C++ compiler (%s) for mmcv: install one (Debian, Ubuntu: '
            'apt install g++).' % (os.environ.get('CXX') or 'c++ or g++')
        )
    if build:
        folder = output_of(
            [python, '-c', 'import sysconfig; print(sysconfig.get_paths()["include"])']
        )
        if not os.path.isfile(os.path.join(folder or '', 'Python.h')):
            sentences.append(
                'No Python.h for mmcv in %s: install the headers of Python %s '
                '(Debian, Ubuntu: apt install python%s-dev).' % (folder, version, version)
            )
    return sentences


# mmcv's ops.


def wheels_folder():
    """Return the folder of the compiled wheels."""
    cache = os.environ.get('HIME_MM_CACHE')
    if not cache:
        base = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
        cache = os.path.join(base, 'hime_mm')
    return os.path.join(os.path.abspath(cache), 'wheels')


def wheel_key(python, torch, flavour):
    """Return the cache folder's name: everything that makes a compiled wheel fit."""
    return '-'.join(
        [
            'cp%d%d' % python,
            'torch' + torch,
            'mmcv' + pin('mmcv', 'onedl-mmcv'),
            sysconfig.get_platform().replace('-', '_'),
            flavour,
        ]
    )


def cached_wheels(key):
    """Return the wheels under a key, in which ``*`` may stand for anything."""
    return sorted(glob.glob(os.path.join(wheels_folder(), key, '*mmcv-*.whl')))


def flavour_of(probe):
    """Return ``(flavour, whether to hide the GPU from the build)`` for the ops."""
    if not probe['gpu'] and os.environ.get('FORCE_CUDA') != '1':
        return 'cpu', False
    # torch refuses to compile with another major version of CUDA than its own.
    majors = [(probe[name] or name).split('.')[0] for name in ('cuda', 'nvcc')]
    if majors[0] != majors[1]:
        return 'cpu', True
    return 'cu%s_sm%s' % (probe['nvcc'], re.sub(r'[^\w.+]+', '_', probe['archs'])), False


def build_wheel(folder, lock_file, compiler, hide_gpu):
    """Compile mmcv's ops into ``folder``: all of the wheel appears there or nothing."""
    for left in glob.glob(os.path.join(folder, 'tmp-*')):  # of runs that were killed
        shutil.rmtree(left, ignore_errors=True)
    work = tempfile.mkdtemp(prefix='tmp-', dir=folder)
    log_path = os.path.join(folder, 'build.log')
    env = environment(MMCV_WITH_OPS='1', CXX=compiler, TMPDIR=work)
    if hide_gpu:
        env.update(CUDA_VISIBLE_DEVICES='', FORCE_CUDA='0')
    # pip's own cache would hand out a wheel compiled for another torch.
    command = [
        VENV_PYTHON,
        '-m',
        'pip',
        'wheel',
        '-v',
        '--no-cache-dir',
        '--no-build-isolation',
        '--no-deps',
        '--no-binary',
        'onedl-mmcv',
        '-w',
        os.path.join(work, 'out'),
        '-r',
        requirement_file('mmcv'),
    ]
    say("compiling mmcv's ops, once for this machine: 8 to 10 minutes on two cores")
    process = None
    try:
        started = said = time.time()
        with open(log_path, 'w') as log:
            # A session of its own, so that the compilers it starts can be ended with it; and the
            # lock's file, so that they keep the lock should this script be killed outright.
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock_file.fileno()],
            )
            while process.poll() is None:
                time.sleep(0.2)
                if time.time() - said > HEARTBEAT_SECONDS:
                    said = time.time()
                    say("  mmcv's ops: %s%s" % (minutes(said - started), objects_done(log_path)))
        wheels = glob.glob(os.path.join(work, 'out', '*.whl'))
        if process.returncode or len(wheels) != 1:
            raise SetupError(
                "Compiling mmcv's ops failed (exit status %d): the reason is near "
                'the end of %s.' % (process.returncode, log_path)
            )
        os.rename(wheels[0], os.path.join(folder, os.path.basename(wheels[0])))
        say("mmcv's ops compiled in %s" % minutes(time.time() - started))
    finally:
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
        shutil.rmtree(work, ignore_errors=True)


def objects_done(log_path):
    """Return how far ninja is, from its last ``[done/all]`` in the log."""
    with open(log_path, 'rb') as log:
        log.seek(0, os.SEEK_END)
        log.seek(max(0, log.tell() - 65536))
        counts = re.findall(rb'^\s*\[(\d+)/(\d+)\]', log.read(), re.MULTILINE)
    return ', %d of %d files' % tuple(int(n) for n in counts[-1]) if counts else ''


def mmcv_wheel():
    """Return the wheel for this Python, torch and GPU; compile it if the cache has none."""
    probe = output_of([VENV_PYTHON, '-c', PROBE])
    if not probe:
        raise SetupError('`%s -c "import torch"` fails: delete .venv and run again.' % VENV_PYTHON)
    probe = json.loads(probe.splitlines()[-1])
    flavour, hide_gpu = flavour_of(probe)
    if hide_gpu:
        say(
            "mmcv's ops will be for the CPU only, as there is no nvcc of CUDA %s, which torch is "
            'built for; to have them on the GPU install it, delete .venv and run again'
            % probe['cuda']
        )
    key = wheel_key(python_version(VENV_PYTHON), probe['torch'], flavour)
    if not cached_wheels(key):
        compiler = find_compiler()
        if compiler is None:
            raise SetupError(missing_tools(VENV_PYTHON, venv=False, build=True)[0])
        folder = os.path.join(wheels_folder(), key)
        try:
            if not os.path.isdir(folder):
                os.makedirs(folder)
            lock_file = open(os.path.join(folder, 'lock'), 'a')
        except (IOError, OSError) as error:
            raise SetupError(
                'The cache %s cannot be written (%s): name another folder in '
                'HIME_MM_CACHE.' % (folder, error.strerror)
            )
        with contextlib.closing(lock_file), locked(lock_file, "another run compiles mmcv's ops"):
            if not cached_wheels(key):
                build_wheel(folder, lock_file, compiler, hide_gpu)
    return cached_wheels(key)[-1]


# The steps.


def make_venv(python):
    """Make an empty `.venv`."""
    if os.path.islink(VENV) or os.path.isfile(VENV):
        os.remove(VENV)
    shutil.rmtree(VENV, ignore_errors=True)
    run([python, '-m', 'venv', VENV], 'Making .venv')


def install_build():
    """Install what mmcv's build imports, torch among it."""
    pip('install', '-r', requirement_file('build'), '-c', requirement_file('constraints'))


def install_mmcv():
    """Install mmcv with its ops; anew, as an installed one may be compiled for another torch."""
    pip('install', '--no-deps', '--force-reinstall', mmcv_wheel())


def install_pinned():
    """Install the rest."""
    constraints = requirement_file('constraints')
    pip('install', '-r', requirement_file('pinned'), '-c', constraints)
    # opencv-python and opencv-python-headless share the folder cv2. The headless files have to be
    # the last: the others need libGL, which servers and containers do not have.
    pip(
        'install',
        '--no-deps',
        '--force-reinstall',
        'opencv-python-headless==' + pin('constraints', 'opencv-python-headless'),
    )


def install_package():
    """Install hime_mm, editable."""
    pip('install', '--no-deps', '--no-build-isolation', '-e', ROOT)


def check():
    """See that the set is consistent and can be imported."""
    pip('check')
    run([VENV_PYTHON, '-W', 'ignore', '-c', SMOKE], 'The import check `%s`' % SMOKE)


STEPS = {
    'build': ('torch and build tools', install_build),
    'mmcv': ('mmcv with its ops', install_mmcv),
    'pinned': ('the pinned packages', install_pinned),
    'package': ('hime_mm', install_package),
    'check': ('checks', check),
}


def make_environment():
    """Run the steps that are not done yet."""
    state = read_state()
    version = None if venv_is_moved() else python_version(VENV_PYTHON)
    usable = version in SUPPORTED and output_of([VENV_PYTHON, '-m', 'pip', '--version']) is not None
    python = VENV_PYTHON if usable else sys.executable
    if usable and version != sys.version_info[:2]:
        say(
            '.venv stays with its Python %d.%d; delete it to change to %d.%d'
            % (version + sys.version_info[:2])
        )
    if not usable or '%d.%d' % version != state['python']:
        state['done'] = {}
    todo = pending(state)

    key = wheel_key(python_version(python), pin('build', 'torch') + '*', '*')
    missing = missing_tools(python, not usable, 'mmcv' in todo and not cached_wheels(key))
    if missing:
        raise SetupError('\n'.join(missing))

    steps = hashes()
    for number, (step, digest) in enumerate(steps, 1):
        if step not in todo:
            continue
        title = '.venv with Python %d.%d' % python_version(python)
        if step != 'venv':
            title, action = STEPS[step]
        say('%d/%d %s' % (number, len(steps), title))
        if step == 'venv':
            if not usable:
                make_venv(python)
            state['python'] = '%d.%d' % python_version(VENV_PYTHON)
        else:
            action()
        state['done'][step] = digest
        write_state(state)


def main():
    """Make the environment if it is not there; return the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if os.name != 'posix':
            raise SetupError('`make env` runs on Linux and macOS: on Windows use WSL.')
        if ready():
            say('.venv is ready')
            return 0
        choose_python()
        # The script itself is the lock: it is there before .venv and outlives it.
        with open(SCRIPT, 'r+') as script, locked(script, 'another run makes .venv'):
            if not ready():
                started = time.time()
                make_environment()
                say('.venv is ready after %s' % minutes(time.time() - started))
        return 0
    except SetupError as error:
        for line in str(error).splitlines():
            print('[env] ' + line, file=sys.stderr)
    except KeyboardInterrupt:
        print('\n[env] Interrupted; run again to go on from here.', file=sys.stderr)
    return 1


if __name__ == '__main__':
    sys.exit(main())
