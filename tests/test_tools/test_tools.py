# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The tools, in this process; whole runs as a person calls them are slow."""

import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from scripts import ROOT, load_script, run_script, run_tools

from hime_mm.errors import ConfigError
from hime_mm.transforms import Encrypt

CONFIG = ROOT / 'configs/hime_vit_coco.py'


@pytest.fixture(scope='module')
def coco(coco_like, tmp_path_factory):
    """Eight training and four validation images of COCO."""
    folder = tmp_path_factory.mktemp('coco')
    for split, num in (('train', 8), ('val', 4)):
        run_script(
            'tools/dataset_converters/subset_coco.py',
            coco_like / f'annotations/instances_{split}2017.json',
            folder / f'annotations/instances_{split}2017.json',
            '--number',
            num,
        )
        (folder / f'{split}2017').symlink_to(coco_like / f'{split}2017')
    return folder


def paths_and_sizes(coco):
    """Overrides of the COCO config for paths, sizes and length only."""
    root = f'{coco}/'
    val = f'{coco}/annotations/instances_val2017.json'
    pipeline = 'train_dataloader.dataset.pipeline.3.transforms'
    return [
        '--cfg-options',
        f'train_dataloader.dataset.data_root={root}',
        f'val_dataloader.dataset.data_root={root}',
        f'test_dataloader.dataset.data_root={root}',
        f'val_evaluator.ann_file={val}',
        f'test_evaluator.ann_file={val}',
        'model.backbone.init_cfg=None',
        f'{pipeline}.0.0.scales=[(112,192),(128,192)]',
        f'{pipeline}.1.0.scales=[(112,192)]',
        f'{pipeline}.1.1.crop_size=(96,128)',
        f'{pipeline}.1.2.scales=[(112,192),(128,192)]',
        'val_dataloader.dataset.pipeline.1.scale=(192,128)',
        'test_dataloader.dataset.pipeline.1.scale=(192,128)',
        'default_hooks.logger.interval=2',
    ]


