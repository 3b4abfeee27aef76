# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Pictures in the types that other transforms leave them in."""

import numpy as np
import pytest
from augment_parts import sample
from encrypt_parts import DET_TRANSFORMS, LOAD, coco_dataset, make_results, rectangle_masks
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hime_mm.ciphers import Cipher
from hime_mm.ciphers.pixels import as_8_bits
from hime_mm.errors import PictureError
from hime_mm.transforms import Encrypt, EncryptedColorJitter, PatchReshuffle

MultiImageMixDataset = pytest.importorskip('mmdet.datasets').MultiImageMixDataset
WIDE = [np.int16, np.int32, np.int64, np.uint32, np.uint64]
INTEGERS = [np.int8, *WIDE]


@pytest.mark.parametrize('dtype', WIDE)
@pytest.mark.parametrize('fit', ['resize', 'pad'])
@pytest.mark.parametrize('cipher', ['mix2', 'center+erode2', 'erode2', 'mix4:tiled'])
def test_8_bits_in_a_wider_type(cipher, fit, dtype, make_image):
    """They give what the 8-bit picture gives, in 8 bits."""
    if cipher.startswith('center') and fit == 'pad':
        cipher = 'mix2+erode1'
    img = make_image((37, 50, 3))
    encrypt = Encrypt(cipher, fit=fit)
    got, expected = (encrypt(make_results(x))['img'] for x in (img.astype(dtype), img))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


@given(
    img=st.sampled_from(INTEGERS).flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=2, max_dims=3, max_side=4))
    )
)
def test_any_integers(img):
    """Those that 8 bits hold are kept, and all others refused."""
    if all(0 <= int(value) <= 255 for value in img.flat):
        out = as_8_bits(img)
        assert out.dtype == np.uint8 and (out.astype(object) == img.astype(object)).all()
    else:
        with pytest.raises(PictureError, match=f'{img.dtype}.*{img.min()} to {img.max()}.*uint16'):
            as_8_bits(img)


@pytest.mark.parametrize(
    'dtype', [np.uint8, np.uint16, '>u2', np.float16, np.float32, np.float64, bool, 'm8[s]']
)
def test_what_is_no_wider_integer_is_left_alone(dtype):
    for img in (np.full((2, 3), 1, dtype), np.empty((0, 3), dtype), np.empty((0, 3), np.int64)):
        assert as_8_bits(img) is img


@pytest.mark.parametrize('value', [-1, 256, 65535])
@pytest.mark.parametrize('dtype', [np.int32, np.int64])
@pytest.mark.parametrize(
    'transform',
    [
        Encrypt('noise10'),
        Encrypt('shuffle'),
        PatchReshuffle(patch_size=16),
        EncryptedColorJitter(0.1),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_other_integers_are_refused(transform, dtype, value, make_image):
    """One value of the image, and the name of the transform."""
    img = make_image((32, 48, 3)).astype(dtype)
    img[17, 3, 1] = value
    results = dict(img=img)
    name = type(transform).__name__
    with pytest.raises(
        PictureError, match=rf'hime_mm\.{name}: .*{np.dtype(dtype)}.*{value}.*uint8'
    ):
        transform(results)
    assert results['img'] is img and list(results) == ['img']


@pytest.mark.parametrize('dtype', [bool, np.float16, np.complex64])
def test_other_types_are_refused(dtype):
    with pytest.raises(TypeError, match=np.dtype(dtype).name):
        Encrypt('shuffle')(dict(img=np.ones((32, 32), dtype)))


def test_augmenting_an_encrypted_image_of_a_wider_type(make_image):
    img = make_image((32, 48, 3))
    for augment in (PatchReshuffle(), EncryptedColorJitter(brightness=0.3)):
        outs = []
        for dtype in (np.uint8, np.int64):
            np.random.seed(0)
            outs.append(augment(sample(img.astype(dtype)))['img'])
        assert outs[1].dtype == np.uint8 and not np.array_equal(outs[0], img)
        np.testing.assert_array_equal(*outs)


def test_behind_copy_paste(make_image):
    """MMDetection's leaves int64."""
    paste = DET_TRANSFORMS.build(dict(type='mmdet.CopyPaste', max_num_pasted=2, selected=False))
    samples = []
    for seed in (0, 1):
        img = make_image((48, 64, 3), seed=seed)
        results = make_results(img)
        results['gt_masks'] = rectangle_masks(
            results['gt_bboxes'].tensor.long().tolist(), img.shape[:2]
        )
        samples.append(results)
    samples[0]['mix_results'] = [samples[1]]
    pasted = paste(samples[0])
    pasted.pop('mix_results')
    assert pasted['img'].dtype == np.int64
    expected, _, _ = Cipher('mix2').encrypt(pasted['img'].astype(np.uint8))
    out = Encrypt('mix2')(pasted)
    assert out['img'].dtype == np.uint8
    np.testing.assert_array_equal(out['img'], expected)
    assert out['gt_masks'].masks.shape[1:] == (24, 32) and len(out['gt_bboxes']) >= 2


def test_behind_copy_paste_in_a_pipeline(coco_tiny):
    """With MMDetection's wrapper, on real pictures and masks."""
    load = [LOAD[0], dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)]
    plain = coco_dataset(
        coco_tiny, dict(type='mmdet.Resize', scale=(128, 96), keep_ratio=False), load=load
    )
    seen = []
    dataset = MultiImageMixDataset(
        plain,
        [
            dict(type='mmdet.CopyPaste', max_num_pasted=3),
            dict(type='hime_mm.Encrypt', cipher='mix2'),
        ],
    )
    encrypt = dataset.pipeline[-1]
    dataset.pipeline[-1] = lambda results: seen.append(results['img']) or encrypt(results)
    for index in range(6):
        out = dataset[index]['img']
        assert out.shape == (48, 64, 3) and out.dtype == np.uint8
        expected, _, _ = Cipher('mix2').encrypt(seen[index].astype(np.uint8))
        np.testing.assert_array_equal(out, expected)
    assert any(img.dtype == np.int64 for img in seen)
