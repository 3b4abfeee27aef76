# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import warnings

import numpy as np
import pytest
import torch
from client_parts import Stub, on_the_fly, random_boxes
from mmdet.registry import MODELS as DET_MODELS
from mmdet.structures import DetDataSample
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from owner_data import named

from hime_mm.apis import Client
from hime_mm.errors import ClientError

# Results from elsewhere


@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.int64])
def test_arrays_of_boxes(picture, dtype):
    client = Client('shuffle', dict(resize=(256, 192)))
    found = client.encrypt(picture)
    boxes = random_boxes(found.img.shape[:2])
    wanted = found.layout.unmap_boxes(boxes).clip(0, [270, 203] * 2)
    given = np.concatenate([boxes, np.arange(30)[:, None]], 1).astype(dtype)
    for kind in (np.asarray, torch.tensor):
        got = client.restore(kind(given), found)
        assert type(got) is type(kind(given))
        assert got.shape == (30, 5)
        if dtype != np.int64:
            assert got.dtype == kind(given).dtype
        np.testing.assert_allclose(got[:, :4], wanted, atol=1e-3)
        assert got[:, 4].tolist() == list(range(30))
    assert np.array_equal(given[:, :4], boxes)
    assert client.restore(np.zeros((0, 4)), found).shape == (0, 4)
    with pytest.raises(ClientError, match='`labels`'):
        client.restore(given, found, nms=0.5)
    for wrong in (given[:, :3], given[0], given[None]):
        with pytest.raises(ClientError, match=named('(n, 4)', wrong.shape)):
            client.restore(wrong, found)


def test_whole_numbers_do_not_round(picture):
    client = Client('mix2', dict(resize=(300, 200)))
    found = client.encrypt(picture)
    box = torch.tensor([[3, 5, 50, 60]])
    got = client.restore(box, found)
    assert got.is_floating_point()
    np.testing.assert_allclose(got, found.layout.unmap_boxes(box.numpy()), rtol=1e-6)


def test_dicts(picture):
    client = Client('shuffle')
    found = client.encrypt(picture)
    pair = found.layout.map_boxes([[50, 50, 90, 90], [54, 50, 94, 90]])
    result = dict(bboxes=pair.tolist(), scores=[0.5, 0.9], labels=[1, 1], label_names=['a', 'a'])
    before = copy.deepcopy(result)
    new = client.restore(result, found)
    assert new['scores'] == [0.9] and new['label_names'] == ['a']
    np.testing.assert_allclose(new['bboxes'], [[54, 50, 94, 90]])
    assert result == before
    with pytest.raises(ClientError, match='2 pictures'):
        client.restore(dict(predictions=[result, result]), found)
    assert client.restore(dict(bboxes=[], scores=[], labels=[]), found) == dict(
        bboxes=[], scores=[], labels=[]
    )


def test_results_that_are_not_known(picture):
    client = Client('shuffle')
    found = client.encrypt(picture)
    with pytest.raises(ClientError, match=r'\bstr\b'):
        client.restore('boxes', found)
    with pytest.raises(TypeError, match='Client.encrypt'):
        client.restore(np.zeros((1, 4)), found.layout)
    with pytest.raises(ClientError, match=named('(n, 4)', (1, 5))):
        client.predict(found, Stub(bboxes=torch.zeros(1, 5)))


@pytest.mark.parametrize('cipher', ['shuffle', 'mix2+shuffle'])
@pytest.mark.parametrize(
    'box', [[-9, 0, 5, 9], [0, 0, 900, 9], [0, -40, 9, 39.9], [float('nan'), 0, 9, 9]]
)
def test_boxes_in_no_slot(picture, cipher, box):
    """In whatever form they come."""
    client = Client(cipher)
    found = client.encrypt(picture)
    boxes = torch.tensor([[0.0, 0, 9, 9], box])
    told = dict(bboxes=boxes, scores=torch.ones(2), labels=torch.arange(2))
    sample = DetDataSample(metainfo=dict(ori_shape=found.img.shape[:2]))
    sample.pred_instances = InstanceData(**told)
    h, w = found.img.shape[:2]
    for result in (boxes, boxes.numpy(), {k: v.tolist() for k, v in told.items()}, sample):
        with pytest.raises(ClientError, match=named('box 1 ', f'{h}x{w}', 'token')):
            client.restore(result, found)
    with pytest.raises(ClientError, match=named('box 1 ', f'{h}x{w}', 'token')):
        client.predict(found, Stub(**told))
    assert len(client.restore(boxes[:1], found)) == 1


