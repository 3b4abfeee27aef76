# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""MMPretrain's own DeiT config with a few lines of ours, by the tools."""

import itertools
import json
import math
import re
from pathlib import Path

import cv2
import pytest
import torch
from scripts import load_script, run_script, run_tools

from hime_mm.apis import check_config

CLASSES = ('Leopards', 'Motorbikes', 'sunflower')

# What a user writes: cipher and backbone.
OVERRIDE = """
_base_ = ['mmpretrain::deit/deit-tiny_4xb256_in1k.py']
data_preprocessor = dict(
    type='hime_mm.EncryptClsDataPreprocessor', cipher='shuffle')
model = dict(backbone=dict(type='hime_mm.PEViT', pos_encoding='rpe'))
"""
# Where the pictures lie, and a length for a test.
DATA = """
_train = dict(
    _delete_=True, type='CustomDataset', data_root='{root}',
    data_prefix='train', pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', scale=64, crop_ratio_range=(.6, 1.)),
        dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')])
_val = dict(
    _delete_=True, type='CustomDataset', data_root='{root}',
    data_prefix='val', pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(64, 64)), dict(type='PackInputs')])
_short = dict(num_workers=0, persistent_workers=False, batch_size=12)
train_dataloader = dict(dataset=_train, **_short)
val_dataloader = dict(dataset=_val, **_short)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator
model['backbone']['img_size'] = 64
model['head'] = dict(num_classes=3)
model['train_cfg'] = None
data_preprocessor['num_classes'] = 3
train_cfg = dict(max_epochs={epochs})
param_scheduler = dict(
    _delete_=True, type='LinearLR', start_factor=.1, end=6, by_epoch=False)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
default_hooks = dict(
    logger=dict(interval=1), visualization=dict(enable=True, interval=1))
visualizer = dict(name='{name}')
randomness = dict(seed=0)
"""


@pytest.fixture(scope='module')
def pictures(data_root, tmp_path_factory):
    """Three classes of Caltech-101, 16 + 8 pictures of each."""
    source = data_root / 'caltech101_144'
    if not source.is_dir():
        pytest.skip('no Caltech-101 among the real images')
    folder = tmp_path_factory.mktemp('pictures')
    for name, split, num in (('train', 'train', 16), ('val', 'test', 8)):
        for label in CLASSES:
            (folder / name / label).mkdir(parents=True)
            for path in sorted((source / split / label).iterdir())[:num]:
                (folder / name / label / path.name).symlink_to(path)
    return folder


def config(folder, pictures, name, epochs, cipher='shuffle', pos='rpe'):
    text = OVERRIDE.replace("'shuffle'", repr(cipher)).replace("'rpe'", repr(pos))
    path = folder / f'{name}.py'
    path.write_text(text + DATA.format(root=pictures, name=name, epochs=epochs))
    return str(path)


def logged(folder, key):
    lines = []
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        lines += [json.loads(line) for line in path.read_text().splitlines() if f'"{key}"' in line]
    return [line[key] for line in lines]


@pytest.fixture(scope='module')
def trained(pictures, tmp_path_factory):
    """Trained for three epochs, then resumed for the rest."""
    folder = tmp_path_factory.mktemp('runs')
    work = folder / 'work'
    logs = run_tools(
        ('tools/train.py', config(folder, pictures, 'first', 3), '--work-dir', work),
        ('tools/train.py', config(folder, pictures, 'all', 8), '--work-dir', work, '--resume'),
    )
    return folder, work, logs


@pytest.mark.slow
def test_trains_validates_and_resumes(trained):
    _, work, logs = trained
    assert 'resumed epoch: 3' in logs[1]
    assert (work / 'last_checkpoint').read_text().endswith('epoch_8.pth')
    losses = logged(work, 'loss')
    assert len(losses) == 8 * 4
    assert sum(losses[-4:]) < sum(losses[:4])
    top1 = logged(work, 'accuracy/top1')
    assert len(top1) == 8
    # Chance is 33 %.
    assert max(top1) >= 50
    state = torch.load(work / 'epoch_8.pth', weights_only=False)['state_dict']
    assert not any('data_preprocessor' in key for key in state)


