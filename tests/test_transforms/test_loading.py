# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from scripts import load_script

from hime_mm.apis import encrypt_coco, encrypt_folder
from hime_mm.ciphers import Cipher, Key
from hime_mm.datasets.entries import CompactFiles, FileEntry
from hime_mm.datasets.manifest import Manifest, load_manifest
from hime_mm.datasets.writing import write_manifest
from hime_mm.errors import ManifestError
from hime_mm.transforms import LoadEncryptedMeta

CocoDataset = pytest.importorskip('mmdet.datasets').CocoDataset
DET_TRANSFORMS = pytest.importorskip('mmdet.registry').TRANSFORMS

ANN_FILE = 'annotations/instances_some.json'
# No multiples of the patch size among them, but for the third.
SHAPES = [(70, 110), (130, 97), (64, 64), (97, 161)]
ANNOTATIONS = dict(type='mmdet.LoadAnnotations', with_bbox=True)


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


def coco_dataset(root, *transforms, ann_file=ANN_FILE, img='some/', **kwargs):
    return CocoDataset(
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


@pytest.mark.parametrize('host', ['mmdet', 'mmpretrain'])
def test_registered(host):
    registry = pytest.importorskip(f'{host}.registry').TRANSFORMS
    transform = registry.build(load_meta(coordinates='original', verify=True))
    assert type(transform) is LoadEncryptedMeta
    assert repr(transform) == (
        "LoadEncryptedMeta(manifest=None, coordinates='original', verify=True)"
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


def test_where_the_manifest_is(encrypted, tmp_path, monkeypatch):
    root = encrypted('paper-mi')
    path = root / 'some/001.png'
    expected = LoadEncryptedMeta()(loaded(path))
    assert expected['ori_shape'] == (64, 48)
    for manifest in (root, str(root / 'hime.json')):
        results = LoadEncryptedMeta(manifest=manifest)(loaded(path))
        assert results['ori_shape'] == (64, 48)
    # Relative, through links, and with images apart from the manifest.
    (tmp_path / 'link').symlink_to(root)
    monkeypatch.chdir(tmp_path)
    results = LoadEncryptedMeta()(loaded('link/some/../some/001.png'))
    assert results['ori_shape'] == (64, 48)
    (tmp_path / 'images').symlink_to(root / 'some')
    results = LoadEncryptedMeta('link')(loaded('images/001.png'))
    assert results['ori_shape'] == (64, 48)


def rewritten(root, target, **changes):
    """A copy of an encrypted data set with another manifest."""
    shutil.copytree(root, target)
    state = json.loads((target / 'hime.json').read_text())
    rows = state.pop('files')
    for key in ('format', 'format_version', 'checksum', 'mac'):
        state.pop(key, None)
    write_manifest(target, {**state, **changes}, rows)
    return target


def lengthened(path):
    path.write_bytes(path.read_bytes() + b'\0')


@pytest.mark.parametrize(
    'name, change, args, error, words',
    [
        ('no image', lambda r: r.pop('img'), {}, KeyError, 'right behind `LoadImageFromFile`'),
        (
            'resized',
            lambda r: r.update(img=r['img'][:-8]),
            {},
            ValueError,
            r'001.png came in as 56x48, but its manifest says 64x48.*nothing in '
            'between',
        ),
        (
            'gray',
            lambda r: r.update(img=r['img'][..., 0]),
            {},
            ValueError,
            r"1 channels, but .* says 3.*color_type='color'",
        ),
        (
            'encrypted again',
            lambda r: r.update(patch_layout=1),
            {},
            ValueError,
            'encrypted the image already',
        ),
        (
            'unknown file',
            lambda r: r.update(img_path=r['img_path'][:-4] + 'b.png'),
            {},
            ManifestError,
            r'001b.png is not in the manifest .*hime.json',
        ),
        (
            'elsewhere',
            lambda r: r.update(img_path='/elsewhere/001.png'),
            {},
            ManifestError,
            'no hime.json in /elsewhere or above',
        ),
        (
            'no manifest',
            lambda r: None,
            dict(manifest='/elsewhere/hime.json'),
            ManifestError,
            'cannot read the manifest /elsewhere/hime.json',
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
    with pytest.raises(ValueError, match="'shuffle'.*key holder.*hime boxes"):
        transform(loaded(encrypted('paper-rs') / 'some/001.png'))
    augmented = encrypted('paper-mi', preprocess=dict(augment=dict(flip=1.0)))
    with pytest.raises(ValueError, match='cropped, flipped or recoloured before'):
        transform(loaded(augmented / 'some/001.png'))
    middle = tmp_path / 'middle'
    encrypt_folder(
        str(plain),
        str(middle),
        'paper-mi',
        progress=False,
        preprocess=dict(resize=(96, 96), center_crop=(64, 48)),
    )
    with pytest.raises(ValueError, match='cropped.*center_crop'):
        transform(loaded(middle / 'some/001.png'))
    # In its own coordinates all work.
    for root in (encrypted('paper-rs'), augmented, middle):
        assert LoadEncryptedMeta()(loaded(root / 'some/001.png'))


def test_verify(encrypted, tmp_path):
    root = tmp_path / 'copy'
    shutil.copytree(encrypted('paper-mi'), root)
    path = root / 'some/001.png'
    assert LoadEncryptedMeta(verify=True)(loaded(path))
    img = cv2.imread(str(path))
    img[3, 4] ^= 1
    cv2.imwrite(str(path), img)
    # The size alone is right.
    assert LoadEncryptedMeta()(loaded(path))
    with pytest.raises(ValueError, match='001.png is not the file that'):
        LoadEncryptedMeta(verify=True)(loaded(path))


def test_a_changed_manifest_is_refused(encrypted, tmp_path):
    root = tmp_path / 'copy'
    shutil.copytree(encrypted('paper-mi'), root)
    text = (root / 'hime.json').read_text()
    (root / 'hime.json').write_text(text.replace('[64, 48]', '[48, 64]'))
    with pytest.raises(ManifestError, match='hime.json was changed'):
        LoadEncryptedMeta()(loaded(root / 'some/001.png'))


@pytest.mark.parametrize('value', ['other', None, 3])
def test_unknown_options(value):
    with pytest.raises(ValueError, match=f'`coordinates` {value!r}.*original'):
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
            with pytest.raises(ValueError, match=f"color_type='{wanted}'"):
                LoadEncryptedMeta()(results)


def test_browse_shows_what_there_is(encrypted):
    browse = load_script('tools/browse_dataset.py')
    root = encrypted('paper-mi')
    coco = json.loads((root / ANN_FILE).read_text())
    boxes = np.array([a['bbox'] for a in coco['annotations']])[:2]
    boxes[:, 2:] += boxes[:, :2]
    for step in (load_meta(), load_meta(coordinates='original')):
        data = coco_dataset(root, step, ANNOTATIONS, dict(type='mmdet.PackDetInputs'))
        before, after = browse.views(data, 0)
        assert before is None and browse.loads_encrypted(data)
        assert after['img'].shape == (32, 48, 3)
        np.testing.assert_allclose(after['boxes'], boxes, rtol=0, atol=1e-4)
    assert not browse.loads_encrypted(coco_dataset(root, ANNOTATIONS))


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
    with pytest.raises(ValueError, match='24x36.*multiples of 8'):
        LoadEncryptedMeta(str(root))(dict(img=img))


DETECTOR = dict(
    type='hime_mm.PEYOLOS',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type='hime_mm.PEViT',
        arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32),
        img_size=64,
        patch_embed='mixed',
        pos_encoding='learned',
        num_det_tokens=7,
        out_type='det_tokens',
    ),
    bbox_head=dict(type='hime_mm.DetTokenHead', num_classes=2, embed_dims=16),
    test_cfg=dict(max_per_img=7),
)


@pytest.mark.parametrize('coordinates', ['encrypted', 'original'])
def test_mmdetection_inferencer(encrypted, coordinates):
    """From a file of the data set, and from its pixels."""
    from mmdet.apis import DetInferencer

    root = encrypted('paper-mi')
    pipeline = [
        dict(type='LoadImageFromFile'),
        load_meta(coordinates=coordinates),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(
            type='PackDetInputs',
            meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
        ),
    ]
    cfg = Config(
        dict(
            default_scope='mmdet',
            model=DETECTOR,
            visualizer=dict(
                type='DetLocalVisualizer', vis_backends=[], name=f'inferencer_{coordinates}'
            ),
            test_dataloader=dict(
                dataset=dict(
                    type='CocoDataset',
                    data_root=str(root),
                    ann_file=ANN_FILE,
                    data_prefix=dict(img='some/'),
                    pipeline=pipeline,
                )
            ),
        )
    )
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match='randomly initialized'):
        inferencer = DetInferencer(cfg, device='cpu', scope='mmdet', show_progress=False)
    path = str(root / 'some/003.png')
    img = cv2.imread(path)
    by_path, by_array = (
        np.array(inferencer(inputs, no_save_vis=True)['predictions'][0]['bboxes'])
        for inputs in (path, img)
    )
    assert by_path.shape == (7, 4) and np.ptp(by_array) > 10
    height, width = SHAPES[3]
    scale = (width / img.shape[1], height / img.shape[0])
    if coordinates == 'encrypted':
        scale = (1.0, 1.0)
    np.testing.assert_allclose(by_path, by_array * np.tile(scale, 2), rtol=1e-5, atol=1e-3)


CLASSIFIER = dict(
    type='mmpretrain.ImageClassifier',
    data_preprocessor=dict(
        type='mmpretrain.ClsDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(
        type='hime_mm.PEViT',
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=64,
        pos_encoding='rpe',
    ),
    head=dict(type='mmpretrain.VisionTransformerClsHead', num_classes=3, in_channels=16),
)


@pytest.fixture(scope='module')
def classes(tmp_path_factory, make_image):
    """A folder of pictures by class, plain and shuffled."""
    root = tmp_path_factory.mktemp('classes')
    for split in ('train', 'val'):
        for name in 'abc':
            (root / 'plain' / split / name).mkdir(parents=True)
            for i in range(3):
                img = make_image((70, 90, 3), seed=3 * ord(name) + i)
                path = root / 'plain' / split / name / f'{i}.JPEG'
                path.write_bytes(cv2.imencode('.jpg', img)[1].tobytes())
    encrypt_folder(
        str(root / 'plain'),
        str(root / 'out'),
        'paper-rs',
        key=Key.generate(),
        preprocess=dict(resize=(64, 64)),
        progress=False,
    )
    return root


@pytest.mark.parametrize(
    'kind, args',
    [
        ('CustomDataset', dict(data_prefix='train')),
        ('CustomDataset', dict(data_prefix=dict(img_path='train/'))),
        ('ImageNet', dict(split='train', metainfo=dict(classes=('a', 'b', 'c')))),
    ],
)
def test_classifiers_learn_from_a_folder(classes, kind, args):
    registry = pytest.importorskip('mmpretrain.registry')
    init_default_scope('mmpretrain')

    def batch(root, *steps):
        dataset = registry.DATASETS.build(
            dict(
                type=f'mmpretrain.{kind}',
                data_root=str(classes / root),
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    *steps,
                    dict(
                        type='PackInputs',
                        meta_keys=('img_path', 'ori_shape', 'img_shape', 'scale_factor'),
                    ),
                ],
                **args,
            )
        )
        assert len(dataset) == 9
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=9, num_workers=1, collate_fn=pseudo_collate
        )
        return next(iter(loader))

    torch.manual_seed(0)
    model = registry.MODELS.build(CLASSIFIER)
    data = model.data_preprocessor(batch('out', load_meta()), training=True)
    for i, sample in enumerate(data['data_samples']):
        assert sample.gt_label.tolist() == [i // 3]
        assert sample.ori_shape == sample.img_shape == (64, 64)
        assert sample.img_path.endswith('.png')
    # The order of patches makes no difference to this model.
    other = model.data_preprocessor(batch('plain', dict(type='Resize', scale=(64, 64))))
    assert (data['inputs'] != other['inputs']).float().mean() > 0.5
    model.eval()
    with torch.no_grad():
        logits = [model(x['inputs']) for x in (data, other)]
    assert np.ptp(logits[0].numpy(), axis=0).max() > 1e-3
    torch.testing.assert_close(*logits, rtol=0, atol=1e-4)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = model.loss(data['inputs'], data['data_samples'])['loss']
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_mmpretrain_inferencer(classes):
    pretrain = pytest.importorskip('mmpretrain')
    path = str(classes / 'out/val/a/1.png')
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=CLASSIFIER,
            test_dataloader=dict(
                dataset=dict(
                    type='CustomDataset',
                    pipeline=[
                        dict(type='LoadImageFromFile'),
                        load_meta(manifest=str(classes / 'out')),
                        dict(type='PackInputs'),
                    ],
                )
            ),
        )
    )
    torch.manual_seed(0)
    inferencer = pretrain.ImageClassificationInferencer(
        cfg, pretrained=False, classes=('a', 'b', 'c')
    )
    results = [inferencer(inputs)[0]['pred_scores'] for inputs in (path, cv2.imread(path))]
    np.testing.assert_array_equal(*results)
    with pytest.raises(ValueError, match='60x64.*multiples of 16'):
        inferencer(cv2.imread(path)[:60])


