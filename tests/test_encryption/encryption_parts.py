# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Short calls of a run, and what is looked for in its folder."""

import json
from pathlib import Path

import numpy as np
from owner_data import SECRET, read
from pycocotools.coco import COCO

from hime_mm.apis import encrypt_coco, encrypt_folder
from hime_mm.ciphers import Key

KEY = Key(SECRET)
OTHER = Key(bytes(32))


def coco(src, out, cipher='shuffle', key=KEY, dataset_id='d', **kwargs):
    kwargs.setdefault('progress', False)
    return encrypt_coco(str(src), str(out), cipher, key=key, dataset_id=dataset_id, **kwargs)


def folder(src, out, cipher='shuffle', key=KEY, dataset_id='d', **kwargs):
    kwargs.setdefault('progress', False)
    return encrypt_folder(str(src), str(out), cipher, key=key, dataset_id=dataset_id, **kwargs)


def annotations(out, split='val2017'):
    return json.loads(Path(out, 'annotations', f'instances_{split}.json').read_text())


def check_coco(path, images):
    """What everybody who reads COCO files relies on."""
    api = COCO(path)
    assert len(api.imgs) == len(api.dataset['images'])
    assert len(api.anns) == len(api.dataset['annotations'])
    for image in api.imgs.values():
        img = read(images / image['file_name'])
        assert img.shape[:2] == (image['height'], image['width'])
    for ann in api.anns.values():
        assert ann['image_id'] in api.imgs
        assert ann['category_id'] in api.cats
        assert np.isfinite(ann['bbox']).all() and min(ann['bbox'][2:]) > 0
        assert ann['area'] > 0 and ann['iscrowd'] in (0, 1)
    return api
