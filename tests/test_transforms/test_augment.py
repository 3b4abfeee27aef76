# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import json

import numpy as np
import pytest
import torch
from augment_parts import cut, sample, some_boxes
from mmcv.transforms import Compose
from mmcv.transforms.utils import cache_random_params
from owner_data import SECRET, key_file, make_coco, photo, read, tree, write

from hime_mm.apis import encrypt_coco, encrypt_folder
from hime_mm.ciphers import Cipher, Key
from hime_mm.datasets.manifest import Manifest
from hime_mm.errors import ConfigError, PictureError
from hime_mm.registry import MODELS
from hime_mm.transforms import EncryptedAugment, EncryptedColorJitter, PatchDrop, PatchReshuffle

pytest.importorskip('mmpretrain')


@pytest.mark.parametrize('host', ['mmdet', 'mmpretrain'])
def test_registered(host):
    registry = pytest.importorskip(f'{host}.registry').TRANSFORMS
    for cfg, text in (
        (
            dict(type='hime_mm.PatchDrop', ratio=(0.1, 0.3), fill=7),
            'PatchDrop(ratio=(0.1, 0.3), patch_size=None, fill=7, spare_boxes=True, prob=1.0)',
        ),
        (
            dict(type='hime_mm.PatchReshuffle', patch_size=8, prob=0.5),
            "PatchReshuffle(patch_size=8, unshuffled='error', prob=0.5)",
        ),
        (
            dict(type='hime_mm.EncryptedColorJitter', brightness=0.4, contrast=(0.5, 1)),
            'EncryptedColorJitter(brightness=0.4, contrast=(0.5, 1), '
            "saturation=0.0, hue=0.0, backend='cv2', keep_grey=None, prob=1.0)",
        ),
    ):
        transform = registry.build(cfg)
        assert isinstance(transform, EncryptedAugment)
        assert type(transform).legal_on_encrypted is True
        assert repr(transform) == text


ALL = [PatchDrop(), PatchReshuffle(), EncryptedColorJitter(0.5, 0.5, 0.5)]


@pytest.mark.parametrize('transform', ALL, ids=lambda t: type(t).__name__)
class TestAll:
    def test_what_is_handed_in_stays(self, transform, make_image):
        img = make_image((64, 96, 3))
        given_, before = sample(img, boxes=some_boxes(64, 96, 5)), img.copy()
        boxes = given_['gt_bboxes']
        boxes_before = boxes.copy()
        results = transform(dict(given_))
        np.testing.assert_array_equal(img, before)
        np.testing.assert_array_equal(boxes, boxes_before)
        assert (results['img'] != img).mean() > 0.1
        assert results['img'].flags.c_contiguous
        assert results['img'].dtype == np.uint8

    def test_the_runners_seed_decides(self, transform, make_image):
        img = make_image((64, 96, 3))
        made = []
        for seed in (1, 2, 1):
            np.random.seed(seed)
            made.append([transform(sample(img))['img'] for _ in range(3)])
        np.testing.assert_array_equal(made[0], made[2])
        assert (made[0][0] != made[1][0]).any()
        assert (made[0][0] != made[0][1]).any()

    def test_prob(self, transform, make_image):
        img = make_image((64, 96, 3))
        transform = copy.copy(transform)
        transform.prob = 0.3
        np.random.seed(0)
        changed = [transform(sample(img))['img'] is not img for _ in range(300)]
        assert 0.2 < np.mean(changed) < 0.4
        transform.prob = 0
        assert transform(sample(img))['img'] is img
        # What cannot be augmented is found at once, not by chance.
        with pytest.raises(
            ConfigError, match=f'hime_mm.{type(transform).__name__}: .*`hime_mm.LoadEncryptedMeta`'
        ):
            transform(dict(img=img))

    def test_needs_an_image(self, transform):
        with pytest.raises(KeyError, match=f'{type(transform).__name__} .*`img`'):
            transform({})
        for bad, got in (([1], 'list'), (np.zeros((2, 16, 16, 3), np.uint8), r'\(2, 16, 16, 3\)')):
            with pytest.raises(TypeError, match=f'{type(transform).__name__} .*{got}'):
                transform(dict(img=bad))
        for value in (-1, 256):
            with pytest.raises(PictureError, match=f'{type(transform).__name__}: .*int64'):
                transform(dict(img=np.full((16, 16, 3), value, np.int64)))
        with pytest.raises(TypeError, match='bool'):
            transform(dict(img=np.zeros((16, 16, 3), bool)))

    def test_draws_are_not_shared(self, transform):
        with (
            pytest.raises(
                RuntimeError, match=f'{type(transform).__name__} .*avoid_cache_randomness'
            ),
            cache_random_params(transform),
        ):
            pass


@pytest.mark.parametrize('kind', [PatchDrop, PatchReshuffle])
@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(prob=1.5), '`prob`.*1.5'),
        (dict(prob='half'), '`prob`.*half'),
        (dict(patch_size=0), '`patch_size`.*got 0'),
        (dict(patch_size=8.0), '`patch_size`.*8.0'),
    ],
)
def test_wrong_common_options(kind, wrong, message):
    with pytest.raises(ConfigError, match=f'{kind.__name__}: {message}'):
        kind(**wrong)