# Flips after the encryption ----------------------------------------------------


@pytest.mark.parametrize(
    'cipher',
    [
        'mix2',
        'mix4:tiled',
        'center',
        'erode2',
        'erode3:filled',
        'erode2+mix2+center',
        'shuffle',
        'center+erode2+shuffle',
        'drop50',
        'negate+permute_channels',
    ],
)
@pytest.mark.parametrize('direction', ['horizontal', 'vertical'])
def test_flips_commute_with_encryption(cipher, direction, make_image):
    """The mirror image of an encrypted one is the mirrored one encrypted.

    With patches in the places that the mirror moves them to, so the random
    steps stay what they are.
    """
    cipher = Cipher(cipher)
    img = make_image((64, 96, 3))
    drawn = cipher.draw(img.shape, np.random.default_rng(0))
    boxes = np.array([[3.0, 5, 20, 30], [40, 31, 93, 60], [66, 2, 70, 13]])
    axis = 0 if direction == 'vertical' else 1
    places = np.flip(np.arange(24).reshape(4, 6), axis).ravel()
    mirrored = list(drawn)
    for i, step in enumerate(cipher.steps):
        if step.name == 'shuffle':
            mirrored[i] = places[drawn[i]][places]
        elif drawn[i] is not None:
            mirrored[i] = drawn[i][places]

    def mirror(results):
        flip = DET_TRANSFORMS.build(dict(type='mmdet.RandomFlip', prob=1.0, direction=direction))
        return flip(results)

    def encrypt(results, draw):
        shape = results['img'].shape
        layout = cipher.secret_layout(shape[:2], draw)
        encrypted = cipher.apply(results['img'], draw)
        return dict(
            img=encrypted,
            img_shape=encrypted.shape[:2],
            gt_bboxes=boxes_of(layout.map_boxes(results['gt_bboxes'].numpy())),
        )

    def boxes_of(values):
        from mmdet.structures.bbox import HorizontalBoxes

        return HorizontalBoxes(torch.tensor(values, dtype=torch.float32))

    def sample():
        return dict(img=img.copy(), img_shape=(64, 96), gt_bboxes=boxes_of(boxes))

    after = mirror(encrypt(sample(), drawn))
    before = encrypt(mirror(sample()), mirrored)
    np.testing.assert_array_equal(after['img'], before['img'])
    np.testing.assert_allclose(
        after['gt_bboxes'].numpy(), before['gt_bboxes'].numpy(), rtol=0, atol=1e-3
    )