@pytest.fixture(scope='module')
def trained(coco, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('work')
    (log,) = run_tools(
        (
            'tools/train.py',
            CONFIG,
            '--work-dir',
            work_dir,
            *paths_and_sizes(coco),
            'train_cfg.max_epochs=1',
        )
    )
    return work_dir, log


@pytest.fixture(scope='module')
def later(trained, coco, tmp_path_factory):
    """What a later process makes of it: resumed, tested, tested again."""
    work_dir, _ = trained
    out = tmp_path_factory.mktemp('test')
    test = ('tools/test.py', CONFIG, work_dir / 'epoch_1.pth', '--work-dir', out, '--out')
    logs = run_tools(
        (
            'tools/train.py',
            CONFIG,
            '--work-dir',
            work_dir,
            '--resume',
            *paths_and_sizes(coco),
            'train_cfg.max_epochs=2',
        ),
        (
            *test,
            out / 'pred.pkl',
            '--show-dir',
            'shown',
            *paths_and_sizes(coco),
            'visualizer.name=test',
        ),
        (
            *test,
            out / 'metrics.json',
            '--out-item',
            'metrics',
            *paths_and_sizes(coco),
            'visualizer.name=metrics',
        ),
    )
    return out, logs


@pytest.mark.slow
def test_coco_config_trains(trained):
    work_dir, log = trained
    assert (work_dir / 'epoch_1.pth').is_file()
    losses = [float(v) for v in re.findall(r' loss: ([\d.]+)', log)]
    assert len(losses) == 4 and all(0 < v < 100 for v in losses)
    assert 'coco/bbox_mAP_50' in log
    # The dump is a readable config that gives the same run.
    (dumped,) = work_dir.glob('hime_vit_coco.py')
    cfg = Config.fromfile(dumped)
    assert cfg.train_dataloader.dataset.pipeline[4].cipher == 'mix2'


@pytest.mark.slow
def test_resume(trained, later):
    (work_dir, _), (_, (log, _, _)) = trained, later
    assert re.search(r'resumed epoch: 1, iter: 8', log)
    epochs = re.findall(r'Epoch\(train\) +\[(\d+)\]', log)
    assert set(epochs) == {'2'}
    assert (work_dir / 'epoch_2.pth').is_file()


@pytest.mark.slow
def test_test_prints_metrics_and_shows_no_plain_image(later, coco):
    out, (_, log, _) = later
    assert re.search(r'Average Precision .* = ', log)
    shown = sorted(out.glob('*/shown/*.png'))
    with open(coco / 'annotations/instances_val2017.json') as file:
        names = sorted(Path(i['file_name']).stem for i in json.load(file)['images'])
    assert sorted(p.stem.split('_', 1)[1] for p in shown) == names
    for path in shown:
        # Half of the network's input size, so certainly not the file.
        # Twice, beside each other: with annotations and with predictions.
        height, width = cv2.imread(str(path)).shape[:2]
        assert max(height, width // 2) <= 96
    assert (out / 'pred.pkl').is_file()


@pytest.mark.slow
def test_metrics_to_a_file(later):
    out, _ = later
    metrics = json.loads((out / 'metrics.json').read_text())
    assert 0 <= metrics['coco/bbox_mAP_50'] <= 1


def test_clear_errors(coco, tmp_path, capsys):
    with pytest.raises(ConfigError, match="type='hime_mm.PEViT'"):
        run_script(
            'tools/train.py',
            CONFIG,
            '--work-dir',
            tmp_path,
            *paths_and_sizes(coco),
            'model.backbone.type=PEViT',
        )
    with pytest.raises(SystemExit) as stopped:
        run_script('tools/test.py', CONFIG, 'none.pth', '--out', 'pred.txt')
    assert stopped.value.code == 2
    assert re.search(r'--out pred\.txt.*\.pkl', capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'name, args',
    [
        ('train', ['configs/hime_vit_coco.py']),
        ('test', ['configs/hime_vit_coco.py', 'none.pth']),
        ('demo', []),
    ],
)
def test_nothing_runs_before_the_checks(name, args, monkeypatch, tmp_path):
    """No checkpoint is read that could run code, no config unchecked."""
    tool = load_script(f'tools/{name}.py')

    class Checked(Exception):
        pass

    def check(cfg):
        assert os.environ.get('TORCH_FORCE_WEIGHTS_ONLY_LOAD') == '1'
        raise Checked

    def build(cfg):
        raise AssertionError('a runner was built')

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    # Set first, so that what the tool leaves is undone.
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '')
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD')
    monkeypatch.setattr(tool, 'check_config', check)
    monkeypatch.setattr(tool.Runner, 'from_cfg', build)
    if name == 'demo':
        monkeypatch.setattr(tool, 'make_demo_coco', lambda folder: folder)
    args = [str(ROOT / arg) if '/' in arg else arg for arg in args]
    monkeypatch.setattr(sys, 'argv', [f'{name}.py', *args])
    with pytest.raises(Checked):
        tool.main()


class OneImage:
    """A data set as the tools look into it."""

    metainfo = {}

    def __init__(self, *transforms):
        self.pipeline = SimpleNamespace(transforms=list(transforms))

    def __len__(self):
        return 1

    def full_init(self):
        pass

    def get_data_info(self, index):
        rng = np.random.default_rng(0)
        return dict(img=rng.integers(0, 256, (64, 96, 3), np.uint8))


def test_browse_leaves_the_pipeline_without_permutations():
    transform = Encrypt('shuffle')
    before, after = load_script('tools/browse_dataset.py').views(OneImage(transform), 0)
    assert (before['img'] != after['img']).any()
    assert transform.keep_permutation is False
    assert transform(OneImage().get_data_info(0))['patch_layout'].permutation is None


def test_browse_without_originals(monkeypatch, tmp_path):
    browse = load_script('tools/browse_dataset.py')
    data = OneImage(Encrypt('drop99'))
    cfg = Config(dict(train_dataloader=dict(dataset={}), model={}))
    monkeypatch.setattr(browse.Config, 'fromfile', lambda path: cfg)
    monkeypatch.setattr(browse.DATASETS, 'build', lambda cfg: data)
    sizes = {}
    for args in ([], ['--no-original']):
        out = tmp_path / str(len(args))
        monkeypatch.setattr(sys, 'argv', ['browse_dataset.py', 'config.py', '-o', str(out), *args])
        browse.main()
        (path,) = out.iterdir()
        sizes[len(args)] = cv2.imread(str(path))[22:]
    assert sizes[0].shape[1] > 2 * 96
    # Of 24 patches one is not grey.
    assert (sizes[1][:64, :96] == 128).mean() > 0.9


def test_demo_shows_only_what_was_encrypted():
    """Nothing plain under the heading of what the engineer sees."""
    demo = load_script('tools/demo.py')
    encrypted = demo.encrypted(OneImage(Encrypt('mix2')), 0)
    assert encrypted.shape == (32, 48, 3)
    with pytest.raises(ConfigError, match='test_dataloader.dataset.pipeline'):
        demo.encrypted(OneImage(lambda results: results), 0)


@pytest.mark.parametrize(
    'phase, cipher',
    [pytest.param('train', 'mix2', marks=pytest.mark.slow), ('val', 'mix2+shuffle')],
)
def test_browse(coco, tmp_path, phase, cipher):
    at = 4 if phase == 'train' else 2
    run_script(
        'tools/browse_dataset.py',
        CONFIG,
        '--phase',
        phase,
        '--no-boxes',
        '-n',
        2,
        '-o',
        tmp_path / 'pictures',
        '--cfg-options',
        f'{phase}_dataloader.dataset.data_root={coco}/',
        f'{phase}_dataloader.dataset.pipeline.{at}.cipher={cipher}',
        'model.backbone.pos_encoding=none',
    )
    pictures = sorted((tmp_path / 'pictures').glob('*.png'))
    assert len(pictures) == 2
    for path in pictures:
        # A line of captions, the original, a gap of 8, the encrypted image
        # at the same height.
        picture = cv2.imread(str(path))[22:].astype(float)
        height, width = picture.shape[:2]
        half = (width - 8) // 2
        # Rounding may leave one of them a column wider.
        left, right = picture[:, :half], picture[:, -half:]
        size = (round(half / 16) * 8, round(height / 16) * 8)
        small = cv2.resize(right, size, interpolation=cv2.INTER_AREA)
        again = cv2.resize(small, (half, height), interpolation=cv2.INTER_NEAREST)
        # Half as many pixels: nothing is lost by shrinking what is shown.
        assert np.abs(again - right).mean() < 6
        assert np.abs(left - right).mean() > 3
        rows = np.sort(left.mean((1, 2))), np.sort(right.mean((1, 2)))
        if 'shuffle' in cipher:
            # Rows of a shuffled image are all alike.
            assert np.ptp(rows[1]) < 0.8 * np.ptp(rows[0])
        else:
            assert np.abs(rows[0] - rows[1]).mean() < 3


@pytest.mark.slow
def test_as_a_person_calls_them(coco, tmp_path):
    """Those of which no other test starts a process."""
    smaller = tmp_path / 'smaller.json'
    run_tools(
        (
            'tools/dataset_converters/subset_coco.py',
            coco / 'annotations/instances_val2017.json',
            smaller,
            '-n1',
        ),
        (
            'tools/browse_dataset.py',
            CONFIG,
            *('--phase', 'val', '-o', tmp_path / 'pictures', '--cfg-options'),
            f'val_dataloader.dataset.data_root={coco}/',
            f'val_dataloader.dataset.ann_file={smaller}',
        ),
    )
    assert len(list((tmp_path / 'pictures').iterdir())) == 1


@pytest.mark.parametrize('phase', ['train', 'val'])
@pytest.mark.parametrize('cipher', ['mix2', 'mix2+shuffle'])
def test_browse_maps_the_boxes(coco_like, phase, cipher):
    """Annotations come before the encryption, or after it at test time."""
    browse = load_script('tools/browse_dataset.py')
    init_default_scope('mmdet')
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(320, 256)),
        dict(type='hime_mm.Encrypt', cipher=cipher),
        dict(type='PackDetInputs'),
    ]
    order = [0, 1, 2, 3, 4] if phase == 'train' else [0, 2, 3, 1, 4]
    dataset = DATASETS.build(
        dict(
            type='CocoDataset',
            data_root=str(coco_like),
            ann_file=f'annotations/instances_{phase}2017.json',
            data_prefix=dict(img=f'{phase}2017/'),
            test_mode=phase == 'val',
            pipeline=[steps[i] for i in order],
        )
    )
    before, after = browse.views(dataset, 0)
    assert before['img'].shape == (256, 320, 3)
    assert after['img'].shape == (128, 160, 3)
    instances = [i for i in dataset.get_data_info(0)['instances'] if not i['ignore_flag']]
    height, width = cv2.imread(dataset.get_data_info(0)['img_path']).shape[:2]
    scale = np.array([320 / width, 256 / height] * 2)
    expected = np.array([i['bbox'] for i in instances]) * scale
    assert len(expected)
    near = np.abs(before['boxes'][:, None] - expected).max(-1)
    assert (near.min(0) < 1e-3).all()
    move = after['boxes'] - before['boxes'] / 2
    if cipher == 'mix2':
        assert np.abs(move).max() < 1e-3
    else:
        # Whole patches of 8, the same for both corners.
        np.testing.assert_allclose(move[:, :2], move[:, 2:], atol=1e-3)
        np.testing.assert_allclose(move, np.round(move / 8) * 8, atol=1e-3)
        assert np.abs(move).max() >= 8


