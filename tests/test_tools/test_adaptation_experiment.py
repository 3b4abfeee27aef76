# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What fine-tuning trained weights costs, with and without adapting them first."""

import argparse
import json
from dataclasses import replace

import cv2
import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from owner_data import photo, write
from scripts import load_script, run_script

from hime_mm.apis import check_config
from hime_mm.ciphers import Cipher

timm = pytest.importorskip('timm')
TOOL = 'tools/experiments/adaptation.py'


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    """Pictures of 52 classes, two of them private, some photos, and weights that know nothing."""
    root = tmp_path_factory.mktemp('adaptation')
    for split in ('train', 'test'):
        for i in range(52):
            for j in range(2 if i >= 50 else 1):
                write(root / 'data' / split / f'c{i:03d}' / f'{j}.png', photo(32 + i, 40))
    write(root / 'photos' / '0.png', photo(50, 50))
    torch.manual_seed(0)
    model = timm.create_model('vit_small_patch14_dinov2', num_classes=0)
    torch.save(model.state_dict(), root / 'weights.pth')
    return root


@pytest.fixture
def args(inputs):
    return argparse.Namespace(
        profile='cpu',
        data_root=str(inputs / 'data'),
        photos=[str(inputs / 'photos')],
        weights=str(inputs / 'weights.pth'),
        source='weights.pth',
    )


def test_rows(inputs, args, tmp_path):
    """Each is a config that passes the checks, for what its row says."""
    experiment = load_script(TOOL)
    profile = experiment.PROFILES['cpu']
    init_default_scope('mmpretrain')
    for row in experiment.ROWS:
        for start in (*experiment.STARTS, *experiment.VARIANTS, *experiment.COLD):
            if not experiment.applies(row, start):
                continue
            budget = experiment.budget(start, args)
            cfg = experiment.finetune_config(row, start, 'private', 3, args, budget, tmp_path)
            cfg = check_config(cfg)
            assert cfg.randomness.seed == 3 and cfg.model.head.num_classes == 2
            # As many passes over 4 private pictures as adapting takes over 51 public ones.
            more = dict(control=4, control_longer=12).get(start, 0) * 51 * 4 / 3 / 4
            assert cfg.train_cfg.max_epochs == 6 + more
            init = cfg.model.backbone.init_cfg.checkpoint
            own = (*experiment.ADAPTED, 'random')
            assert init.startswith(str(tmp_path)) == (start in own)
            if start == 'rpe':
                assert cfg.model.backbone.pos_encoding == 'rpe'
            if row.cipher:
                assert ('warm_start' in cfg.model.backbone) != (start in experiment.COLD)
            assert cfg.data_preprocessor.get('cipher') == row.cipher
        if row.cipher is None:
            continue
        side = Cipher(row.cipher, 14).encrypted_patch_size
        assert cfg.model.backbone.patch_size == side
        adapting = check_config(experiment.adapt_config(row, args, profile, tmp_path))
        # Not one of the pictures of the private task.
        lines = (tmp_path / 'public.txt').read_text().splitlines()
        assert len(lines) == 51 and not any('c050' in line or 'c051' in line for line in lines)
        cfg = experiment.finetune_config(row, 'adapted', 'private', 3, args, profile, tmp_path)
        warm = [one.model.backbone.warm_start for one in (cfg, adapting)]
        assert warm[0] == warm[1] and warm[0].cipher == row.cipher
        for vit in (adapting.model.backbone, adapting.model.teacher):
            vit.update(depth=1)
            vit.pop('init_cfg')
        MODELS.build(adapting.model)
        frozen = experiment.adapt_config(row, args, profile, tmp_path, 'frozen')
        assert frozen.model.backbone.frozen_stages == 6
        assert 'frozen_stages' not in adapting.model.backbone
    tests = (tmp_path / 'private' / 'test.txt').read_text().splitlines()
    assert [line.split()[1] for line in tests] == ['0', '0', '1', '1']


def test_the_profile_of_a_gpu(args, tmp_path):
    """Larger batches, at rates that grow with their root, in mixed precision."""
    experiment = load_script(TOOL)
    row = next(row for row in experiment.ROWS if row.name == 'rs')
    for make in (
        lambda profile: experiment.adapt_config(row, args, profile, tmp_path),
        lambda profile: experiment.finetune_config(
            row, 'direct', 'private', 0, args, profile, tmp_path
        ),
    ):
        small, cfg = (make(experiment.PROFILES[name]) for name in ('cpu', 'gpu'))
        loaders = [one.train_dataloader for one in (cfg, small)]
        assert loaders[0].batch_size == 4 * loaders[1].batch_size
        rates = [one.optim_wrapper.optimizer.lr for one in (cfg, small)]
        assert rates[0] == pytest.approx(2 * rates[1])
        assert (cfg.optim_wrapper.type, small.optim_wrapper.type) == (
            'AmpOptimWrapper',
            'OptimWrapper',
        )


