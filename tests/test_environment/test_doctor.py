# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from hime_mm.apis import check_environment
from hime_mm.cli import main
from hime_mm.environment import collect, diagnose, diagnosis, format_report
from hime_mm.environment.probes import ENGINEER, OWNER, bounds_of, round_trip, try_imports
from hime_mm.images import codec

ROOT = Path(__file__).parents[2]
#: An environment in which all works.
HEALTHY = dict(
    python='3.11.7',
    platform='Linux',
    executable='/usr/bin/python',
    bounds=[
        ('numpy', '>=', '1.24'),
        ('onedl-mmcv', '<', '2.4.0'),
        ('onedl-mmcv', '>=', '2.3.6'),
        ('torch', '==', '2.11.0'),
    ],
    packages={
        name: dict(ok=True, version=version, distributions=[(dist, version)] if dist else [])
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
            ('mmcv._ext', '', '2.3.6'),
            ('mmpretrain', 'onedl-mmpretrain', '1.3.6'),
            ('mmdet', 'onedl-mmdetection', '3.5.1'),
            ('pycocotools', 'pycocotools', '2.0.11'),
            ('timm', 'timm', '1.0.31'),
            ('transformers', 'transformers', '4.57.0'),
            ('hime_mm.registry', '', '0.1.0'),
        )
    },
)
GONE = dict(ok=None, error='it is not installed', version=None, distributions=[])


def changed(**packages):
    """The healthy environment with some packages in another state."""
    facts = copy.deepcopy(HEALTHY)
    for name, state in packages.items():
        facts['packages'][{'ext': 'mmcv._ext'}.get(name, name)].update(state)
    return facts


def broken(error):
    return dict(ok=False, error=error)


def versions(*pairs):
    return dict(version=pairs[0][1], distributions=list(pairs))


def test_nothing_to_say_of_a_healthy_environment():
    assert diagnose(HEALTHY) == diagnose(HEALTHY, engineer=True) == []


NO_EXT = "ModuleNotFoundError: No module named 'mmcv._ext'"


