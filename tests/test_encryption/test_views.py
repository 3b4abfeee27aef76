# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import json
from dataclasses import replace

import mmcv
import numpy as np
import pytest
from encryption_parts import KEY, annotations, check_coco, coco
from owner_data import annotation, coco_file, read, tree, write

from hime_mm.ciphers import Cipher
from hime_mm.datasets.manifest import Manifest
from hime_mm.errors import BoxError
from hime_mm.images.preprocess import Preprocess


class TestViews:
    #: Of the painted object, far from the pictures' own grey.
    COLOUR = (255, 0, 255)

    @pytest.fixture
    def painted(self, tmp_path):
        """Grey pictures, each with a rectangle whose box is annotated."""
        src = tmp_path / 'painted'
        names, objects = {}, []
        rng = np.random.default_rng(1)
        for i in range(4):
            h, w = (int(v) for v in rng.integers(100, 180, 2))
            bw, bh = (int(v) for v in rng.integers(20, 40, 2))
            x, y = int(rng.integers(w - bw)), int(rng.integers(h - bh))
            img = np.full((h, w, 3), 90, np.uint8)
            img[y : y + bh, x : x + bw] = self.COLOUR
            write(src / 'val2017' / f'{i}.png', img)
            names[f'{i}.png'] = (h, w)
            objects.append(annotation(i + 1, 7 + i, [x, y, bw, bh]))
        (src / 'annotations').mkdir()
        (src / 'annotations/instances_val2017.json').write_text(
            json.dumps(coco_file(names, objects))
        )
        return src

    @staticmethod
    def bounds(img, least=110):
        """x1, y1, x2, y2 of the rectangle's pixels."""
        img = img.astype(int)
        magenta = img[..., [0, 2]].min(axis=-1) - img[..., 1] > least
        ys, xs = magenta.nonzero()
        return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]

    PREPROCESS = dict(
        short_side=(96, 128, 160), max_side=200, augment=dict(flip=0.5, crop=(0.4, 1), jitter=0.2)
    )

    # In a mixed patch, what is seen of an object fills the patch.
    @pytest.mark.parametrize(
        'cipher, least, far', [('noise1', 110, 1.6), ('mix2', 20, 8.6), ('mix2:tiled', 20, 16.6)]
    )
    @pytest.mark.parametrize('fit', ['resize', 'pad'])
    def test_boxes_follow_the_pixels(self, painted, tmp_path, cipher, least, far, fit):
        out = tmp_path / 'out'
        coco(painted, out, cipher, views=5, preprocess=dict(self.PREPROCESS, fit=fit))
        api = check_coco(out / 'annotations/instances_val2017.json', out / 'val2017')
        assert len(api.imgs) == 20 and 10 < len(api.anns) <= 20
        for ann in api.anns.values():
            name = api.imgs[ann['image_id']]['file_name']
            x, y, w, h = ann['bbox']
            if min(w, h) < 4:
                continue  # hardly any of it is left
            np.testing.assert_allclose(
                self.bounds(read(out / 'val2017' / name), least), [x, y, x + w, y + h], atol=far
            )
            np.testing.assert_allclose(ann['area'], w * h)

    def test_boxes_follow_the_pixels_of_their_patch(self, painted, tmp_path):
        out = tmp_path / 'out'
        coco(painted, out, 'shuffle', views=5, preprocess=self.PREPROCESS)
        api = check_coco(out / 'annotations/instances_val2017.json', out / 'val2017')
        moved = 0
        manifest = Manifest.load(out)
        for ann in api.anns.values():
            name = api.imgs[ann['image_id']]['file_name']
            x, y, w, h = ann['bbox']
            if min(w, h) < 6:
                continue
            # In the encrypted picture, its centre shows the object.
            img = read(out / 'val2017' / name).astype(int)
            pixel = img[int(y + h / 2), int(x + w / 2)]
            assert min(pixel[0], pixel[2]) - pixel[1] > 110, name
            entry = manifest.entry(f'val2017/{name}')
            layout = manifest.secret_layout(entry, KEY)
            with pytest.raises(BoxError, match='`center_crop`'):
                layout.unmap_boxes([[x, y, x + w, y + h]])
            layout = replace(layout, cropped=False)
            box = layout.unmap_boxes([[x, y, x + w, y + h]])[0]
            plain = Cipher('shuffle').decrypt(
                read(out / 'val2017' / name), manifest.draw(entry, KEY)
            )
            np.testing.assert_allclose(self.bounds(plain), box * np.tile(entry.scale, 2), atol=1.6)
            moved += (abs(layout.unmap_boxes([[x, y, x + w, y + h]])[0][:2] - [x, y]) > 8).any()
        assert moved > 5

    def test_differ(self, painted, tmp_path):
        out = tmp_path / 'out'
        summary = coco(painted, out, 'shuffle', views=6, preprocess=self.PREPROCESS)
        assert (summary.images, summary.files) == (4, 24)
        contents = tree(out)
        assert len({d for n, d in contents.items() if n.endswith('.png')}) == 24
        manifest = Manifest.load(out)
        entries = list(manifest.files.values())
        assert len({(e.ori_shape, e.shape, e.scale) for e in entries}) > 12
        sides = {min(e.shape) for e in entries}
        assert {96, 128} <= sides
        assert [e.path for e in entries][:2] == ['val2017/0_v0.png', 'val2017/0_v1.png']

    def test_ids(self, painted, tmp_path):
        out = tmp_path / 'out'
        coco(painted, out, 'shuffle', views=3)
        after = annotations(out)
        ids = [i['id'] for i in after['images']]
        assert ids == [i * 3 + v for i in (7, 8, 9, 10) for v in range(3)]
        assert [a['id'] for a in after['annotations']] == [
            i * 3 + v for i in (1, 2, 3, 4) for v in range(3)
        ]
        assert [a['image_id'] for a in after['annotations']] == ids

    def test_are_those_of_the_key(self, painted, tmp_path):
        out = tmp_path / 'out'
        coco(painted, out, 'center+shuffle', views=2, preprocess=self.PREPROCESS)
        cipher = Cipher('center+shuffle')
        preprocess = Preprocess.from_dict(copy.deepcopy(self.PREPROCESS))
        for name in ('0_v0', '0_v1', '3_v1'):
            rng = KEY.image_rng('d', f'val2017/{name}.png')
            img = mmcv.imread(painted / 'val2017' / f'{name[0]}.png')
            ready = preprocess.prepare(img, 16, None, rng.augmentation(cipher.canonical))
            drawn = cipher.draw(ready.img.shape, rng)
            np.testing.assert_array_equal(
                read(out / 'val2017' / f'{name}.png'), cipher.apply(ready.img, drawn)
            )
