# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""mmcv's ops are compiled once per machine, Python, torch and GPU."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from stand_in import ALL, TORCH, Project

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / 'one')


@pytest.fixture
def other(project, tmp_path):
    """Another checkout on the same machine."""
    other = Project(tmp_path / 'other')
    other.env['HIME_MM_CACHE'] = str(project.cache)
    return other


def test_is_compiled_once_for_all_checkouts(project, other):
    project.make_env()
    (wheel,) = project.wheels()
    assert wheel.read_text() == '1'  # MMCV_WITH_OPS
    tag = 'cp{}{}'.format(*sys.version_info[:2])
    assert wheel.parent.name.startswith(f'{tag}-torch{TORCH}-mmcv2.3.6-')
    assert wheel.parent.name.endswith('-cpu')
    assert other.make_env()[0] == 0
    assert 'pip wheel' not in other.calls()


def test_another_torch_has_a_wheel_of_its_own(project, other):
    project.make_env()
    other.set('modules/torch/__init__.py', "__version__ = '2.12.0'\nclass cuda:\n    pass\n")
    init = other.home / 'modules' / 'torch' / '__init__.py'
    init.write_text(init.read_text() + '    is_available = lambda: False\n')
    assert other.make_env()[0] == 0
    assert 'pip wheel' in other.calls()
    assert len(project.wheels()) == 2


def test_cache_of_the_desktop(project):
    del project.env['HIME_MM_CACHE']
    project.env['XDG_CACHE_HOME'] = str(project.home / 'xdg')
    assert project.make_env()[0] == 0
    assert list(project.home.glob('xdg/hime_mm/wheels/*/*.whl'))


def test_concurrent_runs_compile_once(project, other):
    for each in (project, other):
        each.set('compile-seconds', 10)
    processes = [each.start() for each in (project, other)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert (project.calls() + other.calls()).count('pip wheel') == 1
    assert sum('another run compiles' in output for output in outputs) == 1


@pytest.mark.parametrize('how', ['ctrl-c', 'terminate'])
def test_interrupted_compilation_leaves_no_wheel(project, how):
    project.set('compile-seconds', 100)
    process = project.start_compiling()
    if how == 'ctrl-c':
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0 and 'Traceback' not in output
    assert not project.wheels()
    project.clear('compile-seconds')
    project.calls()
    status, output = project.make_env()
    assert status == 0 and project.calls() == ALL[2:]
    # No compiler outlived the run.
    assert 'another run' not in output
    assert len(project.wheels()) == 1
    assert not list(project.cache.glob('wheels/*/tmp-*'))


def test_killed_run_goes_on_and_keeps_its_lock(project):
    project.set('compile-seconds', 10)
    process = project.start_compiling()
    os.killpg(process.pid, signal.SIGKILL)
    status, output = project.make_env()
    assert status == 0 and 'another run makes .venv' in output
    assert project.calls() == ALL
    assert len(project.wheels()) == 1


def test_compilers_that_outlive_a_killed_run_keep_its_lock(project):
    project.set('compile-seconds', 10)
    process = project.start_compiling()
    os.killpg(process.pid, signal.SIGKILL)
    os.killpg(int((project.home / 'session').read_text()), signal.SIGKILL)
    process.wait()
    assert not project.wheels()
    project.clear('compile-seconds')
    project.calls()
    status, output = project.make_env()
    assert status == 0 and project.calls() == ALL[2:]
    assert 'another run compiles' in output
    assert len(project.wheels()) == 1
    assert not list(project.cache.glob('wheels/*/tmp-*'))


def test_failed_compilation_names_its_log(project):
    project.set('fail', 'pip wheel')
    status, output = project.make_env()
    assert status != 0
    log = re.search(r'^\[env\] .* (/\S*/build\.log)\.$', output, re.M)
    assert 'pip says why' in Path(log.group(1)).read_text()
    assert not project.wheels()


@pytest.mark.parametrize('nvcc, flavour', [('13.0', 'cu13.0_sm90'), ('12.4', 'cpu'), (None, 'cpu')])
def test_gpu_has_a_wheel_of_its_own(project, nvcc, flavour):
    project.set('gpu')
    if nvcc:
        text = f'#!/bin/sh\necho "Cuda compilation tools, release {nvcc}, V{nvcc}.88"\n'
        project.executable(project.home / 'cuda' / 'bin' / 'nvcc', text)
    status, output = project.make_env()
    assert status == 0
    assert project.wheels()[0].parent.name.endswith('-' + flavour)
    assert ('CPU only' in output) == (flavour == 'cpu')
