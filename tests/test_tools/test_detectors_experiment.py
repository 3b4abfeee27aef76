# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The experiment that compares two detectors for MI."""

import json
import re
from copy import deepcopy
from functools import cache

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from scripts import load_script, run_script

from hime_mm.apis import check_config
from hime_mm.registry import MODELS

TOOL = 'tools/experiments/detectors.py'
experiment = load_script(TOOL)
ROWS = {row.name: row for row in experiment.ROWS}
#: A ViT-S made narrow: for timm, and for MMPretrain.
TIMM = dict(embed_dim=48, num_heads=3)
NARROW = dict(embed_dims=48, num_layers=6, num_heads=3, feedforward_channels=192)
READ = cache(Config.fromfile)


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    """The two configs that all rows build on are read once."""
    monkeypatch.setattr(Config, 'fromfile', lambda path: deepcopy(READ(path)))


@pytest.fixture
def hosts_scope():
    """The default scope of the configs."""
    from mmdet.utils import register_all_modules

    register_all_modules()


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Weights under timm's names, and with a patch embedding of 8 pixels."""
    import timm

    folder = tmp_path_factory.mktemp('weights')
    torch.manual_seed(0)
    vit = timm.create_model('vit_small_patch14_dinov2', num_classes=0, img_size=112, **TIMM)
    for param in vit.parameters():
        torch.nn.init.normal_(param, std=0.1)
    torch.save(vit.state_dict(), folder / 'vit.pth')
    return str(folder / 'vit.pth'), experiment.resample(
        str(folder / 'vit.pth'), 8, 6, folder / 'out/patch8.pth'
    )


def row_config(name, files, dataset='bccd', seed=3):
    return experiment.row_config(ROWS[name], seed, dataset, 'data/', *files)


def build(name, files):
    cfg = row_config(name, files)
    if name == 'pedino':
        cfg.model.backbone.update(TIMM)
        cfg.model.neck.in_channels = [48] * len(cfg.model.neck.in_channels)
    else:
        cfg.model.backbone.arch = NARROW
        cfg.model.bbox_head.embed_dims = 48
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model, cfg


@pytest.mark.parametrize('dataset', sorted(experiment.CONFIGS))
def test_rows_differ_by_what_reads_the_vit(dataset, files):
    one, other = (check_config(row_config(name, files, dataset)) for name in ROWS)
    for key in ('train_dataloader', 'val_dataloader', 'val_evaluator', 'randomness'):
        assert one[key] == other[key]
    assert one.model.data_preprocessor == other.model.data_preprocessor
    assert one.weights_sha256 == other.weights_sha256
    for cfg in (one, other):
        steps = cfg.train_dataloader.dataset.pipeline
        (cipher,) = (step for step in steps if step.type == 'hime_mm.Encrypt')
        assert cipher.cipher == 'mix2' and cipher.randomness == 'numpy'
        epochs = cfg.train_cfg.max_epochs
        assert epochs == cfg.param_scheduler[1].T_max and epochs % cfg.train_cfg.val_interval == 0
    assert one.train_cfg.max_epochs != other.train_cfg.max_epochs
    assert one.model.backbone.drop_path_rate == other.model.backbone.drop_path_rate


def test_both_start_from_the_same_vit(files, hosts_scope):
    """All weights arrive; the maps of the last layer are the same."""
    (yolos, _), (dino, _) = (build(name, files) for name in ('peyolos', 'pedino'))
    first, second = yolos.backbone.eval(), dino.backbone.eval()
    given = torch.load(files[0])
    own = second.timm_model.state_dict()
    same = [key for key in own if key.startswith(('blocks.', 'cls_token'))]
    assert len(same) == 6 * 14 + 1 and all(torch.equal(own[key], given[key]) for key in same)
    assert torch.equal(first.ln1.weight, given['norm.weight'])
    # Without what the other has not; and the two interpolate positions a little differently.
    first.det_token = first.det_pos_embed = None
    first.out_type, first.num_det_tokens, first.final_norm = 'featmap', 0, False
    torch.nn.init.zeros_(first.pos_embed)
    torch.nn.init.zeros_(second.timm_model.pos_embed)
    with torch.no_grad():
        x = torch.randn(1, 3, 120, 160)
        torch.testing.assert_close(first(x)[-1], second(x)[-1], rtol=1e-3, atol=1e-3)


