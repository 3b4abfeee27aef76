# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What `pip install` promises, without a network."""

import importlib.metadata
import os
import re
import shutil
import sys
import sysconfig
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest
from building import (
    PIP_ENV,
    ROOT,
    copy_sources,
    install,
    metadata_of,
    mim_of,
    pip_wheel,
    resources_of,
    run,
)
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow


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
        install(venv / 'bin' / 'python', wheel)
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
            'hime-000000.json',
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
        assert len(tree(tmp_path / 'views')) == 10
