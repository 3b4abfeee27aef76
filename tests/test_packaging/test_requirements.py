# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the package asks for, and what `make env` pins."""

import re
import sys
from email.parser import Parser

import pytest
from building import ROOT, copy_sources, run
from packaging.requirements import Requirement


@pytest.fixture(scope='module')
def metadata(tmp_path_factory):
    """The METADATA that a wheel gets, without the wheel."""
    source = copy_sources(tmp_path_factory.mktemp('source') / 'hime_mm')
    code = (
        'from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_wheel("."))'
    )
    folder = run(sys.executable, '-W', 'ignore', '-c', code, cwd=source).splitlines()[-1]
    return Parser().parsestr((source / folder / 'METADATA').read_text())


def pins_of(name):
    """Return ``{package: {versions}}`` of a requirement file."""
    pins = {}
    for line in (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines():
        match = re.match(r'([\w.-]+)==([^\s;]+)', line)
        if match:
            package = re.sub('[-_.]+', '-', match.group(1)).lower()
            pins.setdefault(package, set()).add(match.group(2))
    return pins


def test_metadata(metadata):
    namespace = {}
    exec((ROOT / 'hime_mm' / 'version.py').read_text(), namespace)
    assert metadata['Name'] == 'hime-mm'
    assert metadata['Version'] == namespace['__version__']
    assert metadata['Requires-Python'] == '>=3.10'


def test_only_extras_name_openmmlab_packages(metadata):
    # Upstream's and the maintained distributions install the same folders: the user chooses.
    requirements = metadata.get_all('Requires-Dist')
    core = [r for r in requirements if 'extra ==' not in r]
    assert core and not [r for r in core if re.match(r'(onedl-)?(mm|torch|openmim)', r)]
    for extra in ('mim', 'mminstall'):
        names = {
            re.match(r'[\w-]+', r).group()
            for r in requirements
            if re.search(f'extra == .{extra}.$', r)
        }
        assert names == {'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmengine', 'onedl-mmpretrain'}


def test_pins_are_what_the_package_asks_for(metadata):
    pins = pins_of('constraints')
    for requirement in map(Requirement, metadata.get_all('Requires-Dist')):
        versions = pins[requirement.name]
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_constraints_agree_with_the_pins():
    constraints = pins_of('constraints')
    for name in ('build', 'mmcv', 'pinned'):
        for package, versions in pins_of(name).items():
            assert constraints.get(package) == versions, package


def test_cv2_needs_no_display_library():
    # opencv-python's would need libGL, which a server does not have.
    import cv2.version

    assert cv2.version.headless
