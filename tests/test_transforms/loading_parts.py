# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import cv2
import pytest

ANN_FILE = 'annotations/instances_some.json'
# No multiples of the patch size among them, but for the third.
SHAPES = [(70, 110), (130, 97), (64, 64), (97, 161)]
ANNOTATIONS = dict(type='mmdet.LoadAnnotations', with_bbox=True)


def coco_dataset(root, *transforms, ann_file=ANN_FILE, img='some/', **kwargs):
    return pytest.importorskip('mmdet.datasets').CocoDataset(
        data_root=str(root),
        ann_file=ann_file,
        data_prefix=dict(img=img),
        metainfo=dict(classes=('person', 'bicycle')),
        pipeline=[dict(type='LoadImageFromFile'), *transforms],
        **kwargs,
    )


def load_meta(**kwargs):
    return dict(type='hime_mm.LoadEncryptedMeta', **kwargs)


def loaded(path, **kwargs):
    """What LoadImageFromFile gives."""
    img = cv2.imread(str(path), **kwargs)
    return dict(img=img, img_path=str(path), img_shape=img.shape[:2], ori_shape=img.shape[:2])
