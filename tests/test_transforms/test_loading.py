# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import json

import cv2
import numpy as np
import pytest
import torch
from loading_parts import ANN_FILE, ANNOTATIONS, SHAPES, coco_dataset, load_meta, loaded

from hime_mm.apis import encrypt_coco, encrypt_folder
from hime_mm.ciphers import Cipher
from hime_mm.errors import BoxError, ConfigError, HimeError, ManifestError, PictureError
from hime_mm.transforms import LoadEncryptedMeta

CocoDataset = pytest.importorskip('mmdet.datasets').CocoDataset


@pytest.mark.parametrize('host', ['mmdet', 'mmpretrain'])
def test_registered(host):
    registry = pytest.importorskip(f'{host}.registry').TRANSFORMS
    transform = registry.build(load_meta(coordinates='original', verify=True))
    assert type(transform) is LoadEncryptedMeta
    assert repr(transform) == (
        "LoadEncryptedMeta(manifest=None, coordinates='original', verify=True, backend_args=None)"
    )


@pytest.mark.parametrize(
    'cipher', ['paper-mi', 'center+erode2', 'erode2+mix2', 'mix4:tiled', 'paper-rs', 'drop50']
)
@pytest.mark.parametrize('first', [True, False])
def test_in_the_coordinates_of_the_encrypted_images(encrypted, cipher, first):
    root = encrypted(cipher)
    steps = [load_meta(), ANNOTATIONS]
    dataset = coco_dataset(root, *(steps if first else steps[::-1]))
    coco = json.loads((root / ANN_FILE).read_text())
    assert len(dataset) == len(SHAPES)
    side = Cipher.build(cipher).encrypted_patch_size
    for index, (h, w) in enumerate(SHAPES):
        results = dataset[index]
        shape = (h // 16 * side, w // 16 * side)
        assert results['img'].shape == (*shape, 3)
        assert results['img_shape'] == results['ori_shape'] == shape
        assert results['scale_factor'] == (1.0, 1.0)
        # Boxes are those of the file.
        boxes = np.array(
            [a['bbox'] for a in coco['annotations'] if a['image_id'] == results['img_id']]
        )
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(results['gt_bboxes'].numpy(), boxes, rtol=0, atol=1e-4)
        layout = results['patch_layout']
        assert layout.permutation is None
        assert layout.shuffled == (cipher == 'paper-rs')
        assert (layout.ori_shape, layout.shape) == ((h, w), shape)
        assert layout.patch_size == side
        np.testing.assert_allclose(layout.scale, (shape[1] / w, shape[0] / h))


@pytest.mark.parametrize('cipher', ['paper-mi', 'center+erode2', 'mix4:tiled'])
@pytest.mark.parametrize('fit', ['resize', 'pad'])
def test_in_the_coordinates_of_the_original(plain, encrypted, cipher, fit):
    """All that a model sees is what encrypting in the pipeline gives."""
    if fit == 'pad' and 'center' in cipher:
        cipher = 'erode2+mix2'  # padding would show the means
    root = encrypted(cipher, preprocess=dict(fit=fit))
    dataset = coco_dataset(root, load_meta(coordinates='original'), ANNOTATIONS)
    online = coco_dataset(plain, dict(type='hime_mm.Encrypt', cipher=cipher, fit=fit))
    for index, shape in enumerate(SHAPES):
        results, expected = dataset[index], online[index]
        np.testing.assert_array_equal(results['img'], expected['img'])
        for key in ('img_id', 'img_shape', 'ori_shape'):
            assert results[key] == expected[key], key
        assert results['ori_shape'] == shape
        np.testing.assert_allclose(results['scale_factor'], expected['scale_factor'], rtol=1e-12)
        got, want = (r['patch_layout'].to_dict() for r in (results, expected))
        np.testing.assert_allclose(got.pop('scale'), want.pop('scale'), rtol=1e-12)
        assert got == want
        # Boxes of the pipeline stay in the pixels that the loss needs.
        boxes = np.array([i['bbox'] for i in online.get_data_info(index)['instances']])
        np.testing.assert_allclose(
            results['gt_bboxes'].numpy(),
            boxes * np.tile(expected['scale_factor'], 2),
            rtol=0,
            atol=1e-4,
        )


def test_real_samples_are_those_of_the_pipeline(coco_tiny, tmp_path):
    """Image by image, with crowds, tiny boxes and images without any."""
    size = (640, 480)
    name = 'annotations/instances_val2017.json'
    coco = json.loads((coco_tiny / name).read_text())
    coco['images'] = coco['images'][:16]
    ids = {i['id'] for i in coco['images']}
    coco['annotations'] = [a for a in coco['annotations'] if a['image_id'] in ids]
    (tmp_path / 'plain/annotations').mkdir(parents=True)
    (tmp_path / 'plain' / name).write_text(json.dumps(coco))
    (tmp_path / 'plain/val2017').symlink_to(coco_tiny / 'val2017')
    encrypt_coco(
        str(tmp_path / 'plain'),
        str(tmp_path / 'out'),
        'paper-mi',
        preprocess=dict(resize=size),
        progress=False,
    )

    def dataset(root, *transforms):
        return CocoDataset(
            data_root=str(root),
            ann_file=name,
            data_prefix=dict(img='val2017/'),
            pipeline=[
                dict(type='LoadImageFromFile'),
                *transforms,
                dict(type='mmdet.PackDetInputs'),
            ],
        )

    offline = dataset(tmp_path / 'out', load_meta(coordinates='original'), ANNOTATIONS)
    online = dataset(
        tmp_path / 'plain',
        ANNOTATIONS,
        dict(type='mmdet.Resize', scale=size, keep_ratio=False),
        dict(type='hime_mm.Encrypt', cipher='paper-mi'),
    )
    assert len(offline) == len(online) == 16
    num, crowds = 0, 0
    for index in range(16):
        got, want = offline[index], online[index]
        assert torch.equal(got['inputs'], want['inputs'])
        got, want = got['data_samples'], want['data_samples']
        for key in ('img_id', 'img_shape', 'ori_shape'):
            assert got.get(key) == want.get(key)
        np.testing.assert_allclose(got.scale_factor, want.scale_factor, rtol=1e-12)
        for mine, other in (
            (got.gt_instances, want.gt_instances),
            (got.ignored_instances, want.ignored_instances),
        ):
            assert torch.equal(mine.labels, other.labels)
            # Resize cuts boxes that stick out by a hair; see COCO.
            np.testing.assert_allclose(mine.bboxes.numpy(), other.bboxes.numpy(), rtol=0, atol=0.02)
        num += len(got.gt_instances)
        crowds += len(got.ignored_instances)
    assert num > 100 and crowds > 0


@pytest.mark.parametrize(
    'name, change, args, error, words',
    [
        ('no image', lambda r: r.pop('img'), {}, KeyError, '`img`.*`LoadImageFromFile`'),
        (
            'resized',
            lambda r: r.update(img=r['img'][:-8]),
            {},
            PictureError,
            r'001.png .*56x48.* 64x48',
        ),
        (
            'gray',
            lambda r: r.update(img=r['img'][..., 0]),
            {},
            PictureError,
            r"001.png .* 1 channels.* 3.*color_type='color'",
        ),
        (
            'encrypted again',
            lambda r: r.update(patch_layout=1),
            {},
            HimeError,
            '`hime_mm.Encrypt`',
        ),
        (
            'unknown file',
            lambda r: r.update(img_path=r['img_path'][:-4] + 'b.png'),
            {},
            ManifestError,
            r'001b.png .*/hime.json\.',
        ),
        (
            'elsewhere',
            lambda r: r.update(img_path='/elsewhere/001.png'),
            {},
            ManifestError,
            'hime.json in /elsewhere ',
        ),
        (
            'no manifest',
            lambda r: None,
            dict(manifest='/elsewhere/hime.json'),
            ManifestError,
            '/elsewhere/hime.json: ',
        ),
    ],
)
def test_an_error_changes_nothing(encrypted, name, change, args, error, words):
    results = loaded(encrypted('paper-mi') / 'some/001.png')
    change(results)
    before = copy.copy(results)
    with pytest.raises(error, match=words) as caught:
        LoadEncryptedMeta(**args)(results)
    assert 'hime_mm.LoadEncryptedMeta' in str(caught.value)
    assert list(results) == list(before)
    assert all(results[key] is before[key] for key in before)


def test_original_coordinates_that_nobody_knows(encrypted, plain, tmp_path):
    transform = LoadEncryptedMeta(coordinates='original')
    with pytest.raises(BoxError, match="'shuffle'.*hime boxes"):
        transform(loaded(encrypted('paper-rs') / 'some/001.png'))
    augmented = encrypted('paper-mi', preprocess=dict(augment=dict(flip=1.0)))
    with pytest.raises(BoxError, match="'mix2'.*`center_crop`"):
        transform(loaded(augmented / 'some/001.png'))
    middle = tmp_path / 'middle'
    encrypt_folder(
        str(plain),
        str(middle),
        'paper-mi',
        progress=False,
        preprocess=dict(resize=(96, 96), center_crop=(64, 48)),
    )
    with pytest.raises(BoxError, match="'mix2'.*`center_crop`"):
        transform(loaded(middle / 'some/001.png'))
    # In its own coordinates all work.
    for root in (encrypted('paper-rs'), augmented, middle):
        assert LoadEncryptedMeta()(loaded(root / 'some/001.png'))


@pytest.mark.parametrize('value', ['other', None, 3])
def test_unknown_options(value):
    with pytest.raises(ConfigError, match=f'`coordinates` {value!r}.*original'):
        LoadEncryptedMeta(coordinates=value)


@pytest.mark.parametrize('channels, flag', [(1, 'grayscale'), (4, 'unchanged'), (3, 'color')])
def test_channels(plain, tmp_path, make_image, channels, flag):
    (tmp_path / 'plain/a').mkdir(parents=True)
    shape = (32, 48) if channels == 1 else (32, 48, channels)
    cv2.imwrite(str(tmp_path / 'plain/a/0.png'), make_image(shape))
    encrypt_folder(
        str(tmp_path / 'plain'),
        str(tmp_path / 'out'),
        'mix2',
        preprocess=dict(color_type=flag),
        progress=False,
    )
    path = tmp_path / 'out/a/0.png'
    for mode, given_channels in (
        (cv2.IMREAD_UNCHANGED, channels),
        (cv2.IMREAD_COLOR, 3),
        (cv2.IMREAD_GRAYSCALE, 1),
    ):
        results = loaded(path, flags=mode)
        # Gray files may be loaded in colour, which loses nothing.
        if given_channels == channels or (channels, given_channels) == (1, 3):
            assert LoadEncryptedMeta()(results)['ori_shape'] == (16, 24)
        else:
            wanted = 'color' if channels == 3 else 'unchanged'
            with pytest.raises(PictureError, match=f"color_type='{wanted}'"):
                LoadEncryptedMeta()(results)


# Without a file ----------------------------------------------------------------


@pytest.mark.parametrize('coordinates', ['encrypted', 'original'])
def test_an_array_is_taken_as_it_is(encrypted, make_image, coordinates):
    root = encrypted('paper-mi')
    for source in ({}, dict(img_path=None)):
        img = make_image((24, 40, 3))
        for args in ({}, dict(manifest=str(root))):
            transform = LoadEncryptedMeta(coordinates=coordinates, **args)
            results = transform(dict(img=img, **source))
            assert results['img'] is img
            assert results['img_shape'] == results['ori_shape'] == (24, 40)
            assert results['scale_factor'] == (1.0, 1.0)
            assert 'patch_layout' not in results
    img = make_image((24, 36, 3))
    assert LoadEncryptedMeta()(dict(img=img))
    with pytest.raises(PictureError, match='24x36.*mix2.* 8:'):
        LoadEncryptedMeta(str(root))(dict(img=img))
