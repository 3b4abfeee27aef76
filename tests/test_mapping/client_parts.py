# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Small models that a client calls, and a stub of one."""

import numpy as np
import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS as DET_MODELS
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmpretrain.registry import MODELS as CLS_MODELS

from hime_mm.ciphers import Key

KEY = Key(bytes(range(32)))
ARCH = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64)
NORM = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def lively(model):
    """Without the small numbers and zeros of an initialisation."""
    with torch.no_grad():
        for name, param in model.named_parameters():
            if 'token' in name or 'pos' in name or 'reference' in name:
                param.normal_()
    return model


def detector_cfg(pad_size_divisor=1, **backbone):
    return dict(
        type='hime_mm.PEYOLOS',
        data_preprocessor=dict(
            type='mmdet.DetDataPreprocessor',
            bgr_to_rgb=True,
            pad_size_divisor=pad_size_divisor,
            **NORM,
        ),
        backbone={
            **dict(
                type='hime_mm.PEViT',
                arch=ARCH,
                img_size=(192, 256),
                pos_encoding='learned',
                patch_embed='mixed',
                num_det_tokens=8,
                out_type='det_tokens',
            ),
            **backbone,
        },
        bbox_head=dict(type='hime_mm.DetTokenHead', num_classes=3, embed_dims=32),
    )


def detector(*args, **kwargs):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return lively(DET_MODELS.build(detector_cfg(*args, **kwargs)))


def classifier_cfg(**backbone):
    return dict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', to_rgb=True, **NORM),
        backbone=dict(type='hime_mm.PEViT', arch=ARCH, img_size=192, **backbone),
        head=dict(type='mmpretrain.VisionTransformerClsHead', num_classes=5, in_channels=32),
    )


def classifier(**backbone):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    return lively(CLS_MODELS.build(classifier_cfg(**backbone)))


class Stub(BaseDetector):
    """Says what it is told, and remembers what it was shown."""

    def __init__(self, **instances):
        super().__init__()
        self.instances = instances
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def test_step(self, data):
        self.seen = data
        assert not self.training and not torch.is_grad_enabled()
        sample = data['data_samples'][0]
        sample.pred_instances = InstanceData(**self.instances)
        return data['data_samples']

    def loss(self, *args):
        raise NotImplementedError

    predict = _forward = extract_feat = loss


def random_boxes(shape, num=30, seed=0):
    """Boxes inside of a picture, whole numbers of pixels."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, shape[::-1], (num, 2, 2)), axis=1).reshape(-1, 4)
    return corners.astype(np.float64)


def on_the_fly(model, picture, scale):
    """What the ordinary pipeline of a test gives, and as a file."""
    init_default_scope('mmdet')
    pipeline = Compose(
        [
            dict(type='mmdet.Resize', scale=scale, keep_ratio=True),
            dict(type='hime_mm.SubPatchMix', patch_size=16, num_splits=2),
            dict(type='mmdet.PackDetInputs', meta_keys=('ori_shape', 'img_shape', 'scale_factor')),
        ]
    )
    data = pipeline(dict(img=picture, img_shape=picture.shape[:2], ori_shape=picture.shape[:2]))
    model.eval()
    with torch.no_grad():
        return model.test_step(pseudo_collate([data]))[0].pred_instances
