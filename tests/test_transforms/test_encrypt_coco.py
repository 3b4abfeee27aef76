# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from encrypt_parts import LOAD, HorizontalBoxes, coco_dataset
from mmengine.dataset import Compose, pseudo_collate

from hime_mm.ciphers import mix_patches, unshuffle_patches
from hime_mm.errors import HimeError


@pytest.mark.parametrize('cipher', ['mix2', 'mix4', 'mix2:tiled'])
@pytest.mark.parametrize('fit', ['resize', 'pad'])
def test_real_boxes_there_and_back(coco_tiny, cipher, fit):
    dataset = coco_dataset(
        coco_tiny,
        dict(type='mmdet.Resize', scale=(500, 300), keep_ratio=True),
        dict(type='mmdet.RandomFlip', prob=1.0),
        dict(type='hime_mm.Encrypt', cipher=cipher, fit=fit),
    )
    num_boxes = 0
    for index in range(0, 24):
        info = dataset.get_data_info(index)
        original = np.array([x['bbox'] for x in info['instances']]).reshape(-1, 4)
        results = dataset[index]
        boxes = results['gt_bboxes'].numpy().astype(np.float64)
        assert len(boxes) == len(original)
        num_boxes += len(boxes)
        assert results['img'].shape[:2] == results['img_shape']
        layout = results['patch_layout']

        # Back to what Resize and RandomFlip made of it, through the layout.
        x1, y1, x2, y2 = layout.unmap_boxes(boxes).T
        width = layout.ori_shape[1]
        back = np.stack([width - x2, y1, width - x1, y2], 1)
        resize = np.divide(results['scale_factor'], layout.scale)
        np.testing.assert_allclose(back / np.tile(resize, 2), original, rtol=0, atol=1e-3)

        # As a head does it: `scale_factor` alone, flip aside.
        if fit == 'resize':
            x1, y1, x2, y2 = boxes.T
            width = results['img_shape'][1]
            back = np.stack([width - x2, y1, width - x1, y2], 1)
            np.testing.assert_allclose(
                back / np.tile(results['scale_factor'], 2), original, rtol=0, atol=1e-3
            )

        # Through the homography, which is float32 in MMDetection.
        matrix = results['homography_matrix'].astype(np.float64)
        corners = np.concatenate([original[:, :2], original[:, 2:]])
        moved = np.c_[corners, np.ones(len(corners))] @ matrix.T
        first, second = np.split(moved[:, :2], 2)
        np.testing.assert_allclose(
            np.c_[np.minimum(first, second), np.maximum(first, second)], boxes, rtol=0, atol=1e-2
        )
    assert num_boxes > 50


@pytest.mark.parametrize('cipher', ['shuffle', 'mix2+shuffle'])
def test_real_boxes_through_shuffling(coco_tiny, cipher):
    dataset = coco_dataset(
        coco_tiny,
        dict(type='mmdet.Resize', scale=(500, 300), keep_ratio=True),
        dict(type='hime_mm.Encrypt', cipher=cipher, keep_permutation=True),
    )
    moved = 0
    for index in range(0, 24):
        original = np.array([x['bbox'] for x in dataset.get_data_info(index)['instances']]).reshape(
            -1, 4
        )
        results = dataset[index]
        layout = results['patch_layout']
        boxes = results['gt_bboxes'].numpy()
        resize = np.divide(results['scale_factor'], layout.scale)
        np.testing.assert_allclose(
            layout.unmap_boxes(boxes) / np.tile(resize, 2), original, rtol=0, atol=1e-3
        )
        moved += (np.abs(boxes - original * np.tile(results['scale_factor'], 2)).max(1) > 1).sum()
    assert moved > 50


@pytest.mark.parametrize('poly2mask', [True, False])
def test_real_masks(coco_tiny, poly2mask):
    load = [
        LOAD[0],
        dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=poly2mask),
    ]
    plain = coco_dataset(coco_tiny, load=load)
    mixed = coco_dataset(coco_tiny, dict(type='hime_mm.SubPatchMix'), load=load)
    shuffled = coco_dataset(coco_tiny, dict(type='hime_mm.PatchShuffle'), load=load)
    compared = 0
    for index in range(12):
        before, after = plain[index], mixed[index]
        scale = np.array(after['scale_factor'])
        old, new = before['gt_masks'], after['gt_masks']
        assert type(new) is type(old)
        assert (new.height, new.width) == after['img_shape']
        if not poly2mask:
            for given, part in zip(sum(old.masks, []), sum(new.masks, []), strict=True):
                np.testing.assert_allclose(
                    part.reshape(-1, 2), given.reshape(-1, 2) * scale, rtol=1e-6, atol=1e-6
                )
        large = old.areas > 1000
        compared += large.sum()
        np.testing.assert_allclose(new.areas[large], old.areas[large] * scale.prod(), rtol=0.05)
        # The masks lie where the boxes are.
        old_boxes = old.get_bboxes(HorizontalBoxes).numpy()[large]
        new_boxes = new.get_bboxes(HorizontalBoxes).numpy()[large]
        np.testing.assert_allclose(new_boxes, old_boxes * np.tile(scale, 2), rtol=0, atol=1.5)
        given = before['gt_bboxes'].numpy() * np.tile(scale, 2)
        np.testing.assert_allclose(after['gt_bboxes'].numpy(), given, rtol=0, atol=1e-3)
        with pytest.raises(HimeError, match='hime_mm.PatchShuffle .*`gt_masks`'):
            shuffled[index]
    assert compared > 20


