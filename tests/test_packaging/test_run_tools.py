# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The scripts of tools/, called as docs/install.md says, where the package is installed."""

import os
import subprocess
from pathlib import Path

import pytest
from building import ROOT, install, make_venv, run
from tiny_training import free_port, write_training

pytestmark = pytest.mark.slow
# Neither the checkout nor what this process sees is on their path.
ENV = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
ENV.update(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """The Python of an environment that has the wheel, and the folder that it put there."""
    python = make_venv(tmp_path_factory.mktemp('wheel_venv'))
    install(python, wheel)
    (package,) = python.parents[1].glob('lib/python*/site-packages/hime_mm')
    return python, package


class TestWheel:
    def test_module_trains_and_tests(self, installed, tmp_path):
        python, package = installed
        write_training(tmp_path, package / '.mim' / 'configs')
        tool = (python, '-m', 'hime_mm.tools')
        log = run(*tool, 'train', 'tiny.py', cwd=tmp_path, env=ENV)
        assert 'Epoch(train) [1][4/4]' in log and 'accuracy/top1' in log
        log = run(*tool, 'test', 'tiny.py', 'work_dirs/tiny/epoch_1.pth', cwd=tmp_path, env=ENV)
        assert 'Epoch(test) [4/4]' in log and 'accuracy/top1' in log

    def test_shipped_config_by_its_name(self, installed, tmp_path):
        python, _ = installed
        command = [python, '-m', 'hime_mm.tools', 'train', 'hime_vit_coco.py']
        done = subprocess.run(command, cwd=tmp_path, env=ENV, capture_output=True, text=True)
        # It got as far as the data, which are not here.
        assert done.returncode == 1 and 'data/coco/annotations' in done.stderr.splitlines()[-1]
        assert (tmp_path / 'work_dirs' / 'hime_vit_coco').is_dir()

    @pytest.mark.trial
    def test_torchrun(self, installed, tmp_path):
        """Two processes on CPUs, where MMEngine may not choose a GPU for each."""
        python, package = installed
        write_training(tmp_path, package / '.mim' / 'configs')
        (tmp_path / 'sitecustomize.py').write_text('import torch\ntorch.cuda.set_device = print\n')
        torchrun = (python, '-m', 'torch.distributed.run', '--nproc_per_node=2')
        log = run(
            *(*torchrun, f'--master_port={free_port()}', '-m', 'hime_mm.tools', 'train', 'tiny.py'),
            *('--launcher', 'pytorch'),
            cwd=tmp_path,
            env={**ENV, 'PYTHONPATH': str(tmp_path)},
        )
        assert 'Epoch(train) [1][2/2]' in log and 'Distributed launcher: pytorch' in log

    def test_every_tool_starts(self, installed, tmp_path):
        """With what it imports, its neighbours among that; in one process."""
        python, _ = installed
        code = """
            import contextlib, io, sys
            from hime_mm import tools
            for name in tools.find_tools():
                path = [*sys.path]
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    try:
                        tools.main([name, '-h'])
                    except SystemExit as stopped:
                        print(stopped.code)
                sys.path[:] = path
                print(name, out.getvalue().split()[:2], out.getvalue().split()[-1])
        """
        lines = run(python, '-c', '\n'.join(line[12:] for line in code.splitlines()), env=ENV)
        modules = {'demo_scenes', 'runs', 'deletions', 'leakage_page'}
        names = {path.stem for path in (ROOT / 'tools').rglob('*.py')} - modules
        for name in names:
            assert f"{name} ['usage:', '{name}.py'] 0" in lines, lines

    def test_shell_scripts_may_be_called(self, installed):
        _, package = installed
        scripts = list((package / '.mim' / 'tools').glob('*.sh'))
        assert len(scripts) == 4 and all(os.access(path, os.X_OK) for path in scripts)

    def test_openmim_finds_the_package(self, installed):
        """openmim, which is not installed here, joins the distribution's folder and its name."""
        python, package = installed
        code = 'import pkg_resources; print(pkg_resources.get_distribution("hime_mm").location)'
        location = run(python, '-W', 'ignore', '-c', code, env=ENV).splitlines()[-1]
        assert Path(location, 'hime_mm').samefile(package)

    def test_onedl_mim_does_not(self, installed):
        """Once it does, docs/install.md need not tell to install for it in editable mode."""
        python, package = installed
        code = 'from mim.utils import get_installed_path; print(get_installed_path("hime_mm"))'
        folder = run(python, '-W', 'ignore', '-c', code, env=ENV).splitlines()[-1]
        assert not Path(folder).samefile(package)
        assert not Path(folder, '.mim').exists() and not Path(folder, 'tools').exists()


class TestMim:
    """onedl-mim, for which the package is installed in editable mode."""

    def test_train_and_test(self, python, tree, tmp_path):
        write_training(tmp_path, tree / 'configs')
        mim = (python, '-m', 'mim')
        log = run(*mim, 'train', 'hime_mm', 'tiny.py', '--work-dir', 'a', cwd=tmp_path, env=ENV)
        assert 'Epoch(train) [1][4/4]' in log and 'Training finished successfully' in log
        call = ('test', 'hime_mm', 'tiny.py', '--checkpoint', 'a/epoch_1.pth')
        log = run(*mim, *call, cwd=tmp_path, env=ENV)
        assert 'Epoch(test) [4/4]' in log and 'Testing finished successfully' in log

    def test_run_and_search(self, python, tmp_path):
        mim = (python, '-m', 'mim')
        (tmp_path / 'a.json').write_text(
            '{"images": [{"id": 1}], "annotations": [{"image_id": 1}]}'
        )
        call = ('run', 'hime_mm', 'subset_coco', 'a.json', 'b.json', '--number', '1')
        run(*mim, *call, cwd=tmp_path, env=ENV)
        assert (tmp_path / 'b.json').is_file()
        assert 'pevit' in run(*mim, 'search', 'hime_mm', cwd=tmp_path, env=ENV)