def test_flips_do_not_commute_with_permuted_pixels(make_image):
    cipher = Cipher('permute_pixels')
    img = make_image((32, 32, 3))
    drawn = cipher.draw(img.shape, np.random.default_rng(0))
    after = cipher.apply(img, drawn)[:, ::-1]
    before = cipher.apply(np.ascontiguousarray(img[:, ::-1]), drawn)
    assert (after != before).any()


# The manifest in memory --------------------------------------------------------

paths = st.text(min_size=1, max_size=12)
entries = st.builds(
    FileEntry,
    path=paths,
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    size=st.integers(0, 1 << 40),
    shape=st.tuples(st.integers(1, 1 << 20), st.integers(1, 1 << 20)),
    channels=st.integers(1, 4),
    ori_shape=st.tuples(st.integers(1, 1 << 20), st.integers(1, 1 << 20)),
    scale=st.tuples(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6)),
)


@given(st.lists(entries, unique_by=lambda one: one.path), st.lists(paths))
def test_compact_files(some, others):
    files = CompactFiles(some)
    assert len(files) == len(some)
    for one in some:
        assert files.get(one.path) == one
    for path in set(others) - {one.path for one in some}:
        assert files.get(path) is None


def test_compact_files_are_compact():
    files = CompactFiles(
        FileEntry(
            f'train/n{i:08d}/n{i:08d}.png', f'{i:064x}', i, (64, 48), 3, (128, 96), (0.5, 0.5)
        )
        for i in range(1000)
    )
    assert files._rows.nbytes + files._names.nbytes <= 150 * 1000
    assert files.get('train/n00000321/n00000321.png').size == 321


