# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from hime_mm.apis import check_environment
from hime_mm.cli import main
from hime_mm.environment import ENGINEER, OWNER, collect, diagnose, format_report, report
from hime_mm.environment.probes import run_probes

ROOT = Path(__file__).parents[2]
#: An environment in which all works, with a GPU.
HEALTHY = dict(
    python='3.11.7',
    platform='Linux',
    executable='/usr/bin/python',
    torchvision_wants='2.11.0',
    packages={
        name: dict(ok=True, version=version, distributions=[[dist, version]])
        for name, dist, version in (
            ('numpy', 'numpy', '2.2.6'),
            ('cv2', 'opencv-python', '4.12.0'),
            ('cryptography', 'cryptography', '50.0.2'),
            ('click', 'click', '8.5.1'),
            ('tqdm', 'tqdm', '4.70.1'),
            ('hime_mm', 'hime-mm', '0.1.0'),
            ('torch', 'torch', '2.11.0+cu130'),
            ('torchvision', 'torchvision', '0.26.0'),
            ('mmengine', 'onedl-mmengine', '0.10.12'),
            ('mmcv', 'onedl-mmcv', '2.3.6'),
            ('mmcv._ext', 'onedl-mmcv', '2.3.6'),
            ('mmpretrain', 'onedl-mmpretrain', '1.3.6'),
            ('mmdet', 'onedl-mmdetection', '3.5.1'),
            ('pycocotools', 'pycocotools', '2.0.11'),
            ('timm', 'timm', '1.0.31'),
            ('transformers', 'transformers', '4.57.0'),
            ('hime_mm.registry', 'hime-mm', '0.1.0'),
        )
    },
)
HEALTHY['packages']['torch'].update(cuda='13.0', devices=['NVIDIA X'], broken={})
HEALTHY['packages']['mmcv._ext'].update(cuda='13.0', gpu_error=None)
HEALTHY['packages']['hime_mm.registry'].update(types=['Encrypt', 'PEViT', 'PEYOLOS'])


def changed(**packages):
    """The healthy environment with some packages in another state."""
    facts = copy.deepcopy(HEALTHY)
    for name, state in packages.items():
        name = {'ext': 'mmcv._ext', 'types': 'hime_mm.registry'}.get(name, name)
        if state is None:
            facts['packages'][name] = dict(distributions=[])
        else:
            facts['packages'][name].update(state)
    return facts


def broken(error):
    return dict(ok=False, error=error)


def versions(*pairs):
    return dict(version=pairs[0][1], distributions=[list(p) for p in pairs])


def test_nothing_to_say_of_a_healthy_environment():
    assert diagnose(HEALTHY) == diagnose(HEALTHY, engineer=True) == []


NO_EXT = "ModuleNotFoundError: No module named 'mmcv._ext'"


