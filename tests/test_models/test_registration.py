# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Registered types resolve from either host, in fresh processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = (
    "dict(type='hime_mm.PEViT', arch=dict(embed_dims=8, num_layers=1, "
    'num_heads=1, feedforward_channels=8))'
)


def run(code):
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize('host', ['mmdet', 'mmpretrain'])
def test_without_custom_imports(host):
    run(
        f'from {host}.registry import MODELS, TRANSFORMS, HOOKS\n'
        'from mmengine.registry import init_default_scope\n'
        f'init_default_scope({host!r})\n'
        f'MODELS.build({SMALL})\n'
        "TRANSFORMS.build(dict(type='hime_mm.PatchShuffle'))\n"
        "assert HOOKS.get('hime_mm.EncryptedVisualizationHook')"
    )


def test_both_hosts_in_one_process():
    run(
        'from mmengine.registry import DefaultScope\n'
        'import mmdet.registry, mmpretrain.registry\n'
        'for host in (mmdet, mmpretrain, mmdet):\n'
        '    with DefaultScope.overwrite_default_scope(host.__name__):\n'
        f'        model = host.registry.MODELS.build({SMALL})\n'
        '    assert type(model).__module__ == '
        "'hime_mm.models.backbones.pevit'"
    )


def test_classification_works_where_mmdet_does_not_import():
    out = run(
        "import sys; sys.modules['mmdet'] = None\n"
        'from mmpretrain.registry import MODELS, TRANSFORMS\n'
        'from mmengine.registry import init_default_scope\n'
        "init_default_scope('mmpretrain')\n"
        f'MODELS.build({SMALL})\n'
        "TRANSFORMS.build(dict(type='hime_mm.Encrypt', "
        "cipher='mix2+shuffle'))\n"
        "assert MODELS.get('hime_mm.PEYOLOS') is None"
    )
    assert 'hime_mm.PEYOLOS and hime_mm.DetTokenHead are not regist' in out


def test_host_configs_take_the_backbone():
    """The README's override of MMPretrain's DeiT config."""
    run(
        'from mmengine.config import Config\n'
        'from mmengine.registry import init_default_scope\n'
        'from mmpretrain.registry import MODELS\n'
        'import os.path as osp, mmpretrain, torch\n'
        'cfg = Config.fromfile(osp.join(osp.dirname(mmpretrain.__file__), '
        "'.mim/configs/deit/deit-small_4xb256_in1k.py'))\n"
        'cfg.merge_from_dict(dict(model=dict(backbone=dict('
        "type='hime_mm.PEViT', pos_encoding='rpe'))))\n"
        "init_default_scope('mmpretrain')\n"
        'model = MODELS.build(cfg.model)\n'
        'assert model(torch.rand(1, 3, 224, 224)).__len__() == 1'
    )