def test_boxes_of_cropped_pictures(picture):
    client = Client('mix2', dict(center_crop=(96, 96)))
    found = client.encrypt(picture)
    assert found.cropped and found.layout.cropped
    with pytest.raises(ClientError, match='center_crop'):
        client.restore(np.zeros((1, 4)), found)
    sample = DataSample()
    assert client.restore(sample, found) is sample


# Masks


def masks_of(shape):
    masks = np.zeros((2, *shape), bool)
    masks[0, 10:30, 20:60] = True
    masks[1, 40:] = True
    return masks


def test_masks_that_follow(picture):
    client = Client('mix2', dict(fit='pad'))
    found = client.encrypt(picture)
    masks = masks_of(found.img.shape[:2])
    boxes = torch.tensor([[20.0, 10, 60, 30], [0, 40, 136, 104]])
    told = dict(
        bboxes=boxes,
        scores=torch.tensor([0.9, 0.8]),
        labels=torch.tensor([0, 1]),
        masks=torch.from_numpy(masks),
    )
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        result = client.predict(found, Stub(**told), nms=0.5)
    got = result.pred_instances.masks
    assert got.dtype == torch.bool and got.shape == (2, *picture.shape[:2])
    wanted = masks.repeat(2, 1).repeat(2, 2)[:, :203, :270]
    assert (got.numpy() != wanted).sum() < 20
    # And in the form of DetInferencer.
    from mmdet.structures.mask import encode_mask_results
    from pycocotools import mask as coco_mask

    rles = encode_mask_results(masks)
    for rle in rles:
        rle['counts'] = rle['counts'].decode()
    new = client.restore(
        dict(bboxes=boxes.tolist(), scores=[0.9, 0.8], labels=[0, 1], masks=rles), found
    )
    for rle, mask in zip(new['masks'], got.numpy(), strict=True):
        assert np.array_equal(coco_mask.decode(rle), mask)


@pytest.mark.parametrize('cipher', ['shuffle', 'orient', 'mix2+shuffle'])
def test_masks_that_cannot_follow(picture, cipher):
    client = Client(cipher)
    found = client.encrypt(picture)
    told = dict(
        bboxes=torch.zeros(2, 4),
        scores=torch.ones(2),
        labels=torch.arange(2),
        masks=torch.from_numpy(masks_of(found.img.shape[:2])),
    )
    with pytest.warns(UserWarning, match='`masks`'):
        got = client.predict(found, Stub(**told)).pred_instances
    assert 'masks' not in got and len(got) == 2
    with pytest.warns(UserWarning, match='`masks`'):
        new = client.restore(
            dict(
                bboxes=[[0, 0, 1, 1]],
                scores=[1.0],
                labels=[0],
                masks=[dict(size=[1, 1], counts='')],
            ),
            found,
        )
    assert set(new) == {'bboxes', 'scores', 'labels'}


def test_masks_of_cropped_pictures(picture):
    found = Client('mix2', dict(center_crop=(96, 96))).encrypt(picture)
    shape = found.img.shape[:2]
    sample = DetDataSample(metainfo=dict(ori_shape=shape))
    sample.pred_sem_seg = PixelData(sem_seg=torch.zeros(1, *shape).long())
    sample.pred_instances = InstanceData(masks=torch.zeros(2, *shape).bool(), scores=torch.ones(2))
    with pytest.warns(UserWarning, match='`masks`, `pred_sem_seg`'):
        new = Client('mix2').restore(sample, found)
    assert 'pred_sem_seg' not in new and 'masks' not in new.pred_instances


def test_geometry_that_nobody_knows_is_left_out(picture):
    told = dict(
        bboxes=torch.zeros(2, 4),
        scores=torch.ones(2),
        labels=torch.arange(2),
        keypoints=torch.zeros(2, 17, 2),
        ids=torch.arange(2),
    )
    with pytest.warns(UserWarning, match='`keypoints`'):
        got = Client('mix2').predict(picture, Stub(**told)).pred_instances
    assert set(got.keys()) == {'bboxes', 'scores', 'labels', 'ids'}


