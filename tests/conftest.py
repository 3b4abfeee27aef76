# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import functools
import gc
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from scripts import load_script

# Timings on shared machines vary too much for a deadline.
settings.register_profile('dev', deadline=None)
settings.register_profile('ci', deadline=None, derandomize=True)
settings.load_profile('ci' if os.environ.get('CI') else 'dev')


def pytest_configure():
    # To look for garbage takes as long as all else that collecting tests does.
    gc.disable()


def pytest_collection_finish():
    gc.enable()


@pytest.fixture(autouse=True)
def no_default_scope():
    """No test finds, or leaves, a default scope of MMEngine."""
    registry = sys.modules.get('mmengine.registry')
    if registry is not None:
        registry.DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True, scope='module')
def frozen_imports():
    """Garbage is not looked for in imported modules: MMEngine's data sets collect it each time."""
    gc.freeze()


@pytest.fixture(autouse=True, scope='module')
def read_once():
    """MMEngine reads all metafiles of a package for each config of it: once does."""
    utils = sys.modules.get('mmengine.config.utils')
    if utils is not None and not hasattr(utils.load, 'cache_info'):
        utils.load = functools.cache(utils.load)


@pytest.fixture
def quick_dumps(monkeypatch):
    """Configs are dumped unformatted, which spares half a second each."""
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, True))


@pytest.fixture(scope='session')
def data_root() -> Path:
    """Folder of real images; ``HIME_MM_TEST_DATA`` names another one."""
    default = Path(__file__).resolve().parents[2] / 'shared' / 'data'
    root = Path(os.environ.get('HIME_MM_TEST_DATA') or default)
    if not root.is_dir():
        pytest.skip('no folder with real images: set HIME_MM_TEST_DATA')
    return root


@pytest.fixture(scope='session')
def coco_tiny(data_root) -> Path:
    """A few COCO 2017 images with their annotations."""
    root = data_root / 'coco_tiny'
    if not (root / 'annotations' / 'instances_val2017.json').is_file():
        pytest.skip(f'no COCO data set in the folder {root.name!r}')
    return root


@pytest.fixture(scope='session')
def coco_like(tmp_path_factory) -> Path:
    """COCO images, or the demo data set laid out in the same way."""
    name = os.environ.get('HIME_MM_TEST_DATA') or (
        Path(__file__).resolve().parents[2] / 'shared' / 'data'
    )
    real = Path(name) / 'coco_tiny'
    if (real / 'annotations' / 'instances_val2017.json').is_file():
        return real
    from mmdet.datasets import CocoDataset

    names = CocoDataset.METAINFO['classes']
    folder = tmp_path_factory.mktemp('coco_like')
    scenes = load_script('tools/demo_scenes.py')
    demo = scenes.make_demo_coco(folder / 'demo', 12, 8, size=320)
    (folder / 'annotations').mkdir()
    for split in ('train', 'val'):
        (folder / f'{split}2017').symlink_to(demo / split)
        path = f'annotations/instances_{split}'
        coco = json.loads((demo / f'{path}.json').read_text())
        ids = {
            c['id']: names.index(c['name'].replace('coin', 'sports ball')) + 1
            for c in coco['categories']
        }
        for ann in coco['annotations']:
            ann['category_id'] = ids[ann['category_id']]
        coco['categories'] = [dict(id=i + 1, name=name) for i, name in enumerate(names)]
        (folder / f'{path}2017.json').write_text(json.dumps(coco))
    return folder


@pytest.fixture(scope='session')
def make_image():
    """Random images that use the whole range of their dtype."""

    def make(shape, dtype=np.uint8, seed=0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        dtype = np.dtype(dtype)
        if dtype.kind == 'u':
            return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
        return rng.normal(0, 100, shape).astype(dtype)

    return make
