# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What fixed random models under rewritten configs predict, in pixels of the original."""

from copy import deepcopy
from itertools import product

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.registry import MODELS
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from scipy.ndimage import map_coordinates
from skimage.data import astronaut
from tiers import trials_but

from hime_mm.config import encrypt_config, load_config

pytestmark = pytest.mark.slow
#: Of the original; no multiple of a patch, and another one along each side.
WIDTH, HEIGHT = 330, 250
#: What the pipelines resize to, and the size that comes of that.
SCALE, RESIZED = (260, 190), (251, 190)
#: What RTMDet's pad to.
PADDED = (288, 224)
NAMES = {
    'retinanet': 'retinanet/retinanet_r50_fpn_1x_coco.py',
    'fcos': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'atss': 'atss/atss_r50_fpn_1x_coco.py',
    'yolof': 'yolof/yolof_r50-c5_8xb8-1x_coco.py',
    'faster': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'mask': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'detr': 'detr/detr_r50_8xb2-150e_coco.py',
    'deformable': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'rtmdet': 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
}
#: Pixels of an encrypted image for each of the plain one.
RATIOS = {'mix2': 1 / 2, 'center+erode2': 3 / 4, 'mix2:tiled': 1}


@pytest.fixture(scope='module')
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp('picture') / 'astronaut.png'
    cv2.imwrite(str(path), astronaut()[:HEIGHT, :WIDTH, ::-1])
    return str(path)


def predict(name, cipher, picture, backbone=None):
    """What a model predicts for the encrypted image, in its own pixels and in the original's."""
    cfg = load_config(f'mmdet::{NAMES[name]}')
    for step in cfg.test_dataloader.dataset.pipeline:
        if step.type in ('Resize', 'Pad'):
            step.update(scale=SCALE) if step.type == 'Resize' else step.update(size=PADDED)
    if 'rcnn' in cfg.model.get('test_cfg', {}):
        # Of 81 classes a random model is sure of none.
        cfg.model.test_cfg.rcnn.score_thr = 0.0
    cfg = encrypt_config(cfg, cipher, backbone)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    sample = dict(img_path=picture, img_id=1, instances=[], height=HEIGHT, width=WIDTH)
    data = pseudo_collate([Compose(cfg.test_dataloader.dataset.pipeline)(sample)])
    maps = []
    if hasattr(model, 'roi_head') and model.roi_head.with_mask:
        model.roi_head.mask_head.register_forward_hook(lambda *args: maps.append(args[-1]))
    with torch.no_grad():
        images, samples = model.data_preprocessor(data).values()
        own = model.predict(images, deepcopy(samples), rescale=False)[0].pred_instances
        maps.clear()
        original = model.predict(images, samples, rescale=True)[0].pred_instances
    assert len(original) > 5
    return own, original, maps, data['inputs'][0].shape[-2:]


def by_hand(boxes, cipher):
    """From pixels of the encrypted image to those of the original."""
    factors = []
    for whole, resized in zip((WIDTH, HEIGHT), RESIZED, strict=True):
        # Images lose what is no whole patch, by resizing once more.
        patches = resized // 16 * 16
        factors.append(whole / (patches * RATIOS[cipher]))
    return boxes.numpy().astype(np.float64) * np.tile(factors, 2)


@pytest.mark.parametrize('cipher', trials_but(lambda cipher: cipher == 'mix2', RATIOS))
@pytest.mark.parametrize('name', [name for name in NAMES if name != 'rtmdet'])
def test_boxes(name, cipher, picture):
    own, original, _, shape = predict(name, cipher, picture)
    assert shape == tuple(side // 16 * 16 * RATIOS[cipher] for side in RESIZED[::-1])
    expected = by_hand(own.bboxes, cipher)
    assert len(own) == len(original)
    np.testing.assert_allclose(original.bboxes.numpy(), expected, atol=0.05)


def test_boxes_of_padded_images(picture):
    """RTMDet pads before the encryption: the image is the upper left part of what is encrypted."""
    own, original, _, shape = predict('rtmdet', 'mix2', picture)
    assert shape == (112, 144)
    factors = (2 * WIDTH / RESIZED[0], 2 * HEIGHT / RESIZED[1])
    expected = own.bboxes.numpy() * np.tile(factors, 2)
    np.testing.assert_allclose(original.bboxes.numpy(), expected, atol=0.05)


@pytest.mark.parametrize(
    'cipher, backbone',
    trials_but(
        lambda case: case in (('mix2', None), ('center+erode2', 'pevit-tiny')),
        product(RATIOS, (None, 'pevit-tiny')),
    ),
)
def test_masks(cipher, backbone, picture):
    """Each mask is pasted into the original where its box is, pixel by pixel."""
    own, original, maps, _ = predict('mask', cipher, picture, backbone)
    boxes = by_hand(own.bboxes, cipher)
    small = torch.cat(maps).sigmoid().numpy()
    assert original.masks.shape == (len(boxes), HEIGHT, WIDTH)
    rows, cols = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for (x1, y1, x2, y2), label, scores, mask in zip(
        boxes, own.labels, small, original.masks.numpy(), strict=True
    ):
        side = scores.shape[-1]
        at = ((rows - y1) / (y2 - y1) * side - 0.5, (cols - x1) / (x2 - x1) * side - 0.5)
        expected = map_coordinates(scores[label], at, order=1, mode='grid-constant') >= 0.5
        joint = (expected & mask).sum() / max((expected | mask).sum(), 1)
        assert joint >= 0.98 or not (expected | mask).any()
    assert original.masks.any(dim=(1, 2)).sum() > 5
