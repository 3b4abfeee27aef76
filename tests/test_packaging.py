# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What `pip install` and `make env` promise, without a network."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import time
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = Path('.dev_scripts', 'setup_env.py')
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


def pins_of(name):
    """Return ``{package: {versions}}`` of a requirement file."""
    pins = {}
    for line in (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines():
        match = re.match(r'([\w.-]+)==([^\s;]+)', line)
        if match:
            package = re.sub('[-_.]+', '-', match.group(1)).lower()
            pins.setdefault(package, set()).add(match.group(2))
    return pins


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    return copy_sources(tmp_path_factory.mktemp('source') / 'hime_mm')


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    return pip_wheel(source, tmp_path_factory.mktemp('wheel'))


class TestWheel:
    def test_mim_holds_the_resources(self, source, wheel):
        expected = resources_of(source)
        assert {'model-index.yml', 'tools/train.py'} < set(expected)
        assert mim_of(wheel) == expected

    def test_build_leaves_no_mim_in_the_source_tree(self, source, wheel):
        assert not (source / 'hime_mm' / '.mim').exists()

    def test_holds_the_package_and_nothing_else(self, source, wheel):
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
        assert 'hime_mm/py.typed' in names
        modules = {
            path.relative_to(source).as_posix() for path in (source / 'hime_mm').rglob('*.py')
        }
        assert {name for name in names if name.endswith('.py') and '/.mim/' not in name} == modules
        assert {name.split('/')[0].split('-')[0] for name in names} == {'hime_mm'}

    def test_metadata(self, wheel):
        metadata = metadata_of(wheel)
        namespace = {}
        exec((ROOT / 'hime_mm' / 'version.py').read_text(), namespace)
        assert metadata['Name'] == 'hime-mm'
        assert metadata['Version'] == namespace['__version__']
        assert metadata['Requires-Python'] == '>=3.10'

    def test_only_extras_name_openmmlab_packages(self, wheel):
        # Upstream's and the maintained distributions install the same folders: the user chooses.
        requirements = metadata_of(wheel).get_all('Requires-Dist')
        core = [r for r in requirements if 'extra ==' not in r]
        assert core and not [r for r in core if re.match(r'(onedl-)?(mm|torch|openmim)', r)]
        for extra in ('mim', 'mminstall'):
            names = {
                re.match(r'[\w-]+', r).group()
                for r in requirements
                if re.search(f'extra == .{extra}.$', r)
            }
            assert names == {
                'onedl-mmcv',
                'onedl-mmdetection',
                'onedl-mmengine',
                'onedl-mmpretrain',
            }

    def test_second_build_drops_what_was_deleted(self, tmp_path):
        # `pip install .` builds in the tree and leaves build/ there.
        source = copy_sources(tmp_path / 'source')
        for name in ('configs/gone.py', 'hime_mm/gone.py'):
            (source / name).write_text('')
        first = pip_wheel(source, tmp_path / 'first')
        for name in ('configs/gone.py', 'hime_mm/gone.py'):
            (source / name).unlink()
        second = pip_wheel(source, tmp_path / 'second')
        assert [
            sum('gone' in name for name in zipfile.ZipFile(w).namelist()) for w in (first, second)
        ] == [2, 0]

    def test_missing_resource_is_named(self, tmp_path):
        source = copy_sources(tmp_path / 'source')
        (source / 'model-index.yml').unlink()
        with pytest.raises(AssertionError, match='model-index.yml missing in .*; build '):
            pip_wheel(source, tmp_path / 'wheel')


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    return copy_sources(tmp_path_factory.mktemp('editable') / 'hime_mm')


@pytest.fixture(scope='module')
def python(tree, tmp_path_factory):
    """A new environment that sees this one's packages, with the tree installed twice."""
    venv = tmp_path_factory.mktemp('venv')
    run(sys.executable, '-m', 'venv', '--without-pip', venv)
    python = venv / 'bin' / 'python'
    paths = sysconfig.get_paths(vars={'base': str(venv), 'platbase': str(venv)})
    Path(paths['purelib'], 'outer.pth').write_text(sysconfig.get_paths()['purelib'] + '\n')
    for _ in range(2):
        run(
            sys.executable,
            '-m',
            'pip',
            '--python',
            python,
            'install',
            '--no-deps',
            '--no-build-isolation',
            '-e',
            tree,
            env=PIP_ENV,
        )
    return python


class TestEditableInstall:
    def test_mim_follows_the_source_tree(self, python, tree):
        assert resources_of(tree / 'hime_mm' / '.mim') == resources_of(tree)
        (tree / 'configs' / 'new.py').write_text('')
        assert (tree / 'hime_mm' / '.mim' / 'configs' / 'new.py').exists()
        (tree / 'configs' / 'new.py').unlink()

    def test_import_is_light(self, python, tree, tmp_path):
        code = (
            'import sys, hime_mm; print(hime_mm.__file__); '
            'print({m.split(".")[0] for m in sys.modules} & '
            '{"torch", "mmengine", "mmcv", "mmdet", "mmpretrain"})'
        )
        lines = run(python, '-c', code, cwd=tmp_path).split('\n')
        assert Path(lines[0]) == tree / 'hime_mm' / '__init__.py'
        assert lines[1] == 'set()'

    def test_openmmlab_finds_the_configs(self, python, tree, tmp_path):
        config = 'peyolos/' + sorted((ROOT / 'configs' / 'peyolos').glob('*.py'))[0].name
        code = textwrap.dedent(f"""
            from mmengine.config import Config
            from mmengine.utils import get_installed_path
            from mim.commands.search import load_metadata_from_local
            folder = get_installed_path('hime_mm')
            print(folder)
            print(bool(Config.fromfile(folder + '/.mim/configs/{config}').model))
            print([model.name for model in load_metadata_from_local('hime-mm').models])
        """)
        folder, model, names = run(python, '-W', 'ignore', '-c', code, cwd=tmp_path).splitlines()[
            -3:
        ]
        assert Path(folder) == tree / 'hime_mm' and model == 'True'
        assert Path(config).stem in names

    def test_source_distribution_makes_the_same_wheel(self, python, tree, wheel, tmp_path):
        run(
            sys.executable,
            '-m',
            'build',
            '--sdist',
            '--no-isolation',
            '-o',
            tmp_path,
            tree,
            env=PIP_ENV,
        )
        (archive,) = tmp_path.glob('*.tar.gz')
        with tarfile.open(archive) as sdist:
            assert not [name for name in sdist.getnames() if '/.mim' in name]
        shutil.unpack_archive(archive, tmp_path)
        (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
        again = pip_wheel(unpacked, tmp_path / 'wheel')
        assert mim_of(again) == mim_of(wheel)
        assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())

    def test_strict_mode(self, tmp_path):
        source = copy_sources(tmp_path / 'source')
        run(
            sys.executable,
            '-c',
            'from setuptools import build_meta; '
            f'build_meta.build_editable({str(tmp_path)!r}, dict(editable_mode="strict"))',
            cwd=source,
        )
        (folder,) = source.glob('build/__editable__*/hime_mm')
        assert resources_of(folder / '.mim') == resources_of(source)


# Import names that only the engineer's side needs.
MODEL_CODE = (
    'torch',
    'torchvision',
    'mmengine',
    'mmcv',
    'mmdet',
    'mmpretrain',
    'pycocotools',
    'scipy',
    'PIL',
)


def link_distribution(name, target, seen):
    """Put an installed distribution and what it requires into another site-packages."""
    if name in seen:
        return
    seen.add(name)
    distribution = importlib.metadata.distribution(name)
    for top in {path.parts[0] for path in distribution.files} - {'..', '__pycache__'}:
        link = target / top
        if not link.exists():
            link.symlink_to(distribution.locate_file(top))
    for requirement in map(Requirement, distribution.requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({'extra': ''}):
            link_distribution(canonicalize_name(requirement.name), target, seen)


class TestOwnersMachine:
    """A new environment with NumPy, OpenCV, cryptography, click and tqdm only."""

    @pytest.fixture(scope='class')
    @classmethod
    def bin(cls, wheel, tmp_path_factory):
        venv = tmp_path_factory.mktemp('owner')
        run(sys.executable, '-m', 'venv', '--without-pip', venv)
        paths = sysconfig.get_paths(vars={'base': str(venv), 'platbase': str(venv)})
        core = {
            re.match(r'[\w-]+', r).group()
            for r in metadata_of(wheel).get_all('Requires-Dist')
            if 'extra ==' not in r
        }
        assert core == {'click', 'cryptography', 'numpy', 'opencv-python', 'tqdm'}
        seen = set()
        for name in core - {'opencv-python'} | {'opencv-python-headless'}:
            link_distribution(name, Path(paths['purelib']), seen)
        assert seen <= {
            'click',
            'cryptography',
            'numpy',
            'opencv-python-headless',
            'tqdm',
            'cffi',
            'pycparser',
            'typing-extensions',
        }
        run(
            sys.executable,
            '-m',
            'pip',
            '--python',
            venv / 'bin' / 'python',
            'install',
            '--no-deps',
            wheel,
            env=PIP_ENV,
        )
        return venv / 'bin'

    def test_has_no_model_code(self, bin):
        found = run(
            bin / 'python',
            '-I',
            '-c',
            'from importlib.util import find_spec; '
            f'print([name for name in {MODEL_CODE} if find_spec(name)])',
        )
        assert found == '[]\n'

    def test_encrypts_a_coco_folder(self, bin, tmp_path):
        # Here, and not in an owner's environment: the pictures to compare with.
        from owner_data import make_coco, read, tree

        from hime_mm.images.codec import read_image
        from hime_mm.images.sizing import fit_image

        make_coco(tmp_path / 'coco')
        env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'HIME_KEY')}

        def hime(*args):
            return run(bin / 'hime', *args, cwd=tmp_path, env=env)

        assert hime('keygen', 'owner.key').startswith('wrote owner.key')
        assert '4 of 4 pictures encrypted' in hime(
            'encrypt', 'coco', 'coco', 'out', '-c', 'orient+shuffle', '--key', 'owner.key', '-j', 2
        )
        assert set(tree(tmp_path / 'out')) == {
            'hime.json',
            'annotations/instances_val2017.json',
            *(f'val2017/00000{i}.png' for i in range(1, 5)),
        }
        assert 'authenticated with the key' in hime('verify', 'out', '--key', 'owner.key')
        assert 'every step, with the key' in hime('info', 'out')
        hime('decrypt', 'out', 'plain', '--key', 'owner.key', '-j', 2)
        for path in (tmp_path / 'coco' / 'val2017').iterdir():
            expected, _ = fit_image(read_image(path), 16)
            assert (read(tmp_path / f'plain/val2017/{path.stem}.png') == expected).all()
            assert (read(tmp_path / f'out/val2017/{path.stem}.png') != expected).any()
        # MI needs no key, and augmentation no more than NumPy and OpenCV.
        hime('encrypt', 'folder', 'coco/val2017', 'mixed', '-c', 'paper-mi')
        hime(
            'encrypt',
            'folder',
            'coco/val2017',
            'views',
            '-c',
            'mix2+shuffle',
            '--one-way',
            '--views',
            2,
            '--crop',
            '.5,1',
            '--flip',
            '.5',
            '--jitter',
            '.1',
            '--format',
            'webp',
        )
        assert len(tree(tmp_path / 'views')) == 9


