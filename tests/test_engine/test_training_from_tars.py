# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Stock configs train from tar shards as from the folder: not a loss differs.

All that a config gets is the import, `LoadEncryptedMeta` and another `data_root`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from owner_data import make_coco, photo, write
from s3_server import bucket, environment, s3_server  # noqa: F401

from hime_mm.apis import encrypt_coco, encrypt_folder

ROOT = Path(__file__).resolve().parents[2]
ENCRYPTED = dict(dataset_id='0123456789abcdef', progress=False, shard_size=3)

DETECTION = """
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
custom_imports = dict(imports=['hime_mm.engine'])
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='hime_mm.LoadEncryptedMeta'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs')]
data = dict(
    _delete_=True, type='CocoDataset', data_root={root!r},
    ann_file='annotations/instances_val2017.json', data_prefix=dict(img='val2017/'),
    metainfo=dict(classes=('cat', 'cup')), pipeline=pipeline)
train_dataloader = dict(batch_size=2, num_workers={workers}, persistent_workers=False, dataset=data)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data, test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{root}/annotations/instances_val2017.json')
test_evaluator = val_evaluator
model = dict(backbone=dict(init_cfg=None), bbox_head=dict(num_classes=2))
train_cfg = dict(max_epochs=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=None)
randomness = dict(seed=1, deterministic=True)
"""

CLASSIFICATION = """
_base_ = 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'
custom_imports = dict(imports=['hime_mm.engine'])
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='hime_mm.LoadEncryptedMeta'),
    dict(type='PackInputs')]
data = dict(_delete_=True, type='CustomDataset', data_root={root!r}, data_prefix='train',
            pipeline=pipeline)
train_dataloader = dict(batch_size=2, num_workers={workers}, persistent_workers=False, dataset=data)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=data)
test_dataloader = val_dataloader
model = dict(head=dict(num_classes=2, topk=(1, )))
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=None)
randomness = dict(seed=1, deterministic=True)
"""

TRAIN = """
import sys
from mmengine.config import Config
from mmengine.runner import Runner
config = Config.fromfile(sys.argv[1])
config.work_dir = sys.argv[2]
Runner.from_cfg(config).train()
"""


def train(folder, name, config, root, env, workers=0):
    """Losses and metrics of a training."""
    path = folder / f'{name}.py'
    path.write_text(config.format(root=str(root), workers=workers))
    done = subprocess.run(
        [sys.executable, '-c', TRAIN, str(path), str(folder / name)],
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', **env),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (log,) = (folder / name).glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    told = ('time', 'data_time', 'memory')
    return [{k: v for k, v in row.items() if k not in told} for row in rows]


@pytest.mark.slow
def test_a_detector_from_a_bucket(bucket, s3_server, tmp_path):  # noqa: F811
    pytest.importorskip('mmdet')
    make_coco(tmp_path / 'plain')
    encrypt_coco(str(tmp_path / 'plain'), str(tmp_path / 'files'), 'mix2', **ENCRYPTED)
    encrypt_coco(str(tmp_path / 'plain'), f'{bucket}/out', 'mix2', storage='tar', **ENCRYPTED)
    env = environment(s3_server)
    expected = train(tmp_path, 'folder', DETECTION, tmp_path / 'files', env)
    assert sum('loss' in row for row in expected) >= 3
    assert train(tmp_path, 'tars', DETECTION, f'hime-{bucket}/out', env, workers=1) == expected


@pytest.mark.slow
def test_a_classifier_from_local_tars(tmp_path):
    pytest.importorskip('mmpretrain')
    for i in range(8):
        write(tmp_path / f'plain/train/c{i % 2}/{i}.v1.png', photo(64, 64, i))
    for storage in ('files', 'tar'):
        out = str(tmp_path / storage)
        encrypt_folder(str(tmp_path / 'plain'), out, 'mix2', storage=storage, **ENCRYPTED)
    expected = train(tmp_path, 'folder', CLASSIFICATION, tmp_path / 'files', {})
    assert sum('loss' in row for row in expected) >= 4
    assert train(tmp_path, 'tars', CLASSIFICATION, f'hime://{tmp_path}/tar', {}, 1) == expected
