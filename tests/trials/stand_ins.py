# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A plugin of pytest, for tests of the hosts beside installed hosts.

Where `HIME_STAND_INS` names a file, tests that name a class of a host get ours, and
which of ours were built is written to it. `hosts.py` runs them.
"""

import os
from pathlib import Path

import mmdet.models.dense_heads
import mmdet.registry
import mmdet.testing._utils
import mmpretrain.models
import mmpretrain.registry

from hime_mm.models import DetTokenHead, EncryptClsDataPreprocessor, PEViT

built = set()


class VisionTransformer(PEViT):
    def __init__(self, *args, **kwargs):
        built.add('VisionTransformer')
        super().__init__(*args, pos_encoding='learned', **kwargs)


class ClsDataPreprocessor(EncryptClsDataPreprocessor):
    def __init__(self, **kwargs):
        built.add('ClsDataPreprocessor')
        super().__init__(None, **kwargs)


class DETRHead(DetTokenHead):
    def __init__(self, *args, **kwargs):
        built.add('DETRHead')
        super().__init__(*args, **kwargs)


def put_in(stand_in, registry, *modules) -> None:
    registry.register_module(module=stand_in, force=True)
    for module in modules:
        setattr(module, stand_in.__name__, stand_in)


FILE = os.environ.get('HIME_STAND_INS')
if FILE:
    put_in(
        VisionTransformer,
        mmpretrain.registry.MODELS,
        mmpretrain.models,
        mmpretrain.models.backbones,
    )
    put_in(ClsDataPreprocessor, mmpretrain.registry.MODELS, mmpretrain.models)
    put_in(DETRHead, mmdet.registry.MODELS, mmdet.models, mmdet.models.dense_heads)
# It looks beside a checkout's package.
CONFIGS = Path(mmdet.__file__).with_name('.mim') / 'configs'
mmdet.testing._utils._get_config_directory = lambda: str(CONFIGS)


def pytest_sessionfinish(session) -> None:
    if FILE:
        Path(FILE).write_text('\n'.join(sorted(built)))