def test_geometry_in_dicts_is_left_out(picture):
    client = Client('mix2')
    result = dict(
        bboxes=[[0, 0, 8, 8]],
        scores=[1.0],
        labels=[0],
        ids=[5],
        keypoints=[[[1, 2, 2]]],
        polygons=np.zeros((1, 4, 2)),
    )
    with pytest.warns(UserWarning, match='`keypoints`, `polygons`'):
        new = client.restore(result, client.encrypt(picture))
    assert set(new) == {'bboxes', 'scores', 'labels', 'ids'}


def test_geometry_of_the_encrypted_picture_stays_behind(picture):
    """It would be taken for the original's."""
    told = dict(bboxes=torch.zeros(1, 4), scores=torch.ones(1), labels=torch.zeros(1))
    got = Client('mix2', dict(fit='pad')).predict(
        picture, Stub(**told), metainfo=dict(text='a cat')
    )
    assert got.ori_shape == got.img_shape == picture.shape[:2]
    assert got.scale_factor == (1.0, 1.0) and got.text == 'a cat'
    assert not {'pad_shape', 'batch_input_shape', 'homography_matrix'} & set(got.metainfo_keys())


@pytest.mark.parametrize('name', ['pred_sem_seg', 'pred_panoptic_seg'])
def test_maps_of_classes(picture, name):
    client = Client('mix2', dict(fit='pad'))
    found = client.encrypt(picture)
    h, w = found.img.shape[:2]
    sem_seg = torch.arange(h * w).reshape(1, h, w)
    sample = DetDataSample(metainfo=dict(ori_shape=(h, w)))
    setattr(sample, name, PixelData(sem_seg=sem_seg))
    got = getattr(client.restore(sample, found), name).sem_seg
    wanted = sem_seg.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(got, wanted[:, :203, :270])
    moved = Client('shuffle').encrypt(picture)
    sample.set_metainfo(dict(ori_shape=moved.img.shape[:2]))
    with pytest.warns(UserWarning, match=name):
        assert name not in client.restore(sample, moved)


def test_maps_of_another_size(picture):
    client = Client('mix2')
    found = client.encrypt(picture)
    h, w = found.img.shape[:2]
    for shape in ((h, w - 8), picture.shape[:2]):
        sample = DetDataSample(metainfo=dict(ori_shape=(h, w)))
        sample.pred_sem_seg = PixelData(sem_seg=torch.zeros(1, *shape, dtype=torch.long))
        with pytest.raises(ClientError, match=named(shape, (h, w))):
            client.restore(sample, found)


def test_masks_of_a_real_model(picture):
    """MMDetection pastes masks at `ori_shape`, here the encrypted size."""
    init_default_scope('mmdet')
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py').model
    cfg.backbone.update(depth=18, init_cfg=None)
    cfg.neck.update(in_channels=[64, 128, 256, 512], out_channels=32)
    cfg.rpn_head.update(in_channels=32, feat_channels=32)
    for name in ('bbox', 'mask'):
        cfg.roi_head[f'{name}_roi_extractor'].out_channels = 32
        cfg.roi_head[f'{name}_head'].update(in_channels=32, num_classes=2)
    cfg.roi_head.bbox_head.fc_out_channels = 32
    cfg.test_cfg.rpn.max_per_img = 20
    cfg.test_cfg.rcnn.score_thr = 0.0
    cfg.test_cfg.rcnn.max_per_img = 10
    torch.manual_seed(0)
    model = DET_MODELS.build(cfg)
    scale = (256, 192)
    wanted = on_the_fly(model, picture, scale)
    client = Client('mix2', dict(resize=scale, keep_ratio=True))
    got = client.predict(picture, model).pred_instances
    assert len(wanted) == 10
    torch.testing.assert_close(got.bboxes, wanted.bboxes, atol=1e-3, rtol=0)
    assert got.masks.shape == wanted.masks.shape == (10, 203, 270)
    # Masks of random weights are ragged, so that their edges differ.
    overlaps = [
        (masks & wanted.masks).sum() / (masks | wanted.masks).sum()
        for masks in (got.masks, got.masks.flip(-1))
    ]
    assert overlaps[0] > 0.75 > 0.5 > overlaps[1]