def test_report(tmp_path, capsys):
    values = {
        'rs-direct': (50.0, 52.0),
        'rs-control': (55.0,),
        'rs-adapted': (60.0, 63.0),
        'rs-control_longer': (64.0,),
        'rs-longer': (66.0,),
        'rs-frozen': (40.0,),
        'mi2-random': (30.0,),
        'mi2-resized': (31.0,),
        'mi2-direct': (32.0,),
    }
    for name, numbers in values.items():
        for seed, top1 in enumerate(numbers):
            folder = tmp_path / 'private' / name / f'seed{seed}'
            folder.mkdir(parents=True)
            start = name.split('-')[1]
            result = dict(start=start, seed=seed, epochs=6, top1=top1, weights='w.pth')
            result |= dict(seconds=3600, curve=[[3, 1.0], [6, top1]], environment=dict(torch='1'))
            result['losses'] = [[20, 4.0], [68, top1 / 10], [212, top1 / 20]]
            (folder / 'result.json').write_text(json.dumps(result))
    folder = tmp_path / 'adapted' / 'rs'
    folder.mkdir(parents=True)
    losses = [[i, 1 / i] for i in range(1, 11)]
    (folder / 'result.json').write_text(
        json.dumps(dict(row='rs', epochs=6, seconds=120, curve=losses))
    )
    run_script(
        TOOL,
        'report',
        *('--profile', 'cpu', '--work-dir', tmp_path, '--curves', tmp_path / 'c.png'),
    )
    text = capsys.readouterr().out
    assert (
        '| RS | `shuffle` | 51.0 ± 1.4 (2) | 55.0 | 61.5 ± 2.1 (2) | 64.0 | 66.0 | +10.5 | +5.0 |'
        in text
    )
    assert 'adapted 3 times as long, then 6 epochs' in text
    assert 'adapted, to rs: 6 epochs, 2 min, loss 1.000 to 0.129' in text
    assert 'rs-frozen: 40.0 (1)' in text
    assert 'weights: w.pth' in text and '11.0 hours' in text
    cells = ('3.00 (step 68), 1.50 (step 212), 30.0', '3.10 (step 68), 1.55 (step 212), 31.0')
    assert f'| {" | ".join(cells)} |' in text
    assert cv2.imread(str(tmp_path / 'c.png')) is not None
    with pytest.raises(SystemExit, match='no results'):
        run_script(TOOL, 'report', '--profile', 'cpu', '--work-dir', tmp_path / 'none')


@pytest.mark.trial
def test_from_the_weights_to_the_table(inputs, tmp_path, monkeypatch, capsys):
    """A short profile, all but the control and the longer adaptation."""
    experiment = load_script(TOOL)
    small = replace(experiment.PROFILES['cpu'], crop=28, resize=28, epochs=2, adapt_epochs=1)
    monkeypatch.setitem(experiment.PROFILES, 'cpu', small)
    monkeypatch.setattr(
        'sys.argv',
        [
            'adaptation.py',
            *('run', '--profile', 'cpu', '--work-dir', str(tmp_path), '--seeds', '0'),
            *('--weights', str(inputs / 'weights.pth'), '--data-root', str(inputs / 'data')),
            *('--photos', str(inputs / 'photos'), '--rows', 'rs', 'plain'),
            *('--starts', 'direct', 'adapted', '--protocols', 'private'),
        ],
    )
    experiment.main()
    found = {
        str(path.parent.relative_to(tmp_path)): json.loads(path.read_text())
        for path in tmp_path.rglob('result.json')
    }
    assert sorted(found) == [
        'adapted/rs',
        'private/plain-direct-on-rs/seed0',
        'private/plain-direct/seed0',
        'private/rs-adapted-on-plain/seed0',
        'private/rs-adapted/seed0',
        'private/rs-direct/seed0',
    ]
    # Without positions the encryption makes no difference.
    adapted = found['private/rs-adapted/seed0']
    assert found['private/rs-adapted-on-plain/seed0']['top1'] == adapted['top1']
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('result.json')}
    experiment.main()
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob('result.json')}
    run_script(TOOL, 'report', '--profile', 'cpu', '--work-dir', tmp_path)
    assert f'| {adapted["top1"]:.1f} |' in capsys.readouterr().out
