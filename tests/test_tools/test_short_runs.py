# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The chain of a training in the small: two iterations, in this process.

The twins of the runs that `make test-slow` does with the tools as a person
calls them.
"""

import json
import os
import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from owner_data import SECRET, forms_of_key, forms_of_permutation, found, tree, write
from scripts import ROOT, run_script
from tiny_training import write_training

from hime_mm.apis import encrypt_folder
from hime_mm.ciphers import Key
from hime_mm.datasets.manifest import Manifest

pytestmark = pytest.mark.usefixtures('quick_dumps')
KEY = Key(SECRET)
ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
DETECTOR = """
_base_ = ['{root}/configs/hime_vit_coco.py']
model = dict(
    backbone=dict(arch=dict(_delete_=True, {arch}), img_size=(96, 128),
                  num_det_tokens=12, init_cfg=None),
    bbox_head=dict(embed_dims=32), test_cfg=dict(max_per_img=12))
train_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(data_root='{coco}/', indices=2))
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(data_root='{coco}/'))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{coco}/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs={epochs})
default_hooks = dict(logger=dict(interval=1))
visualizer = dict(name='{name}')
"""
SIZES = (
    '--cfg-options',
    'train_dataloader.dataset.pipeline.3.transforms.0.0.scales=[(96,128)]',
    'train_dataloader.dataset.pipeline.3.transforms.1.0.scales=[(96,128)]',
    'train_dataloader.dataset.pipeline.3.transforms.1.1.crop_size=(64,96)',
    'train_dataloader.dataset.pipeline.3.transforms.1.2.scales=[(96,128)]',
    'val_dataloader.dataset.pipeline.1.scale=(128,96)',
    'test_dataloader.dataset.pipeline.1.scale=(128,96)',
)


def scalars(folder, key):
    """What the runner logged under a name, in all runs of a folder."""
    lines = []
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        lines += [json.loads(line) for line in path.read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def test_detector(coco_like, tmp_path):
    """Trains, validates, resumes and is tested, on encrypted COCO images."""
    coco, work = tmp_path / 'coco', tmp_path / 'work'
    for split in ('train', 'val'):
        name = f'annotations/instances_{split}2017.json'
        run_script('tools/dataset_converters/subset_coco.py', coco_like / name, coco / name, '-n2')
        (coco / f'{split}2017').symlink_to(coco_like / f'{split}2017')

    def config(name, epochs):
        arch = ', '.join(f'{k}={v}' for k, v in ARCH.items())
        path = tmp_path / f'{name}.py'
        path.write_text(
            DETECTOR.format(
                root=ROOT, arch=arch, coco=coco, name=f'{tmp_path}{name}', epochs=epochs
            )
        )
        return path

    run_script('tools/train.py', config('first', 1), '--work-dir', work, *SIZES)
    losses = scalars(work, 'loss')
    assert len(losses) == 2 and all(0 < v < 100 for v in losses)
    (ap50,) = scalars(work, 'coco/bbox_mAP_50')
    assert 0 <= ap50 <= 1
    # The dump is a readable config that gives the same run.
    dumped = Config.fromfile(work / 'first.py')
    assert dumped.train_dataloader.dataset.pipeline[4].cipher == 'mix2'
    before = torch.load(work / 'epoch_1.pth', weights_only=False)

    run_script('tools/train.py', config('all', 2), '--work-dir', work, '--resume', *SIZES)
    assert len(scalars(work, 'loss')) == 4
    after = torch.load(work / 'epoch_2.pth', weights_only=False)
    assert (before['meta']['iter'], after['meta']['iter']) == (2, 4)
    for name, value in before['state_dict'].items():
        if '.qkv.weight' in name or 'det_token' in name:
            assert not torch.equal(after['state_dict'][name], value), name

    run_script(
        'tools/test.py',
        config('test', 2),
        work / 'epoch_2.pth',
        *('--work-dir', tmp_path / 'test', '--show-dir', 'shown'),
        *('--out', tmp_path / 'metrics.json', '--out-item', 'metrics'),
        *SIZES,
    )
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics['coco/bbox_mAP_50'] == scalars(work, 'coco/bbox_mAP_50')[1]
    shown = sorted((tmp_path / 'test').glob('*/shown/*.png'))
    assert len(shown) == 2
    for path in shown:
        # Half of the network's input size, so certainly not the file, beside
        # itself: with annotations and with predictions.
        height, width = cv2.imread(str(path)).shape[:2]
        assert height <= 48 and width <= 2 * 64


CLASSIFIER = """
_base_ = ['{base}']
model = dict(
    backbone=dict(type='hime_mm.PEViT', pos_encoding='rpe', img_size=64,
                  arch=dict(_delete_=True, {arch})),
    head=dict(num_classes=2, in_channels=32), train_cfg=None)
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, dataset=dict({train}))
val_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, dataset=dict({val}))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator
data_preprocessor = dict(num_classes=2{preprocessor})
train_cfg = dict(max_epochs={epochs}, val_interval=1)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1),
                     visualization=dict(enable=True, interval=1))
