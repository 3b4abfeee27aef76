# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.engine.hooks import DetVisualizationHook
from mmengine.config import Config
from mmengine.logging import MMLogger

from hime_mm.apis import check_config, force_safe_loading
from hime_mm.ciphers import Cipher

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    p for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts)


@pytest.mark.parametrize('where, name', [
    ('model.backbone', 'PEViT'),
    ('train_dataloader.dataset.pipeline.4', 'Encrypt'),
    ('model', 'PEYOLOS'),
    ('default_hooks.visualization', 'EncryptedVisualizationHook'),
])
def test_unprefixed_type(where, name):
    cfg = Config.fromfile(ROOT / 'configs/hime_vit_coco.py')
    cfg.merge_from_dict({f'{where}.type': name})
    with pytest.raises(ValueError) as error:
        check_config(cfg)
    assert where in str(error.value)
    assert f"type='hime_mm.{name}'" in str(error.value)


def test_unknown_type_of_ours():
    cfg = Config(dict(model=dict(type='hime_mm.PEVit')))
    with pytest.raises(ValueError, match='no such type.*PEViT'):
        check_config(cfg)


def encrypting(**kwargs):
    pipeline = [dict(type='hime_mm.PatchShuffle'), dict(type='PackInputs')]
    return Config(
        dict(
            train_dataloader=dict(dataset=dict(pipeline=pipeline)), **kwargs))


PLAIN_HOOKS = [
    'DetVisualizationHook', 'mmpretrain.VisualizationHook',
    'mmdet.engine.hooks.DetVisualizationHook', DetVisualizationHook
]


@pytest.mark.parametrize('plain', PLAIN_HOOKS)
def test_plain_visualization_is_replaced(plain):
    hook = dict(type=plain, interval=3, backend_args=None)
    for key in ('visualization', 'vis'):
        cfg = check_config(encrypting(default_hooks={key: hook}))
        assert cfg.default_hooks[key] == dict(
            type='hime_mm.EncryptedVisualizationHook', interval=3)
    with pytest.raises(ValueError, match='custom_hooks.0'):
        check_config(encrypting(custom_hooks=[hook]))
    # Nothing to protect in a config that does not encrypt.
    cfg = Config(dict(default_hooks=dict(visualization=dict(type=plain))))
    assert check_config(cfg).default_hooks.visualization.type == plain
    assert check_config(encrypting(default_hooks=None))


@pytest.mark.parametrize('wrapper', ['RandomApply', 'mmcv.RandomChoice'])
def test_encryption_by_chance_is_refused(wrapper):
    inner = [[dict(type='hime_mm.Encrypt', cipher='mix2')]]
    cfg = Config(
        dict(pipeline=[dict(type=wrapper, transforms=inner)]))
    with pytest.raises(ValueError, match='pipeline.0.*in plain'):
        check_config(cfg)


def test_geometry_after_the_encryption_is_warned_of():
    cfg = Config(
        dict(pipeline=[
            dict(type='hime_mm.PatchShuffle'),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackInputs')
        ]))
    logger = MMLogger.get_instance('check', log_level='INFO')
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    check_config(cfg)
    logger.removeHandler(handler)
    assert any('RandomFlip works on encrypted' in line for line in lines)


@pytest.mark.parametrize('step, backbone, remedy', [
    (dict(cipher='mix4'), dict(patch_embed='mixed'), '`num_splits=4`'),
    (dict(cipher='mix2'), dict(), '`patch_size=8`'),
    (dict(cipher='mix2:tiled'), dict(patch_embed='mixed'),
     "`input_form='full'`"),
    (dict(cipher='shuffle'), dict(patch_embed='mixed'),
     "`input_form='full'`"),
    (dict(cipher='shuffle', patch_size=8), dict(), '`patch_size=8`'),
])
def test_backbone_that_does_not_fit_the_cipher(step, backbone, remedy):
    cfg = Config(
        dict(
            pipeline=[dict(type='hime_mm.Encrypt', **step)],
            model=dict(backbone=dict(type='hime_mm.PEViT', **backbone))))
    with pytest.raises(ValueError) as error:
        check_config(cfg)
    assert remedy in str(error.value) and 'pipeline.0' in str(error.value)