@pytest.mark.parametrize(
    'packages, level, name, remedy',
    [
        # Imports that fail, by what they say.
        (
            dict(cv2=broken('ImportError: libGL.so.1: cannot open shared object file')),
            'error',
            'cv2',
            'opencv-python-headless',
        ),
        (dict(cv2=GONE), 'error', 'cv2', 'pip install opencv-python`'),
        (
            dict(cryptography=broken("ModuleNotFoundError: No module named 'cffi'")),
            'error',
            'cryptography',
            'pip install cffi',
        ),
        (
            dict(hime_mm=broken('RuntimeError: a picture was not the same')),
            'error',
            'hime_mm',
            'pip install --force-reinstall hime-mm',
        ),
        (dict(torch=GONE), 'warning', 'torch', 'pip install torch'),
        (dict(torch=broken('RuntimeError: Numpy is not available')), 'warning', 'torch', 'numpy<2'),
        (
            dict(torch=broken('RuntimeError: CUDA error: no kernel image is available')),
            'warning',
            'torch',
            'this GPU',
        ),
        (dict(mmcv=GONE), 'warning', 'mmcv', 'MMCV_WITH_OPS=1'),
        (dict(mmpretrain=GONE), 'warning', 'mmpretrain', 'onedl-mmpretrain'),
        (dict(mmdet=GONE), 'note', 'mmdet', 'onedl-mmdetection'),
        (dict(torchvision=GONE), 'note', 'torchvision', 'torchvision'),
        (dict(ext=broken(NO_EXT), mmdet=broken(NO_EXT)), 'warning', 'mmcv._ext', 'MMCV_WITH_OPS=1'),
        (
            dict(ext=broken('ImportError: mmcv/_ext.so: undefined symbol: _ZN3c104cuda')),
            'warning',
            'mmcv._ext',
            'MMCV_WITH_OPS=1',
        ),
        (
            dict(ext=broken('RuntimeError: nms_impl: implementation for device cuda:0 not found.')),
            'warning',
            'mmcv._ext',
            'FORCE_CUDA=1',
        ),
        (
            dict(mmpretrain=broken('AssertionError: MMCV==2.4.0 is used but incompatible. Please')),
            'warning',
            'mmpretrain',
            'onedl-mmcv>=2.3.6,',
        ),
        (
            dict(torchvision=broken('RuntimeError: operator torchvision::nms does not exist')),
            'warning',
            'torchvision',
            'your torch',
        ),
        (dict(timm=broken('ImportError: cannot import name x')), 'note', 'timm', 'timm'),
        (
            dict(pycocotools=broken('ValueError: numpy.dtype size changed')),
            'warning',
            'pycocotools',
            'numpy<2',
        ),
        (
            dict(mmengine=broken("ModuleNotFoundError: No module named 'pkg_resources'")),
            'warning',
            'mmengine',
            'setuptools<81',
        ),
        (
            dict(mmdet=broken('crashed the process with SIGSEGV')),
            'warning',
            'mmdet',
            'pip install --force-reinstall onedl-mmdetection',
        ),
        (
            {'hime_mm.registry': broken('AssertionError: hime_mm.PEViT cannot be found')},
            'warning',
            'hime_mm.registry',
            'pip install',
        ),
        # Versions outside of what the metadata ask for.
        (dict(numpy=versions(('numpy', '1.9.3'))), 'note', 'numpy', 'numpy>=1.24'),
        (dict(mmcv=versions(('onedl-mmcv', '2.3.5'))), 'note', 'mmcv', '>=2.3.6'),
        (dict(torch=versions(('torch', '2.11.1'))), 'warning', 'torch', 'torch==2.11.0'),
        # Distributions that do not go together.
        (
            dict(cv2=versions(('opencv-python', '4.12.0'), ('opencv-python-headless', '4.10.0'))),
            'warning',
            'cv2',
            'uninstall',
        ),
        (
            dict(mmcv=versions(('onedl-mmcv', '2.3.6'), ('mmcv', '2.3.6'))),
            'warning',
            'mmcv',
            'uninstall',
        ),
        (dict(mmengine=versions(('mmengine', '0.10.7'))), 'warning', 'mmengine', 'onedl-mmengine'),
        (
            dict(transformers=versions(('transformers', '5.0.0'))),
            'warning',
            'transformers',
            'transformers<5',
        ),
        # A set that nobody checked.
        (dict(torchvision=versions(('torchvision', '0.25.0'))), 'note', 'torch', '3.11 2.11 0.26'),
    ],
)
def test_what_breaks_and_the_remedy(packages, level, name, remedy):
    facts = changed(**packages)
    (found,) = diagnose(facts)
    assert (found['level'], found['name']) == (level, name)
    assert remedy in found['remedy']
    for package in packages.values():
        if package.get('error'):
            assert package['error'] in found['what']


def test_too_new_for_the_metadata():
    found = diagnose(changed(mmcv=versions(('onedl-mmcv', '2.4.0'))))
    # Nobody checked such a set, either.
    assert [(p['level'], p['name']) for p in found] == [('note', 'mmcv'), ('note', 'torch')]
    assert '<2.4.0' in found[0]['remedy']


@pytest.mark.parametrize(
    'facts',
    [
        changed(cv2=versions(('opencv-python', '4.12.0'), ('opencv-python-headless', '4.12.0'))),
        changed(transformers=GONE, timm=GONE),
        changed(mmcv=versions(('mmcv', '2.1.0'))),
        changed(numpy=versions(('numpy', '1.24'))),
        changed(torch=versions(('torch', '2.11'))),
        changed(mmengine=versions(('mmengine', '0.10.8'))),
    ],
)
def test_nothing_to_say(facts):
    assert diagnose(facts) == []


def test_python_without_wheels():
    (problem,) = diagnose(dict(HEALTHY, python='3.13.0'))
    assert (problem['level'], problem['name']) == ('note', 'torch')


def test_old_torch_with_upstream_mmengine():
    facts = changed(torch=versions(('torch', '2.5.1')), mmengine=versions(('mmengine', '0.10.7')))
    facts['bounds'] = []
    assert [problem['level'] for problem in diagnose(facts)] == ['note']