@pytest.mark.parametrize('kind', [PatchDrop, PatchReshuffle])
def test_the_grid_is_that_of_the_encrypted_image(kind, make_image):
    img = make_image((32, 48, 3))
    with pytest.raises(ConfigError, match='`patch_layout`.*`patch_size`'):
        kind()(dict(img=img))
    with pytest.raises(PictureError, match='32x48.*patch size 20'):
        kind(patch_size=20)(dict(img=img))
    with pytest.raises(ConfigError, match='`patch_size` is 8,.* 16 pixels'):
        kind(patch_size=8)(sample(img))
    with pytest.raises(ConfigError, match='32x32.* 32x48'):
        kind()(dict(sample(img), img=img[:, :32]))
    # Of the same size as the layout says.
    kind(patch_size=16)(sample(img))
    # Mixed images are smaller, and so are their patches.
    results = sample(img, 'mix2+shuffle')
    assert results['patch_layout'].patch_size == 8
    changed = kind()(results)['img']
    whole = [(a == b).all() for a, b in zip(cut(img, 8), cut(changed, 8), strict=True)]
    assert len(whole) == 24 and not all(whole)


def test_reshuffling_is_nothing_to_a_model_without_positions(make_image):
    img = make_image((64, 64, 3))
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='hime_mm.PEViT',
            arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
            img_size=64,
            pos_encoding='rpe',
        )
    ).eval()
    moved = PatchReshuffle()(sample(img))['img']
    dropped = PatchDrop(0.5)(sample(img))['img']
    batch = torch.from_numpy(np.stack([img, moved, dropped]))
    with torch.no_grad():
        out = model(batch.permute(0, 3, 1, 2).float() / 255)[-1]
    torch.testing.assert_close(out[0], out[1], rtol=0, atol=1e-5)
    assert (out[0] - out[2]).abs().max() > 1e-3


AUGMENTS = [
    dict(type='hime_mm.PatchReshuffle', unshuffled='keep'),
    dict(type='hime_mm.EncryptedColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
    dict(type='hime_mm.PatchDrop', ratio=0.25),
]


@pytest.mark.parametrize(
    'cipher', ['paper-rs', 'center+erode2+shuffle', 'paper-mi', 'drop50+shuffle']
)
def test_classification_from_a_folder(cipher, tmp_path):
    registry = pytest.importorskip('mmpretrain.registry')
    for i in range(3):
        write(tmp_path / f'src/a/{i}.png', photo(64, 96, i))
    out = tmp_path / 'out'
    key = Key(SECRET) if Cipher(cipher).random else None
    encrypt_folder(str(tmp_path / 'src'), str(out), cipher, key=key, progress=False)
    files = tree(out)

    def build(steps):
        return registry.DATASETS.build(
            dict(
                type='CustomDataset',
                data_root=str(out),
                _scope_='mmpretrain',
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='hime_mm.LoadEncryptedMeta'),
                    *steps,
                    dict(type='PackInputs', meta_keys=('patch_layout',)),
                ],
            )
        )

    side = Cipher(cipher).encrypted_patch_size
    shuffles = Cipher(cipher).shuffles
    for index, path in enumerate(sorted(out.rglob('*.png'))):
        before = sorted(p.tobytes() for p in cut(read(path), side))
        sample_ = build(AUGMENTS[:1])[index]
        got = sample_['inputs'].permute(1, 2, 0).numpy()
        assert sorted(p.tobytes() for p in cut(got, side)) == before
        assert (got != read(path)).any() == shuffles
        layout = sample_['data_samples'].patch_layout
        assert layout.reshuffled == shuffles and layout.permutation is None
        got = build(AUGMENTS)[index]['inputs'].permute(1, 2, 0).numpy()
        assert sum((p == 128).all() for p in cut(got, side)) >= 6
        assert (got != 128).any()
    assert tree(out) == files


def test_detection_from_a_folder(tmp_path):
    """Boxes follow their patches: against the files and the key."""
    registry = pytest.importorskip('mmdet.registry')
    source = make_coco(tmp_path / 'src', sizes=((96, 128), (64, 64)))
    out = tmp_path / 'out'
    key_file(tmp_path / 'key')
    encrypt_coco(str(source), str(out), 'paper-rs', key=Key(SECRET), progress=False)
    dataset = registry.DATASETS.build(
        dict(
            type='CocoDataset',
            _scope_='mmdet',
            data_root=str(out),
            ann_file='annotations/instances_val2017.json',
            data_prefix=dict(img='val2017/'),
            metainfo=dict(classes=('cat', 'cup')),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='hime_mm.LoadEncryptedMeta'),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='hime_mm.PatchReshuffle'),
            ],
        )
    )
    results = dataset[0]
    path = results['img_path']
    manifest = Manifest.load(out)
    entry = manifest.entry(path)
    encrypted = cut(read(path), 16)
    boxes = np.array(
        [
            ann['bbox']
            for ann in json.loads((out / 'annotations/instances_val2017.json').read_text())[
                'annotations'
            ]
            if ann['image_id'] == results['img_id']
        ]
    )
    boxes[:, 2:] += boxes[:, :2]
    assert len(boxes) == 2 and entry.shape == (96, 128)
    for box, moved in zip(boxes, results['gt_bboxes'].numpy(), strict=True):
        col, row = ((box[:2] + box[2:]) / 2 // 16).astype(int)
        # The offset to the patch is kept, so that is where it went.
        slot_col, slot_row = ((moved[:2] + moved[2:]) / 2 // 16).astype(int)
        np.testing.assert_array_equal(
            results['img'][slot_row * 16 : slot_row * 16 + 16, slot_col * 16 : slot_col * 16 + 16],
            encrypted[row * 8 + col],
        )
        np.testing.assert_allclose(
            moved - np.tile([slot_col, slot_row], 2) * 16,
            box - np.tile([col, row], 2) * 16,
            atol=1e-3,
        )
    assert results['gt_bboxes_labels'].tolist() == [0, 1]
    assert results['gt_ignore_flags'].tolist() == [False, True]
    # Masks are not thought to follow.
    with pytest.raises(ConfigError, match='PatchReshuffle: .*`gt_masks`'):
        Compose([PatchReshuffle()])(dict(results, gt_masks=object()))