@pytest.mark.parametrize(
    'packages, level, name, what, breaks, remedy',
    [
        (
            dict(cv2=broken('ImportError: libGL.so.1: cannot open shared object file')),
            'error',
            'cv2',
            'libGL',
            'every command',
            'opencv-python-headless.*libgl1',
        ),
        (
            dict(cv2=None),
            'error',
            'cv2',
            'not installed',
            'every command',
            'pip install --force-reinstall opencv-python',
        ),
        (
            dict(cryptography=broken("ModuleNotFoundError: No module named 'cffi'")),
            'error',
            'cryptography',
            'cffi',
            'every command',
            'pip install cffi',
        ),
        (
            dict(hime_mm=broken('RuntimeError: a picture was not the same')),
            'error',
            'hime_mm',
            'not the same',
            'every command',
            'install it again',
        ),
        (
            dict(numpy=dict(version='1.21.0')),
            'note',
            'numpy',
            'older than 1.24',
            'nothing',
            'pip install -U numpy',
        ),
        (
            dict(cv2=versions(('opencv-python', '4.12.0'), ('opencv-python-headless', '4.12.0'))),
            'note',
            'cv2',
            'share the folder',
            'upgraded',
            'one version',
        ),
        (
            dict(cv2=versions(('opencv-python', '4.12.0'), ('opencv-python-headless', '4.10.0'))),
            'warning',
            'cv2',
            '4.12.0 and opencv-python-headless 4.10.0',
            'upgraded',
            'one version',
        ),
        (dict(torch=None), 'warning', 'torch', 'not installed', 'training', 'belong together'),
        (
            dict(mmdet=None),
            'note',
            'mmdet',
            'not installed',
            'detection; classification works',
            'onedl-mmdetection',
        ),
        (
            dict(mmpretrain=None),
            'warning',
            'mmpretrain',
            'not installed',
            'PEViT',
            'onedl-mmpretrain',
        ),
        (
            dict(ext=broken(NO_EXT), mmdet=broken(NO_EXT)),
            'warning',
            'mmcv._ext',
            'cannot be imported',
            'MMDetection.*classification works',
            'MMCV_WITH_OPS=1',
        ),
        (
            dict(ext=dict(cuda='not available')),
            'warning',
            'mmcv._ext',
            'CPU only',
            'NMS.*PEYOLOS needs none',
            'CUDA 13.0',
        ),
        (
            dict(ext=dict(cuda='11.8')),
            'warning',
            'mmcv._ext',
            'CUDA 11.8, torch with 13.0',
            'NMS',
            'FORCE_CUDA',
        ),
        (
            dict(ext=dict(gpu_error='no kernel image')),
            'warning',
            'mmcv._ext',
            'no kernel image',
            'NMS',
            'FORCE_CUDA',
        ),
        (
            dict(torch=dict(broken={'NVIDIA X': 'no kernel image'})),
            'warning',
            'torch',
            'NVIDIA X does not compute',
            'this GPU',
            'driver',
        ),
        (
            dict(mmengine=versions(('mmengine', '0.10.7'))),
            'warning',
            'mmengine',
            '0.10.7 with torch 2.11.0',
            'resuming and testing',
            'onedl-mmengine',
        ),
        (
            dict(mmcv=versions(('onedl-mmcv', '2.3.6'), ('mmcv', '2.1.0'))),
            'warning',
            'mmcv',
            'onedl-mmcv and mmcv',
            'mixture',
            'pip uninstall onedl-mmcv mmcv',
        ),
        (
            dict(
                mmcv=versions(('onedl-mmcv', '2.4.0')),
                mmpretrain=broken('AssertionError: MMCV==2.4.0 is used but incompatible. Please'),
            ),
            'warning',
            'mmpretrain',
            'incompatible',
            'PEViT',
            'onedl-mmcv>=2.3.6,',
        ),
        (
            dict(mmcv=versions(('onedl-mmcv', '2.4.0'))),
            'warning',
            'mmcv',
            '2.4.0',
            'mmpretrain',
            '<2.4',
        ),
        (
            dict(transformers=versions(('transformers', '5.0.0'))),
            'warning',
            'transformers',
            '5.0.0',
            'mmpretrain.models',
            'transformers<5',
        ),
        (
            dict(torch=dict(version='2.9.1')),
            'warning',
            'torchvision',
            'built for torch 2.11.0, here is 2.9.1',
            'compiled ops',
            'torch==2.11.0',
        ),
        (
            dict(torchvision=broken('RuntimeError: operator torchvision::nms does not exist')),
            'warning',
            'torchvision',
            'torchvision::nms',
            'training',
            'another torch',
        ),
        (
            dict(timm=broken('ImportError: cannot import name x')),
            'note',
            'timm',
            'cannot import name x',
            'ours are not',
            'timm',
        ),
        (
            dict(pycocotools=broken('ValueError: numpy.dtype size changed')),
            'warning',
            'pycocotools',
            'size changed',
            'COCO',
            '2.0.8',
        ),
        (
            dict(pycocotools=versions(('pycocotools', '2.0.7'))),
            'note',
            'pycocotools',
            '2.0.7 with NumPy 2.2.6',
            'masks',
            'pycocotools',
        ),
        (
            dict(mmengine=broken("ModuleNotFoundError: No module named 'pkg_resources'")),
            'warning',
            'mmengine',
            'pkg_resources',
            'training',
            'setuptools<81',
        ),
        (
            dict(types=dict(types=['Encrypt', 'PEViT'])),
            'warning',
            'hime_mm.registry',
            'PEYOLOS cannot be found',
            'configs',
            'above',
        ),
        (
            dict(mmdet=broken('crashed the process with SIGSEGV')),
            'warning',
            'mmdet',
            'SIGSEGV',
            'classification works',
            'onedl-mmdetection',
        ),
    ],
)
def test_what_breaks_and_the_remedy(packages, level, name, what, breaks, remedy):
    found = diagnose(changed(**packages))
    assert [p.name for p in found] == [name], found
    for value, pattern in (
        (found[0].level, level),
        (found[0].what, what),
        (found[0].breaks, breaks),
        (found[0].remedy, remedy),
    ):
        assert re.search(pattern, value), (pattern, value)
    assert found[0].level in str(found[0]) and found[0].what in str(found[0])


