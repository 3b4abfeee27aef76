# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from encrypt_parts import (
    DET_TRANSFORMS,
    HorizontalBoxes,
    PolygonMasks,
    Quadrilaterals,
    Rotated,
    assert_unchanged,
    make_results,
    other_type,
    rectangle_masks,
    snapshot,
)

from hime_mm.errors import CipherError, HimeError, PictureError
from hime_mm.transforms import Encrypt, PatchShuffle, SubPatchMix


@pytest.mark.parametrize('cipher', ['center', 'mix2+center+shuffle'])
def test_padding_would_show_the_means(cipher):
    with pytest.raises(CipherError, match="hime_mm.Encrypt: `fit='pad'` .*'center'"):
        Encrypt(cipher, fit='pad')
    for fit in ('resize', 'error'):
        Encrypt(cipher, fit=fit)


@pytest.mark.parametrize('randomness', ['os', 'numpy'])
def test_what_all_images_share_is_refused(randomness):
    with pytest.raises(
        CipherError,
        match="hime_mm.Encrypt: 'permute_pixels' .*hime encrypt.*LoadEncryptedMeta",
    ):
        Encrypt('permute_pixels+shuffle', randomness=randomness)


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
            'hime_mm.Encrypt .*Tensor',
        ),
        (dict(cipher='mix2'), with_image(img=[np.zeros((32, 48, 3), np.uint8)]), TypeError, 'list'),
        (
            dict(cipher='mix2'),
            with_image(img=np.zeros((2, 32, 48, 3), np.uint8)),
            TypeError,
            r'\(2, 32, 48, 3\)',
        ),
        (
            dict(cipher='mix2'),
            with_image(img=np.full((32, 48, 3), 256, np.int32)),
            PictureError,
            'int32',
        ),
        (
            dict(cipher='mix2'),
            with_image(img=np.full((37, 49, 3), -1, np.int64)),
            PictureError,
            'int64',
        ),
        (
            dict(cipher='mix2'),
            with_image(img=np.zeros((0, 49, 3), np.uint8)),
            PictureError,
            r'\(0, 49, 3\)',
        ),
        (
            dict(cipher='mix2', fit='error'),
            with_image(img=np.zeros((37, 49, 3), np.uint8)),
            PictureError,
            "hime_mm.Encrypt: the image is 37x49.*fit='resize'",
        ),
        (
            dict(cipher='mix2', fit='pad', pad_val=(1, 2)),
            with_image(img=np.zeros((37, 49, 3), np.uint8)),
            PictureError,
            r'`pad_val` \(1, 2\)',
        ),
        (
            dict(cipher='mix2', fit='pad', pad_val=300),
            with_image(img=np.zeros((37, 49, 3), np.uint8)),
            PictureError,
            '`pad_val` 300 .*uint8',
        ),
        # A second picture of the scene would leave in plain.
        (
            dict(cipher='shuffle'),
            with_image(ori_img=np.zeros((32, 48, 3), np.uint8)),
            HimeError,
            'hime_mm.Encrypt .*`ori_img`',
        ),
        (
            dict(cipher='shuffle'),
            with_masks,
            HimeError,
            "hime_mm.Encrypt .*'shuffle'.*`gt_masks`",
        ),
        (dict(cipher='mix2+shuffle'), with_masks, HimeError, "'mix2.shuffle'.*`gt_masks`"),
        (dict(cipher='orient+center'), with_masks, HimeError, '`gt_masks`.*"orient"'),
        (
            dict(cipher='permute_channels'),
            with_image(img=np.zeros((32, 48), np.uint8)),
            PictureError,
            "'permute_channels' .*channels",
        ),
        (
            dict(cipher='shuffle'),
            with_image(gt_seg_map=np.zeros((32, 48), np.uint8)),
            HimeError,
            "'shuffle'.*`gt_seg_map`",
        ),
        (
            dict(cipher='mix2'),
            with_image(gt_keypoints=np.zeros((2, 17, 2))),
            HimeError,
            '`gt_keypoints`',
        ),
        (dict(cipher='mix2'), with_image(mix_results=[{}]), HimeError, '`mix_results`'),
        (dict(cipher='shuffle'), with_quads, TypeError, 'Quadri'),
        *(
            (
                dict(cipher=cipher),
                with_image(**{key: boxes}),
                TypeError,
                rf'hime_mm.Encrypt .*`{key}` .*{boxes.shape[0]}.*{boxes.shape[1]}',
            )
            for key in ('gt_bboxes', 'proposals')
            for cipher in ('shuffle', 'mix2+shuffle', 'center+erode2+shuffle')
            for boxes in (
                Rotated(torch.full((1, 5), 8.0)),
                other_type(4),
                other_type(5),
                other_type(8),
                np.zeros((3, 5), np.float32),
                np.zeros((1, 8)),
            )
        ),
        *(
            (
                dict(cipher='erode2+shuffle'),
                with_image(gt_bboxes=kind([[0, 0, 8, 8], [0, value, 9, 9]])),
                HimeError,
                'hime_mm.Encrypt: box 1 has no centre',
            )
            for kind in (np.array, HorizontalBoxes)
            for value in (float('nan'), float('inf'))
        ),
        (
            dict(cipher='shuffle'),
            with_image(gt_keypoints=np.zeros((2, 17, 2))),
            HimeError,
            'hime_mm.Encrypt .*`gt_keypoints`',
        ),
        (
            dict(cipher='erode1+shuffle'),
            with_image(gt_instances_ids=np.zeros(2)),
            HimeError,
            '`gt_instances_ids`',
        ),
        (
            dict(cipher='erode1+shuffle'),
            with_image(gt_masks=PolygonMasks([[np.array([0, 0, 5, 0, 5, 5.0])]], 32, 48)),
            HimeError,
            "hime_mm.Encrypt .*'erode1.shuffle'.*`gt_masks`",
        ),
        (
            dict(cipher='mix2'),
            with_image(gt_bboxes=[[1, 2, 3, 4]]),
            TypeError,
            '`gt_bboxes` .*list',
        ),
        (dict(cipher='mix2'), with_image(gt_bboxes=torch.zeros(2, 4)), TypeError, 'Tensor'),
        # With their scores, as older versions had them.
        (
            dict(cipher='mix2'),
            with_image(proposals=np.zeros((4, 5))),
            TypeError,
            r'`proposals` .*\(4, 5\)',
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
    with pytest.raises(PictureError, match=f'hime_mm.{make.__name__}'):
        make(fit='error')(dict(img=img))
    with pytest.raises(KeyError, match=f'hime_mm.{make.__name__}'):
        make()({})
    with pytest.raises(HimeError, match=f'hime_mm.{make.__name__}'):
        make(fit='crop')


def test_a_permutation_is_not_kept_by_accident():
    with pytest.raises(TypeError, match="'no'"):
        PatchShuffle(keep_permutation='no')


def test_already_packed(make_image):
    pack = DET_TRANSFORMS.build(dict(type='mmdet.PackDetInputs', meta_keys=('img_id',)))
    packed = pack(make_results(make_image((32, 48, 3))))
    before = snapshot(packed)
    with pytest.raises(KeyError, match='hime_mm.PatchShuffle .*`img`'):
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
        with pytest.raises(HimeError, match=f'`{option}` {value!r}.*{choice}'):
            Encrypt('shuffle', **{option: value})
    with pytest.raises(TypeError):
        Encrypt('shuffle', fitting='pad')
    with pytest.raises(CipherError, match=' mix,.* shuffle'):
        Encrypt('scramble')
    with pytest.raises(CipherError, match='`patch_size` .* 0$'):
        Encrypt('shuffle', patch_size=0)
    with pytest.raises(CipherError, match=' 8.*`patch_size` is 16'):
        Encrypt(dict(steps='shuffle', patch_size=8), patch_size=16)
