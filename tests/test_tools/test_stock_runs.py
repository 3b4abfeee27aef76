# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Configs of the hosts, unmodified but for data, size and length, trained and tested encrypted."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from scripts import ROOT, run_script
from stock_configs import TOOLS, file_name, names, short_options, written
from tiers import trials_but

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('quick_dumps')]
XML = """<annotation><size><width>{w}</width><height>{h}</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult><bndbox><xmin>9</xmin><ymin>9</ymin>
<xmax>90</xmax><ymax>80</ymax></bndbox></object></annotation>"""


@pytest.fixture(scope='module')
def data(coco_like, tmp_path_factory):
    """Two images a split, laid out as COCO, as VOC and as ImageNet."""
    root = tmp_path_factory.mktemp('data')
    for split in ('train', 'val'):
        name = f'annotations/instances_{split}2017.json'
        run_script(
            'tools/dataset_converters/subset_coco.py', coco_like / name, root / 'coco' / name, '-n2'
        )
        (root / 'coco' / f'{split}2017').symlink_to(coco_like / f'{split}2017')
    (root / 'coco' / 'unlabeled2017').symlink_to(coco_like / 'train2017')
    shutil.copy(
        root / 'coco/annotations/instances_train2017.json',
        root / 'coco/annotations/instances_unlabeled2017.json',
    )
    rng = np.random.default_rng(0)
    for year, lists in (
        ('VOC2007', ('trainval', 'train', 'val', 'test')),
        ('VOC2012', ('trainval',)),
    ):
        folder = root / 'voc' / year
        for part in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
            (folder / part).mkdir(parents=True)
        for index in ('000001', '000002'):
            cv2.imwrite(
                str(folder / f'JPEGImages/{index}.jpg'),
                rng.integers(0, 256, (96, 128, 3), np.uint8),
            )
            (folder / f'Annotations/{index}.xml').write_text(XML.format(w=128, h=96))
        for name in lists:
            (folder / f'ImageSets/Main/{name}.txt').write_text('000001\n000002\n')
    picture = root / 'picture.png'
    cv2.imwrite(str(picture), rng.integers(0, 256, (96, 128, 3), np.uint8))
    for folder in (
        root / 'imagenet' / split / f'{i:04}' for split in ('train', 'val') for i in range(1000)
    ):
        folder.mkdir(parents=True)
        (folder / '1.png').symlink_to(picture)
    return {kind: str(root / kind) for kind in ('coco', 'voc', 'imagenet')}


def options_of(name, data, work):
    # Of the visualizers of a process each name has one folder.
    own = (f'visualizer.name={work}', 'randomness.seed=0')
    return ['--cfg-options', *written(short_options(name, data)), *own]


def scalars(work):
    (path,) = work.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


#: Backbones that take the place of others, where patches stay and where they move.
SWAPS = (
    ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'center+erode2', 'pevit-tiny'),
    ('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'mix2', 'pevit-tiny'),
    ('mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py', 'mix2', 'timm:deit_tiny_patch16_224'),
    ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'center+erode2+shuffle', 'pevit-tiny'),
    ('mmpretrain::resnet/resnet18_8xb32_in1k.py', 'shuffle', 'pevit-tiny'),
)
RUNS = [(name, 'mix2', None) for name in names()] + list(SWAPS)
#: One of each kind.
KEPT = ('detr', 'retinanet', 'mask-rcnn', 'rtmdet', 'deit', 'resnet18')


def is_kept(run):
    name, _, backbone = run
    stem = file_name(name)
    return stem.startswith(KEPT) and 'ssj' not in stem and not (backbone and 'mask' in stem)


@pytest.mark.parametrize(
    'name, cipher, backbone',
    trials_but(is_kept, RUNS),
    ids=lambda one: one and file_name(one),
)
def test_trains_and_tests(name, cipher, backbone, data, tmp_path, capsys):
    """Two iterations and a validation, then a test of what was trained."""
    options = ['--cipher', cipher, *options_of(name, data, tmp_path)]
    if backbone is not None:
        options[:0] = ['--backbone', backbone]
    run_script('tools/train.py', name, '--work-dir', tmp_path / 'w', *options)
    assert '+ train_dataloader.' in capsys.readouterr().out
    lines = scalars(tmp_path / 'w')
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert len(losses) >= 2 and np.isfinite(losses).all()
    (checkpoint,) = (tmp_path / 'w').glob('*_[12].pth')
    tta = ['--tta'] if 'rtmdet' in name else []
    run_script(
        'tools/test.py',
        *(name, checkpoint, '--work-dir', tmp_path / 't', *tta),
        *('--out', tmp_path / 'metrics.json', '--out-item', 'metrics', *options),
    )
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics and all(np.isfinite(value) for value in metrics.values())
    shutil.rmtree(tmp_path / 'w')


@pytest.mark.parametrize(
    'name',
    trials_but(
        lambda name: 'retinanet' in name,
        [
            'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
            'mmpretrain::deit/deit-tiny_4xb256_in1k.py',
        ],
    ),
)
def test_what_is_written_needs_no_tool_of_ours(name, data, tmp_path):
    """The hosts' own tools give the losses that ours give."""
    options = options_of(name, data, tmp_path)
    if 'deit' in name:
        options.append('model.backbone.drop_path_rate=0')
    config = tmp_path / 'encrypted.py'
    run_script('tools/encrypt_config.py', name, config, '--cipher', 'mix2', *options)
    run_script(
        'tools/train.py', name, '--cipher', 'mix2', '--work-dir', tmp_path / 'ours', *options
    )
    host = name.partition('::')[0]
    done = subprocess.run(
        [sys.executable, TOOLS[host] / 'train.py', config, '--work-dir', tmp_path / 'theirs'],
        **dict(capture_output=True, text=True, cwd=ROOT),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = (
        [line['loss'] for line in scalars(tmp_path / kind) if 'loss' in line]
        for kind in ('ours', 'theirs')
    )
    assert len(ours) >= 2 and ours == pytest.approx(theirs, rel=1e-6)
    assert Config.fromfile(config).default_hooks.encryption.type == 'hime_mm.EncryptionCheckHook'
