# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

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


@pytest.mark.parametrize('plain', ['DetVisualizationHook',
                                   'mmpretrain.VisualizationHook'])
def test_plain_visualization_is_replaced(plain):
    pipeline = [dict(type='hime_mm.PatchShuffle')]
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=dict(pipeline=pipeline)),
            default_hooks=dict(
                visualization=dict(
                    type=plain, interval=3, backend_args=None))))
    check_config(cfg)
    assert cfg.default_hooks.visualization == dict(
        type='hime_mm.EncryptedVisualizationHook', interval=3)
    # Nothing to protect in a config that does not encrypt.
    cfg = Config(dict(default_hooks=dict(visualization=dict(type=plain))))
    assert check_config(cfg).default_hooks.visualization.type == plain


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


def test_force_safe_loading_keeps_the_users_choice(monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')
    force_safe_loading()
    assert os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] == '0'


def test_import_alone_is_light():
    code = ('import sys, hime_mm, hime_mm.ciphers, hime_mm.datasets\n'
            'bad = [m for m in sys.modules if m.split(".")[0] in '
            '("torch", "mmengine", "mmcv", "mmdet", "mmpretrain")]\n'
            'assert not bad, bad')
    subprocess.run([sys.executable, '-c', code],
                   check=True,
                   cwd=ROOT,
                   env={**os.environ, 'PYTHONPATH': str(ROOT)})