class TestRequirements:
    def test_constraints_agree_with_the_pins(self):
        constraints = pins_of('constraints')
        for name in ('build', 'mmcv', 'pinned'):
            for package, versions in pins_of(name).items():
                assert constraints.get(package) == versions, package

    def test_cv2_needs_no_display_library(self):
        # opencv-python's would need libGL, which a server does not have.
        import cv2.version

        assert cv2.version.headless


# `make env`: a stand-in plays the Python that makes .venv and, as `.venv/bin/python`, pip.

TORCH = ', '.join(pins_of('build')['torch']) + '+local'
STAND_IN = r"""#!{python}
import json, os, pathlib, shutil, sys, time
home, args = pathlib.Path({home!r}), sys.argv[1:]
setting = lambda name: (home / name).exists() and ((home / name).read_text() or '1')
if args[:2] == ['-m', 'venv']:
    binaries = pathlib.Path(args[2], 'bin')
    binaries.mkdir(parents=True)
    shutil.copy(home / 'python', binaries / 'python')
    (binaries / 'pip').write_text('#!%s/python' % binaries)
    note = 'venv'
elif args[:1] == ['-m']:
    note = ' '.join(args[1:])
elif 'get_device_capability' in args[-1]:
    print(setting('probe') or json.dumps(dict(torch={torch!r}, cuda='13.0', gpu=False, nvcc=None,
                                              archs='')))
    sys.exit()
elif 'import cv2' in args[-1]:
    note = 'smoke'
elif 'get_paths' in args[-1] and setting('headers'):
    print(setting('headers'))
    sys.exit()
elif 'ensurepip' in args[-1] and setting('no-ensurepip'):
    sys.exit(1)
else:
    os.execv({python!r}, [{python!r}] + args)
failing = setting('fail') and setting('fail') in note
if note != 'pip --version':
    with open(home / 'calls', 'a') as calls:
        calls.write(note.replace(str(home), '') + '\n')
if 'pip wheel' in note:
    time.sleep(float(setting('compile-seconds') or 0))
    if not failing:
        out = pathlib.Path(args[args.index('-w') + 1])
        out.mkdir(parents=True)
        (out / 'onedl_mmcv-2.3.6-py3-none-any.whl').write_text(os.environ['MMCV_WITH_OPS'])
if '-e' in args:
    (pathlib.Path(args[-1]) / 'hime_mm' / '.mim' / 'configs').mkdir(parents=True, exist_ok=True)
if failing:
    print('pip says why')
    sys.exit(3)
"""


