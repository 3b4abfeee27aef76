# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A training of seconds: a PEViT on eight generated pictures, encrypted in the pipeline."""

import socket
from pathlib import Path

import cv2
import numpy as np

CONFIG = """
_base_ = ['{configs}/_base_/ciphers/paper_rs.py']
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='hime_mm.PEViT', img_size=32, arch=dict(
        embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)),
    head=dict(type='VisionTransformerClsHead', num_classes=2, in_channels=16))
data_preprocessor = dict(num_classes=2, mean=[128] * 3, std=[64] * 3)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root='{data}', pipeline=[
        dict(type='LoadImageFromFile'), {{{{_base_.encrypt}}}}, dict(type='PackInputs')]))
test_dataloader = val_dataloader = train_dataloader
test_evaluator = val_evaluator = dict(type='Accuracy', topk=(1, ))
train_cfg = dict(by_epoch=True, max_epochs=1)
test_cfg = val_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=.01))
# For whoever starts several processes on CPUs.
env_cfg = dict(dist_cfg=dict(backend='gloo'))
model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None)
"""


def write_training(folder: Path, configs: Path, name: str = 'tiny.py') -> Path:
    """Write pictures and a config.

    Args:
        folder (Path): Where to.
        configs (Path): Our folder of configs, as it was installed.
        name (str): Of the config's file. Defaults to 'tiny.py'.

    Returns:
        Path: The config; it trains for 4 iterations and validates.
    """
    rng = np.random.default_rng(0)
    for label, low in (('dark', 10), ('light', 180)):
        (folder / 'data' / label).mkdir(parents=True)
        for i in range(4):
            image = rng.integers(low, low + 60, (32, 32, 3), np.uint8)
            cv2.imwrite(str(folder / 'data' / label / f'{i}.png'), image)
    config = folder / name
    config.write_text(CONFIG.format(configs=configs, data=folder / 'data'))
    return config


def free_port() -> str:
    """A port at which nobody listens, for processes that are to meet."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return str(listener.getsockname()[1])
