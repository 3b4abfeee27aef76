# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Runs that the hosts' own tools start are stopped before their first batch."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import mmdet
import mmpretrain
import numpy as np
import pytest
from scripts import ROOT, run_script

pytestmark = pytest.mark.slow
MMDET, MMPRETRAIN = (Path(host.__file__).parent / '.mim/tools' for host in (mmdet, mmpretrain))
#: Runs tools one after the other, whatever becomes of each.
RUN = """
import runpy, sys, traceback
for args in {}:
    sys.argv = args
    try:
        runpy.run_path(args[0], run_name='__main__')
    except Exception:
        traceback.print_exc(file=sys.stdout)
    print('=== next', flush=True)
"""
ARCH = 'embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64'
DETECTOR = """
_base_ = ['{root}/configs/hime_vit_coco.py']
model = dict(
    backbone=dict(arch=dict(_delete_=True, {arch}), img_size=(96, 128),
                  num_det_tokens=12, init_cfg=None),
    bbox_head=dict(embed_dims=32), test_cfg=dict(max_per_img=12))
size = dict(type='Resize', scale=(128, 96), keep_ratio=False)
load = dict(type='LoadImageFromFile')
boxes = dict(type='LoadAnnotations', with_bbox=True)
pack = dict(type='PackDetInputs', meta_keys=(
    'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'))
encrypted = [load, size, dict(type='hime_mm.SubPatchMix'), boxes, pack]
plain = [load, size, boxes, pack]
train_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(data_root='{coco}/', indices=2,
                 pipeline=[load, boxes, size, dict(type='hime_mm.SubPatchMix'), pack]))
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(data_root='{coco}/', indices=2, pipeline={val}))
test_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(data_root='{coco}/', indices=2, pipeline=encrypted))
val_evaluator = dict(ann_file='{coco}/annotations/instances_val2017.json')
test_evaluator = val_evaluator
tta_model = dict(type='DetTTAModel', tta_cfg=dict(
    nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
{tta}
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
custom_hooks = {hooks}
visualizer = dict(name='{name}')
"""
STOCK_TTA = """
tta_pipeline = [load, dict(type='TestTimeAug', transforms=[
    [size], [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)], [boxes],
    [pack]])]
"""
LISTED = "[dict(type='hime_mm.EncryptionCheckHook')]"
CLASSIFIER = """
_base_ = ['mmpretrain::deit/deit-tiny_4xb256_in1k.py']
model = dict(
    backbone=dict(type='hime_mm.PEViT', img_size=64, arch=dict(_delete_=True, {arch})),
    head=dict(num_classes=2, in_channels=32), train_cfg=None)
load = dict(type='LoadImageFromFile')
size = dict(type='Resize', scale=(64, 64))
pack = dict(type='PackInputs')
encrypted = [load, size, dict(type='hime_mm.Encrypt', cipher='shuffle'), pack]
plain = [load, size, pack]
data = dict(_delete_=True, type='CustomDataset', data_root='{pictures}')
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(**data, pipeline={train}))
val_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(**data, pipeline={val}))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator
data_preprocessor = dict(num_classes=2)
train_cfg = dict(max_epochs=2, val_interval=1)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1))
env_cfg = dict(dist_cfg=dict(backend='gloo'))
visualizer = dict(name='{name}')
{more}
"""
SWITCH = """
custom_hooks = [dict(type='SwitchRecipeHook', schedule=[
    dict(action_epoch=2, train_pipeline={})])]
"""


