# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy

import numpy as np
import pytest
import torch
from encrypt_parts import (
    HorizontalBoxes,
    PolygonMasks,
    Quadrilaterals,
    make_results,
    rectangle_masks,
)

from hime_mm.ciphers import Cipher, mix_patches, shuffle_patches, unshuffle_patches
from hime_mm.transforms import Encrypt, PatchShuffle, SubPatchMix
from hime_mm.transforms.simulation import Simulated


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
    drawn = cipher.draw(img.shape, Simulated()._simulated_rng())
    np.testing.assert_array_equal(first[0], cipher.apply(img, drawn))


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
        "Encrypt(cipher=Cipher('mix2+shuffle', patch_size=16), fit='resize', "
        "interpolation='bilinear', pad_val=0, box_mode='patch', "
        "randomness='os', keep_permutation=True)"
    )
    assert repr(SubPatchMix(num_splits=4, form='tiled')).startswith(
        "SubPatchMix(cipher=Cipher('mix4:tiled', patch_size=16), fit='resize', "
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