class Project:
    """A checkout whose `make env` runs against the stand-in."""

    def __init__(self, folder):
        self.folder = folder
        self.home = folder / 'home'
        self.home.mkdir(parents=True)
        (folder / 'bin').mkdir()
        (folder / '.dev_scripts').mkdir()
        (folder / 'hime_mm').mkdir()
        shutil.copytree(ROOT / 'requirements', folder / 'requirements')
        for name in (SCRIPT, 'setup.py', 'pyproject.toml', 'hime_mm/version.py'):
            shutil.copy(ROOT / name, folder / name)
        stand_in = STAND_IN.format(python=sys.executable, home=str(self.home), torch=TORCH)
        self.python = self.executable(self.home / 'python', stand_in)
        self.compiler = self.executable(folder / 'bin' / 'c++', '#!/bin/sh\n')
        self.cache = self.home / 'cache'
        self.env = dict(PATH=str(folder / 'bin'), HIME_MM_CACHE=str(self.cache))

    @staticmethod
    def executable(path, text):
        path.write_text(text)
        path.chmod(0o755)
        return path

    def set(self, name, value=''):
        (self.home / name).write_text(str(value))

    def clear(self, *names):
        for name in names:
            (self.home / name).unlink(missing_ok=True)

    def start(self, version=None):
        """Start the script as the stand-in's Python, or as one of another version."""
        code = (
            f'import sys, runpy; sys.executable = {str(self.python)!r}\n'
            f'if {version!r}: sys.version_info = {version!r}\n'
            f'runpy.run_path({str(self.folder / SCRIPT)!r}, run_name="__main__")'
        )
        # Jobs in the background of a shell start with Ctrl-C ignored; a person's does not.
        return subprocess.Popen(
            [sys.executable, '-c', code],
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def make_env(self, version=None):
        """Run the script; return the exit status and what it printed."""
        process = self.start(version)
        output = process.communicate()[0]
        assert 'Traceback' not in output, output
        return process.returncode, output

    def calls(self):
        """Return what was run since the last call, as the first words of each."""
        path = self.home / 'calls'
        lines = path.read_text().splitlines() if path.exists() else []
        self.clear('calls')
        return [re.match(r'(pip \w+|\w+)', line).group() for line in lines]

    def wheels(self):
        return list(self.cache.glob('wheels/*/*.whl'))


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / 'a checkout')


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