@pytest.mark.slow
def test_only_encrypted_pictures_are_shown(trained):
    """The host's hook would draw the plain batch."""
    _, work, logs = trained
    assert 'hime_mm.EncryptedVisualizationHook' in logs[0]
    shown = sorted(work.glob('*/vis_data/vis_image/*.png'))
    assert shown
    # Neighbouring pixels differ more across the borders of shuffled patches.
    at_border = inside = 0.0
    for path in shown:
        img = cv2.imread(str(path)).astype(float)
        side = 16 * (img.shape[1] // 64)
        step = abs(img[:, 1:] - img[:, :-1]).mean((0, 2))
        at_border += step[side - 1 :: side].mean()
        inside += step[side // 2 - 1 :: side].mean()
    assert at_border > 1.5 * inside


@pytest.mark.slow
def test_accuracy_does_not_depend_on_the_permutations(trained, pictures):
    """Same weights: other permutations, none at all, positions."""
    folder, work, _ = trained
    weights = work / 'epoch_8.pth'
    outs = [folder / f'out{i}.pkl' for i in range(3)]
    top1 = []
    calls = []
    for i, cipher in enumerate(['shuffle', 'shuffle']):
        calls.append(
            (
                'tools/test.py',
                config(folder, pictures, f'test{i}', 8, cipher),
                weights,
                '--out',
                outs[i],
                '--work-dir',
                folder / f'test{i}',
            )
        )
    plain = Path(config(folder, pictures, 'test2', 8))
    plain.write_text(
        plain.read_text().replace(
            "data_preprocessor = dict(\n    type='hime_mm."
            "EncryptClsDataPreprocessor', cipher='shuffle')",
            'data_preprocessor = dict()',
        )
    )
    calls.append(
        ('tools/test.py', plain, weights, '--out', outs[2], '--work-dir', folder / 'test2')
    )
    top1 = re.findall(r'accuracy/top1: ([\d.]+)', ''.join(run_tools(*calls)))
    assert len(set(top1)) == 1 and len(top1) == 3
    from mmengine.fileio import load

    scores = [
        torch.stack([torch.as_tensor(s['pred_score']) for s in load(str(out))]) for out in outs
    ]
    assert len(scores[0]) == 24
    for other in scores[1:]:
        torch.testing.assert_close(scores[0], other, rtol=0, atol=1e-5)
    # Rounding differs, so the permutations were not the same.
    assert not torch.equal(scores[0], scores[1])


def test_browse_shows_what_the_device_will_encrypt(pictures, tmp_path):
    run_script(
        'tools/browse_dataset.py',
        config(tmp_path, pictures, 'browse', 1, 'mix2:tiled', 'learned'),
        '-n',
        '2',
        '--no-original',
        '-o',
        tmp_path / 'shown',
    )
    shown = sorted((tmp_path / 'shown').iterdir())
    assert len(shown) == 2
    for path in shown:
        # A caption stands above the image.
        img = cv2.imread(str(path))[-64:, :64]
        blocks = img.reshape(4, 2, 8, 4, 2, 8, 3)
        assert (blocks[:, :1] == blocks[:, 1:]).all()
        assert (blocks[:, :, :, :, :1] == blocks[:, :, :, :, 1:]).all()
        assert img.std() > 5


@pytest.mark.trial
def test_experiment(pictures, tmp_path):
    """Two rows of the table, one of them a control, and the report."""
    (tmp_path / 'data').mkdir()
    for name, split in (('train', 'train'), ('test', 'val')):
        (tmp_path / 'data' / name).symlink_to(pictures / split)
    options = ('--profile', 'cpu', '--work-dir', tmp_path / 'out')
    start = (
        'tools/experiments/caltech101.py',
        'run',
        '--data-root',
        tmp_path / 'data',
        '--seeds',
        '3',
        '--rows',
        'rs_rpe',
        'rs_rpe_on_plain',
        *options,
    )
    run_tools(start)
    results = {
        path.parents[1].name: json.loads(path.read_text())
        for path in (tmp_path / 'out').rglob('result.json')
    }
    assert sorted(results) == ['rs_rpe', 'rs_rpe_on_plain']
    trained, control = results.values()
    if trained['row'] != 'rs_rpe':
        trained, control = control, trained
    assert [epoch for epoch, _ in trained['curve']] == [3, 6, 9, 12]
    assert trained['curve'][-1][1] == trained['top1']
    # Without positions the encryption makes no difference.
    assert control['top1'] == trained['top1']
    assert trained['environment']['torch'] == torch.__version__
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*.json')}
    _, text = run_tools(
        start,
        (
            'tools/experiments/caltech101.py',
            'report',
            '--curves',
            tmp_path / 'curves.png',
            *options,
        ),
    )
    # What is there is not done again.
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*.json')}
    assert f'| RS + RPE | `shuffle` | {trained["top1"]:.1f} |' in text
    assert '| MI, g = 2 | `mix2` | not run |' in text
    assert cv2.imread(str(tmp_path / 'curves.png')) is not None
    # Other settings do not go under the same name.
    settings = tmp_path / 'out/rs_rpe/seed3.py'
    settings.write_text(settings.read_text().replace('lr=0.002', 'lr=0.003'))
    with pytest.raises(RuntimeError, match=re.escape(str(settings))):
        run_script(*start)


def test_experiment_goes_on_and_reports(tmp_path, capsys, quick_dumps):
    """Runs that are there are not done again, under the same settings."""
    tool = 'tools/experiments/caltech101.py'
    experiment = load_script(tool)
    out, data = tmp_path / 'out', tmp_path / 'data'
    for split in ('train', 'test'):
        (data / split).mkdir(parents=True)
    rows = {'rs_rpe': 61.25, 'plain': 70.5, 'rs_rpe_on_plain': 61.25}
    for row in experiment.ROWS:
        if row.name not in rows:
            continue
        cfg = experiment.row_config(row, 3, experiment.PROFILES['cpu'], f'{data}/')
        (out / row.name / 'seed3').mkdir(parents=True)
        (out / row.name / 'seed3.py').write_text(cfg.pretty_text)
        result = dict(
            top1=rows[row.name], top5=90.0, seconds=1800, curve=[[3, 1.0], [6, 2.0]], environment={}
        )
        (out / row.name / 'seed3/result.json').write_text(json.dumps(result))
    options = ('--profile', 'cpu', '--work-dir', out)
    start = (tool, 'run', '--data-root', data, '--seeds', '3', '--rows', *rows, *options)
    run_script(*start)
    run_script(tool, 'report', '--curves', tmp_path / 'curves.png', *options)
    text = capsys.readouterr().out
    assert '| RS + RPE | `shuffle` | 61.2 | -9.2 | 90.0 | 1 |' in text
    assert '| MI, g = 2 | `mix2` | not run |' in text
    assert '1.5 hours' in text
    assert cv2.imread(str(tmp_path / 'curves.png')) is not None
    settings = out / 'rs_rpe/seed3.py'
    settings.write_text(settings.read_text().replace('lr=0.002', 'lr=0.003'))
    with pytest.raises(RuntimeError, match=re.escape(str(settings))):
        run_script(*start)


@pytest.mark.slow
def test_experiment_rows():
    """Each is a config that passes the checks; controls test what they name."""
    experiment = load_script('tools/experiments/caltech101.py')
    for row in experiment.ROWS:
        cfg = check_config(experiment.row_config(row, 3, experiment.PROFILES['cpu'], 'data/'))
        assert cfg.randomness.seed == 3
        for phase in ('train', 'val', 'test'):
            steps = cfg[f'{phase}_dataloader'].dataset.pipeline
            ciphers = [step['cipher'] for step in steps if step['type'] == 'hime_mm.Encrypt']
            assert ciphers == [row.cipher] * (row.cipher is not None)


def test_experiment_refuses(tmp_path):
    tool = 'tools/experiments/caltech101.py'
    for args, named in ((['--rows', 'nothing'], "'nothing'"), ([], "'train'")):
        with pytest.raises(SystemExit, match=named):
            run_script(tool, 'run', '--data-root', tmp_path, *args)


@pytest.mark.slow
def test_benchmark_prints_its_table(capsys):
    run_script(
        'tools/benchmarks/benchmark_training.py',
        '--size',
        'tiny',
        '--batch',
        '1',
        '--cipher-batch',
        '2',
        '--repeats',
        '1',
        '--ciphers',
        'shuffle',
        'mix2',
        '--device',
        'cpu',
    )
    text = capsys.readouterr().out
    for line in (
        "MMPretrain's DeiT",
        'PEViT, RPE ',
        'no cipher, with Mixup',
        'mix2, with Mixup',
        'PEViT, RPE <= 1.03 x plain',
        'shuffle <= 2% of a step',
    ):
        assert line in text, text
    verdicts = re.findall(r'<= (\S+).* best ([-\d.]+)%?, median ([-\d.]+)%?: (.*)', text)
    assert len(verdicts) == 2
    for goal, best, median, said in verdicts:
        worst, limit = max(float(best), float(median)), float(goal.strip('%'))
        # Printed rounded: what equals the limit may have been on either side.
        assert worst == limit or said == ('reached' if worst < limit else 'not reached')


def test_benchmark_says_reached_of_both_ratios_only():
    tool = load_script('tools/benchmarks/benchmark_training.py')
    limit = tool.STEP_GOAL
    numbers = (-0.01, 0.9, math.nextafter(limit, 0), limit, math.nextafter(limit, 2), 1.125, 9.0)
    for best, median in itertools.product((*numbers, math.inf, math.nan), repeat=2):
        # A number that is no number is within no limit.
        within = not math.isnan(best + median) and max(best, median) <= limit
        assert tool.verdict(best, median, limit) == ('reached' if within else 'not reached')
    assert tool.verdict(1.125, 1.0, limit) == tool.verdict(1.0, 1.125, limit) == 'not reached'