visualizer = dict(name='{name}')
"""
RESIZED = (
    "dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)), dict(type='PackInputs')"
)


def classifier(folder, name, epochs=1, **kwargs):
    path = folder / f'{name}.py'
    arch = ', '.join(f'{k}={v}' for k, v in ARCH.items())
    path.write_text(CLASSIFIER.format(arch=arch, name=f'{folder}{name}', epochs=epochs, **kwargs))
    return path


@pytest.fixture
def pictures(tmp_path):
    """Smooth ones, two classes of two in both splits."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name, hue in (('dark', 60), ('light', 190)):
            for i in range(2):
                small = rng.integers(hue - 60, hue + 60, (3, 4, 3)).astype(np.uint8)
                img = cv2.resize(small, (90, 70), interpolation=cv2.INTER_CUBIC)
                write(tmp_path / 'plain' / split / name / f'{i}.png', img)
    return tmp_path / 'plain'


def test_classifier_encrypted_on_the_device(pictures, tmp_path):
    """MMPretrain's DeiT config, with cipher and backbone of ours."""
    work = tmp_path / 'work'
    data = "_delete_=True, type='CustomDataset', data_root='{}', data_prefix='{}', pipeline=[{}]"
    kwargs = dict(
        base='mmpretrain::deit/deit-tiny_4xb256_in1k.py',
        train=data.format(pictures, 'train', RESIZED),
        val=data.format(pictures, 'val', RESIZED),
        preprocessor=", type='hime_mm.EncryptClsDataPreprocessor', cipher='shuffle'",
    )
    run_script('tools/train.py', classifier(tmp_path, 'first', **kwargs), '--work-dir', work)
    config = classifier(tmp_path, 'all', epochs=2, **kwargs)
    run_script('tools/train.py', config, '--work-dir', work, '--resume')
    losses = scalars(work, 'loss')
    assert len(losses) == 4 and all(0 < v < 10 for v in losses)
    assert len(scalars(work, 'accuracy/top1')) == 2
    state = torch.load(work / 'epoch_2.pth', weights_only=False)
    assert state['meta']['iter'] == 4
    assert not any('data_preprocessor' in key for key in state['state_dict'])
    # The host's hook would draw the plain batch, which is smooth: here
    # neighbouring pixels differ more across the borders of patches.
    shown = sorted(work.glob('*/vis_data/vis_image/*.png'))
    assert len(shown) >= 4
    at_border = inside = 0.0
    for path in shown:
        img = cv2.imread(str(path)).astype(float)
        side = 16 * (img.shape[1] // 64)
        step = abs(img[:, 1:] - img[:, :-1]).mean((0, 2))
        at_border += step[side - 1 :: side].mean()
        inside += step[side // 2 - 1 :: side].mean()
    assert at_border > 1.5 * inside


def test_classifier_of_an_encrypted_folder(pictures, tmp_path, capfd, monkeypatch):
    """Neither logs nor checkpoints hold a secret, though the key is there."""
    out, work = tmp_path / 'out', tmp_path / 'work'
    encrypt_folder(
        str(pictures),
        str(out),
        'paper-rs',
        key=KEY,
        progress=False,
        preprocess=dict(resize=(64, 64)),
    )
    monkeypatch.setenv('HIME_KEY', f'hime-key-v1:{SECRET.hex()}')
    config = classifier(
        tmp_path,
        'folder',
        base=f'{ROOT}/configs/encrypted/pevit-tiny_paper-rs-folder_1xb64-100e_custom.py',
        train=f"data_root='{out}'",
        val=f"data_root='{out}'",
        preprocessor='',
    )
    run_script('tools/train.py', config, '--work-dir', work)
    assert len(scalars(work, 'loss')) == 2 and len(scalars(work, 'accuracy/top1')) == 1
    assert 'HIME_KEY' in os.environ
    contents = tree(work)
    # Weights, logs and the config that was dumped are all there.
    for suffix in ('.pth', '.log', '.py', 'scalars.json'):
        assert any(name.endswith(suffix) for name in contents), suffix
    printed = capfd.readouterr()
    assert re.search('Epoch', printed.out + printed.err)
    contents = [*contents.values(), printed.out.encode(), printed.err.encode()]
    assert not found(forms_of_key(SECRET), contents)
    manifest = Manifest.load(out)
    for entry in manifest.files.values():
        permutation = manifest.secret_layout(entry, KEY).permutation
        assert len(permutation) == 16
        assert not found(forms_of_permutation(permutation), contents)


MAE = """
_base_ = ['mmpretrain::mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py']
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=16, num_layers=1, num_heads=2,
                            feedforward_channels=16), img_size=32),
    neck=dict(num_patches=4, embed_dim=16, decoder_embed_dim=16, decoder_depth=1,
              decoder_num_heads=2))
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(
        _delete_=True, type='CustomDataset', data_root='{data}', with_label=False, pipeline=[
            dict(type='LoadImageFromFile'), dict(type='hime_mm.Encrypt', cipher='shuffle'),
            dict(type='PackInputs')]))
optim_wrapper = dict(_delete_=True, optimizer=dict(type='SGD', lr=.01))
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
"""


def test_self_supervised(tmp_path):
    """MMPretrain's MAE: its loader has a `collate_fn`, which inherits what MMEngine fails on."""
    config = write_training(tmp_path, ROOT / 'configs', 'other.py').with_name('mae.py')
    config.write_text(MAE.format(data=tmp_path / 'data'))
    run_script('tools/train.py', config, '--work-dir', tmp_path / 'work')
    losses = scalars(tmp_path / 'work', 'loss')
    assert len(losses) == 2 and np.isfinite(losses).all()
    assert (tmp_path / 'work' / 'epoch_1.pth').is_file()