class TestMakeEnv:
    def test_all_steps_then_nothing(self, project):
        assert project.make_env()[0] == 0
        assert project.calls() == ALL
        assert project.make_env() == (0, '[env] .venv is ready\n')
        assert project.calls() == []

    def test_headless_opencv_comes_after_all_other_packages(self, project):
        project.make_env()
        calls = (project.home / 'calls').read_text().splitlines()
        installs = [call for call in calls if call.startswith('pip install')]
        assert 'opencv-python-headless==' in installs[-2] and '--force-reinstall' in installs[-2]
        assert ' -e ' in installs[-1] and '--no-deps' in installs[-1]

    @pytest.mark.parametrize(
        'changed, calls',
        [
            ('setup.py', ALL[6:]),
            ('requirements/pinned.txt', ALL[4:]),
            ('requirements/mmcv.txt', ALL[3:]),  # a comment: the wheel of this version is there
        ],
    )
    def test_a_change_repeats_its_step_and_the_later_ones(self, project, changed, calls):
        project.make_env()
        project.calls()
        with open(project.folder / changed, 'a') as file:
            file.write('# changed\n')
        assert project.make_env()[0] == 0
        assert project.calls() == calls

    def test_failed_step_is_named_and_resumed(self, project):
        project.set('fail', 'pinned.txt')
        status, output = project.make_env()
        assert status == 1 and re.search(r'\[env\] pip install .*pinned.txt .* failed', output)
        assert project.calls() == ALL[:5]
        project.clear('fail')
        assert project.make_env()[0] == 0
        assert project.calls() == ALL[4:]

    def test_broken_venv_is_made_again(self, project):
        project.make_env()
        project.calls()
        (project.folder / '.venv' / 'bin' / 'python').unlink()
        (project.folder / '.venv' / 'bin' / 'python').symlink_to('/nowhere/python3')
        assert project.make_env()[0] == 0
        assert project.calls() == [call for call in ALL if call != 'pip wheel']

    def test_moved_venv_is_made_again(self, project):
        project.make_env()
        project.calls()
        moved = project.folder.with_name('moved')
        shutil.copytree(project.folder, moved)
        project.folder = moved
        assert project.make_env()[0] == 0
        assert project.calls()[0] == 'venv'


