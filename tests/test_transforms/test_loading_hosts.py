# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import json

import cv2
import numpy as np
import pytest
import torch
from loading_parts import ANN_FILE, ANNOTATIONS, SHAPES, coco_dataset, load_meta
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from scripts import load_script

from hime_mm.apis import encrypt_folder
from hime_mm.ciphers import Key
from hime_mm.errors import PictureError


def test_browse_shows_what_there_is(encrypted):
    browse = load_script('tools/browse_dataset.py')
    root = encrypted('paper-mi')
    coco = json.loads((root / ANN_FILE).read_text())
    boxes = np.array([a['bbox'] for a in coco['annotations']])[:2]
    boxes[:, 2:] += boxes[:, :2]
    for step in (load_meta(), load_meta(coordinates='original')):
        data = coco_dataset(root, step, ANNOTATIONS, dict(type='mmdet.PackDetInputs'))
        before, after = browse.views(data, 0)
        assert before is None and browse.loads_encrypted(data)
        assert after['img'].shape == (32, 48, 3)
        np.testing.assert_allclose(after['boxes'], boxes, rtol=0, atol=1e-4)
    assert not browse.loads_encrypted(coco_dataset(root, ANNOTATIONS))


DETECTOR = dict(
    type='hime_mm.PEYOLOS',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type='hime_mm.PEViT',
        arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32),
        img_size=64,
        patch_embed='mixed',
        pos_encoding='learned',
        num_det_tokens=7,
        out_type='det_tokens',
    ),
    bbox_head=dict(type='hime_mm.DetTokenHead', num_classes=2, embed_dims=16),
    test_cfg=dict(max_per_img=7),
)


@pytest.mark.parametrize('coordinates', ['encrypted', 'original'])
def test_mmdetection_inferencer(encrypted, coordinates):
    """From a file of the data set, and from its pixels."""
    from mmdet.apis import DetInferencer

    root = encrypted('paper-mi')
    pipeline = [
        dict(type='LoadImageFromFile'),
        load_meta(coordinates=coordinates),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(
            type='PackDetInputs',
            meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
        ),
    ]
    cfg = Config(
        dict(
            default_scope='mmdet',
            model=DETECTOR,
            visualizer=dict(
                type='DetLocalVisualizer', vis_backends=[], name=f'inferencer_{coordinates}'
            ),
            test_dataloader=dict(
                dataset=dict(
                    type='CocoDataset',
                    data_root=str(root),
                    ann_file=ANN_FILE,
                    data_prefix=dict(img='some/'),
                    pipeline=pipeline,
                )
            ),
        )
    )
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match='randomly initialized'):
        inferencer = DetInferencer(cfg, device='cpu', scope='mmdet', show_progress=False)
    path = str(root / 'some/003.png')
    img = cv2.imread(path)
    by_path, by_array = (
        np.array(inferencer(inputs, no_save_vis=True)['predictions'][0]['bboxes'])
        for inputs in (path, img)
    )
    assert by_path.shape == (7, 4) and np.ptp(by_array) > 10
    height, width = SHAPES[3]
    scale = (width / img.shape[1], height / img.shape[0])
    if coordinates == 'encrypted':
        scale = (1.0, 1.0)
    np.testing.assert_allclose(by_path, by_array * np.tile(scale, 2), rtol=1e-5, atol=1e-3)


def test_detectors_learn_the_same(plain, encrypted):
    """From the encrypted folder, and from the plain one encrypted on the way.

    The twin of test_encrypted_training.py, which trains to the end.
    """
    init_default_scope('mmdet')
    models = pytest.importorskip('mmdet.registry').MODELS
    pack = dict(type='mmdet.PackDetInputs')
    encrypt = dict(type='hime_mm.Encrypt', cipher='paper-mi')
    losses = []
    for root, steps in (
        (plain, (ANNOTATIONS, encrypt)),
        (encrypted('paper-mi'), (load_meta(), ANNOTATIONS)),
    ):
        data = coco_dataset(root, *steps, pack)
        batch = pseudo_collate([data[i] for i in range(len(data))])
        torch.manual_seed(0)
        model = models.build(DETECTOR).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        values = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = sum(model(**model.data_preprocessor(batch, True), mode='loss').values())
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        losses.append(values)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


