# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import errno
import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from owner_data import (
    SECRET,
    annotation,
    coco_file,
    edit_json,
    forms_of_key,
    forms_of_permutation,
    found,
    hime_env,
    make_coco,
    photo,
    png_chunks,
    read,
    tree,
    write,
)
from PIL import Image
from pycocotools.coco import COCO

from hime_mm.apis import encrypt_coco, encrypt_folder, verify_dataset
from hime_mm.ciphers import Cipher, InvalidKey, Key
from hime_mm.datasets.manifest import Manifest
from hime_mm.encryption import run, worker
from hime_mm.encryption.engines import run_tasks
from hime_mm.encryption.journal import Journal, locked
from hime_mm.errors import BoxError, CocoError, EncryptionError, PictureError, WorkerDied
from hime_mm.images.preprocess import Preprocess
from hime_mm.images.sizing import fit_image

KEY = Key(SECRET)
OTHER = Key(bytes(32))


@pytest.fixture(scope='module')
def coco_src(tmp_path_factory):
    """Read only."""
    return make_coco(tmp_path_factory.mktemp('coco') / 'src')


@pytest.fixture
def own_src(coco_src, tmp_path):
    """For tests that change it."""
    return shutil.copytree(coco_src, tmp_path / 'own')


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


def no_check(header):
    pass