class TestMmcvWheel:
    def test_is_compiled_once_for_all_checkouts(self, project, tmp_path):
        project.make_env()
        (wheel,) = project.wheels()
        assert wheel.read_text() == '1'  # MMCV_WITH_OPS
        tag = 'cp{}{}'.format(*sys.version_info[:2])
        assert wheel.parent.name.startswith(f'{tag}-torch{TORCH}-mmcv2.3.6-')
        assert wheel.parent.name.endswith('-cpu')
        other = Project(tmp_path / 'other')
        other.env['HIME_MM_CACHE'] = str(project.cache)
        assert other.make_env()[0] == 0
        assert 'pip wheel' not in other.calls()

    def test_concurrent_runs_compile_once(self, project, tmp_path):
        other = Project(tmp_path / 'other')
        other.env['HIME_MM_CACHE'] = str(project.cache)
        for each in (project, other):
            each.set('compile-seconds', 2)
        processes = [each.start() for each in (project, other)]
        outputs = [process.communicate()[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], outputs
        assert (project.calls() + other.calls()).count('pip wheel') == 1
        assert sum('another run compiles' in output for output in outputs) == 1

    @pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_interrupted_compilation_leaves_no_wheel(self, project, how):
        project.set('compile-seconds', 3 if how == signal.SIGKILL else 30)
        process = project.start()
        while (
            not (project.home / 'calls').exists()
            or 'wheel' not in (project.home / 'calls').read_text()
        ):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(how)
        output = process.communicate()[0]
        assert process.returncode != 0 and 'Traceback' not in output
        assert not project.wheels()
        project.clear('compile-seconds')
        project.calls()
        status, output = project.make_env()
        assert status == 0 and project.calls() == ALL[2:]
        # Compilers that outlived the script keep the lock.
        assert ('another run compiles' in output) == (how == signal.SIGKILL)
        assert len(project.wheels()) == 1
        assert not list(project.cache.glob('wheels/*/tmp-*'))

    def test_failed_compilation_names_its_log(self, project):
        project.set('fail', 'pip wheel')
        status, output = project.make_env()
        assert status == 1
        log = re.search(r'Compiling mmcv.*exit status 3\).* the end of (.*)\.$', output, re.M)
        assert 'pip says why' in Path(log.group(1)).read_text()
        assert not project.wheels()

    @pytest.mark.parametrize(
        'nvcc, flavour', [('13.0', 'cu13.0_sm90'), ('12.4', 'cpu'), (None, 'cpu')]
    )
    def test_gpu_has_a_wheel_of_its_own(self, project, nvcc, flavour):
        project.set(
            'probe', json.dumps(dict(torch=TORCH, cuda='13.0', gpu=True, nvcc=nvcc, archs='90'))
        )
        status, output = project.make_env()
        assert status == 0
        assert project.wheels()[0].parent.name.endswith('-' + flavour)
        assert ('CPU only' in output) == (flavour == 'cpu')

    def test_heartbeat_knows_how_far_it_is(self, tmp_path):
        spec = importlib.util.spec_from_file_location('setup_env', ROOT / SCRIPT)
        setup_env = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(setup_env)
        log = tmp_path / 'log'
        log.write_text('[1/93] c++ a\n  [12/93] c++ b\nwarning: [3/4]\n')
        assert setup_env.objects_done(str(log)) == ', 12 of 93 files'
        log.write_text('nothing yet')
        assert setup_env.objects_done(str(log)) == ''


class TestUnsuitableMachine:
    """One sentence for each thing that is missing, and nothing made."""

    @staticmethod
    def refused(project, **kwargs):
        status, output = project.make_env(**kwargs)
        assert status == 1 and output.count('\n') == 1, output
        assert not (project.folder / '.venv').exists()
        return output

    @pytest.mark.parametrize('version', [(3, 9, 18), (3, 13, 0)])
    def test_python(self, project, version):
        for name in ('python3.12', 'python3.11', 'python3.10'):
            # As a version manager leaves them: on PATH, but they start nothing.
            project.executable(project.folder / 'bin' / name, '#!/bin/sh\nexit 127\n')
        output = self.refused(project, version=version)
        assert f'Python 3.{version[1]}' in output and 'install one of them' in output

    def test_another_python_on_path_is_taken(self, project):
        name = 'python{}.{}'.format(*sys.version_info[:2])
        project.executable(
            project.folder / 'bin' / name, f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
        )
        project.clear('calls')
        project.set('no-ensurepip')
        (project.folder / 'bin' / 'c++').unlink()
        # It goes on as that Python, which then says that there is no compiler.
        status, output = project.make_env(version=(3, 9, 18))
        assert status == 1 and f'going on with {name}' in output and 'C++ compiler' in output

    @pytest.mark.parametrize('compiler', [None, '#!/bin/sh\nexit 1\n'])
    def test_compiler(self, project, compiler):
        project.compiler.unlink()
        if compiler:
            project.executable(project.compiler, compiler)
        output = self.refused(project)
        assert 'No working C++ compiler' in output and 'apt install g++' in output

    def test_headers(self, project):
        project.set('headers', '/nowhere/include')
        output = self.refused(project)
        assert 'No Python.h' in output and '/nowhere/include' in output

    def test_venv_module(self, project):
        project.set('no-ensurepip')
        output = self.refused(project)
        assert re.search(r'venv and ensurepip.*apt install python3\.\d+-venv', output)

    def test_no_compiler_is_needed_for_a_cached_wheel(self, project):
        project.make_env()
        shutil.rmtree(project.folder / '.venv')
        project.compiler.unlink()
        assert project.make_env()[0] == 0

    def test_cache_that_cannot_be_written(self, project):
        project.set('file')
        project.env['HIME_MM_CACHE'] = str(project.home / 'file')
        status, output = project.make_env()
        assert status == 1 and 'name another folder in HIME_MM_CACHE' in output
