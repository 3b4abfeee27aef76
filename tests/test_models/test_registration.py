# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Registered types resolve from either host, in fresh processes too."""

import os.path as osp

import mmdet.registry
import mmpretrain.registry
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from scripts import run_fresh

SMALL = dict(
    type='hime_mm.PEViT',
    arch=dict(embed_dims=8, num_layers=1, num_heads=1, feedforward_channels=8),
)


@pytest.mark.slow
@pytest.mark.parametrize('host', ['mmdet', 'mmpretrain'])
def test_without_custom_imports(host):
    run_fresh(
        f'from {host}.registry import MODELS, TRANSFORMS, HOOKS\n'
        'from mmengine.registry import init_default_scope\n'
        f'init_default_scope({host!r})\n'
        f'MODELS.build({SMALL})\n'
        "TRANSFORMS.build(dict(type='hime_mm.PatchShuffle'))\n"
        "assert HOOKS.get('hime_mm.EncryptedVisualizationHook')"
    )


def test_both_hosts_in_one_process():
    for host in (mmdet, mmpretrain, mmdet):
        with DefaultScope.overwrite_default_scope(host.__name__):
            model = host.registry.MODELS.build(SMALL)
            assert host.registry.HOOKS.get('hime_mm.EncryptedVisualizationHook')
        assert type(model).__module__ == 'hime_mm.models.backbones.pevit'


WITHOUT_TIMM = """
import importlib.metadata as metadata
import sys
find = metadata.distribution
def without_timm(name):
    if name == 'timm':
        raise metadata.PackageNotFoundError(name)
    return find(name)
metadata.distribution = without_timm
sys.modules['timm'] = None
"""
USING_TIMM = """
from hime_mm.models.backbones import TIMMPEViT
try:
    TIMMPEViT('deit_tiny_patch16_224')
except ImportError as error:
    assert 'TIMMPEViT requires timm' in str(error), error
else:
    raise AssertionError
"""


@pytest.mark.slow
def test_classification_works_where_mmdet_does_not_import():
    """Nor timm, which is asked for only where it is used."""
    out = run_fresh(
        f"{WITHOUT_TIMM}sys.modules['mmdet'] = None\n"
        'from mmpretrain.registry import MODELS, TRANSFORMS, HOOKS\n'
        'from mmengine.registry import init_default_scope\n'
        "init_default_scope('mmpretrain')\n"
        f'MODELS.build({SMALL})\n'
        "TRANSFORMS.build(dict(type='hime_mm.Encrypt', "
        "cipher='mix2+shuffle'))\n"
        "assert HOOKS.get('hime_mm.EncryptedVisualizationHook')\n"
        "assert MODELS.get('hime_mm.PEYOLOS') is None\n"
        'from mmpretrain.models.utils.batch_augments import RandomBatchAugment\n'
        "(cutmix,) = RandomBatchAugment(dict(type='hime_mm.PatchCutMix', alpha=1.)).augments\n"
        f"assert type(cutmix).__name__ == 'PatchCutMix'{USING_TIMM}"
    )
    assert 'hime_mm.PEYOLOS' in out and 'hime_mm.DetTokenHead' in out


def test_host_configs_take_the_backbone():
    """The README's override of MMPretrain's DeiT config."""
    folder = osp.join(osp.dirname(mmpretrain.__file__), '.mim/configs')
    cfg = Config.fromfile(osp.join(folder, 'deit/deit-small_4xb256_in1k.py'))
    cfg.merge_from_dict(dict(model=dict(backbone=dict(type='hime_mm.PEViT', pos_encoding='rpe'))))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = mmpretrain.registry.MODELS.build(cfg.model)
    assert len(model(torch.rand(1, 3, 224, 224))) == 1
