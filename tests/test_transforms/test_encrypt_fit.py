# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from encrypt_parts import HorizontalBoxes, make_results, rectangle_masks

from hime_mm.ciphers import Cipher, mix_patches, shuffle_patches, unshuffle_patches
from hime_mm.transforms import Encrypt, SubPatchMix


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