CLASSIFIER = dict(
    type='mmpretrain.ImageClassifier',
    data_preprocessor=dict(
        type='mmpretrain.ClsDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(
        type='hime_mm.PEViT',
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=64,
        pos_encoding='rpe',
    ),
    head=dict(type='mmpretrain.VisionTransformerClsHead', num_classes=3, in_channels=16),
)


@pytest.fixture(scope='module')
def classes(tmp_path_factory, make_image):
    """A folder of pictures by class, plain and shuffled."""
    root = tmp_path_factory.mktemp('classes')
    for split in ('train', 'val'):
        for name in 'abc':
            (root / 'plain' / split / name).mkdir(parents=True)
            for i in range(3):
                img = make_image((70, 90, 3), seed=3 * ord(name) + i)
                path = root / 'plain' / split / name / f'{i}.JPEG'
                path.write_bytes(cv2.imencode('.jpg', img)[1].tobytes())
    encrypt_folder(
        str(root / 'plain'),
        str(root / 'out'),
        'paper-rs',
        key=Key.generate(),
        preprocess=dict(resize=(64, 64)),
        progress=False,
    )
    return root


@pytest.mark.parametrize(
    'kind, args',
    [
        ('CustomDataset', dict(data_prefix='train')),
        ('CustomDataset', dict(data_prefix=dict(img_path='train/'))),
        ('ImageNet', dict(split='train', metainfo=dict(classes=('a', 'b', 'c')))),
    ],
)
def test_classifiers_learn_from_a_folder(classes, kind, args):
    registry = pytest.importorskip('mmpretrain.registry')
    init_default_scope('mmpretrain')

    def batch(root, *steps):
        dataset = registry.DATASETS.build(
            dict(
                type=f'mmpretrain.{kind}',
                data_root=str(classes / root),
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    *steps,
                    dict(
                        type='PackInputs',
                        meta_keys=('img_path', 'ori_shape', 'img_shape', 'scale_factor'),
                    ),
                ],
                **args,
            )
        )
        assert len(dataset) == 9
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=9, num_workers=1, collate_fn=pseudo_collate
        )
        return next(iter(loader))

    torch.manual_seed(0)
    model = registry.MODELS.build(CLASSIFIER)
    data = model.data_preprocessor(batch('out', load_meta()), training=True)
    for i, sample in enumerate(data['data_samples']):
        assert sample.gt_label.tolist() == [i // 3]
        assert sample.ori_shape == sample.img_shape == (64, 64)
        assert sample.img_path.endswith('.png')
    # The order of patches makes no difference to this model.
    other = model.data_preprocessor(batch('plain', dict(type='Resize', scale=(64, 64))))
    assert (data['inputs'] != other['inputs']).float().mean() > 0.5
    model.eval()
    with torch.no_grad():
        logits = [model(x['inputs']) for x in (data, other)]
    assert np.ptp(logits[0].numpy(), axis=0).max() > 1e-3
    torch.testing.assert_close(*logits, rtol=0, atol=1e-4)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = model.loss(data['inputs'], data['data_samples'])['loss']
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_mmpretrain_inferencer(classes):
    pretrain = pytest.importorskip('mmpretrain')
    path = str(classes / 'out/val/a/1.png')
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=CLASSIFIER,
            test_dataloader=dict(
                dataset=dict(
                    type='CustomDataset',
                    pipeline=[
                        dict(type='LoadImageFromFile'),
                        load_meta(manifest=str(classes / 'out')),
                        dict(type='PackInputs'),
                    ],
                )
            ),
        )
    )
    torch.manual_seed(0)
    inferencer = pretrain.ImageClassificationInferencer(
        cfg, pretrained=False, classes=('a', 'b', 'c')
    )
    results = [inferencer(inputs)[0]['pred_scores'] for inputs in (path, cv2.imread(path))]
    np.testing.assert_array_equal(*results)
    with pytest.raises(PictureError, match='60x64.*shuffle.* 16:'):
        inferencer(cv2.imread(path)[:60])
