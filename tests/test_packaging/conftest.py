# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import pytest
from building import copy_sources, install, make_venv, pip_wheel


@pytest.fixture(scope='session')
def source(tmp_path_factory):
    return copy_sources(tmp_path_factory.mktemp('source') / 'hime_mm')


@pytest.fixture(scope='session')
def wheel(source, tmp_path_factory):
    return pip_wheel(source, tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='session')
def tree(tmp_path_factory):
    return copy_sources(tmp_path_factory.mktemp('editable') / 'hime_mm')


@pytest.fixture(scope='session')
def python(tree, tmp_path_factory):
    """A new environment that sees this one's packages, with the tree installed twice."""
    python = make_venv(tmp_path_factory.mktemp('venv'))
    for _ in range(2):
        install(python, '--no-build-isolation', '-e', tree)
    return python