def test_an_owner_needs_no_engineer():
    gone = dict.fromkeys(ENGINEER, GONE)
    # Parts are no packages: they fail.
    gone['ext'] = broken("ModuleNotFoundError: No module named 'mmcv'")
    gone['hime_mm.registry'] = broken("ModuleNotFoundError: No module named 'mmengine'")
    facts = changed(**gone)
    assert diagnose(facts) == []
    names = {problem['name'] for problem in diagnose(facts, engineer=True)}
    assert names == set(ENGINEER) - {'mmcv._ext', 'hime_mm.registry', 'timm', 'transformers'}


def test_an_engineers_side_of_which_nothing_works():
    fails = broken('ImportError: x')
    facts = changed(**dict.fromkeys(ENGINEER, fails), ext=fails)
    assert {problem['level'] for problem in diagnose(facts)} == {'warning'}


def test_errors_come_first_and_say_a_cause_once():
    gone = "ModuleNotFoundError: No module named 'numpy'"
    facts = changed(
        numpy=GONE, hime_mm=broken(gone), transformers=versions(('transformers', '5.0'))
    )
    assert [p['name'] for p in diagnose(facts)] == ['numpy', 'transformers']
    facts = changed(mmdet=GONE, transformers=versions(('transformers', '5.0')))
    assert [p['level'] for p in diagnose(facts)] == ['warning', 'note']
    gone = 'ImportError: libGL.so.1: cannot open shared object file'
    facts = changed(cv2=broken(gone), hime_mm=broken(gone))
    assert [p['name'] for p in diagnose(facts)] == ['cv2']


def test_an_owners_error_is_never_left_out_for_an_engineers():
    facts = changed(torch=GONE, hime_mm=broken('RuntimeError: a picture was not the same'))
    assert [p['level'] for p in diagnose(facts, engineer=True)] == ['error', 'warning']


# What the metadata ask for


def test_bounds_are_those_of_the_metadata():
    expected = {
        (requirement.name, part.operator, part.version)
        for requirement in map(Requirement, metadata.requires('hime-mm'))
        for part in requirement.specifier
        if requirement.marker is None
        or any(requirement.marker.evaluate({'extra': extra}) for extra in ('mminstall', 'timm'))
    }
    assert set(bounds_of('hime-mm', 'mminstall', 'timm')) == expected
    names = {name for name, _, _ in expected}
    assert {'numpy', 'onedl-mmcv', 'timm'} < names
    assert not {'pytest', 'timm'} & {name for name, _, _ in bounds_of('hime-mm')}


def test_bounds_of_torchvision_name_its_torch():
    torch = [bound for bound in bounds_of('torchvision') if bound[0] == 'torch']
    assert torch == [('torch', '==', metadata.version('torch').partition('+')[0])]


@pytest.mark.parametrize(
    'line, bounds',
    [
        ('torch (==2.0.1)', [('torch', '==', '2.0.1')]),
        ('a.b-c<3,>=1.2 ; python_version > "3"', [('a.b-c', '<', '3'), ('a.b-c', '>=', '1.2')]),
        ('name[extra]>=1', [('name', '>=', '1')]),
        ('name!=1.5,<=2,~=1.0', []),
        ("name>=1; extra == 'tests'", []),
        ('name', []),
    ],
)
def test_bounds(monkeypatch, line, bounds):
    monkeypatch.setattr(metadata, 'requires', lambda name: [line])
    assert bounds_of('anything', 'timm') == bounds


def test_no_bounds_of_what_is_not_installed():
    assert bounds_of('no-such-distribution') == []


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
        needs='import missing',
        lingers='import atexit, os; atexit.register(os.abort)',
    )
    names = ['aborts', 'talks', 'exits', 'raises', 'quits', 'dies', 'missing', 'needs', 'tqdm']
    names.append('lingers')
    found = try_imports(names)
    assert list(found) == names
    assert found['talks'] == dict(ok=True, version='1.2')
    assert found['tqdm']['ok'] and found['lingers']['ok']
    assert found['missing']['ok'] is None
    for name, error in (
        ('aborts', 'SIGABRT'),
        ('exits', 'status 3'),
        ('raises', 'ImportError: first line'),
        ('quits', 'SystemExit: bye'),
        ('dies', 'E: panic'),
        ('needs', "No module named 'missing'"),
    ):
        assert found[name]['ok'] is False and error in found[name]['error'], name
    assert 'second line' not in found['raises']['error']


