# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import json
import shutil
from dataclasses import replace

import mmcv
import numpy as np
import pytest
from encryption_parts import KEY, annotations, check_coco, coco
from owner_data import annotation, coco_file, edit_json, make_coco, named, photo, tree, write
from pycocotools.coco import COCO

from hime_mm.apis import verify_dataset
from hime_mm.ciphers import Cipher
from hime_mm.datasets.manifest import Manifest
from hime_mm.errors import CocoError, EncryptionError
from hime_mm.images.preprocess import Preprocess


class TestCoco:
    def test_boxes_travel_with_their_patch(self, coco_src, tmp_path):
        out = tmp_path / 'out'
        coco(coco_src, out, preprocess=dict(fit='pad'))
        api = check_coco(out / 'annotations/instances_val2017.json', out / 'val2017')
        manifest = Manifest.load(out)
        plain = {a['id']: a for a in annotations(coco_src)['annotations']}
        assert set(plain) == set(api.anns)
        for ann in api.anns.values():
            before = plain[ann['id']]
            x, y, w, h = before['bbox']
            image = api.imgs[ann['image_id']]
            name = f'val2017/{image["file_name"]}'
            cols = image['width'] // 16
            perm = Cipher('shuffle').draw(
                (image['height'], image['width'], 3), KEY.image_rng('d', name)
            )[0]
            # The patch that holds the centre, and the slot it went to.
            row = min(int((y + h / 2) // 16), image['height'] // 16 - 1)
            col = min(int((x + w / 2) // 16), cols - 1)
            slot = perm.tolist().index(row * cols + col)
            expected = [x + (slot % cols - col) * 16, y + (slot // cols - row) * 16, w, h]
            # Off the ends of the slot, by what single precision rounds.
            np.testing.assert_allclose(ann['bbox'], expected, rtol=0, atol=1e-4)
            for key in ('category_id', 'iscrowd', 'image_id'):
                assert ann[key] == before[key]
            assert ann['area'] == before['area']
            assert set(ann) == {'id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd'}
            # The key holder finds it again.
            layout = manifest.secret_layout(manifest.entry(name), KEY)
            ex, ey, ew, eh = ann['bbox']
            np.testing.assert_allclose(
                layout.unmap_boxes([[ex, ey, ex + ew, ey + eh]])[0],
                [x, y, x + w, y + h],
                rtol=0,
                atol=1e-4,
            )

    def test_boxes_scale(self, coco_src, tmp_path):
        out = tmp_path / 'out'
        coco(coco_src, out, 'mix2', preprocess=dict(resize=(64, 128)))
        api = check_coco(out / 'annotations/instances_val2017.json', out / 'val2017')
        sizes = {i['id']: i for i in annotations(coco_src)['images']}
        for before in annotations(coco_src)['annotations']:
            ann, image = api.anns[before['id']], sizes[before['image_id']]
            sx, sy = 32 / image['width'], 64 / image['height']
            np.testing.assert_allclose(ann['bbox'], np.multiply(before['bbox'], [sx, sy] * 2))
            np.testing.assert_allclose(ann['area'], before['area'] * sx * sy)

    def test_objects_that_shrink_to_nothing_are_counted(self, coco_src, tmp_path):
        # Of 20 x 30.25 and of the whole picture; by 8 and by 64.
        small = coco(coco_src, tmp_path / '1', 'mix2', views=1, preprocess=dict(resize=(16, 16)))
        assert small.tiny == 0
        small = coco(
            coco_src, tmp_path / '2', 'mix16', patch_size=32, preprocess=dict(resize=(32, 32))
        )
        assert small.tiny == 3
        assert len(annotations(tmp_path / '2')['annotations']) == 6

    def test_what_is_kept(self, coco_src, tmp_path):
        summary = coco(coco_src, tmp_path / 'out')
        before, after = annotations(coco_src), annotations(tmp_path / 'out')
        assert after['categories'] == before['categories']
        assert after['licenses'] == before['licenses']
        assert [i['id'] for i in after['images']] == [7, 8, 9, 10]
        assert {a['image_id'] for a in after['annotations']} == {7, 8, 9}
        assert [a['iscrowd'] for a in after['annotations']] == [0, 1] * 3
        for image in after['images']:
            assert set(image) == {'id', 'file_name', 'height', 'width', 'license'}
        assert set(after) == {'info', 'licenses', 'images', 'annotations', 'categories'}
        assert set(after['info']) == {'description'}
        assert 'plain' not in json.dumps(after)
        assert summary.dropped == [
            'annotations.caption',
            'annotations.keypoints',
            'annotations.segmentation',
            'images.coco_url',
            'images.date_captured',
        ]

    def test_licences_can_be_dropped(self, coco_src, tmp_path):
        coco(coco_src, tmp_path / 'out', licenses=False)
        after = annotations(tmp_path / 'out')
        assert 'licenses' not in after
        assert not any('license' in image for image in after['images'])

    @pytest.mark.parametrize(
        'options, ratio',
        [
            (dict(cipher='mix2'), 1 / 4),
            (dict(cipher='mix2:tiled'), 1),
            (dict(cipher='drop20', preprocess=dict(fit='pad')), 1),
            (dict(cipher='drop20', preprocess=dict(resize=(256, 128))), None),
        ],
    )
    def test_segmentations(self, coco_src, tmp_path, options, ratio):
        coco(coco_src, tmp_path / 'out', segmentation=True, **options)
        path = tmp_path / 'out/annotations/instances_val2017.json'
        api = check_coco(path, tmp_path / 'out' / 'val2017')
        before = COCO(coco_src / 'annotations/instances_val2017.json')
        for number, ann in api.anns.items():
            old = before.anns[number]
            image, was = (a.imgs[ann['image_id']] for a in (api, before))
            scale = ann['bbox'][2] / old['bbox'][2], (ann['bbox'][3] / old['bbox'][3])
            mask, old_mask = api.annToMask(ann), before.annToMask(old)
            assert mask.shape == (image['height'], image['width'])
            assert ratio in (None, scale[0] * scale[1]) or was['id'] == 10
            assert abs(mask.sum() / (old_mask.sum() * scale[0] * scale[1]) - 1) < 0.12
            if isinstance(ann['segmentation'], list):
                points = np.reshape(old['segmentation'][0], (-1, 2)) * scale
                np.testing.assert_allclose(np.reshape(ann['segmentation'][0], (-1, 2)), points)
            else:
                assert ann['segmentation']['size'] == list(mask.shape)

    @pytest.mark.parametrize(
        'kwargs',
        [
            dict(cipher='shuffle'),
            dict(cipher='orient'),
            dict(cipher='mix2', preprocess=dict(augment=dict(flip=1))),
        ],
    )
    def test_outlines_cannot_follow(self, coco_src, tmp_path, kwargs):
        with pytest.raises(EncryptionError, match=named('segmentation', repr(kwargs['cipher']))):
            coco(coco_src, tmp_path / 'out', segmentation=True, **kwargs)

    def test_broken_outline_is_found_before_the_work(self, own_src, tmp_path):
        edit_json(
            own_src / 'annotations/instances_val2017.json',
            lambda c: c['annotations'][1].update(segmentation=dict(counts=[3], size=[9, 9])),
        )
        with pytest.raises(CocoError, match=r'segmentation.*annotations\[1'):
            coco(own_src, tmp_path / 'out', 'mix2', segmentation=True)
        assert not (tmp_path / 'out').exists()

    @pytest.mark.parametrize('size', [[2**20, 2**20], [128, 96], [96, 128], [1, 96 * 128]])
    @pytest.mark.parametrize('twice', [False, True])
    def test_run_lengths_give_images_their_size(self, own_src, tmp_path, size, twice):
        """No memory is asked for on their word: the picture is held to it."""
        path = own_src / 'annotations/instances_val2017.json'

        def change(coco):
            for image in coco['images']:
                del image['height'], image['width']
            coco['annotations'] = coco['annotations'][:2]
            runs = dict(counts=[size[0] * size[1]], size=size)
            coco['annotations'][1]['segmentation'] = runs

        edit_json(path, change)
        more = {}
        if twice:  # another file says nothing of sizes
            other = shutil.copy(path, path.with_name('other.json'))
            edit_json(other, lambda coco: coco.update(annotations=[]))
            more = dict(
                annotations=[f'annotations/{p.name}' for p in (path, other)], images=['val2017'] * 2
            )
        summary = coco(own_src, tmp_path / 'out', 'mix2', segmentation=True, **more)
        if size == [96, 128]:
            assert summary.complete
            return
        ((picture, reason),) = summary.skipped
        assert picture == 'val2017/000001.jpg' and f'say {size[0]}x{size[1]}' in reason

    @pytest.mark.parametrize('sizes', [([96, 128], [128, 96]), ([-96, -128],), ([0, 5],)])
    def test_run_lengths_that_do_not_agree_on_a_size(self, own_src, tmp_path, sizes):
        def change(coco):
            del coco['images'][0]['height'], coco['images'][0]['width']
            for ann, size in zip(coco['annotations'], sizes, strict=False):
                ann['segmentation'] = dict(counts=[size[0] * size[1]], size=size)

        edit_json(own_src / 'annotations/instances_val2017.json', change)
        with pytest.raises(CocoError, match=rf'segmentation.*annotations\[{len(sizes) - 1}'):
            coco(own_src, tmp_path / 'out', 'mix2', segmentation=True)

    def test_center_crop_is_refused(self, coco_src, tmp_path):
        with pytest.raises(EncryptionError, match='`center_crop`'):
            coco(coco_src, tmp_path / 'out', preprocess=dict(center_crop=(32, 32)))

    def test_splits(self, own_src, tmp_path):
        make_coco(own_src, [(32, 48), (48, 32)], 'train2017')
        (own_src / 'annotations/captions_val2017.json').write_text('{}')
        out = tmp_path / 'out'
        summary = coco(own_src, out)
        assert summary.images == 6
        for split, number in (('train2017', 2), ('val2017', 4)):
            api = check_coco(out / f'annotations/instances_{split}.json', out / split)
            assert len(api.imgs) == number
        assert 'annotations/captions_val2017.json' not in tree(out)

    def test_files_by_name(self, tmp_path):
        src, out = tmp_path / 'src', tmp_path / 'out'
        names = {'x/b c.jpg': (32, 48), 'x/y/ü.JPG': (48, 32)}
        for i, (name, size) in enumerate(names.items()):
            write(src / 'pics' / name, photo(*size, i))
        (src / 'boxes').mkdir()
        (src / 'boxes' / 'all.json').write_text(
            json.dumps(coco_file(names, [annotation(1, 7, [1, 2, 3, 4])]))
        )
        coco(src, out, annotations=['boxes/all.json'], images=['pics'])
        assert set(tree(out)) == {
            'hime.json',
            'hime-000000.json',
            'boxes/all.json',
            'pics/x/b c.png',
            'pics/x/y/ü.png',
        }
        api = check_coco(out / 'boxes/all.json', out / 'pics')
        assert {i['file_name'] for i in api.imgs.values()} == {'x/b c.png', 'x/y/ü.png'}
        # Images may be below the annotations' own folder, too.
        shutil.copy(src / 'boxes' / 'all.json', src / 'pics')
        two = tmp_path / 'two'
        summary = coco(src / 'boxes' / '..' / 'pics', two, images=['.'], annotations=['./all.json'])
        assert summary.complete
        assert set(tree(two)) == {
            'hime.json',
            'hime-000000.json',
            'all.json',
            'x/b c.png',
            'x/y/ü.png',
        }

    @pytest.mark.parametrize(
        'kwargs, error, things',
        [
            (
                dict(annotations=['annotations/none.json'], images=['val2017']),
                CocoError,
                ['annotations/none.json'],
            ),
            (dict(annotations=['annotations/none.json']), CocoError, ['annotations/none.json']),
            (dict(images=['none']), EncryptionError, ['folder none', 'instances_val2017.json']),
            (dict(images=['val2017', 'val2017']), EncryptionError, ['1 annotation', '2 image']),
            (dict(images=['../own/val2017']), EncryptionError, ['../own/val2017']),
            (
                dict(annotations=['/etc/x.json'], images=['val2017']),
                EncryptionError,
                ['/etc/x.json'],
            ),
            (
                dict(annotations=['annotations/instances_val2017.json'] * 2),
                EncryptionError,
                ['annotation file', 'twice'],
            ),
        ],
    )
    def test_files_that_are_not_there(self, own_src, tmp_path, kwargs, error, things):
        with pytest.raises(error, match=named(*things)):
            coco(own_src, tmp_path / 'out', **kwargs)
        assert not (tmp_path / 'out').exists()

    def test_no_coco(self, tmp_path):
        (tmp_path / 'src').mkdir()
        with pytest.raises(EncryptionError, match=named('annotations/instances_*.json')):
            coco(tmp_path / 'src', tmp_path / 'out')
        with pytest.raises(EncryptionError, match=f'folder {tmp_path / "none"}$'):
            coco(tmp_path / 'none', tmp_path / 'out')

    def test_no_images(self, own_src, tmp_path):
        edit_json(
            own_src / 'annotations/instances_val2017.json',
            lambda c: c.update(images=[], annotations=[]),
        )
        with pytest.raises(EncryptionError, match=named(own_src)):
            coco(own_src, tmp_path / 'out')

    @pytest.mark.parametrize('key', [KEY, None])
    def test_one_picture_of_two_annotation_files(self, own_src, tmp_path, key):
        path = own_src / 'annotations' / 'instances_val2017.json'
        other = path.with_name('other.json')
        shutil.copy(path, other)

        def change(state):
            del state['images'][0]
            state['annotations'] = [
                dict(a, id=a['id'] + 500, bbox=[9, 8, 7, 6])
                for a in state['annotations']
                if a['image_id'] != 7
            ]

        edit_json(other, change)
        out = tmp_path / 'out'
        summary = coco(
            own_src,
            out,
            key=key,
            one_way=key is None,
            annotations=[f'annotations/{p.name}' for p in (path, other)],
            images=['val2017'] * 2,
            preprocess=dict(augment=dict(crop=(0.7, 1))),
        )
        manifest = Manifest.load(out)
        assert summary.images == summary.files == len(manifest.files) == 4
        assert verify_dataset(str(out), key, progress=False).ok
        one, two = (
            check_coco(out / 'annotations' / p.name, out / 'val2017') for p in (path, other)
        )
        assert set(one.imgs) == {7, 8, 9, 10} and set(two.imgs) == {8, 9, 10}
        assert max(one.anns) < 500 < min(two.anns)
        if key is None:
            return
        for api in (one, two):
            for ann in api.anns.values():
                name = api.imgs[ann['image_id']]['file_name']
                rng = KEY.image_rng('d', f'val2017/{name}')
                plain = 'bbox'
                old = json.loads(
                    (own_src / 'annotations' / (path if api is one else other).name).read_text()
                )
                x, y, w, h = next(a[plain] for a in old['annotations'] if a['id'] == ann['id'])
                img = mmcv.imread(own_src / 'val2017' / name.replace('png', 'jpg'))
                ready = Preprocess(augment=manifest_augment(manifest)).prepare(
                    img, 16, [[x, y, x + w, y + h]], rng.augmentation('shuffle/16')
                )
                # To what the augmentation left of the picture.
                layout = replace(
                    manifest.secret_layout(manifest.entry(f'val2017/{name}'), KEY), cropped=False
                )
                bx, by, bw, bh = ann['bbox']
                np.testing.assert_allclose(
                    layout.unmap_boxes([[bx, by, bx + bw, by + bh]]),
                    ready.boxes,
                    rtol=0,
                    atol=1e-4,
                )

    def test_one_picture_with_two_sizes(self, own_src, tmp_path):
        path = own_src / 'annotations' / 'instances_val2017.json'
        other = path.with_name('other.json')
        shutil.copy(path, other)
        edit_json(other, lambda c: c['images'][2].update(height=11))
        with pytest.raises(CocoError, match=named('other.json', '000003.jpg', '(11, ')):
            coco(
                own_src,
                tmp_path / 'out',
                annotations=[f'annotations/{p.name}' for p in (path, other)],
                images=['val2017'] * 2,
            )


def manifest_augment(manifest):
    return Preprocess.from_dict(manifest.preprocess).augment
