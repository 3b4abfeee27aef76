# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""MI in an unmodified MMDetection config: DETR with its stock backbone."""

import os.path as osp
from copy import deepcopy

import cv2
import mmdet
import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed


@pytest.fixture(scope='module')
def config():
    init_default_scope('mmdet')
    cfg = Config.fromfile(
        osp.join(osp.dirname(mmdet.__file__), '.mim/configs/detr/detr_r50_8xb2-150e_coco.py')
    )
    cfg.model.backbone.init_cfg = None
    for name in ('encoder', 'decoder'):
        # Depth costs time and shows nothing more.
        cfg.model[name].num_layers = 2
    return cfg


def test_predictions_in_original_pixels(config, coco_like):
    init_default_scope('mmdet')
    set_random_seed(0)
    # DETRHead writes to its config.
    model = MODELS.build(deepcopy(config.model)).eval()
    with torch.no_grad():
        for param in model.bbox_head.fc_reg.parameters():
            param.normal_(std=0.15)
    pipeline = list(config.val_dataloader.dataset.pipeline)
    at = [t['type'] for t in pipeline].index('Resize')
    pipeline.insert(at + 1, dict(type='hime_mm.Encrypt', cipher='mix2'))
    pipeline[at] = dict(type='Resize', scale=(500, 320), keep_ratio=True)
    dataset = DATASETS.build(
        dict(
            type='CocoDataset',
            data_root=str(coco_like),
            ann_file='annotations/instances_val2017.json',
            data_prefix=dict(img='val2017/'),
            test_mode=True,
            pipeline=pipeline,
        )
    )
    mean = np.array([123.675, 116.28, 103.53])
    std = np.array([58.395, 57.12, 57.375])
    for index in range(3):
        item = dataset[index]
        with torch.no_grad():
            result = model.test_step(
                dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
            )[0]

        # By hand: resize, mix, normalise, scale relative boxes up.
        path = dataset.get_data_info(index)['img_path']
        image = cv2.imread(path)
        height, width = image.shape[:2]
        factor = min(500 / max(height, width), 320 / min(height, width))
        size = (int(width * factor + 0.5), int(height * factor + 0.5))
        image = cv2.resize(image, size)
        image = cv2.resize(image, (size[0] // 16 * 16, size[1] // 16 * 16))
        rows, cols = image.shape[0] // 16, image.shape[1] // 16
        cut = image.astype(np.float64).reshape(rows, 2, 8, cols, 2, 8, 3)
        mixed = np.floor(cut.mean((1, 4)) + 0.5).reshape(rows * 8, cols * 8, 3)
        x = (mixed[..., ::-1] - mean) / std
        x = torch.from_numpy(x.copy()).float().permute(2, 0, 1)[None]
        sample = item['data_samples'].clone()
        sample.set_metainfo(dict(batch_input_shape=tuple(x.shape[-2:])))
        with torch.no_grad():
            logits, boxes = model._forward(x, [sample])
        cx, cy, w, h = boxes[-1, 0].double().numpy().T
        expected = np.stack(
            [
                np.clip(cx - w / 2, 0, 1) * width,
                np.clip(cy - h / 2, 0, 1) * height,
                np.clip(cx + w / 2, 0, 1) * width,
                np.clip(cy + h / 2, 0, 1) * height,
            ],
            1,
        )
        scores, labels = logits[-1, 0].softmax(-1)[:, :-1].max(-1)
        got = result.pred_instances
        assert len(got) == len(expected) == 100
        # Row by row: each prediction has its twin of the same class.
        left = set(range(100))
        for box, score, label in zip(
            got.bboxes.numpy(), got.scores.numpy(), got.labels.numpy(), strict=True
        ):
            twin = min(left, key=lambda i: np.abs(expected[i] - box).max())
            left.remove(twin)
            np.testing.assert_allclose(box, expected[twin], atol=2e-2)
            assert abs(score - scores[twin]) < 1e-4
            assert label == labels[twin]
        # The boxes are not all alike, and reach beyond the shrunk image.
        assert np.ptp(expected, 0).min() > 1
        assert expected.max() > 1.2 * max(x.shape[-2:])


def test_training_step(config, coco_like):
    init_default_scope('mmdet')
    model = MODELS.build(deepcopy(config.model)).train()
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(256, 192), keep_ratio=True),
        dict(type='hime_mm.SubPatchMix'),
        dict(type='PackDetInputs'),
    ]
    dataset = DATASETS.build(
        dict(
            type='CocoDataset',
            data_root=str(coco_like),
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
            pipeline=pipeline,
        )
    )
    items = [dataset[i] for i in range(2)]
    data = dict(
        inputs=[i['inputs'] for i in items], data_samples=[i['data_samples'] for i in items]
    )
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    assert all(torch.isfinite(v) for v in losses.values())