@pytest.mark.slow
def test_an_import_that_hangs(modules):
    sleeps = 'import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()'
    modules(hangs='import time; time.sleep(60)', lingers=sleeps)
    start = time.monotonic()
    found = try_imports(['tqdm', 'hangs', 'click', 'lingers'], timeout=3)
    assert time.monotonic() - start < 30
    assert found['tqdm']['ok'] and found['click']['ok'] and found['lingers']['ok']
    assert found['hangs'] == dict(ok=False, error='did not end within 3 s')


@pytest.mark.slow
def test_a_copy_that_shadows_a_package(modules):
    """What the report says is what this process would import."""
    modules(tqdm='__version__ = "0.0.1"\nraise OSError("damaged")')
    facts = collect()
    assert facts['packages']['tqdm']['error'] == 'OSError: damaged'
    assert [p['name'] for p in diagnose(facts) if p['level'] == 'error'] == ['tqdm']


def test_encryption_that_loses_pixels(monkeypatch):
    round_trip()
    monkeypatch.setattr(codec, 'decode_image', lambda data: np.zeros((32, 48, 3), np.uint8))
    with pytest.raises(RuntimeError):
        round_trip()


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
    assert "engineer's side is not installed" in done.stdout
    assert 'mmdet' not in done.stdout
    done = run_core(owner, '-m', 'hime_mm.cli', 'doctor', '--json')
    report = json.loads(done.stdout)
    assert report['owner'] is True and report['engineer'] is None
    assert report['facts']['packages']['hime_mm']['ok']
    done = run_core(owner, '-m', 'hime_mm.cli', 'doctor', '--engineer')
    assert done.returncode == 1
    assert 'warning: torch: ' in done.stdout


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
    assert 'pip install opencv-python' in done.stdout
    assert "owner's side does not work" in done.stdout
    # Said once, though hime_mm cannot encrypt without it either.
    assert done.stdout.count('error:') == 1


@pytest.mark.slow
def test_this_environment():
    found = check_environment(engineer=True)
    packages = found['facts']['packages']
    assert found['owner'], found['problems']
    for name in ('torch', 'mmcv', 'mmpretrain'):
        assert packages[name]['ok'], packages[name]
        dist, version = packages[name]['distributions'][0]
        assert metadata.version(dist) == version
    assert packages['hime_mm.registry']['ok']
    assert set(found['facts']['bounds']) > set(bounds_of('hime-mm', 'mminstall'))
    # What a person reads and what a machine reads are the same.
    text = format_report(found)
    for name in OWNER + ENGINEER:
        assert f'  {name} ' in text
    for problem in found['problems']:
        assert problem['remedy'] in text
    json.dumps(found)
    assert found['engineer'] is not any(p['level'] == 'warning' for p in found['problems'])


@pytest.mark.parametrize(
    'packages, owner, engineer',
    [
        ({}, 0, 0),
        (dict(mmdet=GONE), 0, 0),
        (dict(timm=broken('ImportError: x')), 0, 0),
        (dict(mmcv=GONE), 0, 1),
        (dict(ext=broken('RuntimeError: x')), 0, 1),
        (dict(numpy=broken('ImportError: x')), 1, 1),
    ],
)
def test_exit_status(monkeypatch, packages, owner, engineer):
    facts = changed(**packages)
    monkeypatch.setattr(diagnosis, 'collect', lambda timeout: facts)
    runner = CliRunner()
    for args, status in ((['doctor'], owner), (['doctor', '--engineer'], engineer)):
        done = runner.invoke(main, args)
        assert done.exit_code == status, done.output
        done = runner.invoke(main, [*args, '--json'])
        assert done.exit_code == status
        assert json.loads(done.stdout)['facts']['python'] == facts['python']
        for problem in diagnose(facts):
            assert problem in json.loads(done.stdout)['problems']
