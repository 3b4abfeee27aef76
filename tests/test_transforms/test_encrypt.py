# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose, pseudo_collate

from hime_mm.ciphers import Cipher, mix_patches, shuffle_patches, unshuffle_patches
from hime_mm.transforms import Encrypt, PatchShuffle, SubPatchMix

CocoDataset = pytest.importorskip('mmdet.datasets').CocoDataset
DET_TRANSFORMS = pytest.importorskip('mmdet.registry').TRANSFORMS
HorizontalBoxes = pytest.importorskip('mmdet.structures.bbox').HorizontalBoxes
mask_types = pytest.importorskip('mmdet.structures.mask')
BitmapMasks, PolygonMasks = mask_types.BitmapMasks, mask_types.PolygonMasks

LOAD = [dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True)]


class Quadrilaterals(HorizontalBoxes):
    """Stands for the box types of other packages."""

    box_dim = 8

    def rescale_(self, scale_factor) -> None:
        scale = self.tensor.new_tensor(scale_factor).repeat(4)
        self.tensor = self.tensor * scale


def make_results(img, boxes=((3, 4, 20, 30), (17, 1, 47, 31))) -> dict:
    """What the loading transforms of MMDetection leave, boxes included."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return dict(
        img=img,
        img_shape=img.shape[:2],
        ori_shape=img.shape[:2],
        img_id=1,
        gt_bboxes=HorizontalBoxes(boxes.copy()),
        gt_bboxes_labels=np.arange(len(boxes)),
        gt_ignore_flags=np.arange(len(boxes)) % 2 == 1,
    )


def rectangle_masks(boxes, shape) -> BitmapMasks:
    masks = np.zeros((len(boxes), *shape), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    return BitmapMasks(masks, *shape)


def coco_dataset(root, *transforms, load=LOAD) -> CocoDataset:
    return CocoDataset(
        data_root=str(root),
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        pipeline=[*load, *transforms],
    )


def snapshot(results: dict) -> dict:
    return {key: (value, copy.deepcopy(value)) for key, value in results.items()}


def assert_unchanged(results: dict, before: dict) -> None:
    assert list(results) == list(before)
    for key, (value, copied) in before.items():
        assert results[key] is value, key
        if isinstance(value, HorizontalBoxes):
            value, copied = value.tensor, copied.tensor
        elif isinstance(value, BitmapMasks):
            value, copied = value.masks, copied.masks
        if isinstance(value, (np.ndarray, torch.Tensor)):
            np.testing.assert_array_equal(value, copied, err_msg=key)


@pytest.mark.parametrize('host', ['mmdet', 'mmpretrain'])
def test_registered(host, make_image):
    registry = pytest.importorskip(f'{host}.registry').TRANSFORMS
    shuffle = registry.build(dict(type='hime_mm.PatchShuffle', keep_permutation=True))
    mix = registry.build(dict(type='hime_mm.SubPatchMix', num_splits=4))
    tiled = registry.build(dict(type='hime_mm.SubPatchMix', patch_size=8, form='tiled'))
    both = registry.build(
        dict(
            type='hime_mm.Encrypt',
            cipher=[dict(type='mix', num_splits=2), dict(type='shuffle')],
            patch_size=8,
        )
    )
    assert type(shuffle) is PatchShuffle
    assert type(mix) is type(tiled) is SubPatchMix
    assert type(both) is Encrypt
    assert shuffle.cipher == Cipher('shuffle')
    assert mix.cipher == Cipher('mix4')
    assert tiled.cipher == Cipher('mix2:tiled', patch_size=8)
    assert both.cipher == Cipher('mix2+shuffle', patch_size=8)

    img = make_image((32, 48, 3))
    results = shuffle(dict(img=img.copy()))
    perm = results['patch_layout'].permutation
    np.testing.assert_array_equal(results['img'], shuffle_patches(img, perm, 16))
    np.testing.assert_array_equal(mix(dict(img=img.copy()))['img'], mix_patches(img, 16, 4))


@pytest.mark.parametrize('cipher', ['mix2', 'mix4', 'mix2:tiled'])
def test_mix(cipher, make_image):
    img = make_image((32, 48, 3))
    results = make_results(img.copy())
    boxes = results['gt_bboxes'].numpy().copy()
    results['proposals'] = boxes[::-1].copy()
    results['gt_masks'] = rectangle_masks([(4, 8, 20, 32), (16, 0, 48, 16)], (32, 48))
    results['gt_seg_map'] = np.kron(make_image((8, 12)), np.ones((4, 4), np.uint8))
    results['pad_shape'] = img.shape
    before = copy.deepcopy(results)
    given_boxes, given_proposals = results['gt_bboxes'], results['proposals']
    transform = Encrypt(cipher)
    shrink = 16 // transform.cipher.encrypted_patch_size
    encrypted = transform(results)

    shape = (32 // shrink, 48 // shrink)
    np.testing.assert_array_equal(encrypted['img'], transform.cipher.apply(img, [None]))
    assert encrypted['img'].shape == encrypted['pad_shape'] == (*shape, 3)
    assert encrypted['img_shape'] == shape
    assert encrypted['ori_shape'] == (32, 48)
    assert encrypted['scale_factor'] == (1 / shrink, 1 / shrink)
    assert isinstance(encrypted['gt_bboxes'], HorizontalBoxes)
    assert encrypted['gt_bboxes'].tensor.dtype == torch.float32
    np.testing.assert_allclose(encrypted['gt_bboxes'].numpy(), boxes / shrink)
    np.testing.assert_allclose(encrypted['proposals'], boxes[::-1] / shrink)
    # The boxes handed in may be shared, with a cache for example.
    np.testing.assert_array_equal(given_boxes.numpy(), boxes)
    np.testing.assert_array_equal(given_proposals, boxes[::-1])

    masks = encrypted['gt_masks']
    assert (masks.height, masks.width) == masks.masks.shape[1:] == shape
    np.testing.assert_array_equal(masks.areas * shrink**2, before['gt_masks'].areas)
    np.testing.assert_allclose(
        masks.get_bboxes(HorizontalBoxes).numpy() * shrink, [(4, 8, 20, 32), (16, 0, 48, 16)]
    )
    np.testing.assert_array_equal(encrypted['gt_seg_map'], before['gt_seg_map'][::shrink, ::shrink])
    for key in ('gt_bboxes_labels', 'gt_ignore_flags', 'img_id'):
        np.testing.assert_array_equal(encrypted[key], before[key])

    layout = encrypted['patch_layout']
    assert layout.shape == shape and layout.ori_shape == (32, 48)
    np.testing.assert_allclose(layout.unmap_boxes(encrypted['gt_bboxes'].numpy()), boxes)


@pytest.mark.parametrize(
    'cipher, patch',
    [
        ('shuffle', 16),
        ('mix2+shuffle', 8),
        ('shuffle+mix4:tiled', 16),
        ('center+erode2+shuffle', 12),
    ],
)
def test_shuffle(cipher, patch, make_image):
    img = make_image((64, 96, 3))
    rng = np.random.default_rng(0)
    centre = rng.uniform(0, (96, 64), (30, 2))
    half = rng.uniform(1, 20, (30, 2))
    boxes = np.concatenate([centre - half, centre + half], 1)
    results = make_results(img.copy(), boxes)
    results['proposals'] = boxes.astype(np.float32)
    transform = Encrypt(cipher, keep_permutation=True)
    encrypted = transform(results)
    layout = encrypted['patch_layout']
    drawn = [
        layout.permutation if step.name == 'shuffle' else None for step in transform.cipher.steps
    ]
    np.testing.assert_array_equal(encrypted['img'], transform.cipher.apply(img, drawn))

    # One box after the other: scaled, then moved with its patch.
    inverse = np.argsort(layout.permutation)
    for box, moved in zip(boxes * layout.scale[0], encrypted['gt_bboxes'].numpy(), strict=True):
        col, row = ((box[:2] + box[2:]) / 2 // patch).astype(int)
        slot = inverse[row * 6 + col]
        dx, dy = (slot % 6 - col) * patch, (slot // 6 - row) * patch
        np.testing.assert_allclose(moved, box + (dx, dy, dx, dy), rtol=0, atol=1e-3)
    np.testing.assert_array_equal(encrypted['proposals'], encrypted['gt_bboxes'].numpy())
    np.testing.assert_allclose(
        layout.unmap_boxes(encrypted['gt_bboxes'].numpy()), boxes, rtol=0, atol=1e-3
    )


@pytest.mark.parametrize('name, steps', [('paper-mi', 'mix2'), ('paper-rs', 'shuffle')])
def test_presets(name, steps):
    assert Encrypt(name).cipher == Cipher(steps, patch_size=16)


@pytest.mark.parametrize(
    'cipher, side',
    [
        ('center', 16),
        ('erode2', 12),
        ('erode3:filled', 16),
        ('erode2+mix2+center', 6),
        ('mix2+erode1', 6),
    ],
)
def test_keyless_steps(cipher, side, make_image):
    """Everything shrinks with the grid, or stays as it is."""
    img = make_image((48, 64, 3))
    results = make_results(img.copy(), [[3, 4, 20, 30], [17, 1, 60, 47]])
    boxes = results['gt_bboxes'].numpy().copy()
    results['gt_masks'] = rectangle_masks([(0, 16, 32, 48), (16, 0, 64, 16)], (48, 64))
    results['gt_seg_map'] = np.kron(make_image((3, 4)), np.ones((16, 16), np.uint8))
    seg_map = results['gt_seg_map']
    results['scale_factor'] = (2.0, 3.0)
    transform = Encrypt(cipher)
    encrypted = transform(results)
    shape, scale = (3 * side, 4 * side), side / 16
    drawn = [None] * len(transform.cipher.steps)
    np.testing.assert_array_equal(encrypted['img'], transform.cipher.apply(img, drawn))
    assert encrypted['img'].shape == (*shape, 3)
    assert encrypted['img_shape'] == shape
    assert encrypted['ori_shape'] == (48, 64)
    assert encrypted['scale_factor'] == (2 * scale, 3 * scale)
    np.testing.assert_allclose(encrypted['gt_bboxes'].numpy(), boxes * scale)
    np.testing.assert_allclose(encrypted['homography_matrix'], np.diag([scale, scale, 1]))
    # Whole patches stay whole patches.
    masks = encrypted['gt_masks']
    assert masks.masks.shape == (2, *shape)
    np.testing.assert_array_equal(
        masks.get_bboxes(HorizontalBoxes).numpy() / scale, [(0, 16, 32, 48), (16, 0, 64, 16)]
    )
    np.testing.assert_array_equal(
        encrypted['gt_seg_map'], np.kron(seg_map[::16, ::16], np.ones((side, side), np.uint8))
    )
    layout = encrypted['patch_layout']
    assert layout.patch_size == side and layout.shape == shape
    np.testing.assert_allclose(layout.unmap_boxes(encrypted['gt_bboxes'].numpy()), boxes, atol=1e-5)


@pytest.mark.parametrize(
    'cipher', ['drop50', 'noise25', 'noise10+drop25', 'negate', 'permute_channels']
)
def test_random_steps_that_move_nothing(cipher, make_image):
    img = make_image((48, 64, 3))

    def encrypt(seed):
        np.random.seed(seed)
        transform = Encrypt(cipher, randomness='numpy')
        images = []
        for _ in range(2):
            results = make_results(img.copy())
            before = {k: copy.deepcopy(v) for k, v in results.items()}
            results['gt_masks'] = masks = rectangle_masks([(4, 8, 20, 32)], (48, 64))
            encrypted = transform(results)
            np.testing.assert_array_equal(
                encrypted['gt_bboxes'].numpy(), before['gt_bboxes'].numpy()
            )
            np.testing.assert_array_equal(encrypted['gt_masks'].masks, masks.masks)
            assert encrypted['img_shape'] == (48, 64)
            assert encrypted['scale_factor'] == (1.0, 1.0)
            images.append(encrypted['img'])
        return images

    first, again, other = encrypt(0), encrypt(0), encrypt(1)
    np.testing.assert_array_equal(first, again)
    # Something else for every image, and under another seed.
    for pair in ((first[0], img), first, (first[0], other[0])):
        assert (pair[0] != pair[1]).any()
    np.random.seed(0)
    cipher = Cipher(cipher)
    np.testing.assert_array_equal(first[0], cipher.apply(img, cipher.draw(img.shape, np.random)))


def test_oriented_patches_keep_their_boxes(make_image):
    img = make_image((48, 64, 3))
    results = make_results(img.copy())
    boxes = results['gt_bboxes'].numpy().copy()
    encrypted = Encrypt('orient')(results)
    np.testing.assert_array_equal(encrypted['gt_bboxes'].numpy(), boxes)
    assert (encrypted['img'] != img).any()
    for row in range(0, 48, 16):
        for col in range(0, 64, 16):
            patch = (slice(row, row + 16), slice(col, col + 16))
            np.testing.assert_array_equal(
                np.sort(encrypted['img'][patch], axis=None), np.sort(img[patch], axis=None)
            )


@pytest.mark.parametrize('cipher', ['center', 'mix2+center+shuffle'])
def test_padding_would_show_the_means(cipher):
    with pytest.raises(ValueError, match="hime_mm.Encrypt: fit='pad' does not"):
        Encrypt(cipher, fit='pad')
    for fit in ('resize', 'error'):
        Encrypt(cipher, fit=fit)


@pytest.mark.parametrize('randomness', ['os', 'numpy'])
def test_what_all_images_share_is_refused(randomness):
    with pytest.raises(
        ValueError,
        match="hime_mm.Encrypt: 'permute_pixels' draws once.*hime encrypt.*LoadEncryptedMeta",
    ):
        Encrypt('permute_pixels+shuffle', randomness=randomness)


def test_box_mode_keep(make_image):
    img = make_image((64, 96, 3))
    boxes = [[1, 2, 30, 40], [50, 3, 90, 60]]
    results = Encrypt('mix2+shuffle', box_mode='keep')(make_results(img, boxes))
    assert (results['gt_bboxes'].numpy() * 2).tolist() == boxes
    # The layout maps them back the way they came.
    layout = results['patch_layout']
    back = layout.unmap_boxes(results['gt_bboxes'].numpy())
    assert back.tolist() == boxes


@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.int64])
def test_array_boxes(dtype, make_image):
    boxes = np.array([[1, 2, 30, 41], [5, 3, 47, 28]], dtype)
    results = make_results(make_image((32, 48, 3)))
    results['gt_bboxes'] = boxes
    moved = SubPatchMix()(results)['gt_bboxes']
    # Whole numbers would cut off the halves.
    assert moved.dtype == (np.float32 if dtype == np.int64 else dtype)
    np.testing.assert_array_equal(moved, boxes / 2)


@pytest.mark.parametrize('cipher', ['shuffle', 'mix2'])
def test_no_boxes(cipher, make_image):
    img = make_image((32, 48, 3))
    results = Encrypt(cipher)(make_results(img, []))
    assert results['gt_bboxes'].tensor.shape == (0, 4)
    results = make_results(img, [])
    results['gt_bboxes'] = np.zeros((0, 4), np.float32)
    results['proposals'] = np.zeros(0, np.float32)
    results = Encrypt(cipher)(results)
    assert results['gt_bboxes'].shape == results['proposals'].shape == (0, 4)
    # No annotations at all, as an inferencer has it.
    assert set(Encrypt(cipher)(dict(img=img))) == {
        'img',
        'img_shape',
        'scale_factor',
        'homography_matrix',
        'cipher',
        'patch_layout',
    }


def test_other_box_types(make_image):
    quads = Quadrilaterals(torch.tensor([[4.0, 4, 20, 4, 20, 30, 4, 30]]))
    results = dict(img=make_image((32, 48, 3)), gt_bboxes=quads)
    moved = SubPatchMix()(results)['gt_bboxes']
    assert moved.tensor.tolist() == [[2, 2, 10, 2, 10, 15, 2, 15]]
    assert quads.tensor[0, 0] == 4
    results = dict(img=make_image((40, 62, 3)), gt_bboxes=quads)
    moved = SubPatchMix()(results)['gt_bboxes'].numpy()
    np.testing.assert_allclose(
        moved.reshape(4, 2), quads.numpy().reshape(4, 2) * (24 / 62, 16 / 40), rtol=1e-6
    )
    results = dict(img=make_image((32, 48, 3)), gt_bboxes=quads)
    with pytest.raises(TypeError, match='hime_mm.PatchShuffle.*Quadri'):
        PatchShuffle()(results)


def test_polygon_masks(make_image):
    polygons = [
        [np.array([4.0, 4, 20, 4, 20, 30, 4, 30])],
        [np.array([16.0, 0, 47, 0, 47, 15]), np.array([0.0, 0, 5, 0, 5, 5])],
    ]
    results = dict(img=make_image((32, 48, 3)), gt_masks=PolygonMasks(polygons, 32, 48))
    masks = SubPatchMix()(results)['gt_masks']
    assert isinstance(masks, PolygonMasks)
    assert (masks.height, masks.width) == (16, 24)
    for moved, given in zip(masks.masks, polygons, strict=True):
        for part, given_part in zip(moved, given, strict=True):
            np.testing.assert_allclose(part, given_part / 2)


def test_scale_factor_and_homography_are_multiplied(make_image):
    results = make_results(make_image((32, 48, 3)))
    given = np.array([[0.5, 0, 3], [0, 2, 1], [0, 0, 1]], np.float32)
    results.update(scale_factor=(1.5, 0.75), homography_matrix=given.copy())
    results = Encrypt('mix2')(results)
    assert results['scale_factor'] == (0.75, 0.375)
    np.testing.assert_allclose(
        results['homography_matrix'], [[0.25, 0, 1.5], [0, 1, 0.5], [0, 0, 1]]
    )
    results = Encrypt('mix4')(make_results(make_image((32, 48, 3))))
    assert results['scale_factor'] == (0.25, 0.25)
    np.testing.assert_allclose(results['homography_matrix'], np.diag([0.25, 0.25, 1]))


@pytest.mark.parametrize(
    'shape, fitted',
    [
        ((37, 61), (32, 48)),
        ((47, 48), (32, 48)),
        ((32, 63), (32, 48)),
        ((9, 40), (16, 32)),
        ((5, 7), (16, 16)),
        ((1, 1), (16, 16)),
    ],
)
@pytest.mark.parametrize('cipher', ['mix2', 'shuffle'])
def test_fit_resize(shape, fitted, cipher, make_image):
    import cv2

    img = make_image((*shape, 3))
    h, w = shape
    boxes = np.array([[0, 0, w, h], [0.1 * w, 0.2 * h, 0.3 * w, 0.4 * h]])
    results = Encrypt(cipher, keep_permutation=True)(make_results(img.copy(), boxes))
    layout = results['patch_layout']
    g = 2 if cipher == 'mix2' else 1
    plain = cv2.resize(img, fitted[::-1])
    np.testing.assert_array_equal(
        results['img'],
        mix_patches(plain, 16, 2) if g == 2 else shuffle_patches(plain, layout.permutation, 16),
    )
    assert results['img_shape'] == (fitted[0] // g, fitted[1] // g)
    scale = (fitted[1] / w / g, fitted[0] / h / g)
    np.testing.assert_allclose(results['scale_factor'], scale)
    np.testing.assert_allclose(layout.scale, scale)
    assert layout.ori_shape == shape
    assert layout.shape == results['img_shape']
    np.testing.assert_allclose(
        layout.unmap_boxes(results['gt_bboxes'].numpy()), boxes, rtol=0, atol=1e-3
    )
    if cipher == 'mix2':
        np.testing.assert_allclose(
            results['gt_bboxes'].numpy(), boxes * np.tile(scale, 2), rtol=1e-5
        )


def test_fit_resize_of_masks(make_image):
    shape = (41, 61)
    results = make_results(make_image((*shape, 3)))
    results['gt_masks'] = rectangle_masks([(0, 0, 61, 41), (10, 5, 40, 35)], shape)
    results['gt_seg_map'] = np.pad(np.full((30, 30), 7, np.uint8), ((5, 6), (10, 21)))
    results = SubPatchMix()(results)
    masks = results['gt_masks']
    assert masks.masks.shape[1:] == results['gt_seg_map'].shape == (16, 24)
    scale = np.tile(results['patch_layout'].scale, 2)
    np.testing.assert_allclose(
        masks.get_bboxes(HorizontalBoxes).numpy(),
        np.array([(0, 0, 61, 41), (10, 5, 40, 35)]) * scale,
        rtol=0,
        atol=1.0,
    )
    assert (results['gt_seg_map'] == 7).sum() == pytest.approx(900 * scale[0] * scale[1], rel=0.15)


@pytest.mark.parametrize(
    'channels, pad_val, filled',
    [
        ((3,), 114, [114, 114, 114]),
        ((3,), (1, 2, 3), [1, 2, 3]),
        ((3,), [1, 2, 3], [1, 2, 3]),
        ((), 7, 7),
        ((1,), 7, [7]),
        ((6,), 7, [7] * 6),
    ],
)
def test_fit_pad(channels, pad_val, filled, make_image):
    img = make_image((37, 49, *channels))
    results = make_results(img.copy())
    boxes = results['gt_bboxes'].numpy().copy()
    results['gt_masks'] = rectangle_masks([(4, 8, 20, 32)], (37, 49))
    results['gt_seg_map'] = np.zeros((37, 49), np.uint8)
    results = Encrypt('mix2', fit='pad', pad_val=pad_val)(results)
    plain = np.empty((48, 64, *channels), np.uint8)
    plain[:] = filled
    plain[:37, :49] = img
    np.testing.assert_array_equal(results['img'], mix_patches(plain, 16, 2))
    assert results['scale_factor'] == (0.5, 0.5)
    assert results['patch_layout'].ori_shape == (37, 49)
    np.testing.assert_allclose(results['gt_bboxes'].numpy(), boxes / 2)
    np.testing.assert_allclose(
        results['gt_masks'].get_bboxes(HorizontalBoxes).numpy(), [[2, 4, 10, 16]]
    )
    assert results['gt_masks'].masks.shape == (1, 24, 32)
    # What was padded is to be ignored.
    expected = np.full((24, 32), 255)
    expected[:19, :25] = 0
    np.testing.assert_array_equal(results['gt_seg_map'], expected)


@pytest.mark.parametrize('fit', ['resize', 'pad', 'error'])
def test_fit_leaves_fitting_images(fit, make_image):
    img = make_image((32, 48, 3))
    for cipher in ('mix2', 'mix2:tiled'):
        results = Encrypt(cipher, fit=fit)(make_results(img.copy()))
        np.testing.assert_array_equal(results['img'], Cipher(cipher).apply(img, [None]))


@pytest.mark.parametrize('fit', ['resize', 'pad'])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize(
    'shape', [(37, 49), (37, 49, 1), (37, 49, 3), (37, 49, 5), (32, 48), (32, 48, 1)]
)
@pytest.mark.parametrize('cipher', ['shuffle', 'mix2'])
def test_any_image(fit, dtype, shape, cipher, make_image):
    img = make_image(shape, dtype)
    results = Encrypt(cipher, fit=fit, keep_permutation=True)(dict(img=img.copy()))
    encrypted = results['img']
    assert encrypted.dtype == dtype
    assert encrypted.shape == (*results['patch_layout'].shape, *shape[2:])
    if fit == 'pad' and cipher == 'shuffle':
        plain = unshuffle_patches(encrypted, results['patch_layout'].permutation, 16)
        np.testing.assert_array_equal(plain[: shape[0], : shape[1]], img)


def test_interpolation(make_image):
    img = make_image((37, 49, 3))
    results = [
        SubPatchMix(interpolation=interpolation)(dict(img=img.copy()))['img']
        for interpolation in ('nearest', 'bilinear')
    ]
    assert (results[0] != results[1]).any()


def with_masks(results):
    results['gt_masks'] = rectangle_masks([(0, 0, 5, 5)], (32, 48))


def with_quads(results):
    results['gt_bboxes'] = Quadrilaterals(torch.zeros(1, 8))


def with_image(**changes):
    return lambda results: results.update(changes)


@pytest.mark.parametrize(
    'args, change, error, words',
    [
        (dict(cipher='shuffle'), lambda r: r.pop('img'), KeyError, 'img'),
        (dict(cipher='shuffle'), with_image(img=None), KeyError, 'img'),
        (
            dict(cipher='mix2'),
            with_image(img=torch.zeros(3, 32, 48)),
            TypeError,
            'Tensor: put it before packing',
        ),
        (dict(cipher='mix2'), with_image(img=[np.zeros((32, 48, 3), np.uint8)]), TypeError, 'list'),
        (
            dict(cipher='mix2'),
            with_image(img=np.zeros((2, 32, 48, 3), np.uint8)),
            TypeError,
            r'\(2, 32, 48, 3\)',
        ),
        (dict(cipher='mix2'), with_image(img=np.zeros((32, 48, 3), np.int32)), TypeError, 'int32'),
        (dict(cipher='mix2'), with_image(img=np.zeros((37, 49, 3), np.int64)), TypeError, 'int64'),
        (dict(cipher='mix2'), with_image(img=np.zeros((0, 49, 3), np.uint8)), ValueError, 'empty'),
        (
            dict(cipher='mix2', fit='error'),
            with_image(img=np.zeros((37, 49, 3), np.uint8)),
            ValueError,
            "hime_mm.Encrypt: the image is 37x49.*fit='resize'",
        ),
        (
            dict(cipher='mix2', fit='pad', pad_val=(1, 2)),
            with_image(img=np.zeros((37, 49, 3), np.uint8)),
            ValueError,
            'pad_val',
        ),
        (
            dict(cipher='mix2', fit='pad', pad_val=300),
            with_image(img=np.zeros((37, 49, 3), np.uint8)),
            ValueError,
            'beyond the 0 to 255',
        ),
        # A second picture of the scene would leave in plain.
        (
            dict(cipher='shuffle'),
            with_image(ori_img=np.zeros((32, 48, 3), np.uint8)),
            ValueError,
            '`ori_img`.*in plain',
        ),
        (
            dict(cipher='shuffle'),
            with_masks,
            ValueError,
            "hime_mm.Encrypt moves pixels .*'shuffle'.*`gt_masks`",
        ),
        (dict(cipher='mix2+shuffle'), with_masks, ValueError, '`gt_masks`'),
        (dict(cipher='orient+center'), with_masks, ValueError, '`gt_masks`.*without "orient"'),
        (
            dict(cipher='permute_channels'),
            with_image(img=np.zeros((32, 48), np.uint8)),
            ValueError,
            'at least two channels',
        ),
        (
            dict(cipher='shuffle'),
            with_image(gt_seg_map=np.zeros((32, 48), np.uint8)),
            ValueError,
            '`gt_seg_map`',
        ),
        (
            dict(cipher='mix2'),
            with_image(gt_keypoints=np.zeros((2, 17, 2))),
            ValueError,
            '`gt_keypoints`',
        ),
        (dict(cipher='mix2'), with_image(mix_results=[{}]), ValueError, '`mix_results`'),
        (dict(cipher='shuffle'), with_quads, TypeError, 'Quadri'),
        (
            dict(cipher='mix2'),
            with_image(gt_bboxes=[[1, 2, 3, 4]]),
            TypeError,
            '`gt_bboxes` of type list',
        ),
        (dict(cipher='mix2'), with_image(gt_bboxes=torch.zeros(2, 4)), TypeError, 'Tensor'),
        # With their scores, as older versions had them.
        (
            dict(cipher='mix2'),
            with_image(proposals=np.zeros((4, 5))),
            TypeError,
            r'`proposals` of type ndarray and shape \(4, 5\)',
        ),
        (dict(cipher='mix2'), with_image(scale_factor=np.ones(4)), ValueError, 'broadcast'),
        # Masks larger than their image.
        (
            dict(cipher='mix2'),
            with_image(gt_masks=rectangle_masks([(0, 0, 5, 5)], (64, 64))),
            AssertionError,
            None,
        ),
    ],
)
def test_an_error_changes_nothing(args, change, error, words, make_image):
    results = make_results(make_image((32, 48, 3)))
    change(results)
    before = snapshot(results)
    with pytest.raises(error, match=words):
        Encrypt(**args)(results)
    assert_unchanged(results, before)


@pytest.mark.parametrize('make', [PatchShuffle, SubPatchMix])
def test_errors_name_the_transform(make, make_image):
    img = make_image((37, 49, 3))
    with pytest.raises(ValueError, match=f'hime_mm.{make.__name__}'):
        make(fit='error')(dict(img=img))
    with pytest.raises(KeyError, match=f'hime_mm.{make.__name__}'):
        make()({})
    with pytest.raises(ValueError, match=f'hime_mm.{make.__name__}'):
        make(fit='crop')


def test_a_permutation_is_not_kept_by_accident():
    with pytest.raises(TypeError, match="'no'"):
        PatchShuffle(keep_permutation='no')


def test_already_packed(make_image):
    pack = DET_TRANSFORMS.build(dict(type='mmdet.PackDetInputs', meta_keys=('img_id',)))
    packed = pack(make_results(make_image((32, 48, 3))))
    before = snapshot(packed)
    with pytest.raises(KeyError, match='before packing'):
        PatchShuffle()(packed)
    assert_unchanged(packed, before)


@pytest.mark.parametrize(
    'option, choice',
    [
        ('fit', 'resize'),
        ('box_mode', 'patch'),
        ('randomness', 'os'),
        ('interpolation', 'bilinear'),
    ],
)
def test_unknown_options(option, choice):
    for value in ('other', None, 3):
        with pytest.raises(ValueError, match=f'unknown `{option}` {value!r}.*{choice}'):
            Encrypt('shuffle', **{option: value})
    with pytest.raises(TypeError):
        Encrypt('shuffle', fitting='pad')
    with pytest.raises(ValueError, match="'mix',.*'shuffle'"):
        Encrypt('scramble')
    with pytest.raises(ValueError, match='must be positive'):
        Encrypt('shuffle', patch_size=0)
    with pytest.raises(ValueError, match='8.*16'):
        Encrypt(dict(steps='shuffle', patch_size=8), patch_size=16)


def test_permutation_is_kept_only_on_request(make_image):
    img = make_image((128, 128, 3))
    public = PatchShuffle()(dict(img=img.copy()))['patch_layout']
    assert public.permutation is None and public.shuffled
    results = PatchShuffle(keep_permutation=True)(dict(img=img.copy()))
    secret = results['patch_layout']
    np.testing.assert_array_equal(unshuffle_patches(results['img'], secret.permutation, 16), img)
    assert repr(public) == repr(secret)


def test_no_secret_on_the_transform(make_image):
    transform = Encrypt('mix2+shuffle', keep_permutation=True)
    before = (repr(transform), dict(vars(transform)))
    transform(make_results(make_image((128, 128, 3))))
    assert (repr(transform), vars(transform)) == before
    assert before[0] == (
        "Encrypt(cipher='mix2+shuffle', patch_size=16, fit='resize', "
        "interpolation='bilinear', pad_val=0, box_mode='patch', "
        "randomness='os', keep_permutation=True)"
    )
    assert repr(SubPatchMix(num_splits=4, form='tiled')).startswith(
        "SubPatchMix(cipher='mix4:tiled', patch_size=16"
    )


def test_randomness(make_image):
    img = make_image((128, 128, 3))

    def draw(seed, **args):
        np.random.seed(seed)
        transform = PatchShuffle(**args)
        return [transform(dict(img=img.copy()))['img'] for _ in range(2)]

    first = draw(0, randomness='numpy')
    again = draw(0, randomness='numpy')
    other = draw(1, randomness='numpy')
    np.testing.assert_array_equal(first, again)
    assert (first[0] != other[0]).any()
    # Drawn anew for every image.
    assert (first[0] != first[1]).any()

    first, again = draw(0), draw(0)
    assert (first[0] != again[0]).any()
    assert (first[0] != first[1]).any()


@pytest.mark.parametrize('cipher', ['mix2', 'mix4', 'mix2:tiled'])
@pytest.mark.parametrize('fit', ['resize', 'pad'])
def test_real_boxes_there_and_back(coco_tiny, cipher, fit):
    dataset = coco_dataset(
        coco_tiny,
        dict(type='mmdet.Resize', scale=(500, 300), keep_ratio=True),
        dict(type='mmdet.RandomFlip', prob=1.0),
        dict(type='hime_mm.Encrypt', cipher=cipher, fit=fit),
    )
    num_boxes = 0
    for index in range(0, 24):
        info = dataset.get_data_info(index)
        original = np.array([x['bbox'] for x in info['instances']]).reshape(-1, 4)
        results = dataset[index]
        boxes = results['gt_bboxes'].numpy().astype(np.float64)
        assert len(boxes) == len(original)
        num_boxes += len(boxes)
        assert results['img'].shape[:2] == results['img_shape']
        layout = results['patch_layout']

        # Back to what Resize and RandomFlip made of it, through the layout.
        x1, y1, x2, y2 = layout.unmap_boxes(boxes).T
        width = layout.ori_shape[1]
        back = np.stack([width - x2, y1, width - x1, y2], 1)
        resize = np.divide(results['scale_factor'], layout.scale)
        np.testing.assert_allclose(back / np.tile(resize, 2), original, rtol=0, atol=1e-3)

        # As a head does it: `scale_factor` alone, flip aside.
        if fit == 'resize':
            x1, y1, x2, y2 = boxes.T
            width = results['img_shape'][1]
            back = np.stack([width - x2, y1, width - x1, y2], 1)
            np.testing.assert_allclose(
                back / np.tile(results['scale_factor'], 2), original, rtol=0, atol=1e-3
            )

        # Through the homography, which is float32 in MMDetection.
        matrix = results['homography_matrix'].astype(np.float64)
        corners = np.concatenate([original[:, :2], original[:, 2:]])
        moved = np.c_[corners, np.ones(len(corners))] @ matrix.T
        first, second = np.split(moved[:, :2], 2)
        np.testing.assert_allclose(
            np.c_[np.minimum(first, second), np.maximum(first, second)], boxes, rtol=0, atol=1e-2
        )
    assert num_boxes > 50


@pytest.mark.parametrize('cipher', ['shuffle', 'mix2+shuffle'])
def test_real_boxes_through_shuffling(coco_tiny, cipher):
    dataset = coco_dataset(
        coco_tiny,
        dict(type='mmdet.Resize', scale=(500, 300), keep_ratio=True),
        dict(type='hime_mm.Encrypt', cipher=cipher, keep_permutation=True),
    )
    moved = 0
    for index in range(0, 24):
        original = np.array([x['bbox'] for x in dataset.get_data_info(index)['instances']]).reshape(
            -1, 4
        )
        results = dataset[index]
        layout = results['patch_layout']
        boxes = results['gt_bboxes'].numpy()
        resize = np.divide(results['scale_factor'], layout.scale)
        np.testing.assert_allclose(
            layout.unmap_boxes(boxes) / np.tile(resize, 2), original, rtol=0, atol=1e-3
        )
        moved += (np.abs(boxes - original * np.tile(results['scale_factor'], 2)).max(1) > 1).sum()
    assert moved > 50


@pytest.mark.parametrize('poly2mask', [True, False])
def test_real_masks(coco_tiny, poly2mask):
    load = [
        LOAD[0],
        dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=poly2mask),
    ]
    plain = coco_dataset(coco_tiny, load=load)
    mixed = coco_dataset(coco_tiny, dict(type='hime_mm.SubPatchMix'), load=load)
    shuffled = coco_dataset(coco_tiny, dict(type='hime_mm.PatchShuffle'), load=load)
    compared = 0
    for index in range(12):
        before, after = plain[index], mixed[index]
        scale = np.array(after['scale_factor'])
        old, new = before['gt_masks'], after['gt_masks']
        assert type(new) is type(old)
        assert (new.height, new.width) == after['img_shape']
        if not poly2mask:
            for given, part in zip(sum(old.masks, []), sum(new.masks, []), strict=True):
                np.testing.assert_allclose(
                    part.reshape(-1, 2), given.reshape(-1, 2) * scale, rtol=1e-6, atol=1e-6
                )
        large = old.areas > 1000
        compared += large.sum()
        np.testing.assert_allclose(new.areas[large], old.areas[large] * scale.prod(), rtol=0.05)
        # The masks lie where the boxes are.
        old_boxes = old.get_bboxes(HorizontalBoxes).numpy()[large]
        new_boxes = new.get_bboxes(HorizontalBoxes).numpy()[large]
        np.testing.assert_allclose(new_boxes, old_boxes * np.tile(scale, 2), rtol=0, atol=1.5)
        given = before['gt_bboxes'].numpy() * np.tile(scale, 2)
        np.testing.assert_allclose(after['gt_bboxes'].numpy(), given, rtol=0, atol=1e-3)
        with pytest.raises(ValueError, match='hime_mm.PatchShuffle'):
            shuffled[index]
    assert compared > 20


def test_test_pipeline(coco_tiny):
    """Annotations loaded after encryption stay in original coordinates."""
    dataset = coco_dataset(
        coco_tiny,
        dict(type='mmdet.Resize', scale=(500, 300), keep_ratio=True),
        dict(type='hime_mm.SubPatchMix'),
        LOAD[1],
        dict(
            type='mmdet.PackDetInputs',
            meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor'),
        ),
        load=LOAD[:1],
    )
    sample = dataset[0]['data_samples']
    original = [x['bbox'] for x in dataset.get_data_info(0)['instances']]
    np.testing.assert_allclose(sample.gt_instances.bboxes.numpy(), original, rtol=0, atol=1e-3)
    ratio = np.divide(sample.img_shape, sample.ori_shape)[::-1]
    np.testing.assert_allclose(sample.scale_factor, ratio, rtol=1e-6)


def test_dataloader(coco_tiny):
    steps = [
        dict(type='mmdet.Resize', scale=(320, 192), keep_ratio=False),
        dict(type='mmdet.RandomFlip', prob=1.0),
    ]
    plain = coco_dataset(coco_tiny, *steps)
    dataset = coco_dataset(
        coco_tiny,
        *steps,
        dict(type='hime_mm.Encrypt', cipher='shuffle', keep_permutation=True),
        dict(
            type='mmdet.PackDetInputs',
            meta_keys=(
                'img_id',
                'ori_shape',
                'img_shape',
                'scale_factor',
                'flip',
                'homography_matrix',
                'patch_layout',
            ),
        ),
    )
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(dataset, range(8)),
        batch_size=4,
        num_workers=2,
        collate_fn=pseudo_collate,
    )
    permutations = set()
    index = 0
    for batch in loader:
        for img, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
            layout = sample.patch_layout
            permutations.add(layout.permutation.tobytes())
            expected = plain[index]
            assert sample.img_id == expected['img_id']
            np.testing.assert_array_equal(
                unshuffle_patches(img.numpy().transpose(1, 2, 0), layout.permutation, 16),
                expected['img'],
            )
            np.testing.assert_allclose(
                layout.unmap_boxes(sample.gt_instances.bboxes.numpy()),
                expected['gt_bboxes'].numpy()[~expected['gt_ignore_flags']],
                rtol=0,
                atol=1e-3,
            )
            index += 1
    assert index == 8
    assert len(permutations) == 8


def test_mmpretrain_pipeline(coco_tiny):
    registry = pytest.importorskip('mmpretrain.registry').TRANSFORMS
    path = sorted((coco_tiny / 'val2017').glob('*.jpg'))[0]

    def run(*steps):
        pipeline = Compose(
            [
                registry.build(step)
                for step in (
                    dict(type='LoadImageFromFile'),
                    dict(type='mmpretrain.ResizeEdge', scale=96),
                    dict(type='mmpretrain.CenterCrop', crop_size=80),
                    *steps,
                    dict(type='mmpretrain.PackInputs'),
                )
            ]
        )
        return pipeline(dict(img_path=str(path), gt_label=3))

    plain = run()['inputs'].numpy().transpose(1, 2, 0)
    packed = run(dict(type='hime_mm.Encrypt', cipher='mix4'))
    np.testing.assert_array_equal(
        packed['inputs'].numpy().transpose(1, 2, 0), mix_patches(plain, 16, 4)
    )
    sample = packed['data_samples']
    assert sample.gt_label.tolist() == [3]
    assert sample.img_shape == (20, 20)
    shuffled = run(dict(type='hime_mm.PatchShuffle'))['inputs'].numpy()
    assert (shuffled != plain.transpose(2, 0, 1)).any()
    np.testing.assert_array_equal(np.sort(shuffled, axis=None), np.sort(plain, axis=None))