class TestPixels:
    @pytest.mark.parametrize(
        'cipher',
        [
            'shuffle',
            'center+erode2+shuffle',
            'mix2+shuffle',
            'mix2',
            'noise25+shuffle',
            'drop30',
            'orient+negate+permute_channels',
            'permute_pixels+shuffle',
            'mix4:tiled',
        ],
    )
    def test_are_what_the_cipher_gives(self, coco_src, tmp_path, cipher):
        summary = coco(coco_src, tmp_path / 'out', cipher)
        assert summary.complete and summary.files == summary.images == 4
        cipher = Cipher(cipher)
        for plain in sorted((coco_src / 'val2017').iterdir()):
            name = f'val2017/{plain.stem}.png'
            img, _ = fit_image(mmcv.imread(plain), 16)
            drawn = cipher.draw(img.shape, KEY.source('d', name))
            np.testing.assert_array_equal(read(tmp_path / 'out' / name), cipher.apply(img, drawn))

    def test_of_real_pictures(self, coco_tiny, tmp_path):
        path = 'annotations/instances_val2017.json'
        names = [i['file_name'] for i in json.loads((coco_tiny / path).read_text())['images'][:6]]
        (tmp_path / 'src' / 'annotations').mkdir(parents=True)
        (tmp_path / 'src' / 'val2017').symlink_to(coco_tiny / 'val2017')
        shutil.copy(coco_tiny / path, tmp_path / 'src' / path)

        def first(state):
            state['images'] = state['images'][:6]
            ids = {i['id'] for i in state['images']}
            state['annotations'] = [a for a in state['annotations'] if a['image_id'] in ids]

        edit_json(tmp_path / 'src' / path, first)
        out = tmp_path / 'out'
        assert coco(tmp_path / 'src', out, workers=2).complete
        for name in names:
            img, _ = fit_image(mmcv.imread(coco_tiny / 'val2017' / name), 16)
            name = f'val2017/{Path(name).stem}.png'
            drawn = Cipher('shuffle').draw(img.shape, KEY.source('d', name))
            np.testing.assert_array_equal(read(out / name), Cipher('shuffle').apply(img, drawn))
        check_coco(out / path, out / 'val2017')

    @pytest.mark.parametrize(
        'name, img',
        [
            ('gray', photo(40, 61, channels=1)),
            ('gray16', photo(40, 61, channels=1, dtype=np.uint16)),
            ('color16', photo(40, 61, dtype=np.uint16)),
            ('alpha', photo(40, 61, channels=4)),
        ],
    )
    @pytest.mark.parametrize('color_type', ['unchanged', 'color'])
    @pytest.mark.parametrize('fit', ['pad', 'resize'])
    def test_channels_and_bits(self, tmp_path, name, img, color_type, fit):
        write(tmp_path / 'src' / f'{name}.png', img)
        folder(tmp_path / 'src', tmp_path / 'out', preprocess=dict(color_type=color_type, fit=fit))
        expected = mmcv.imread(tmp_path / 'src' / f'{name}.png', color_type)
        if color_type == 'unchanged':
            np.testing.assert_array_equal(expected, img)
        expected, _ = fit_image(expected, 16, fit)
        path = f'{name}.png'
        drawn = Cipher('shuffle').draw(expected.shape, KEY.source('d', path))
        out = read(tmp_path / 'out' / path)
        assert out.dtype == expected.dtype
        np.testing.assert_array_equal(out, Cipher('shuffle').apply(expected, drawn))
        entry = Manifest.load(tmp_path / 'out').entry(path)
        assert entry.channels == (1 if out.ndim == 2 else out.shape[2])

    def test_orientation_is_followed_and_gone(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, 'TAKEN AT HOME'
        (tmp_path / 'src').mkdir()
        path = tmp_path / 'src' / 'a.jpg'
        Image.fromarray(photo(48, 80)).save(path, exif=exif)
        for color_type, size in (('color', (80, 48)), ('color_ignore_orientation', (48, 80))):
            out = tmp_path / color_type
            folder(tmp_path / 'src', out, 'mix2', preprocess=dict(color_type=color_type))
            img = mmcv.imread(path, color_type)
            assert img.shape[:2] == size
            np.testing.assert_array_equal(read(out / 'a.png'), Cipher('mix2').apply(img, [None]))
            assert not found([b'TAKEN', b'Exif', b'eXIf'], tree(out).values())

    @pytest.mark.parametrize('compression', [None, 0, 9])
    def test_metadata_is_gone(self, tmp_path, compression):
        (tmp_path / 'src').mkdir()
        info = Image.Exif()
        info[0x010E] = 'HIDDEN'
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        text.add_text('Comment', 'HIDDEN')
        Image.fromarray(photo(32, 32)).save(
            tmp_path / 'src' / 'a.png', pnginfo=text, exif=info, dpi=(72, 72)
        )
        Image.fromarray(photo(32, 32)).save(
            tmp_path / 'src' / 'b.jpg', exif=info, comment=b'HIDDEN', icc_profile=b'HIDDEN' * 9
        )
        folder(tmp_path / 'src', tmp_path / 'out', compression=compression)
        contents = tree(tmp_path / 'out')
        for name in ('a.png', 'b.png'):
            assert set(png_chunks(contents[name])) == {'IHDR', 'IDAT', 'IEND'}
            assert not Image.open(io.BytesIO(contents[name])).info
        assert not found([b'HIDDEN'], contents.values())

    def test_webp(self, coco_src, tmp_path):
        coco(coco_src, tmp_path / 'png')
        coco(coco_src, tmp_path / 'webp', fmt='webp')
        # The file's name is part of the derivation, so the draws differ.
        cipher = Cipher('shuffle')
        for plain in (coco_src / 'val2017').iterdir():
            name = f'val2017/{plain.stem}.webp'
            assert (tmp_path / 'webp' / name).read_bytes()[12:16] == b'VP8L'
            img, _ = fit_image(mmcv.imread(plain), 16)
            drawn = cipher.draw(img.shape, KEY.source('d', name))
            np.testing.assert_array_equal(read(tmp_path / 'webp' / name), cipher.apply(img, drawn))
        check_coco(
            tmp_path / 'webp/annotations/instances_val2017.json', tmp_path / 'webp' / 'val2017'
        )

    def test_compression(self, coco_src, tmp_path):
        sizes = []
        for level in (0, 9):
            coco(coco_src, tmp_path / str(level), compression=level)
            sizes.append(
                sum(len(d) for n, d in tree(tmp_path / str(level)).items() if n.endswith('.png'))
            )
        assert sizes[1] < sizes[0]
        for name in ('000001.png', '000004.png'):
            np.testing.assert_array_equal(
                read(tmp_path / '0' / 'val2017' / name), read(tmp_path / '9' / 'val2017' / name)
            )

    def test_patch_size(self, coco_src, tmp_path):
        coco(coco_src, tmp_path / 'out', patch_size=32)
        assert Manifest.load(tmp_path / 'out').cipher == Cipher('shuffle', 32)
        assert read(tmp_path / 'out/val2017/000002.png').shape == (64, 96, 3)

    def test_clipped_values_are_counted(self, coco_src, tmp_path):
        out = tmp_path / 'out'
        summary = coco(coco_src, out, 'noise60+shuffle', views=2)
        stats, cipher = {}, Cipher('noise60+shuffle')
        for plain in (coco_src / 'val2017').iterdir():
            img, _ = fit_image(mmcv.imread(plain), 16)
            for view in range(2):
                source = KEY.source('d', f'val2017/{plain.stem}_v{view}.png')
                cipher.apply(img, cipher.draw(img.shape, source), stats)
        assert summary.clipped == stats and stats['noise60'][0] > 0
        assert Manifest.load(out).state['clipped'] == {'noise60': list(stats['noise60'])}


class TestManifest:
    def test_says_what_is_there(self, coco_src, tmp_path):
        out = tmp_path / 'out'
        summary = coco(
            coco_src,
            out,
            'mix2+shuffle',
            preprocess=dict(short_side=64, fit='pad'),
            names='ids',
            licenses=False,
            compression=3,
        )
        state = json.loads((out / 'hime.json').read_text())
        files = {row['path']: row for row in state['files']}
        contents = tree(out)
        assert set(files) == {n for n in contents if n.endswith('.png')}
        for name, row in files.items():
            data = contents[name]
            img = read(out / name)
            assert row['sha256'] == hashlib.sha256(data).hexdigest()
            assert row['size'] == len(data)
            assert row['shape'] == list(img.shape[:2])
            assert row['channels'] == 3
        row = files['val2017/000000000010.png']
        # 70x101, to 64x92, filled up to 64x96, and every patch halved.
        assert row['shape'] == [32, 48] and row['ori_shape'] == [70, 101]
        np.testing.assert_allclose(row['scale'], [92 / 101 / 2, 64 / 70 / 2])
        del state['files'], state['checksum'], state['mac']
        ann = 'annotations/instances_val2017.json'
        from hime_mm.version import __version__

        assert state == dict(
            format='hime_mm encrypted data set',
            format_version=1,
            tool_version=__version__,
            kind='coco',
            mode='keyed',
            key_id=KEY.id,
            cipher=Cipher('mix2+shuffle').to_dict(),
            cipher_text='mix2+shuffle',
            preprocess=dict(short_side=[64], fit='pad'),
            image_format=dict(format='png', compression=3),
            views=1,
            names='ids',
            options=dict(licenses=False, segmentation=False),
            dataset_id='d',
            counts=dict(
                images=4, files=4, skipped=0, bytes=sum(row['size'] for row in files.values())
            ),
            clipped={},
            skipped=[],
            annotations=[
                dict(
                    kind='coco',
                    path=ann,
                    sha256=hashlib.sha256(contents[ann]).hexdigest(),
                    images_folder='val2017',
                    images=4,
                    annotations=6,
                )
            ],
        )
        assert summary.dataset_id == 'd' and summary.out == str(out)
        assert set(contents) == set(files) | {ann, 'hime.json'}

    def test_is_the_same_from_anywhere(self, coco_src, tmp_path, monkeypatch):
        coco(coco_src, tmp_path / 'one')
        (tmp_path / 'link').symlink_to(coco_src)
        (tmp_path / 'deep').mkdir()
        monkeypatch.chdir(tmp_path / 'deep')
        coco('../link', 'two', workers=2)
        coco(os.path.relpath(coco_src), '../three/', workers=2)
        one = tree(tmp_path / 'one')
        assert one == tree(tmp_path / 'deep/two') == tree(tmp_path / 'three')

    def test_one_and_several_processes_write_the_same(self, coco_src, tmp_path):
        options = dict(
            views=3,
            preprocess=dict(short_side=(48, 64), augment=dict(flip=0.5, crop=(0.5, 1), jitter=0.2)),
        )
        for workers in (1, 2, 3):
            coco(coco_src, tmp_path / str(workers), workers=workers, **copy.deepcopy(options))
        one = tree(tmp_path / '1')
        assert len(one) == 4 * 3 + 2
        assert one == tree(tmp_path / '2') == tree(tmp_path / '3')

    def test_presets(self, coco_src, tmp_path):
        coco(coco_src, tmp_path / 'a', 'paper-rs')
        coco(coco_src, tmp_path / 'b', 'shuffle')
        assert tree(tmp_path / 'a') == tree(tmp_path / 'b')


class TestRandomness:
    def permutations(self, out, key=KEY):
        manifest = Manifest.load(out)
        return {
            name: manifest.secret_layout(entry, key).permutation.tobytes()
            for name, entry in manifest.files.items()
        }

    def test_nothing_shares_a_permutation(self, tmp_path):
        # All of one size, and even of the same pixels.
        for name in ('a', 'b', 'c'):
            write(tmp_path / 'src' / name / 'x.png', photo(64, 96))
        options = dict(preprocess=dict(resize=(96, 64)), views=2)
        folder(tmp_path / 'src', tmp_path / '1', **options)
        folder(tmp_path / 'src', tmp_path / '2', dataset_id='e', **options)
        folder(tmp_path / 'src', tmp_path / '3', key=OTHER, **options)
        folder(tmp_path / 'src', tmp_path / '4', 'center+shuffle', **options)
        seen = [
            p
            for out, key in (('1', KEY), ('2', KEY), ('3', OTHER), ('4', KEY))
            for p in self.permutations(tmp_path / out, key).values()
        ]
        assert len(seen) == len(set(seen)) == 4 * 6

    def test_data_set_id_is_drawn_anew(self, coco_src, tmp_path):
        one = coco(coco_src, tmp_path / '1', dataset_id=None)
        two = coco(coco_src, tmp_path / '2', dataset_id=None)
        assert one.dataset_id != two.dataset_id and len(one.dataset_id) == 16
        ours = tree(tmp_path / '1')
        assert not any(ours[name] == data for name, data in tree(tmp_path / '2').items())

    def test_one_way(self, coco_src, tmp_path):
        outs = [tmp_path / '1', tmp_path / '2']
        for out in outs:
            coco(coco_src, out, key=None, one_way=True, workers=2)
            assert verify_dataset(str(out), progress=False).ok
            manifest = Manifest.load(out)
            assert manifest.key_id is None
            assert manifest.state['mode'] == 'one-way'
            assert 'mac' not in manifest.state
        one, two = map(tree, outs)
        assert one.keys() == two.keys()
        assert not any(one[n] == two[n] for n in one)
        # The same patches, in another order.
        for name in one:
            if name.endswith('.png'):
                sets = [
                    sorted(
                        img[y : y + 16, x : x + 16].tobytes()
                        for y in range(0, img.shape[0], 16)
                        for x in range(0, img.shape[1], 16)
                    )
                    for img in (read(out / name) for out in outs)
                ]
                assert sets[0] == sets[1]

    def test_mixing_needs_no_key(self, coco_src, tmp_path):
        coco(coco_src, tmp_path / '1', 'paper-mi', key=None)
        coco(coco_src, tmp_path / '2', 'paper-mi', key=None)
        assert tree(tmp_path / '1') == tree(tmp_path / '2')
        state = Manifest.load(tmp_path / '1').state
        assert state['mode'] == 'keyless' and state['key_id'] is None

    def test_a_key_authenticates_what_needs_none(self, coco_src, tmp_path):
        coco(coco_src, tmp_path / '1', 'paper-mi')
        manifest = Manifest.load(tmp_path / '1')
        assert manifest.state['mode'] == 'keyed'
        manifest.check_key(KEY)

    @pytest.mark.parametrize(
        'kwargs, reason',
        [
            (dict(key=None), 'give a key, or choose one-way'),
            (dict(one_way=True), 'not both'),
            (
                dict(cipher='permute_pixels', key=None, one_way=True),
                'all images share, so it needs a key',
            ),
            (
                dict(cipher='mix2', key=None, preprocess=dict(augment=dict(flip=0.5))),
                'draws randomness',
            ),
            (dict(cipher='mix2', views=2), 'would be equal'),
            (dict(views=0), '`views`'),
            (dict(views=1.5), '`views`'),
            (dict(workers=0), '`workers`'),
            (dict(names='hash'), 'names'),
            (dict(fmt='jpg'), 'format'),
            (dict(compression=11), 'compression'),
            (dict(fmt='webp', compression=1), 'compression'),
            (dict(fmt='webp', preprocess=dict(color_type='unchanged')), 'three channels'),
            (dict(cipher='shufle'), 'shufle'),
            (dict(preprocess=dict(size=5)), 'size'),
        ],
    )
    def test_refused(self, coco_src, tmp_path, kwargs, reason):
        for function, src in ((coco, coco_src), (folder, coco_src / 'val2017')):
            with pytest.raises(ValueError, match=reason):
                function(src, tmp_path / 'out', **kwargs)
        assert not (tmp_path / 'out').exists()


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
                (image['height'], image['width'], 3), KEY.source('d', name)
            )[0]
            # The patch that holds the centre, and the slot it went to.
            row = min(int((y + h / 2) // 16), image['height'] // 16 - 1)
            col = min(int((x + w / 2) // 16), cols - 1)
            slot = perm.tolist().index(row * cols + col)
            expected = [x + (slot % cols - col) * 16, y + (slot // cols - row) * 16, w, h]
            np.testing.assert_allclose(ann['bbox'], expected, atol=1e-9)
            for key in ('category_id', 'iscrowd', 'image_id'):
                assert ann[key] == before[key]
            assert ann['area'] == before['area']
            assert set(ann) == {'id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd'}
            # The key holder finds it again.
            layout = manifest.secret_layout(manifest.entry(name), KEY)
            ex, ey, ew, eh = ann['bbox']
            np.testing.assert_allclose(
                layout.unmap_boxes([[ex, ey, ex + ew, ey + eh]])[0], [x, y, x + w, y + h], atol=1e-9
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
        with pytest.raises(EncryptionError, match='leave them out'):
            coco(coco_src, tmp_path / 'out', segmentation=True, **kwargs)

    def test_broken_outline_is_found_before_the_work(self, own_src, tmp_path):
        edit_json(
            own_src / 'annotations/instances_val2017.json',
            lambda c: c['annotations'][1].update(segmentation=dict(counts=[3], size=[9, 9])),
        )
        with pytest.raises(CocoError, match=r'segmentation.*annotations\[1'):
            coco(own_src, tmp_path / 'out', 'mix2', segmentation=True)
        assert not (tmp_path / 'out').exists()

    def test_center_crop_is_refused(self, coco_src, tmp_path):
        with pytest.raises(EncryptionError, match='classification'):
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
        assert set(tree(out)) == {'hime.json', 'boxes/all.json', 'pics/x/b c.png', 'pics/x/y/ü.png'}
        api = check_coco(out / 'boxes/all.json', out / 'pics')
        assert {i['file_name'] for i in api.imgs.values()} == {'x/b c.png', 'x/y/ü.png'}
        # Images may be below the annotations' own folder, too.
        summary = coco(
            src / 'pics' / '..', tmp_path / 'two', images=['.'], annotations=['./boxes/all.json']
        )
        assert summary.complete

    @pytest.mark.parametrize(
        'kwargs, reason',
        [
            (dict(annotations=['annotations/none.json'], images=['val2017']), 'cannot read'),
            (dict(annotations=['annotations/none.json']), 'folder none'),
            (dict(images=['none']), 'no folder none'),
            (dict(images=['val2017', 'val2017']), '1 annotation files, but 2'),
            (dict(images=['../own/val2017']), 'not inside'),
            (dict(annotations=['/etc/x.json'], images=['val2017']), 'not inside'),
            (dict(annotations=['annotations/instances_val2017.json'] * 2), 'named twice'),
        ],
    )
    def test_files_that_are_not_there(self, own_src, tmp_path, kwargs, reason):
        with pytest.raises(ValueError, match=reason):
            coco(own_src, tmp_path / 'out', **kwargs)
        assert not (tmp_path / 'out').exists()

    def test_no_coco(self, tmp_path):
        (tmp_path / 'src').mkdir()
        with pytest.raises(EncryptionError, match='name the annotation files'):
            coco(tmp_path / 'src', tmp_path / 'out')
        with pytest.raises(EncryptionError, match='there is no folder'):
            coco(tmp_path / 'none', tmp_path / 'out')

    def test_no_images(self, own_src, tmp_path):
        edit_json(
            own_src / 'annotations/instances_val2017.json',
            lambda c: c.update(images=[], annotations=[]),
        )
        with pytest.raises(EncryptionError, match='list no image'):
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
                source = KEY.source('d', f'val2017/{name}')
                plain = 'bbox'
                old = json.loads(
                    (own_src / 'annotations' / (path if api is one else other).name).read_text()
                )
                x, y, w, h = next(a[plain] for a in old['annotations'] if a['id'] == ann['id'])
                img = mmcv.imread(own_src / 'val2017' / name.replace('png', 'jpg'))
                ready = Preprocess(augment=manifest_augment(manifest)).prepare(
                    img, 16, [[x, y, x + w, y + h]], source.augmentation('shuffle/16')
                )
                # To what the augmentation left of the picture.
                layout = replace(
                    manifest.secret_layout(manifest.entry(f'val2017/{name}'), KEY), cropped=False
                )
                bx, by, bw, bh = ann['bbox']
                np.testing.assert_allclose(
                    layout.unmap_boxes([[bx, by, bx + bw, by + bh]]), ready.boxes, atol=1e-9
                )

    def test_one_picture_with_two_sizes(self, own_src, tmp_path):
        path = own_src / 'annotations' / 'instances_val2017.json'
        other = path.with_name('other.json')
        shutil.copy(path, other)
        edit_json(other, lambda c: c['images'][2].update(height=11))
        with pytest.raises(CocoError, match='000003.jpg another size'):
            coco(
                own_src,
                tmp_path / 'out',
                annotations=[f'annotations/{p.name}' for p in (path, other)],
                images=['val2017'] * 2,
            )


def manifest_augment(manifest):
    return Preprocess.from_dict(manifest.preprocess).augment


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
            with pytest.raises(BoxError, match='cropped'):
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
            source = KEY.source('d', f'val2017/{name}.png')
            img = mmcv.imread(painted / 'val2017' / f'{name[0]}.png')
            ready = preprocess.prepare(img, 16, None, source.augmentation(cipher.canonical))
            drawn = cipher.draw(ready.img.shape, source)
            np.testing.assert_array_equal(
                read(out / 'val2017' / f'{name}.png'), cipher.apply(ready.img, drawn)
            )


class TestFolder:
    def test_tree(self, tmp_path):
        src, out = tmp_path / 'src', tmp_path / 'out'
        names = [
            'n01/b c.JPEG',
            'n01/ü.jpg',
            'n02/deep/x.PNG',
            'top.webp',
            'n02/a.b.bmp',
            'n02/y.tif',
            'n03 space/q.Jpg',
        ]
        for i, name in enumerate(names):
            write(src / name, photo(32, 48, i))
        for name in ('readme.txt', 'n01/labels.csv', '.hidden.jpg', '.cache/x.jpg'):
            (src / name).parent.mkdir(exist_ok=True)
            (src / name).write_bytes(b'text')
        summary = folder(src, out)
        assert summary.complete and summary.images == 7
        assert summary.ignored == 2
        expected = {os.path.splitext(name)[0] + '.png' for name in names}
        assert set(tree(out)) == expected | {'hime.json'}
        assert set(Manifest.load(out).files) == expected

    def test_ids_instead_of_names(self, tmp_path):
        src, out = tmp_path / 'src', tmp_path / 'out'
        for i, name in enumerate(('n01/Alice.jpg', 'n01/Bob.jpg', 'Eve.jpg', 'n02/Alice.jpg')):
            write(src / name, photo(32, 48, i))
        folder(src, out, names='ids')
        assert set(tree(out)) == {
            'hime.json',
            '00000001.png',
            'n01/00000001.png',
            'n01/00000002.png',
            'n02/00000001.png',
        }
        assert not found([b'Alice', b'Bob', b'Eve'], tree(out).values())
        np.testing.assert_array_equal(
            Cipher('shuffle').decrypt(
                read(out / 'n01/00000002.png'),
                Cipher('shuffle').draw((32, 48, 3), KEY.source('d', 'n01/00000002.png')),
            ),
            mmcv.imread(src / 'n01/Bob.jpg'),
        )

    @pytest.mark.parametrize(
        'names', [('a.jpg', 'a.png'), ('a.jpg', 'A.png'), ('x/b.jpg', 'X/b.jpg')]
    )
    def test_two_pictures_of_one_name(self, tmp_path, names):
        src = tmp_path / 'src'
        for i, name in enumerate(names):
            write(src / name, photo(32, 48, i))
        with pytest.raises(EncryptionError, match='both become.*ids') as error:
            folder(src, tmp_path / 'out')
        assert names[0] in str(error.value) and names[1] in str(error.value)
        assert not (tmp_path / 'out').exists()
        if names[0][1] != '/':
            assert folder(src, tmp_path / 'out', names='ids').files == 2

    def test_links(self, tmp_path):
        src = tmp_path / 'src'
        write(src / 'a' / 'x.png', photo(32, 48))
        elsewhere = write(tmp_path / 'elsewhere' / 'y.png', photo(32, 48))
        (src / 'a' / 'loop').symlink_to(src)
        (src / 'a' / 'self').symlink_to('self')
        # The same class under two names is no loop.
        (src / 'b').symlink_to(src / 'a')
        (src / 'c').symlink_to(elsewhere.parent)
        (src / 'd.png').symlink_to(elsewhere)
        (src / 'gone.png').symlink_to(tmp_path / 'none')
        summary = folder(src, tmp_path / 'out')
        assert set(Manifest.load(tmp_path / 'out').files) == {
            'a/x.png',
            'b/x.png',
            'c/y.png',
            'd.png',
        }
        assert [name for name, _ in summary.skipped] == ['gone.png']

    def test_two_links_that_lead_in_circles(self, tmp_path):
        src = tmp_path / 'src'
        write(src / 'a' / 'x.png', photo(32, 48))
        write(src / 'b' / 'y.png', photo(32, 48))
        (src / 'a' / 'to_b').symlink_to(src / 'b')
        (src / 'b' / 'to_a').symlink_to(src / 'a')
        folder(src, tmp_path / 'out')
        assert set(Manifest.load(tmp_path / 'out').files) == {
            'a/x.png',
            'a/to_b/y.png',
            'b/y.png',
            'b/to_a/x.png',
        }

    def test_folder_that_cannot_be_listed(self, tmp_path, monkeypatch):
        src = tmp_path / 'src'
        write(src / 'a' / 'x.png', photo(32, 48))
        write(src / 'b' / 'x.png', photo(32, 48))
        scandir = os.scandir

        def refusing(path):
            if str(path).endswith('b'):
                raise PermissionError(errno.EACCES, 'Permission denied')
            return scandir(path)

        monkeypatch.setattr(os, 'scandir', refusing)
        with pytest.raises(EncryptionError, match='/b: Permission denied'):
            folder(src, tmp_path / 'out')

    @pytest.mark.skipif(sys.platform != 'linux', reason='names are bytes')
    def test_name_that_is_no_text(self, tmp_path):
        src = tmp_path / 'src'
        write(src / 'a.png', photo(32, 48))
        os.rename(os.fsencode(src / 'a.png'), os.fsencode(src) + b'/\xff.png')
        write(src / 'b.png', photo(32, 48))
        summary = folder(src, tmp_path / 'out')
        ((_, reason),) = summary.skipped
        assert 'not UTF-8' in reason and summary.files == 1
        assert folder(src, tmp_path / 'ids', names='ids').files == 2

    def test_no_pictures(self, tmp_path):
        (tmp_path / 'src').mkdir()
        with pytest.raises(EncryptionError, match='no pictures'):
            folder(tmp_path / 'src', tmp_path / 'out')

    def test_center_crop(self, tmp_path):
        img = photo(100, 200)
        write(tmp_path / 'src' / 'a.png', img)
        folder(
            tmp_path / 'src',
            tmp_path / 'out',
            'mix2',
            preprocess=dict(short_side=64, center_crop=(48, 48)),
        )
        expected = cv2.resize(img, (128, 64))[8:56, 40:88]
        np.testing.assert_array_equal(
            read(tmp_path / 'out' / 'a.png'), Cipher('mix2').apply(expected, [None])
        )


class TestOutput:
    def test_plain_pictures_beside_encrypted_ones(self, coco_src, own_src):
        for src, out in (
            (own_src, own_src),
            (own_src, own_src / 'out'),
            (own_src, own_src / 'val2017' / '..' / 'x'),
            (own_src / 'val2017', own_src),
        ):
            before = tree(own_src)
            for function in (coco, folder):
                with pytest.raises(EncryptionError, match='lie in each'):
                    function(src, out)
            assert tree(own_src) == before

    def test_link_into_the_source(self, own_src, tmp_path):
        (tmp_path / 'link').symlink_to(own_src)
        with pytest.raises(EncryptionError, match='lie in each other'):
            coco(own_src, tmp_path / 'link' / 'out')

    def test_folder_of_something_else(self, coco_src, tmp_path):
        (tmp_path / 'out').mkdir()
        (tmp_path / 'out' / 'thesis.txt').write_text('x')
        with pytest.raises(EncryptionError, match='choose a new folder'):
            coco(coco_src, tmp_path / 'out')
        assert tree(tmp_path / 'out') == {'thesis.txt': b'x'}
        with pytest.raises(EncryptionError, match='is a file'):
            coco(coco_src, tmp_path / 'out' / 'thesis.txt')

    def test_empty_folder(self, coco_src, tmp_path):
        (tmp_path / 'out').mkdir()
        assert coco(coco_src, tmp_path / 'out').complete

    def test_again(self, coco_src, tmp_path):
        out = tmp_path / 'out'
        first = coco(coco_src, out, dataset_id=None)
        stats = {n: os.stat(out / n) for n in tree(out)}
        again = coco(coco_src, out, dataset_id=None)
        assert {n: os.stat(out / n) for n in tree(out)} == stats
        assert (again.reused, again.files) == (4, 4) and again.complete
        assert again.dataset_id == first.dataset_id
        assert not (out / '.hime-work').exists()

    @pytest.mark.parametrize(
        'other',
        [
            dict(cipher='center+shuffle'),
            dict(patch_size=8),
            dict(key=OTHER),
            dict(dataset_id='e'),
            dict(views=2),
            dict(names='ids'),
            dict(fmt='webp'),
            dict(compression=5),
            dict(licenses=False),
            dict(preprocess=dict(fit='pad')),
            dict(key=None, one_way=True),
        ],
    )
    @pytest.mark.parametrize('finished', [True, False])
    def test_other_settings(self, own_src, tmp_path, other, finished):
        out = tmp_path / 'out'
        if not finished:
            (own_src / 'val2017' / '000002.jpg').rename(own_src / 'away')
        assert coco(own_src, out).complete == finished
        before = tree(out)
        reason = 'wrong|other settings|another|the same key'
        with pytest.raises((EncryptionError, InvalidKey), match=reason):
            coco(own_src, out, **other)
        assert tree(out) == before
        if not finished:
            (own_src / 'away').rename(own_src / 'val2017' / '000002.jpg')
            assert coco(own_src, out).complete
            coco(own_src, tmp_path / 'new')
            assert tree(out) == tree(tmp_path / 'new')

    def test_other_pictures(self, own_src, tmp_path):
        folder(own_src / 'val2017', tmp_path / 'out')
        other = tmp_path / 'other'
        for i in range(4):
            write(other / f'{i}.png', photo(32, 48))
        with pytest.raises(EncryptionError, match='another encrypted data'):
            folder(other, tmp_path / 'out')

    def test_other_annotation_files_or_lists(self, own_src, tmp_path):
        # Of the same pictures.
        ann = 'annotations/instances_val2017.json'
        shutil.copy(own_src / ann, own_src / 'other.json')
        (own_src / 'val2017' / 'val.txt').write_text('000002.jpg 5\n')
        coco(own_src, tmp_path / 'out')
        folder(own_src / 'val2017', tmp_path / 'list')
        for function, src, out, kwargs in (
            (coco, own_src, 'out', dict(annotations=['other.json'], images=['val2017'])),
            (coco, own_src, 'out', dict(annotations=[ann, 'other.json'], images=['val2017'] * 2)),
            (folder, own_src / 'val2017', 'list', dict(lists=['val.txt'])),
        ):
            with pytest.raises(EncryptionError, match='another encrypted'):
                function(src, tmp_path / out, **kwargs)
        # And the same ones again.
        folder(own_src / 'val2017', tmp_path / 'new', lists=['val.txt'])
        assert (tmp_path / 'new/val.txt').read_text() == '000002.png 5\n'
        assert folder(own_src / 'val2017', tmp_path / 'new', lists=['./val.txt']).reused == 4

    def test_hidden_list(self, own_src, tmp_path):
        hidden = own_src / 'val2017' / '.meta'
        hidden.mkdir()
        (hidden / 'x.txt').write_text('000002.jpg 5\n')
        for name in ('y.txt', 'z.txt'):
            (hidden.parent / name).write_text('000003.jpg 5\n')
        summary = folder(own_src / 'val2017', tmp_path / 'out', lists=['.meta/x.txt', './z.txt'])
        assert summary.ignored == 1

    def test_finished_and_then_damaged(self, own_src, tmp_path):
        out = tmp_path / 'out'
        coco(own_src, out)
        (out / 'val2017/000001.png').write_bytes(b'')
        with pytest.raises(EncryptionError, match='000001.png is missing or'):
            coco(own_src, out)
        (out / 'val2017/000001.png').unlink()
        with pytest.raises(EncryptionError, match='000001.png is missing or'):
            coco(own_src, out)

    def test_damaged_journal(self, own_src, tmp_path):
        out = tmp_path / 'out'
        (own_src / 'val2017' / '000002.jpg').rename(own_src / 'away')
        coco(own_src, out)
        (out / '.hime-work' / 'journal').write_bytes(b'{\n')
        with pytest.raises(EncryptionError, match='is damaged: delete the'):
            coco(own_src, out)


UNREADABLE = {
    'truncated': (lambda path: path.write_bytes(path.read_bytes()[:-300]), 'truncated'),
    'empty': (lambda path: path.write_bytes(b''), 'empty'),
    'text': (lambda path: path.write_text('hello'), 'cannot decode'),
    'missing': (lambda path: path.unlink(), 'No such file'),
    'folder': (lambda path: (path.unlink(), path.mkdir()), 'directory'),
    'size': (lambda path: write(path, photo(33, 48)), 'it is 33x48 .* say 80x112'),
}


class TestUnreadable:
    @pytest.mark.parametrize(
        'name, workers', [*((name, 1) for name in UNREADABLE), ('truncated', 2)]
    )
    def test_is_left_out_and_named_until_repaired(self, own_src, tmp_path, name, workers):
        break_it, reason = UNREADABLE[name]
        out = tmp_path / 'out'
        bad = own_src / 'val2017' / '000002.jpg'
        good = bad.read_bytes()
        break_it(bad)
        options = dict(workers=workers, dataset_id='d')
        summary = coco(own_src, out, **options)
        assert not summary.complete and summary.files == 3
        ((path, said),) = summary.skipped
        assert path == 'val2017/000002.jpg'
        assert re.search(reason, said)
        api = check_coco(out / 'annotations/instances_val2017.json', out / 'val2017')
        assert set(api.imgs) == {7, 9, 10}
        manifest = Manifest.load(out)
        assert manifest.state['counts']['skipped'] == 1
        assert manifest.state['skipped'] == [dict(path='val2017/000002.png', reason=said)]
        assert not verify_dataset(str(out), KEY, progress=False).ok

        # The next time it is tried again, and the others stay.
        stats = {n: os.stat(out / n) for n in manifest.files}
        assert coco(own_src, out, **options).skipped == summary.skipped
        if bad.is_dir():
            bad.rmdir()
        bad.write_bytes(good)
        again = coco(own_src, out, **options)
        assert again.complete and again.reused == 3 and again.files == 4
        assert {n: os.stat(out / n) for n in stats} == stats
        coco(own_src, tmp_path / 'new')
        assert tree(out) == tree(tmp_path / 'new')
        assert not (out / '.hime-work').exists()

    @pytest.mark.parametrize('names', ['keep', 'ids'])
    @pytest.mark.parametrize('name', ['a\0b.jpg', 'a\ud800b.jpg'])
    def test_name_that_no_file_can_have(self, own_src, tmp_path, name, names):
        edit_json(
            own_src / 'annotations/instances_val2017.json',
            lambda c: c['images'][1].update(file_name=name),
        )
        for reused in (0, 3):
            summary = coco(own_src, tmp_path / 'out', names=names)
            ((path, reason),) = summary.skipped
            assert path == f'val2017/{name}' and summary.files == 3
            assert summary.reused == reused
            # It is handed over, so it quotes nothing of the name.
            assert reason in (
                'its name is impossible: embedded null byte',
                'its name is impossible: surrogates not allowed',
            )

    def test_all(self, own_src, tmp_path):
        for path in (own_src / 'val2017').iterdir():
            path.write_bytes(b'')
        summary = coco(own_src, tmp_path / 'out')
        assert len(summary.skipped) == 4 and summary.files == 0
        assert annotations(tmp_path / 'out')['images'] == []

    def test_too_small_or_not_dividing(self, own_src, tmp_path):
        summary = coco(own_src, tmp_path / 'out', preprocess=dict(fit='error'))
        ((path, reason),) = summary.skipped
        assert path == 'val2017/000004.jpg' and '70x101' in reason
        summary = folder(
            own_src / 'val2017', tmp_path / 'crop', 'mix2', preprocess=dict(center_crop=(80, 80))
        )
        assert [name for name, _ in summary.skipped] == ['000003.jpg', '000004.jpg']

    def test_what_the_format_or_cipher_cannot_take(self, tmp_path):
        write(tmp_path / 'src' / 'a.png', photo(32, 32, channels=1))
        write(tmp_path / 'src' / 'b.png', photo(32, 32))
        summary = folder(
            tmp_path / 'src',
            tmp_path / 'out',
            'permute_channels',
            preprocess=dict(color_type='unchanged'),
        )
        ((name, reason),) = summary.skipped
        assert name == 'a.png' and 'two channels' in reason

    def test_work_folder_was_deleted(self, own_src, tmp_path):
        out = tmp_path / 'out'
        (own_src / 'val2017' / '000002.jpg').unlink()
        coco(own_src, out)
        shutil.rmtree(out / '.hime-work')
        with pytest.raises(EncryptionError, match='without 1 pictures'):
            coco(own_src, out)

    def test_swapped_sides_hint_at_the_orientation(self, own_src, tmp_path):
        write(own_src / 'val2017' / '000002.jpg', photo(112, 80))
        summary = coco(own_src, tmp_path / 'out')
        assert 'color_ignore_orientation' in summary.skipped[0][1]

    def test_size_need_not_be_written(self, own_src, tmp_path):
        edit_json(
            own_src / 'annotations/instances_val2017.json',
            lambda c: [i.pop('height') for i in c['images']],
        )
        assert coco(own_src, tmp_path / 'out').complete

    def test_names_are_in_no_file_where_ids_replace_them(self, tmp_path):
        write(tmp_path / 'src' / 'Alice.png', photo(32, 32))
        write(tmp_path / 'src' / 'Bob.png', photo(32, 32)).write_bytes(b'x')
        folder(tmp_path / 'src', tmp_path / 'out', names='ids')
        assert not found([b'Alice', b'Bob'], tree(tmp_path / 'out').values())


class TestInterrupted:
    def test_killed_before_every_call(self, coco_src, tmp_path):
        script = Path(__file__).parents[1] / 'kill_points.py'
        done = subprocess.run(
            [sys.executable, script, coco_src, tmp_path / 'out'],
            capture_output=True,
            text=True,
            env=hime_env(),
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        points = json.loads(done.stdout)
        assert [p for p in points if p['wrong']] == []
        calls = {p['call'] for p in points}
        assert calls == {
            'replace',
            'fsync',
            'sync',
            'chmod',
            'unlink',
            'rmdir',
            'mkstemp',
            'half a line',
        }
        assert len(points) > 40 and max(p['done'] for p in points) == 8

    def test_full_disk(self, coco_src, tmp_path, monkeypatch):
        # With a real file system and several processes: test_cli.py.
        out = tmp_path / 'out'
        fdopen, left = os.fdopen, [0]

        class Full(io.BytesIO):
            def __init__(self, fd):
                os.close(fd)
                super().__init__()

            def write(self, data):
                raise OSError(errno.ENOSPC, 'No space left on device')

        def filling(fd, mode='r', *args, **kwargs):
            if mode == 'wb':
                left[0] -= 1
                if not left[0]:
                    return Full(fd)
            return fdopen(fd, mode, *args, **kwargs)

        monkeypatch.setattr(os, 'fdopen', filling)
        # The journal's head, two pictures, annotations and manifest.
        for number in (1, 3, 4, 6, 7):
            left[0] = number
            with pytest.raises(OSError, match='No space left'):
                coco(coco_src, out)
            assert not [n for n in tree(out) if n.endswith('.part')]
            left[0] = 0
            assert coco(coco_src, out).complete
            assert verify_dataset(str(out), KEY, progress=False).ok
            reference = tree(out)
            shutil.rmtree(out)
        coco(coco_src, out)
        assert tree(out) == reference

    def test_error_says_where_and_what_to_do(self, coco_src, tmp_path, monkeypatch):
        out = tmp_path / 'out'
        calls = []

        def full(path, data, sync=True):
            calls.append(path)
            if len(calls) == 2:
                raise OSError(errno.ENOSPC, 'No space left on device')
            real(path, data, sync)

        real = worker.write_atomic
        monkeypatch.setattr(worker, 'write_atomic', full)
        with pytest.raises(OSError) as error:
            coco(coco_src, out)
        assert error.value.errno == errno.ENOSPC
        assert str(out) in str(error.value)
        assert '1 of 4' in str(error.value)
        assert 'start again' in str(error.value)

    def test_full_while_the_journal_is_written(self, coco_src, tmp_path, monkeypatch):
        out = tmp_path / 'out'

        def full(journal, i, outcome):
            if i == 2:
                journal._file.seek(0, os.SEEK_END)
                journal._file.write(b'{"i": 2, "ro')
                journal._file.flush()
                raise OSError(errno.ENOSPC, 'No space left on device')
            real(journal, i, outcome)

        real = Journal.append
        with monkeypatch.context() as patch:
            patch.setattr(Journal, 'append', full)
            with pytest.raises(OSError, match='No space.*start again'):
                coco(coco_src, out)
        assert coco(coco_src, out).reused == 2
        coco(coco_src, tmp_path / 'new')
        assert tree(out) == tree(tmp_path / 'new')

    def test_file_that_was_changed_meanwhile_is_done_again(self, own_src, tmp_path):
        out = tmp_path / 'out'
        (own_src / 'val2017' / '000004.jpg').rename(own_src / 'away')
        coco(own_src, out)
        (own_src / 'away').rename(own_src / 'val2017' / '000004.jpg')
        first = out / 'val2017/000001.png'
        data = bytearray(first.read_bytes())
        data[200] ^= 1
        first.write_bytes(data)
        (out / 'val2017/000002.png').unlink()
        (out / 'val2017/.hime-abc.part').write_bytes(b'half')
        assert coco(own_src, out).reused == 1
        coco(own_src, tmp_path / 'new')
        assert tree(out) == tree(tmp_path / 'new')

    def test_one_way_keeps_what_was_finished(self, own_src, tmp_path):
        out = tmp_path / 'out'
        (own_src / 'val2017' / '000003.jpg').rename(own_src / 'away')
        options = dict(key=None, one_way=True, dataset_id=None)
        first = coco(own_src, out, **options)
        before = {n: d for n, d in tree(out).items() if n.endswith('.png')}
        (own_src / 'away').rename(own_src / 'val2017' / '000003.jpg')
        again = coco(own_src, out, **options)
        assert again.complete and again.dataset_id == first.dataset_id
        after = tree(out)
        assert {n: after[n] for n in before} == before
        assert verify_dataset(str(out), progress=False).ok

    def test_goes_on_with_other_workers_from_elsewhere(self, own_src, tmp_path, monkeypatch):
        out = tmp_path / 'out'
        (own_src / 'val2017' / '000003.jpg').rename(own_src / 'away')
        coco(own_src, out, workers=2)
        (own_src / 'away').rename(own_src / 'val2017' / '000003.jpg')
        out.rename(tmp_path / 'moved')
        monkeypatch.chdir(tmp_path)
        assert coco('own', 'moved', workers=1).reused == 3
        coco(own_src, out)
        assert tree(out) == tree(tmp_path / 'moved')

    def test_no_key_at_the_second_time(self, own_src, tmp_path):
        (own_src / 'val2017' / '000003.jpg').unlink()
        coco(own_src, tmp_path / 'out', 'mix2')
        with pytest.raises(InvalidKey, match=KEY.id):
            coco(own_src, tmp_path / 'out', 'mix2', key=None)

    @pytest.mark.parametrize(
        'torn',
        [b'{"i": 2, "ro', b'{"i": 2}', b'\0\0\0\0\n{"i": 2}\n', b'{"i": 9}\n', b'[]\n', b'{}\n'],
    )
    def test_torn_line_of_the_journal(self, tmp_path, torn):
        path = tmp_path / 'journal'
        journal = Journal(str(path), 3)
        assert journal.open(dict(a=1), no_check) == dict(a=1)
        for i in (1, 0):
            journal.append(i, dict(rows=[i]))
            # On the disk at once, not when there is more of it.
            assert path.read_bytes().endswith(b'"rows": [%d]}\n' % i)
        journal.close()
        with open(path, 'ab') as file:
            file.write(torn)
        for _ in range(2):
            journal = Journal(str(path), 3)
            assert journal.open({}, no_check) == dict(a=1)
            for i in range(3):
                line = journal[i]
                assert (line is None) == (i == 2)
                assert line is None or line['rows'] == [i]
            journal.close()
        journal = Journal(str(path), 3)
        journal.open({}, no_check)
        journal.append(2, dict(rows=[2]))
        journal.append(0, dict(rows=['again']))
        journal.close()
        journal = Journal(str(path), 3)
        journal.open({}, no_check)
        assert [journal[i]['rows'] for i in range(3)] == [['again'], [1], [2]]
        journal.close()

    def test_journal_is_read_line_by_line(self, tmp_path):
        journal = Journal(str(tmp_path / 'journal'), 20000)
        journal.open(dict(a=1), no_check)
        for i in range(20000):
            journal.append(i, dict(rows=['x' * 200]))
        journal.close()
        tracemalloc.start()
        journal = Journal(str(tmp_path / 'journal'), 20001)
        assert journal.open({}, no_check) == dict(a=1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 600000 < os.path.getsize(tmp_path / 'journal') / 5
        assert journal[19999] == dict(i=19999, rows=['x' * 200])
        assert journal[20000] is None
        journal.close()


class TestAtTheSameMoment:
    def test_second_is_refused(self, coco_src, tmp_path, monkeypatch):
        out = tmp_path / 'out'
        inside, go_on = threading.Event(), threading.Event()
        write = run.write_manifest

        def waiting(*args):
            inside.set()
            assert go_on.wait(20)
            write(*args)

        monkeypatch.setattr(run, 'write_manifest', waiting)
        first = threading.Thread(target=coco, args=(coco_src, out))
        first.start()
        assert inside.wait(20)
        before = tree(out)
        for cipher in ('shuffle', 'center+shuffle'):
            with pytest.raises(EncryptionError, match='another process'):
                coco(coco_src, out, cipher)
        assert tree(out) == before
        go_on.set()
        first.join()
        monkeypatch.undo()
        coco(coco_src, tmp_path / 'new')
        assert tree(out) == tree(tmp_path / 'new')

    @pytest.mark.parametrize('cipher', ['shuffle', 'center+shuffle'])
    def test_first_ends_just_before_the_lock(self, coco_src, tmp_path, monkeypatch, cipher):
        out = tmp_path / 'out'

        def late(work):
            monkeypatch.setattr(run, 'locked', locked)
            coco(coco_src, out)
            return locked(work)

        monkeypatch.setattr(run, 'locked', late)
        if cipher == 'shuffle':
            assert coco(coco_src, out).reused == 4
        else:
            with pytest.raises(EncryptionError, match='another encrypted'):
                coco(coco_src, out, cipher)
        coco(coco_src, tmp_path / 'new')
        assert tree(out) == tree(tmp_path / 'new')
        assert not (out / '.hime-work').exists()

    def test_lock_of_a_deleted_folder_is_none(self, tmp_path, monkeypatch):
        import fcntl

        work, flock, times = tmp_path / 'work', fcntl.flock, []

        def late(file, how):
            times.append(1)
            if len(times) == 1:
                shutil.rmtree(work)
            return flock(file, how)

        monkeypatch.setattr(fcntl, 'flock', late)
        with locked(str(work)):
            assert len(times) == 2 and os.listdir(work) == ['lock']
            with pytest.raises(EncryptionError, match='another process'), locked(str(work)):
                pass


class TestWorkers:
    def test_killed_worker(self, own_src, tmp_path):
        # A named pipe: a worker waits for someone to write to it.
        out, pipe = tmp_path / 'out', own_src / 'val2017' / '000003.jpg'
        good = pipe.read_bytes()
        pipe.unlink()
        os.mkfifo(pipe)

        def kill():
            # Opens as soon as the worker reads.
            with open(pipe, 'wb'):
                for child in multiprocessing.active_children():
                    os.kill(child.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(WorkerDied, match='fewer workers'):
            coco(own_src, out, workers=2)
        killer.join()
        pipe.unlink()
        pipe.write_bytes(good)
        assert coco(own_src, out, workers=2).complete
        coco(own_src, tmp_path / 'new')
        assert tree(out) == tree(tmp_path / 'new')

    def test_error_of_a_bug_is_not_hidden(self):
        for workers in (1, 2):
            with pytest.raises(TypeError, match='pow'):
                list(run_tasks(pow, 1, None, [1, 2], workers))

    @pytest.mark.parametrize('bug', [ZeroDivisionError, ValueError])
    def test_bug_is_no_reason_to_leave_a_picture_out(self, coco_src, tmp_path, monkeypatch, bug):
        def broken(*args):
            raise bug('not the picture')

        monkeypatch.setattr(worker, 'seal', broken)
        with pytest.raises(bug, match='^not the picture$') as error:
            coco(coco_src, tmp_path / 'out', workers=1)
        assert type(error.value) is bug
        assert not (tmp_path / 'out' / 'hime.json').exists()

    def test_every_task_once_in_any_order(self):
        for workers in (1, 2):
            got = sorted(run_tasks(slice, 3, None, iter(range(40)), workers))
            assert [(i, s.step) for i, s in got] == [(i, i) for i in range(40)]

    def test_tasks_are_read_as_they_are_needed(self):
        asked = []

        def tasks():
            for i in range(100):
                asked.append(i)
                yield i

        with closing(run_tasks(slice, 3, None, tasks(), 2)) as outcomes:
            next(outcomes)
            assert len(asked) <= 9
        # Nobody works on once the lock is given back.
        assert not multiprocessing.active_children()


class TestSecrets:
    def test_nothing_of_the_key_or_of_a_permutation(self, own_src, tmp_path):
        out = tmp_path / 'out'
        (own_src / 'val2017' / '000003.jpg').rename(own_src / 'away')
        coco(own_src, out, views=2)
        contents = list(tree(out).values())  # with the work folder
        (own_src / 'away').rename(own_src / 'val2017' / '000003.jpg')
        coco(own_src, out, views=2)
        contents += tree(out).values()
        assert not found(forms_of_key(SECRET), contents)
        manifest = Manifest.load(out)
        for entry in manifest.files.values():
            permutation = manifest.secret_layout(entry, KEY).permutation
            assert len(permutation) >= 16
            assert not found(forms_of_permutation(permutation), contents)
        # The search finds what there is.
        assert found(forms_of_key(SECRET), [b'..' + SECRET + b'..'])
        assert found(forms_of_permutation(permutation), [json.dumps(permutation.tolist()).encode()])
        assert found(
            forms_of_permutation(permutation),
            [b'x' + np.argsort(permutation).astype('<u2').tobytes()],
        )

    @pytest.mark.parametrize(
        'text', [SECRET.hex(), f'hime-key-v1:{SECRET.hex()}', SECRET.hex()[:50]]
    )
    def test_a_key_is_no_id(self, coco_src, tmp_path, text):
        """The id is handed over."""
        for function, src in ((coco, coco_src), (folder, coco_src / 'val2017')):
            with pytest.raises(InvalidKey, match='as the id of the') as error:
                function(src, tmp_path / 'out', dataset_id=text)
            assert text not in str(error.value)
        assert not (tmp_path / 'out').exists()

    def test_an_id_is_text(self, coco_src, tmp_path):
        with pytest.raises(EncryptionError, match='id of the data set is not'):
            coco(coco_src, tmp_path / 'out', dataset_id='a\udcff')
        assert not (tmp_path / 'out').exists()


class TestEveryCipher:
    @settings(max_examples=25)
    @given(
        st.sampled_from(
            [
                'shuffle',
                'mix2+shuffle',
                'erode1+orient+shuffle',
                'permute_pixels+negate',
                'mix2+drop10',
            ]
        ),
        st.tuples(st.integers(8, 60), st.integers(8, 60)),
        st.sampled_from([1, 3, 4]),
        st.sampled_from(['resize', 'pad']),
        st.text(
            st.characters(blacklist_categories=('Cs', 'Cc'), blacklist_characters='/\\.'),
            min_size=1,
            max_size=12,
        ),
        st.integers(1, 3),
    )
    def test_written_and_undone(self, tmp_path_factory, cipher, size, channels, fit, name, views):
        tmp_path = tmp_path_factory.mktemp('any')
        img = photo(*size, channels=channels)
        write(tmp_path / 'src' / f'{name}.png', img)
        options = dict(color_type='unchanged', fit=fit)
        summary = folder(
            tmp_path / 'src',
            tmp_path / 'out',
            cipher,
            patch_size=8,
            preprocess=options,
            views=views if Cipher(cipher, 8).random else 1,
        )
        assert summary.complete
        manifest = Manifest.load(tmp_path / 'out')
        fitted, _ = fit_image(img, 8, fit)
        for entry in manifest.files.values():
            drawn = manifest.draw(entry, KEY)
            np.testing.assert_array_equal(
                read(tmp_path / 'out' / entry.path), Cipher(cipher, 8).apply(fitted, drawn)
            )


class TestNothingIsLost:
    def test_other_source_leaves_the_journal(self, own_src, tmp_path):
        """One-way: what is finished cannot be made again."""
        bad = own_src / 'val2017' / '000003.jpg'
        good = bad.read_bytes()
        bad.write_bytes(b'')
        out = tmp_path / 'out'
        one_way = dict(key=None, one_way=True, dataset_id=None)
        assert not coco(own_src, out, 'shuffle', **one_way).complete
        before = tree(out)
        (tmp_path / 'few').mkdir()
        write(tmp_path / 'few' / 'a.png', photo(40, 40))
        with pytest.raises(EncryptionError, match='other settings'):
            folder(tmp_path / 'few', out, 'shuffle', **one_way)
        assert tree(out) == before
        bad.write_bytes(good)
        assert coco(own_src, out, 'shuffle', **one_way).reused == 3
        after = tree(out)
        assert all(after[name] == data for name, data in before.items() if name.endswith('.png'))

    def test_picture_that_is_gone_stays(self, own_src, tmp_path):
        (own_src / 'val2017' / '000003.jpg').write_bytes(b'')
        out = tmp_path / 'out'
        coco(own_src, out)
        before = tree(out)
        (own_src / 'val2017' / '000001.jpg').unlink()
        summary = coco(own_src, out)
        assert (summary.reused, summary.files) == (3, 3)
        assert tree(out).keys() == before.keys()

    def test_nothing_is_left_of_what_is_left_out(self, own_src, tmp_path, monkeypatch):
        def second_fails(img, recipe, source, boxes):
            if source.image_id.endswith('000002_v1.png'):
                raise PictureError('no')
            return real(img, recipe, source, boxes)

        real = worker.seal
        monkeypatch.setattr(worker, 'seal', second_fails)
        out = tmp_path / 'out'
        assert len(coco(own_src, out, views=2).skipped) == 1
        assert not list(out.rglob('000002*'))
        # A picture that was whole the last time.
        (own_src / 'val2017' / '000001.jpg').write_bytes(b'')
        assert len(coco(own_src, out, views=2).skipped) == 2
        assert not list(out.rglob('000001*'))
        problems = verify_dataset(str(out), KEY, progress=False).problems
        assert all('left out' in reason for _, reason in problems)

    def test_replaced_picture_is_done_again(self, own_src, tmp_path):
        (own_src / 'val2017' / '000003.jpg').write_bytes(b'')
        out = tmp_path / 'out'
        coco(own_src, out)
        first = own_src / 'val2017' / '000001.jpg'
        shape = mmcv.imread(first).shape
        write(first, photo(*shape[:2], seed=9))
        write(
            own_src / 'val2017' / '000003.jpg',
            photo(*mmcv.imread(own_src / 'val2017' / '000002.jpg').shape[:2]),
        )
        coco(own_src, out)
        coco(own_src, tmp_path / 'new')
        name = 'val2017/000001.png'
        assert (out / name).read_bytes() == (tmp_path / 'new' / name).read_bytes()

    def test_finished_folder_without_its_annotations(self, coco_src, tmp_path):
        out = tmp_path / 'out'
        assert not coco(coco_src, out).finished_before
        assert coco(coco_src, out).finished_before
        path = out / 'annotations' / 'instances_val2017.json'
        text = path.read_text()
        path.write_text(text.replace('"bbox": [', '"bbox": [9', 1))
        with pytest.raises(EncryptionError, match='instances_val2017.*change'):
            coco(coco_src, out)
        path.write_text(text)
        assert coco(coco_src, out).finished_before
        path.unlink()
        with pytest.raises(EncryptionError, match='instances_val2017.*miss'):
            coco(coco_src, out)

    @pytest.mark.parametrize(
        'names',
        [('hime.json/a.png',), ('a.jpg', 'a.png/b.jpg'), ('a.jpg', 'a.png'), ('A.jpg', 'a.png')],
    )
    def test_two_things_in_one_place(self, tmp_path, names):
        for name in names:
            write(tmp_path / 'src' / name, photo(40, 40))
        with pytest.raises(EncryptionError, match='rename one of them'):
            folder(tmp_path / 'src', tmp_path / 'out', 'mix2')
        assert not (tmp_path / 'out').exists()

    def test_annotations_in_place_of_the_manifest(self, own_src, tmp_path):
        shutil.copy(own_src / 'annotations/instances_val2017.json', own_src / 'hime.json')
        with pytest.raises(EncryptionError, match='the manifest'):
            coco(own_src, tmp_path / 'out', annotations=['hime.json'], images=['val2017'])

    def test_only_what_coco_knows_is_handed_over(self, own_src, tmp_path):
        path = own_src / 'annotations/instances_val2017.json'
        edit_json(
            path,
            lambda c: (
                c['categories'][0].update(note='SECRET'),
                c['licenses'][0].update(owner='SECRET'),
                c.update(remarks='SECRET'),
            ),
        )
        summary = coco(own_src, tmp_path / 'out')
        assert {'categories.note', 'licenses.owner', 'remarks'} <= set(summary.dropped)
        assert not any(b'SECRET' in d for d in tree(tmp_path / 'out').values())

    @pytest.mark.parametrize(
        'change, words',
        [
            (lambda c: c['images'][0].update(license={}), 'license'),
            (lambda c: c['images'][0].update(height='449'), 'height'),
            (lambda c: c['annotations'][0].update(ignore={}), 'ignore'),
            (lambda c: c['annotations'][0].update(iscrowd='no'), 'iscrowd'),
            (lambda c: c['categories'][0].update(name=['x']), 'categories'),
            (lambda c: c['annotations'][0].update(bbox=[1, 2, 10**400, 3]), 'bbox'),
            (lambda c: c['annotations'][0].update(bbox=[1, 2, 1e300, 3]), 'bbox'),
        ],
    )
    def test_wrong_kinds(self, own_src, tmp_path, change, words):
        edit_json(own_src / 'annotations/instances_val2017.json', change)
        with pytest.raises(CocoError, match=words):
            coco(own_src, tmp_path / 'out')

    def test_padding_would_show_the_means(self, coco_src, tmp_path):
        with pytest.raises(ValueError, match="fit='pad' does not go"):
            coco(coco_src, tmp_path / 'out', 'center+shuffle', preprocess=dict(fit='pad'))
