# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import shutil

import pytest
from owner_data import make_coco


@pytest.fixture(scope='module')
def coco_src(tmp_path_factory):
    """Read only."""
    return make_coco(tmp_path_factory.mktemp('coco') / 'src')


@pytest.fixture
def own_src(coco_src, tmp_path):
    """For tests that change it."""
    return shutil.copytree(coco_src, tmp_path / 'own')
