# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What `make env` promises, without a network."""

import ast
import re
import shutil
import sys

import pytest
from stand_in import ALL, ROOT, Project

slow = pytest.mark.slow


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


class TestSteps:
    def test_all_steps_then_nothing(self, project):
        assert project.make_env()[0] == 0
        assert project.calls() == ALL
        assert project.make_env() == (0, '[env] .venv is ready\n')
        assert project.calls() == []

    @slow
    def test_headless_opencv_comes_after_all_other_packages(self, project):
        project.make_env()
        calls = (project.home / 'calls').read_text().splitlines()
        installs = [call for call in calls if call.startswith('pip install')]
        assert 'opencv-python-headless' in installs[-2] and '--force-reinstall' in installs[-2]
        # That is where its version is.
        assert '-c requirements/constraints.txt' in installs[-2]
        assert ' -e ' in installs[-1] and '--no-deps' in installs[-1]

    @slow
    @pytest.mark.parametrize(
        'changed, calls',
        [
            ('setup.py', ALL[6:]),
            ('requirements/mminstall.txt', ALL[6:]),
            ('requirements/pinned.txt', ALL[4:]),
            ('requirements/mmcv.txt', ALL[3:]),  # a comment: the wheel of this version is there
            ('requirements/constraints.txt', ALL[1:2] + ALL[3:]),
            ('.dev_scripts/env.mk', ALL[1:2] + ALL[3:]),
        ],
    )
    def test_a_change_repeats_its_step_and_the_later_ones(self, project, changed, calls):
        project.make_env()
        project.calls()
        with open(project.folder / changed, 'a') as file:
            file.write('# changed\n')
        assert project.make_env()[0] == 0
        assert project.calls() == calls
        assert project.make_env()[0] == 0
        assert project.calls() == []

    @slow
    def test_links_of_the_package_that_are_gone(self, project):
        project.make_env()
        project.calls()
        shutil.rmtree(project.folder / 'hime_mm' / '.mim')
        assert project.make_env()[0] == 0
        assert project.calls() == ALL[6:]

    @slow
    @pytest.mark.parametrize('step, number', [('pinned.txt', 4), ('check', 7), ('smoke', 8)])
    def test_failed_step_is_named_and_resumed(self, project, step, number):
        project.set('fail', step)
        status, output = project.make_env()
        assert status != 0
        stamp = {'smoke': 'check'}.get(step, step.partition('.')[0])
        assert re.search(rf'stamps/{stamp}\] Error 3', output)
        assert project.calls() == ALL[: number + 1]
        project.clear('fail')
        assert project.make_env()[0] == 0
        assert project.calls() == ALL[min(number, 7) :]

    @slow
    def test_two_at_once(self, project):
        project.set('compile-seconds', 10)
        processes = [project.start(), project.start()]
        outputs = [process.communicate()[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], outputs
        assert project.calls() == ALL
        assert sum('another run makes .venv' in output for output in outputs) == 1


@slow
class TestVenv:
    @pytest.fixture
    def made(self, project):
        project.make_env()
        project.calls()
        return project

    def remade(self, project):
        assert project.make_env()[0] == 0
        assert project.calls() == [call for call in ALL if call != 'pip wheel']

    def test_broken(self, made):
        (made.folder / '.venv' / 'bin' / 'python').unlink()
        (made.folder / '.venv' / 'bin' / 'python').symlink_to('/nowhere/python3')
        self.remade(made)

    def test_half_made(self, made):
        (made.folder / '.venv' / 'bin' / 'pip').unlink()
        self.remade(made)

    def test_python_was_upgraded(self, made):
        made.set('pip-module', 'no_such_module')
        assert made.make_env()[0] == 0
        assert made.calls()[0] == 'venv'

    def test_moved(self, made):
        moved = made.folder.with_name('moved')
        shutil.copytree(made.folder, moved)
        made.folder = moved
        self.remade(made)

    def test_a_link_is_replaced_and_its_target_left(self, made, tmp_path):
        (made.folder / '.venv').rename(tmp_path / 'elsewhere')
        (made.folder / '.venv').symlink_to(tmp_path / 'elsewhere')
        (tmp_path / 'elsewhere' / 'bin' / 'pip').write_text('#!/another/python')
        self.remade(made)
        assert (tmp_path / 'elsewhere' / 'bin' / 'pip').exists()


class TestUnsuitableMachine:
    """One sentence for what is missing, and nothing made."""

    @staticmethod
    def refused(project):
        status, output = project.make_env()
        told = [line for line in output.splitlines() if not line.startswith('make')]
        assert status != 0 and len(told) == 1 and told[0].startswith('[env] '), output
        assert not (project.folder / '.venv').exists()
        assert project.calls() == []
        return told[0]

    @pytest.mark.parametrize(
        'version',
        [pytest.param('3, 6, 15', marks=slow), pytest.param('3, 9, 18', marks=slow), '3, 13, 0'],
    )
    def test_python(self, project, version):
        for name in ('python3.12', 'python3.11', 'python3.10'):
            # As a version manager leaves them: on PATH, but they start nothing.
            project.executable(project.bin / name, '#!/bin/sh\nexit 127\n')
        project.set('version', f'({version})')
        output = self.refused(project)
        major, minor = version.split(', ')[:2]
        assert f'Python {major}.{minor}' in output and 'install one of them' in output

    def test_an_old_python_can_read_the_sentence(self):
        ast.parse((ROOT / '.dev_scripts' / 'setup_env.py').read_text(), feature_version=(3, 6))

    @slow
    def test_another_python_on_path_is_taken(self, project):
        name = 'python{}.{}'.format(*sys.version_info[:2])
        shutil.copy(project.python, project.bin / name)
        project.set('version', '(3, 9, 18)')
        status, output = project.make_env()
        assert status == 0 and f'going on with {name}' in output
        assert f'venv by {project.bin / name}\n' in (project.home / 'calls').read_text()
        assert project.calls() == ALL

    @pytest.mark.parametrize('compiler', [None, pytest.param('#!/bin/sh\nexit 1\n', marks=slow)])
    def test_compiler(self, project, compiler):
        project.compiler.unlink()
        if compiler:
            project.executable(project.compiler, compiler)
        assert 'apt install g++' in self.refused(project)

    @slow
    def test_compiler_that_was_named(self, project):
        project.env['CXX'] = 'no-such-compiler'
        assert 'no-such-compiler' in self.refused(project)

    @slow
    def test_headers(self, project):
        project.set('headers', '/nowhere/include/python3.11')
        output = self.refused(project)
        assert '/nowhere/include/python3.11/Python.h' in output and 'python3.11-dev' in output

    @slow
    def test_no_compiler_is_needed_for_a_cached_wheel(self, project):
        project.make_env()
        shutil.rmtree(project.folder / '.venv')
        project.compiler.unlink()
        assert project.make_env()[0] == 0

    @slow
    def test_a_compiler_is_needed_for_another_torch(self, project):
        """Which is said before it is downloaded."""
        project.make_env()
        project.calls()
        project.compiler.unlink()
        path = project.folder / 'requirements' / 'build.txt'
        path.write_text(re.sub('^torch==.*', 'torch==9.9.9', path.read_text(), flags=re.M))
        status, output = project.make_env()
        assert status != 0 and 'apt install g++' in output
        assert project.calls() == []

    @slow
    def test_no_compiler_is_needed_for_mmcv_that_is_installed(self, project):
        project.make_env()
        shutil.rmtree(project.cache)
        project.compiler.unlink()
        with open(project.folder / 'requirements' / 'pinned.txt', 'a') as file:
            file.write('# changed\n')
        assert project.make_env()[0] == 0

    @slow
    def test_cache_that_cannot_be_written(self, project):
        project.set('file')
        project.env['HIME_MM_CACHE'] = str(project.home / 'file')
        status, output = project.make_env()
        assert status != 0 and f"[env] [Errno 20] Not a directory: '{project.home}/file" in output