CLASSIFIER = """
_base_ = ['mmpretrain::deit/deit-tiny_4xb256_in1k.py',
          '{root}/configs/_base_/ciphers/paper_rs.py']
model = dict(
    backbone=dict(type='hime_mm.PEViT', img_size=64, arch=dict(
        _delete_=True, embed_dims=32, num_layers=2, num_heads=2,
        feedforward_channels=64)),
    head=dict(num_classes=2, in_channels=32,
              loss=dict(label_smooth_val=0.1, mode='original')),
    train_cfg=None)
data_preprocessor = dict(num_classes=2)
pipeline = [dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(64, 64)),
            {{{{_base_.encrypt}}}},
            dict(type='PackInputs')]
data = dict(type='CustomDataset', data_root='{data}', pipeline=pipeline,
            _delete_=True)
train_dataloader = dict(batch_size=4, num_workers=2, dataset=data)
val_dataloader = dict(batch_size=4, num_workers=2, dataset=data)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2, val_interval=1)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1))
randomness = dict(seed=0)
"""


@pytest.mark.trial
def test_runs_classifiers_too(tmp_path):
    """MMPretrain's DeiT config with our backbone and cipher."""
    rng = np.random.default_rng(0)
    for name, hue in (('dark', 40), ('light', 200)):
        (tmp_path / 'data' / name).mkdir(parents=True)
        for i in range(4):
            image = rng.integers(hue - 30, hue + 30, (70, 90, 3), np.uint8)
            cv2.imwrite(str(tmp_path / 'data' / name / f'{i}.png'), image)
    config = tmp_path / 'config.py'
    config.write_text(CLASSIFIER.format(root=ROOT, data=tmp_path / 'data'))
    logs = run_tools(
        ('tools/train.py', config, '--work-dir', tmp_path / 'work'),
        (
            'tools/test.py',
            config,
            tmp_path / 'work/epoch_2.pth',
            '--work-dir',
            tmp_path / 'test',
            '--show-dir',
            tmp_path / 'shown',
        ),
    )
    assert all('accuracy/top1' in log for log in logs)
    shown = list((tmp_path / 'shown').glob('*.png'))
    assert shown and all(cv2.imread(str(p)).shape == (64, 64, 3) for p in shown)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason='mixed precision needs a GPU')
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_mixed_precision(coco, tmp_path, dtype):
    """Batches of two unequal images, so that padding is masked."""
    (log,) = run_tools(
        (
            'tools/train.py',
            CONFIG,
            '--work-dir',
            tmp_path,
            '--amp',
            *paths_and_sizes(coco),
            'train_cfg.max_epochs=2',
            'train_dataloader.batch_size=2',
            'train_dataloader.batch_sampler=None',
            f'optim_wrapper.dtype={dtype}',
        )
    )
    losses = [float(v) for v in re.findall(r' loss: ([\d.]+)', log)]
    assert losses and all(0 < v < 100 for v in losses)
    assert 'nan' not in ''.join(re.findall(r' loss: \S+', log))