@pytest.mark.parametrize('step, backbone', [
    (dict(cipher='mix4'), dict(patch_embed='mixed', num_splits=4)),
    (dict(cipher='mix2'), dict(patch_size=8)),
    (dict(cipher='mix2:tiled'), dict()),
    (dict(cipher='mix2:tiled'), dict(patch_embed='mixed',
                                     input_form='full')),
    (dict(cipher='mix2+shuffle'), dict(patch_embed='mixed')),
    (dict(cipher='shuffle'), dict(pos_encoding='none')),
])
def test_backbone_that_fits_the_cipher(step, backbone):
    check_config(
        Config(
            dict(
                pipeline=[dict(type='hime_mm.Encrypt', **step)],
                model=dict(backbone=dict(type='hime_mm.PEViT', **backbone)))))


@pytest.mark.parametrize(
    'path', CONFIGS, ids=[str(p.relative_to(ROOT)) for p in CONFIGS])
def test_shipped_configs(path):
    """Each loads, checks, dumps to readable text and names a real cipher."""
    cfg = check_config(Config.fromfile(path))
    text = cfg.pretty_text
    assert Config.fromstring(text, '.py').to_dict() == cfg.to_dict()
    assert cfg.default_hooks.visualization.type == (
        'hime_mm.EncryptedVisualizationHook')
    for phase in ('train', 'val', 'test'):
        dataset = cfg[f'{phase}_dataloader'].dataset
        dataset = dataset.get('dataset', dataset)
        names = [t.type for t in dataset.pipeline]
        if 'plain' in path.name:
            assert 'hime_mm.Encrypt' not in names
            continue
        at = names.index('hime_mm.Encrypt')
        step = dataset.pipeline[at]
        Cipher.build(step.cipher, step.patch_size)
        # Nothing geometric behind it, and annotations of the file's scale
        # stay behind it at test time.
        rest = [n for n in names[at + 1:] if not n.startswith('Pack')]
        assert rest == ([] if phase == 'train' else ['LoadAnnotations'])


def test_coco_recipe():
    """The optimiser does what DESIGN's recipe says, parameter by parameter."""
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import init_default_scope
    from mmdet.registry import MODELS
    init_default_scope('mmdet')
    for name, base, embedding in (
        ('hime_vit_coco.py', 2.5e-5, 1e-4),
        ('peyolos/peyolos-small_mi2-yolos_8xb1-150e_coco.py', 1e-5, 1e-4)):
        cfg = Config.fromfile(ROOT / 'configs' / name)
        cfg.model.backbone.init_cfg = None
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        rates = {}
        for group in wrapper.optimizer.param_groups:
            for param in group['params']:
                rates[param] = (group['lr'], group['weight_decay'])
        for key, param in model.named_parameters():
            lr, decay = rates[param]
            assert lr == pytest.approx(
                embedding if '.patch_embed.' in key else base), key
            bare = key.startswith('backbone.') and (
                key.endswith('.bias') or '.ln' in key or 'token' in key
                or 'pos_embed' in key)
            assert decay == (0 if bare else 1e-4), key


def test_checkpoints_cannot_run_code(tmp_path):
    class Bomb:

        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / 'ran'), ))

    torch.save(dict(state_dict={}, bomb=Bomb()), tmp_path / 'bad.pth')
    code = ('from hime_mm.apis import force_safe_loading\n'
            'force_safe_loading()\n'
            'from mmengine.runner.checkpoint import _load_checkpoint\n'
            f'_load_checkpoint({str(tmp_path / "bad.pth")!r})')
    done = subprocess.run([sys.executable, '-c', code],
                          capture_output=True,
                          text=True,
                          cwd=ROOT,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode != 0 and 'UnpicklingError' in done.stderr
    assert not (tmp_path / 'ran').exists()


def test_nothing_inherited_weakens_loading(monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    force_safe_loading()
    assert os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] == '1'
    assert 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' not in os.environ


def test_import_alone_is_light():
    code = ('import sys, hime_mm, hime_mm.ciphers, hime_mm.datasets\n'
            'bad = [m for m in sys.modules if m.split(".")[0] in '
            '("torch", "mmengine", "mmcv", "mmdet", "mmpretrain")]\n'
            'assert not bad, bad')
    subprocess.run([sys.executable, '-c', code],
                   check=True,
                   cwd=ROOT,
                   env={**os.environ, 'PYTHONPATH': str(ROOT)})
