# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import json
from pathlib import Path

import cv2
import pytest
from loading_parts import ANN_FILE, SHAPES

from hime_mm.apis import encrypt_coco
from hime_mm.ciphers import Cipher


@pytest.fixture(scope='module')
def plain(tmp_path_factory, make_image):
    """A COCO data set of four images with two boxes each."""
    root = tmp_path_factory.mktemp('plain')
    (root / 'some').mkdir()
    (root / 'annotations').mkdir()
    images, annotations = [], []
    for i, (h, w) in enumerate(SHAPES):
        name = f'{i:03d}.png'
        cv2.imwrite(str(root / 'some' / name), make_image((h, w, 3), seed=i))
        images.append(dict(id=10 + i, file_name=name, height=h, width=w))
        for k, (x, y) in enumerate(((3, 5), (30, 24))):
            annotations.append(
                dict(
                    id=2 * i + k + 1,
                    image_id=10 + i,
                    category_id=k + 1,
                    bbox=[x, y, 20 + i, 31 - k],
                    area=(20 + i) * (31 - k),
                    iscrowd=0,
                )
            )
    names = ('person', 'bicycle')
    categories = [dict(id=k + 1, name=name) for k, name in enumerate(names)]
    (root / ANN_FILE).write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=categories))
    )
    return root


@pytest.fixture(scope='module')
def encrypted(plain, tmp_path_factory):
    """Encrypt the data set, once with the same arguments."""
    made = {}

    def make(cipher, **kwargs) -> Path:
        name = repr((cipher, sorted(kwargs.items())))
        if name not in made:
            made[name] = tmp_path_factory.mktemp('out') / 'encrypted'
            random = Cipher.build(cipher).random or 'augment' in repr(kwargs)
            encrypt_coco(
                str(plain), str(made[name]), cipher, one_way=random, progress=False, **kwargs
            )
        return made[name]

    return make