@pytest.mark.parametrize('python, level', [('3.9.2', 'error'), ('3.13.0', 'note')])
def test_pythons(python, level):
    (problem,) = diagnose(dict(HEALTHY, python=python))
    assert (problem.name, problem.level) == ('python', level)


def test_no_gpu_needs_no_ops_for_it():
    assert diagnose(changed(torch=dict(devices=[]), ext=dict(cuda='not available'))) == []


def test_old_torch_with_upstream_mmengine():
    facts = changed(torch=dict(version='2.5.1'), mmengine=versions(('mmengine', '0.10.7')))
    facts['torchvision_wants'] = None
    assert diagnose(facts) == []


def test_an_owner_needs_no_engineer():
    facts = copy.deepcopy(HEALTHY)
    for name in ENGINEER:
        facts['packages'].pop(name)
    assert diagnose(facts) == []
    names = {p.name for p in diagnose(facts, engineer=True)}
    assert {'torch', 'mmengine', 'mmcv', 'mmpretrain', 'mmdet'} <= names


def test_errors_come_first_and_say_a_cause_once():
    gone = "ModuleNotFoundError: No module named 'numpy'"
    facts = changed(
        numpy=broken(gone), hime_mm=broken(gone), transformers=versions(('transformers', '5.0'))
    )
    assert [p.name for p in diagnose(facts)] == ['numpy', 'transformers']


# Imports that do their worst


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Makes modules that can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(**sources):
        for name, source in sources.items():
            (tmp_path / f'{name}.py').write_text(source)

    return make


def test_imports_that_fail_leave_the_others(modules):
    modules(
        aborts='import os; os.abort()',
        exits='import os; os._exit(3)',
        quits='import sys; sys.exit("bye")',
        talks='print("hello" * 9999); import sys; sys.stdout.flush()\n__version__ = "1.2"',
        raises='raise ImportError("first line\\nsecond line")',
        dies='class E(BaseException): pass\nraise E("panic")',
    )
    names = ['aborts', 'talks', 'exits', 'raises', 'quits', 'dies', 'missing', 'tqdm']
    found = run_probes(names)
    assert set(found) == set(names)
    assert found['talks'] == dict(ok=True, version='1.2')
    assert found['tqdm']['ok']
    for name, error in (
        ('aborts', 'SIGABRT'),
        ('exits', 'status 3'),
        ('raises', 'ImportError: first line'),
        ('quits', 'SystemExit: bye'),
        ('dies', 'E: panic'),
        ('missing', "No module named 'missing'"),
    ):
        assert not found[name]['ok'] and error in found[name]['error'], name
    assert 'second line' not in found['raises']['error']


def test_an_import_that_hangs(modules):
    modules(hangs='import time; time.sleep(60)')
    start = time.monotonic()
    found = run_probes(['tqdm', 'hangs', 'click'], timeout=3)
    assert time.monotonic() - start < 30
    assert found['tqdm']['ok'] and found['click']['ok']
    assert 'did not end within 3 s' in found['hangs']['error']


def test_a_copy_that_shadows_a_package(modules):
    """What the report says is what this process would import."""
    modules(tqdm='__version__ = "0.0.1"\nraise OSError("damaged")')
    facts = collect()
    assert facts['packages']['tqdm']['error'] == 'OSError: damaged'
    assert [p.name for p in diagnose(facts) if p.level == 'error'] == ['tqdm']


# The whole of it


def link_or_copy(source, target):
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def core_only(folder):
    """A folder with what an owner installs, and nothing else."""
    site = Path(importlib.util.find_spec('click').origin).parents[1]
    wanted = ['numpy', 'cv2', 'cryptography', 'click', 'tqdm', 'cffi', 'pycparser', '_cffi_backend']
    for path in site.iterdir():
        name = path.name.split('.')[0].lower()
        dist = path.name.rpartition('.dist-info')[0].rpartition('-')[0]
        if (
            name in wanted
            or dist.replace('_', '-') in (*wanted, 'opencv-python-headless', 'opencv-python')
            or (path.suffix == '.libs')
        ):
            if name == 'cv2' and path.is_dir():
                # Looks for its own folder by its real path.
                shutil.copytree(path, folder / path.name, copy_function=link_or_copy)
            else:
                (folder / path.name).symlink_to(path)
    (folder / 'hime_mm').symlink_to(ROOT / 'hime_mm')
    return folder


