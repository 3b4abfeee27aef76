# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Small detectors that read each patch token by itself, and batches for them."""

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment

from hime_mm.ciphers import Cipher

ARCH = dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=64)
PEVIT = dict(type='hime_mm.PEViT', arch=ARCH, img_size=(48, 80), out_type='featmap')
MI = dict(PEVIT, patch_embed='mixed', pos_encoding='learned')
TIMM = dict(
    type='hime_mm.TIMMPEViT',
    model_name='vit_small_patch14_reg4_dinov2',
    depth=2,
    embed_dim=32,
    num_heads=4,
    img_size=70,
    out_type='featmap',
)
#: Backbones for images whose patches may have moved, the cipher and its patch size.
MOVED = {
    'PEViT': (PEVIT, 'shuffle', 16),
    'without RPE': (dict(PEVIT, pos_encoding='none'), 'center+shuffle', 16),
    'eroded': (dict(PEVIT, patch_size=12), 'center+erode2+shuffle', 16),
    'mixed': (dict(PEVIT, patch_embed='mixed'), 'mix2+shuffle', 16),
    'TIMMPEViT': (TIMM, 'shuffle', 14),
    'TIMMPEViT, eroded': (dict(TIMM, patch_size=12), 'erode1+shuffle', 14),
}
#: And for those whose patches stay.
IN_PLACE = {
    'MI': (MI, 'mix2', 16),
    'plain': (dict(PEVIT, pos_encoding='learned'), 'center', 16),
    'TIMMPEViT, learned': (dict(TIMM, pos_encoding='learned'), 'center', 14),
}

ALL = {**MOVED, **IN_PLACE}
#: Rows and columns of patches; the largest fits the batch, which all others leave padded.
SIZES = [(3, 5), (2, 4), (3, 2)]


def build(backbone=PEVIT, head=None, seed=0, **kwargs):
    """A detector whose predictions are lively, and of which none is left out."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        torch.manual_seed(seed)
        model = MODELS.build(
            dict(
                type='hime_mm.PESingleStageDetector',
                data_preprocessor=dict(
                    type='DetDataPreprocessor', mean=[128.0] * 3, std=[64.0] * 3
                ),
                backbone=dict(backbone),
                bbox_head={
                    'type': 'hime_mm.PatchTokenHead',
                    'num_classes': 3,
                    'in_channels': 32,
                    'patch_size': 16,
                    'feat_channels': 24,
                    **(head or {}),
                },
                **{'test_cfg': dict(score_thr=0, nms_pre=10000, max_per_img=10000), **kwargs},
            )
        )
    with torch.no_grad():
        for name, param in model.named_parameters():
            if 'token' in name or 'pos_embed' in name or 'reference' in name:
                param.normal_()
            elif name.startswith('bbox_head.conv_'):
                param.normal_(std=0.2)
            elif 'gamma' in name:
                param.normal_(1, 0.1)
    return model


def picture(rows, cols, patch, seed=0):
    """Patches that differ in their means, as those of photos do."""
    rng = np.random.default_rng(seed)
    means = np.kron(rng.integers(60, 190, (rows, cols, 3)), np.ones((patch, patch, 1)))
    return (means + rng.integers(-50, 50, means.shape)).astype(np.uint8)


def sample(img, cipher, patch, truth=None):
    """An encrypted image as a pipeline hands it over, with the permutation."""
    encrypted, layout, _ = Cipher(cipher, patch).encrypt(img)
    data = DetDataSample(
        metainfo=dict(
            img_shape=encrypted.shape[:2],
            ori_shape=img.shape[:2],
            scale_factor=layout.scale,
            patch_layout=layout,
        )
    )
    boxes, labels = truth if truth is not None else (np.zeros((0, 4)), [])
    data.gt_instances = InstanceData(
        bboxes=torch.from_numpy(layout.map_boxes(boxes)).float(),
        labels=torch.tensor(labels, dtype=torch.long),
    )
    return torch.from_numpy(np.ascontiguousarray(encrypted.transpose(2, 0, 1))), data


def collate(pairs):
    inputs, samples = zip(*pairs, strict=True)
    return dict(inputs=list(inputs), data_samples=[data.clone() for data in samples])


def detect(model, pairs):
    """Of each image its boxes in the original, scores and labels, (n, 6)."""
    model.eval()
    with torch.no_grad():
        results = model.test_step(collate(pairs))
    return [in_original(result) for result in results]


def in_original(result, resized=(1.0, 1.0)):
    """Boxes, mapped back by the layout, with scores and labels: (n, 6)."""
    found, layout = result.pred_instances, result.patch_layout
    boxes = found.bboxes.double().numpy() * np.tile(result.scale_factor, 2)
    boxes = layout.unmap_boxes(boxes) / np.tile(resized, 2)
    return np.hstack([boxes, found.scores[:, None].numpy(), found.labels[:, None].numpy()])


def assert_same(got, expected, atol=1e-3):
    """The same boxes with the same scores and labels, in any order."""
    assert got.shape == expected.shape
    weights = np.array([1, 1, 1, 1, 1000, 1e6])
    cost = np.abs(got[:, None] - expected[None]) @ weights
    rows, cols = linear_sum_assignment(cost)
    np.testing.assert_allclose(got[rows], expected[cols], rtol=0, atol=atol)


def model_of(name, test_cfg=None, **kwargs):
    backbone, cipher, patch = ALL[name]
    if 'TIMM' in name:
        pytest.importorskip('timm')
    _, data = sample(picture(1, 1, patch), cipher, patch)
    head = dict(patch_size=data.patch_layout.patch_size)
    kwargs = dict(backbone, **kwargs)
    if test_cfg is None:
        return build(kwargs, head), cipher, patch
    return build(kwargs, head, test_cfg=test_cfg), cipher, patch


def pictures(patch):
    return [picture(*size, patch, seed) for seed, size in enumerate(SIZES)]


def truth(rows, cols, patch):
    """Two objects whose centres lie in one patch, and one that fills the image."""
    h, w = rows * patch, cols * patch
    p = patch
    return (
        np.array(
            [
                [p * 1.2, p * 0.3, p * 1.8, p * 0.9],
                [p * 0.7, 0, p * 2.2, p * 1.0],
                [w * 0.02, h * 0.2, w, h * 0.9],
            ]
        ),
        [0, 1, 2],
    )


def training_batch(cipher, patch, sizes=SIZES):
    return collate(
        [
            sample(picture(*size, patch, i), cipher, patch, truth(*size, patch))
            for i, size in enumerate(sizes)
        ]
    )