def test_compact_manifest(encrypted, tmp_path):
    root = encrypted('paper-rs')
    manifest, other = load_manifest(root), Manifest.load(root)
    assert load_manifest(str(root / 'hime.json')) is manifest
    assert isinstance(other.files, dict) and len(other.files) == 4
    assert manifest.cipher == other.cipher
    for name, entry in other.files.items():
        for path in (name, root / name):
            assert manifest.entry(str(path)) == entry
        assert manifest.layout(entry).to_dict() == other.layout(entry).to_dict()
    with pytest.raises(ManifestError, match='is not in the manifest'):
        manifest.entry('some/004.png')
    with pytest.raises(ManifestError, match='cannot read the manifest'):
        load_manifest(tmp_path)


def test_a_new_manifest_is_read_again(encrypted, tmp_path):
    root = rewritten(encrypted('paper-mi'), tmp_path / 'copy')
    path = root / 'some/001.png'
    assert LoadEncryptedMeta(coordinates='original')(loaded(path))
    first = load_manifest(root)
    os.remove(root / 'hime.json')
    state = Manifest.load(encrypted('paper-mi')).state
    write_manifest(
        root,
        {
            **{k: v for k, v in state.items() if k not in ('format', 'format_version', 'checksum')},
            'dataset_id': 'another',
        },
        (),
    )
    assert load_manifest(root) is not first
    with pytest.raises(ManifestError, match='not in the manifest'):
        LoadEncryptedMeta()(loaded(path))