def run_core(folder, *args):
    return subprocess.run(
        [sys.executable, '-S', *args],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(folder)},
    )


@pytest.fixture(scope='module')
def owner(tmp_path_factory):
    return core_only(tmp_path_factory.mktemp('owner'))


def test_only_the_core_packages(owner):
    done = run_core(owner, '-m', 'hime_mm.cli', 'doctor')
    assert done.returncode == 0, done.stdout + done.stderr
    assert "owner's side works" in done.stdout
    assert 'is not installed, and not needed' in done.stdout
    assert 'mmdet' not in done.stdout
    done = run_core(owner, '-m', 'hime_mm.cli', 'doctor', '--json')
    report = json.loads(done.stdout)
    assert report['owner'] is True and report['engineer'] is None
    assert report['facts']['packages']['hime_mm']['ok']
    done = run_core(owner, '-m', 'hime_mm.cli', 'doctor', '--engineer')
    assert done.returncode == 1
    assert 'warning: torch: it is not installed' in done.stdout


def test_client_and_boxes_need_the_core_packages_only(owner):
    done = run_core(
        owner,
        '-c',
        'import sys, numpy as np\n'
        'from hime_mm.apis import Client, map_coco_results\n'
        'picture = np.zeros((40, 50, 3), np.uint8)\n'
        'sealed = Client("mix2+shuffle").encrypt(picture)\n'
        'boxes = Client("mix2").restore(np.zeros((2, 4)), sealed)\n'
        'assert boxes.shape == (2, 4)\n'
        'sealed.save("out.png")\n'
        'try:\n'
        '    import torch\n'
        'except ImportError:\n'
        '    print("fine")',
    )
    assert done.stdout == 'fine\n', done.stderr


def test_a_core_package_is_missing(tmp_path):
    folder = core_only(tmp_path)
    for path in list(folder.iterdir()):
        if path.name.startswith('opencv'):
            path.unlink()
    shutil.rmtree(folder / 'cv2')
    done = run_core(folder, '-m', 'hime_mm.cli', 'doctor')
    assert done.returncode == 1
    assert "No module named 'cv2'" in done.stdout
    assert 'pip install opencv-python' in done.stdout
    assert "owner's side does not work" in done.stdout
    # Said once, though hime_mm cannot encrypt without it either.
    assert done.stdout.count('error:') == 1


def test_this_environment():
    found = check_environment(engineer=True)
    packages = found['facts']['packages']
    assert found['owner'], found['problems']
    for name in ('torch', 'mmcv', 'mmpretrain'):
        assert packages[name]['ok'], packages[name]
        dist, version = packages[name]['distributions'][0]
        assert metadata.version(dist) == version
    assert 'PEViT' in packages['hime_mm.registry']['types']
    # What a person reads and what a machine reads are the same.
    text = format_report(found)
    for name in OWNER + ('torch', 'mmdet', 'mmcv._ext'):
        assert f'  {name} ' in text
    for problem in found['problems']:
        assert problem['remedy'] in text
    json.dumps(found)
    assert found['engineer'] is not any(p['level'] == 'warning' for p in found['problems'])


@pytest.mark.parametrize(
    'packages, owner, engineer',
    [
        ({}, 0, 0),
        (dict(mmdet=None), 0, 0),
        (dict(timm=broken('ImportError: x')), 0, 0),
        (dict(mmcv=None, ext=None), 0, 1),
        (dict(ext=dict(cuda='11.8')), 0, 1),
        (dict(numpy=broken('ImportError: x')), 1, 1),
    ],
)
def test_exit_status(monkeypatch, packages, owner, engineer):
    monkeypatch.setattr(report, 'collect', lambda timeout: changed(**packages))
    runner = CliRunner()
    assert runner.invoke(main, ['doctor']).exit_code == owner
    for option in ('--engineer', '--strict'):
        done = runner.invoke(main, ['doctor', option])
        assert done.exit_code == engineer, done.output