def test_test_pipeline(coco_tiny):
    """Annotations loaded after encryption stay in original coordinates."""
    dataset = coco_dataset(
        coco_tiny,
        dict(type='mmdet.Resize', scale=(500, 300), keep_ratio=True),
        dict(type='hime_mm.SubPatchMix'),
        LOAD[1],
        dict(
            type='mmdet.PackDetInputs',
            meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor'),
        ),
        load=LOAD[:1],
    )
    sample = dataset[0]['data_samples']
    original = [x['bbox'] for x in dataset.get_data_info(0)['instances']]
    np.testing.assert_allclose(sample.gt_instances.bboxes.numpy(), original, rtol=0, atol=1e-3)
    ratio = np.divide(sample.img_shape, sample.ori_shape)[::-1]
    np.testing.assert_allclose(sample.scale_factor, ratio, rtol=1e-6)


def test_dataloader(coco_tiny):
    steps = [
        dict(type='mmdet.Resize', scale=(320, 192), keep_ratio=False),
        dict(type='mmdet.RandomFlip', prob=1.0),
    ]
    plain = coco_dataset(coco_tiny, *steps)
    dataset = coco_dataset(
        coco_tiny,
        *steps,
        dict(type='hime_mm.Encrypt', cipher='shuffle', keep_permutation=True),
        dict(
            type='mmdet.PackDetInputs',
            meta_keys=(
                'img_id',
                'ori_shape',
                'img_shape',
                'scale_factor',
                'flip',
                'homography_matrix',
                'patch_layout',
            ),
        ),
    )
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(dataset, range(8)),
        batch_size=4,
        num_workers=2,
        collate_fn=pseudo_collate,
    )
    permutations = set()
    index = 0
    for batch in loader:
        for img, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
            layout = sample.patch_layout
            permutations.add(layout.permutation.tobytes())
            expected = plain[index]
            assert sample.img_id == expected['img_id']
            np.testing.assert_array_equal(
                unshuffle_patches(img.numpy().transpose(1, 2, 0), layout.permutation, 16),
                expected['img'],
            )
            np.testing.assert_allclose(
                layout.unmap_boxes(sample.gt_instances.bboxes.numpy()),
                expected['gt_bboxes'].numpy()[~expected['gt_ignore_flags']],
                rtol=0,
                atol=1e-3,
            )
            index += 1
    assert index == 8
    assert len(permutations) == 8


def test_mmpretrain_pipeline(coco_tiny):
    registry = pytest.importorskip('mmpretrain.registry').TRANSFORMS
    path = sorted((coco_tiny / 'val2017').glob('*.jpg'))[0]

    def run(*steps):
        pipeline = Compose(
            [
                registry.build(step)
                for step in (
                    dict(type='LoadImageFromFile'),
                    dict(type='mmpretrain.ResizeEdge', scale=96),
                    dict(type='mmpretrain.CenterCrop', crop_size=80),
                    *steps,
                    dict(type='mmpretrain.PackInputs'),
                )
            ]
        )
        return pipeline(dict(img_path=str(path), gt_label=3))

    plain = run()['inputs'].numpy().transpose(1, 2, 0)
    packed = run(dict(type='hime_mm.Encrypt', cipher='mix4'))
    np.testing.assert_array_equal(
        packed['inputs'].numpy().transpose(1, 2, 0), mix_patches(plain, 16, 4)
    )
    sample = packed['data_samples']
    assert sample.gt_label.tolist() == [3]
    assert sample.img_shape == (20, 20)
    shuffled = run(dict(type='hime_mm.PatchShuffle'))['inputs'].numpy()
    assert (shuffled != plain.transpose(2, 0, 1)).any()
    np.testing.assert_array_equal(np.sort(shuffled, axis=None), np.sort(plain, axis=None))