def test_the_vit_learns_at_the_same_rates(files, hosts_scope):
    rates = {}
    for name in ROWS:
        model, cfg = build(name, files)
        names = {id(param): key for key, param in model.named_parameters()}
        optim = build_optim_wrapper(model, cfg.optim_wrapper)
        rates[name] = {
            names[id(param)]: group['lr']
            for group in optim.param_groups
            for param in group['params']
            if id(param) in names
        }
    yolos, dino = rates['peyolos'], rates['pedino']
    for i in range(6):
        twins = f'backbone.layers.{i}.ln1.weight', f'backbone.timm_model.blocks.{i}.norm1.weight'
        assert yolos[twins[0]] == pytest.approx(dino[twins[1]])
    for here, there in (('cls_token', 'cls_token'), ('patch_embed.projection.bias',) * 2):
        there = there.replace('projection', 'proj')
        assert yolos[f'backbone.{here}'] == pytest.approx(dino[f'backbone.timm_model.{there}'])
    new = [key for key in yolos if 'det_' in key or key.startswith('bbox_head')]
    assert len(new) == 14 and {yolos[key] for key in new} == {experiment.YOLOS_LR}


def test_time_takes_turns(files, monkeypatch, capsys, tmp_path):
    """What is printed is the time of an epoch, and of the whole training."""
    monkeypatch.setattr(experiment, '_settings', lambda args: ('bccd', 'data/', *files))
    monkeypatch.setattr(experiment, 'seconds_per_epoch', lambda *args: [30.0, 60.0])
    args = type('Args', (), dict(dataset='bccd', steps=2, work_dir=tmp_path))
    threads = torch.get_num_threads()
    experiment.measure(args)
    torch.set_num_threads(threads)
    out = capsys.readouterr().out
    epochs = experiment.EQUAL['bccd']
    assert f'PEYOLOS: 30.0 s of CPU time an epoch, {epochs["peyolos"]} epochs ' in out
    assert f'{epochs["pedino"]} epochs {float(epochs["pedino"]):.1f} minutes' in out


def test_refuses(tmp_path, files):
    call = ('run', '--dataset', 'bccd', '--data-root', tmp_path)
    with pytest.raises(SystemExit, match='absent.pth'):
        run_script(TOOL, *call, '--weights', 'absent.pth')
    with pytest.raises(SystemExit, match='instances_train.json'):
        run_script(TOOL, *call, '--weights', files[0])


def test_report(tmp_path, capsys):
    """Equal time is there to be seen, and so is what was not run."""
    options = ('report', '--dataset', 'bccd', '--work-dir', tmp_path)
    run = dict(ap_50=0.5, ap_75=0.25, weights='abc', seconds=90, cpu_seconds=60)
    run['environment'] = dict(torch='2')
    for name, ap, epochs in (('peyolos', 0.125, 20), ('pedino', 0.375, 12)):
        folder = tmp_path / name / 'seed0'
        folder.mkdir(parents=True)
        (folder / 'result.json').write_text(json.dumps(dict(run, ap=ap, epochs=epochs)))
    run_script(TOOL, *options)
    text = capsys.readouterr().out
    assert '| PEDINO | 0.375 | +0.250 | 0.500 | 0.250 | 12 | 1.0 | 1.5 | 1 |' in text
    assert re.search('weights: SHA-256 abc\n', text)
    (tmp_path / 'pedino/seed0/result.json').unlink()
    run_script(TOOL, *options)
    assert '| PEDINO | not run |' in capsys.readouterr().out