def run(code_or_module, *args):
    """A fresh process of one thread; its exit code and all that it said."""
    done = subprocess.run(
        [sys.executable, *code_or_module, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        timeout=600,
    )
    return done.returncode, done.stdout


def write_config(folder, name, text, **kwargs):
    path = folder / f'{name}.py'
    path.write_text(text.format(root=ROOT, arch=ARCH, name=f'{folder}{name}', **kwargs))
    return path


@pytest.fixture(scope='module')
def coco(coco_like, tmp_path_factory):
    folder = tmp_path_factory.mktemp('coco')
    for split in ('train', 'val'):
        name = f'annotations/instances_{split}2017.json'
        run_script(
            'tools/dataset_converters/subset_coco.py', coco_like / name, folder / name, '-n2'
        )
        (folder / f'{split}2017').symlink_to(coco_like / f'{split}2017')
    return folder


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    for name in 'ab':
        (folder / name).mkdir()
        for i in range(2):
            img = np.random.default_rng(i).integers(0, 256, (70, 90, 3), np.uint8)
            cv2.imwrite(str(folder / name / f'{i}.png'), img)
    return folder


@pytest.fixture(scope='module')
def runs(coco, pictures, tmp_path_factory):
    """What each run said, and the folder that it worked in."""
    folder = tmp_path_factory.mktemp('runs')
    det = dict(coco=coco, val='encrypted', tta='', hooks='[]')
    cls = dict(pictures=pictures, train='encrypted', val='encrypted', more='')
    configs = dict(
        det_right=(DETECTOR, det),
        det_plain_val=(DETECTOR, dict(det, val='plain')),
        det_plain_val_listed=(DETECTOR, dict(det, val='plain', hooks=LISTED)),
        tta=(DETECTOR, dict(det, tta=STOCK_TTA, hooks=LISTED)),
        cls_right=(CLASSIFIER, dict(cls, more=SWITCH.format('encrypted'))),
        cls_plain_val=(CLASSIFIER, dict(cls, val='plain')),
        cls_plain_train=(CLASSIFIER, dict(cls, train='plain')),
        cls_switch=(CLASSIFIER, dict(cls, more=SWITCH.format('plain'))),
    )
    calls = []
    for name, (text, kwargs) in configs.items():
        path = write_config(folder, name, text, **kwargs)
        tool = (MMDET if text is DETECTOR else MMPRETRAIN) / 'train.py'
        args = [tool, path]
        if name == 'tta':
            # It is stopped before it asks for the weights.
            args = [MMDET / 'test.py', path, folder / 'none.pth', '--tta']
        calls.append([str(arg) for arg in (*args, '--work-dir', folder / name)])
    code, text = run(['-c', RUN.format(calls)])
    assert code == 0, text[-3000:]
    logs = text.split('=== next\n')[:-1]
    return {name: (log, folder / name) for name, log in zip(configs, logs, strict=True)}


def began(log, work_dir):
    """Whether a run took a batch, or wrote a checkpoint."""
    return any(f'Epoch({phase})' in log for phase in ('train', 'val', 'test')) or bool(
        list(work_dir.rglob('*.pth'))
    )


@pytest.mark.parametrize('name', ['det_right', 'cls_right'])
def test_runs_without_a_fault_go_on(runs, name):
    log, work_dir = runs[name]
    assert 'ConfigError' not in log
    assert began(log, work_dir) and 'Epoch(val)' in log


@pytest.mark.parametrize(
    'name, place',
    [
        ('det_plain_val', 'val_dataloader.dataset.pipeline'),
        ('det_plain_val_listed', 'val_dataloader.dataset.pipeline'),
        ('tta', 'test_dataloader.dataset.pipeline'),
        ('cls_plain_val', 'val_dataloader.dataset.pipeline'),
        ('cls_plain_train', 'train_dataloader.dataset.pipeline'),
        ('cls_switch', 'custom_hooks.0.schedule.0.train_pipeline'),
    ],
)
def test_plain_pipelines_stop_the_run(runs, name, place):
    log, work_dir = runs[name]
    assert 'hime_mm.errors.ConfigError: ' in log
    assert f'`{place}`' in log.split('hime_mm.errors.ConfigError: ')[1]
    assert not began(log, work_dir)


#: The hosts' launcher takes GPUs for granted; what is there already it takes as it is.
ON_CPUS = """
import runpy, sys
from torch import distributed
distributed.init_process_group('gloo')
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
# Threads of gloo that are still there at the exit may abort it.
distributed.destroy_process_group()
"""


@pytest.mark.parametrize('val', ['encrypted', pytest.param('plain', marks=pytest.mark.trial)])
def test_distributed_run(pictures, tmp_path, val):
    """No process waits for another that was stopped."""
    path = write_config(
        tmp_path,
        val,
        CLASSIFIER,
        pictures=pictures,
        train='encrypted',
        val=val,
        more="model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None)",
    )
    (tmp_path / 'on_cpus.py').write_text(ON_CPUS)
    code, log = run(
        ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2'],
        tmp_path / 'on_cpus.py',
        MMPRETRAIN / 'train.py',
        path,
        *('--launcher', 'pytorch', '--work-dir', tmp_path / 'work'),
    )
    stopped = val == 'plain'
    assert (code != 0) is stopped, log[-3000:]
    told = log.partition('ConfigError: ')[2]
    assert ('`val_dataloader.dataset.pipeline`' in told) is stopped
    assert began(log, tmp_path / 'work') is not stopped
