# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from owner_data import named, photo

from hime_mm.ciphers import Cipher, Key
from hime_mm.errors import HimeError, PictureError
from hime_mm.images.augment import Augment
from hime_mm.images.codec import COLOR_TYPES
from hime_mm.images.preprocess import Preprocess
from hime_mm.images.sizing import FITS, INTERPOLATIONS


def stream(number=0):
    key = Key(bytes(range(32)))
    return key.image_rng('d', str(number)).augmentation('c')


def uniform(count, number=0):
    """What the stream gives, by another way."""
    data = stream(number).read(8 * count)
    return [
        (int.from_bytes(data[i : i + 8], 'little') >> 11) / 2**53 for i in range(0, 8 * count, 8)
    ]


SIZES = [(37, 50), (480, 640), (427, 640), (640, 427), (333, 500), (16, 400), (101, 101)]


class TestAsMMDetection:
    """An encrypted file is what the online transform makes of a picture."""

    @staticmethod
    def online(img, boxes, cipher, fit, *resize):
        from mmdet.structures.bbox import HorizontalBoxes

        from hime_mm.registry import TRANSFORMS

        results = dict(
            img=img,
            img_shape=img.shape[:2],
            ori_shape=img.shape[:2],
            gt_bboxes=HorizontalBoxes(np.float32(boxes)),
        )
        for cfg in (*resize, dict(type='hime_mm.Encrypt', cipher=cipher, fit=fit)):
            results = TRANSFORMS.build(cfg)(results)
        return results

    @staticmethod
    def offline(img, boxes, cipher, **options):
        cipher = Cipher.build(cipher)
        ready = Preprocess(**options).prepare(img, cipher.patch_size, boxes)
        drawn = cipher.draw(ready.img.shape)
        layout = cipher.secret_layout(ready.img.shape[:2], drawn)
        scale = np.multiply(ready.scale, layout.scale)
        return (
            cipher.apply(ready.img, drawn),
            ready.boxes * np.tile(scale, 2),
            tuple(scale),
            ready,
        )

    # None of these draws randomness.
    @pytest.mark.parametrize('cipher', ['mix2', 'center', 'erode2+mix2'])
    @pytest.mark.parametrize('fit', ['resize', 'pad'])
    @pytest.mark.parametrize('size', SIZES)
    def test_resize(self, size, fit, cipher):
        if cipher == 'center' and fit == 'pad':
            cipher = 'mix4'  # padding would show the means
        img = photo(*size)
        boxes = [[1, 2, 30, 15], [0, 0, size[1], size[0]]]
        expected = self.online(
            img, boxes, cipher, fit, dict(type='mmdet.Resize', scale=(320, 200), keep_ratio=True)
        )
        out, moved, scale, _ = self.offline(
            img, boxes, cipher, resize=(320, 200), keep_ratio=True, fit=fit
        )
        np.testing.assert_array_equal(out, expected['img'])
        np.testing.assert_allclose(
            moved, expected['gt_bboxes'].tensor.numpy(), rtol=1e-5, atol=1e-4
        )
        np.testing.assert_allclose(scale, expected['scale_factor'])

    @pytest.mark.parametrize('size', SIZES)
    def test_short_side(self, size):
        img, boxes = photo(*size), [[1, 2, 30, 15]]
        expected = self.online(
            img,
            boxes,
            'mix2',
            'resize',
            dict(type='mmdet.Resize', scale=(320, 128), keep_ratio=True),
        )
        out, moved, _, _ = self.offline(img, boxes, 'mix2', short_side=128, max_side=320)
        np.testing.assert_array_equal(out, expected['img'])
        np.testing.assert_allclose(
            moved, expected['gt_bboxes'].tensor.numpy(), rtol=1e-5, atol=1e-4
        )

    @pytest.mark.parametrize('interpolation', ['nearest', 'bicubic', 'area'])
    def test_fixed_size(self, interpolation):
        img, boxes = photo(37, 50), [[1, 2, 30, 15]]
        expected = self.online(
            img,
            boxes,
            'mix2',
            'error',
            dict(
                type='mmdet.Resize', scale=(96, 64), keep_ratio=False, interpolation=interpolation
            ),
        )
        out, moved, _, _ = self.offline(
            img, boxes, 'mix2', resize=(96, 64), fit='error', interpolation=interpolation
        )
        np.testing.assert_array_equal(out, expected['img'])
        np.testing.assert_allclose(
            moved, expected['gt_bboxes'].tensor.numpy(), rtol=1e-5, atol=1e-4
        )

    def test_nothing(self):
        for size in SIZES:
            img = photo(*size)
            expected = self.online(img, [[1, 2, 3, 4]], 'center', 'resize')
            out, _, _, _ = self.offline(img, [[1, 2, 3, 4]], 'center')
            np.testing.assert_array_equal(out, expected['img'])


class TestAsMMPretrain:
    @staticmethod
    def online(img, edge, crop):
        from mmpretrain.registry import TRANSFORMS

        results = dict(img=img)
        for cfg in (
            dict(type='mmpretrain.ResizeEdge', scale=edge),
            dict(type='mmpretrain.CenterCrop', crop_size=crop),
        ):
            results = TRANSFORMS.build(cfg)(results)
        return results['img']

    @pytest.mark.parametrize('size', [(64, 128), (200, 100), (96, 96), (48, 60), *SIZES])
    def test_pixels(self, size):
        img = photo(*size)
        img_ = Preprocess(short_side=64, center_crop=(48, 48)).prepare(img, 16).img
        np.testing.assert_array_equal(img_, self.online(img, 64, 48))


class TestCenterCrop:
    def test_takes_the_middle(self):
        img = photo(64, 96)
        ready = Preprocess(center_crop=(32, 48)).prepare(img, 16)
        np.testing.assert_array_equal(ready.img, img[8:56, 32:64])
        assert ready.ori_shape == (48, 32) and ready.scale == (1, 1)

    def test_after_resizing(self):
        img = photo(50, 100)
        ready = Preprocess(short_side=64, center_crop=(64, 32)).prepare(img, 16)
        full = cv2.resize(img, (128, 64))
        np.testing.assert_array_equal(ready.img, full[16:48, 32:96])
        assert ready.ori_shape == (25, 50)
        assert ready.scale == (1.28, 1.28)

    def test_too_small(self):
        with pytest.raises(PictureError, match='64x96.*80x32'):
            Preprocess(center_crop=(32, 80)).prepare(photo(64, 96), 16)


options = st.fixed_dictionaries(
    {},
    optional=dict(
        color_type=st.sampled_from(list(COLOR_TYPES)),
        fit=st.sampled_from(FITS),
        interpolation=st.sampled_from(list(INTERPOLATIONS)),
        pad_val=st.one_of(st.integers(0, 255), st.lists(st.floats(0, 255), min_size=3, max_size=3)),
        center_crop=st.tuples(st.integers(1, 99), st.integers(1, 99)),
        augment=st.builds(
            Augment,
            flip=st.floats(0, 1),
            jitter=st.floats(0, 0.99),
            crop=st.one_of(
                st.none(),
                st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(
                    lambda pair: tuple(sorted(pair))
                ),
            ),
        ),
    ),
).flatmap(
    lambda state: st.one_of(
        st.just(state),
        st.builds(
            lambda size, keep: dict(state, resize=size, keep_ratio=keep),
            st.tuples(st.integers(1, 99), st.integers(1, 99)),
            st.booleans(),
        ),
        st.builds(
            lambda sides, most: dict(state, short_side=sides, max_side=most),
            st.one_of(st.integers(1, 99), st.lists(st.integers(1, 99), min_size=1, max_size=3)),
            st.one_of(st.none(), st.integers(1, 99)),
        ),
    )
)


class TestOptions:
    @given(options)
    def test_written_and_read_back(self, state):
        preprocess = Preprocess(**state)
        state = json.loads(json.dumps(preprocess.to_dict()))
        again = Preprocess.from_dict(state)
        assert again == preprocess
        assert json.loads(json.dumps(again.to_dict())) == state

    def test_defaults_are_not_written(self):
        assert Preprocess().to_dict() == {}
        assert Preprocess.from_dict({}) == Preprocess()

    def test_from_a_later_release(self):
        with pytest.raises(HimeError, match="'blur'"):
            Preprocess.from_dict(dict(blur=1))

    @pytest.mark.parametrize(
        'wrong',
        [
            dict(color_type='grey'),
            dict(fit='crop'),
            dict(interpolation='cubic'),
            dict(resize=(0, 5)),
            dict(resize=5),
            dict(resize=(1, 2, 3)),
            dict(resize=(1.5, 2)),
            dict(center_crop=(1,)),
            dict(short_side=()),
            dict(short_side=0),
            dict(short_side=True),
            dict(short_side=5, max_side=0),
            dict(max_side=5),
            dict(keep_ratio=True),
            dict(resize=(5, 5), short_side=5),
        ],
    )
    def test_refused(self, wrong):
        with pytest.raises(HimeError, match='|'.join(f'`{name}`' for name in wrong)):
            Preprocess(**wrong)

    @pytest.mark.parametrize(
        'wrong',
        [
            dict(flip=1.1),
            dict(flip=-0.1),
            dict(flip=math.nan),
            dict(jitter=1),
            dict(jitter=-0.1),
            dict(crop=(0, 1)),
            dict(crop=(0.5, 0.4)),
            dict(crop=(0.5, 1.1)),
        ],
    )
    def test_augmentation_refused(self, wrong):
        with pytest.raises(HimeError, match='|'.join(f'`{name}`' for name in wrong)):
            Augment(**wrong)

    def test_random(self):
        assert not Preprocess(short_side=5).random
        assert Preprocess(short_side=(5, 6)).random
        for augment in (dict(flip=0.1), dict(crop=(0.5, 1)), dict(jitter=0.1)):
            assert Preprocess(augment=Augment(**augment)).random


class TestAugment:
    def test_flip(self):
        img = photo(20, 30)
        boxes = np.array([[1.0, 2, 11, 7], [25, 0, 30, 20]])
        out, moved, kept = Augment(flip=1).apply(img, boxes, 1.5, stream())
        np.testing.assert_array_equal(out, img[:, ::-1])
        assert moved.tolist() == [[19, 2, 29, 7], [0, 0, 5, 20]]
        assert kept.tolist() == [0, 1] and out.flags.c_contiguous
        # What came in stays.
        assert boxes[0].tolist() == [1, 2, 11, 7]

    def test_flip_is_as_frequent_as_asked_for(self):
        img, none = photo(4, 6), np.zeros((0, 4))
        flips = sum(
            Augment(flip=0.25).apply(img, none, 1, stream(i))[0][0, 0, 0] != img[0, 0, 0]
            for i in range(800)
        )
        assert 140 < flips < 260

    @given(
        st.tuples(st.integers(1, 60), st.integers(1, 60)),
        st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: tuple(sorted(pair))),
        st.floats(0.3, 3),
        st.integers(0, 999),
    )
    def test_crop(self, size, crop, aspect, number):
        h, w = size
        # Every pixel tells where it was.
        img = np.stack(np.mgrid[:h, :w].astype(np.uint8), axis=-1)
        box = [[0, 0, w, h], [w / 4, h / 4, 3 * w / 4, 3 * h / 4]]
        out, boxes, kept = Augment(crop=crop).apply(
            img, np.array(box, float), aspect, stream(number)
        )
        y, x = out[0, 0].astype(int)
        ch, cw = out.shape[:2]
        np.testing.assert_array_equal(out, img[y : y + ch, x : x + cw])
        for index, moved in zip(kept, boxes, strict=True):
            expected = np.clip(np.array(box[index]) - [x, y, x, y], 0, [cw, ch, cw, ch])
            np.testing.assert_allclose(moved, expected)
            assert (moved[2:] - moved[:2] >= 1).all()
        assert kept[0] == 0
        if ch > 8 and cw > 8 and (ch < h or cw < w):
            share, ratio = ch * cw / (h * w), cw / ch / aspect
            fallback = ch == h or cw == w
            assert share <= crop[1] * 1.2
            assert share >= crop[0] / 1.2 or fallback
            assert 3 / 4 / 1.2 < ratio < 4 / 3 * 1.2

    def test_crop_is_spread(self):
        img = np.stack(np.mgrid[:100, :100].astype(np.uint8), axis=-1)
        windows = [
            Augment(crop=(0.2, 0.9)).apply(img, np.zeros((0, 4)), 1, stream(i))[0]
            for i in range(300)
        ]
        shares = [w.shape[0] * w.shape[1] / 1e4 for w in windows]
        ratios = [w.shape[1] / w.shape[0] for w in windows]
        assert min(shares) < 0.25 and max(shares) > 0.8
        assert 0.5 < np.mean(shares) < 0.6
        assert min(ratios) < 0.78 and max(ratios) > 1.28
        for axis in (0, 1):
            # Where the window is between the two ends.
            places = [w[0, 0, axis] / (100 - w.shape[axis]) for w in windows if w.shape[axis] < 95]
            assert min(places) < 0.05 and max(places) > 0.95
            assert 0.43 < np.mean(places) < 0.57
        both = np.array(
            [w[0, 0] / (100.0 - np.array(w.shape[:2])) for w in windows if max(w.shape) < 95]
        )
        assert abs(np.corrcoef(both.T)[0, 1]) < 0.25

    def test_object_outside_the_window_is_gone(self):
        img, lost = photo(100, 100), 0
        for number in range(40):
            _, boxes, kept = Augment(crop=(0.1, 0.2)).apply(
                img, np.array([[0.0, 0, 9, 9], [0, 0, 100, 100]]), 1, stream(number)
            )
            assert len(boxes) == len(kept) and kept[-1] == 1
            lost += len(kept) == 1
        assert lost > 20

    @pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
    def test_jitter_is_what_its_three_numbers_say(self, dtype):
        img = photo(20, 30, dtype=dtype)
        bright, contrast, colour = [0.6 + 0.8 * u for u in uniform(3)]
        out = img * bright
        out = out.mean() + (out - out.mean()) * contrast
        grey = out @ [0.114, 0.587, 0.299]
        out = grey[..., None] + (out - grey[..., None]) * colour
        most = np.iinfo(dtype).max
        got, _, _ = Augment(jitter=0.4).apply(img, np.zeros((0, 4)), 1, stream())
        assert got.dtype == dtype
        np.testing.assert_allclose(got.astype(float), np.clip(out, 0, most), atol=0.51 + most / 1e5)

    def test_jitter_of_gray_and_alpha(self):
        got, _, _ = Augment(jitter=0.4).apply(
            photo(20, 30, channels=1), np.zeros((0, 4)), 1, stream()
        )
        assert got.shape == (20, 30)
        img = photo(20, 30, channels=4)
        got, _, _ = Augment(jitter=0.4).apply(img, np.zeros((0, 4)), 1, stream())
        np.testing.assert_array_equal(got[..., 3], img[..., 3])
        assert (got[..., :3] != img[..., :3]).any()


class TestPrepare:
    @given(
        st.tuples(st.integers(1, 70), st.integers(1, 70)),
        st.sampled_from(
            [
                {},
                dict(resize=(40, 30), keep_ratio=True),
                dict(resize=(40, 30)),
                dict(short_side=(20, 33)),
                dict(short_side=20, max_side=37),
            ]
        ),
        st.sampled_from(['resize', 'pad']),
        st.sampled_from([Augment(), Augment(flip=0.5, crop=(0.3, 1))]),
        st.integers(0, 99),
    )
    def test_geometry(self, size, sizing, fit, augment, number):
        preprocess = Preprocess(fit=fit, augment=augment, **sizing)
        h, w = size
        box = [0, 0, w, h]
        ready = preprocess.prepare(photo(h, w), 8, [box], stream(number))
        eh, ew = ready.img.shape[:2]
        assert eh % 8 == ew % 8 == 0
        oh, ow = ready.ori_shape
        assert oh <= h and ow <= w and (augment or (oh, ow) == size)
        # The whole picture stays the whole of what is left of it.
        assert ready.boxes.tolist() == [[0, 0, ow, oh]]
        assert ready.kept.tolist() == [0]
        sx, sy = ready.scale
        if fit == 'resize':
            np.testing.assert_allclose([sy * oh, sx * ow], [eh, ew])
        else:
            used = np.array([sy * oh, sx * ow])
            np.testing.assert_allclose(used, np.rint(used), atol=1e-9)
            assert ([eh, ew] - used >= -1e-9).all()
            assert ([eh, ew] - used < 8).all()

    def test_one_stream_gives_one_view(self):
        preprocess = Preprocess(
            short_side=(32, 48, 64), augment=Augment(flip=0.5, crop=(0.3, 1), jitter=0.3)
        )
        img = photo(60, 70)
        views = [preprocess.prepare(img, 16, [[1, 1, 50, 50]], stream(i % 8)) for i in range(16)]
        for one, other in zip(views[:8], views[8:], strict=True):
            np.testing.assert_array_equal(one.img, other.img)
            np.testing.assert_array_equal(one.boxes, other.boxes)
            assert one[1:3] == other[1:3]
        assert len({v.img.tobytes() for v in views}) == 8

    def test_draws_every_short_side(self):
        preprocess = Preprocess(short_side=(16, 32, 48))
        sides = [
            min(preprocess.prepare(photo(20, 25), 16, None, stream(i)).img.shape[:2])
            for i in range(90)
        ]
        assert {sides.count(s) > 15 for s in (16, 32, 48)} == {True}

    def test_without_a_stream_it_differs_every_time(self):
        preprocess = Preprocess(augment=Augment(jitter=0.5))
        views = {preprocess.prepare(photo(20, 25), 8).img.tobytes() for _ in range(4)}
        assert len(views) == 4

    def test_gray_and_16_bits(self):
        for channels, dtype in ((1, np.uint16), (4, np.uint8)):
            img = photo(37, 50, channels=channels, dtype=dtype)
            ready = Preprocess(short_side=32, augment=Augment(0.5, (0.5, 1), 0.1)).prepare(
                img, 16, None, stream()
            )
            assert ready.img.dtype == dtype
            assert ready.img.shape[2:] == img.shape[2:]

    def test_fixed_takes_no_augmentation_and_the_last_side(self):
        preprocess = Preprocess(
            short_side=(32, 64), fit='pad', augment=Augment(flip=1, crop=(0.3, 0.4), jitter=0.3)
        )
        img = photo(50, 75)
        ready = preprocess.fixed().prepare(img, 16)
        assert ready.scale == (96 / 75, 64 / 50)
        np.testing.assert_array_equal(ready.img, cv2.resize(img, (96, 64)))
        assert not preprocess.fixed().random


@pytest.mark.parametrize('seed', range(12))
def test_short_side_and_crop_are_mmpretrains(seed):
    transforms = pytest.importorskip('mmpretrain.registry').TRANSFORMS
    rng = np.random.default_rng(seed)
    for _ in range(5):
        img = photo(*rng.integers(60, 400, 2))
        results = dict(img=img)
        for cfg in (
            dict(type='mmpretrain.ResizeEdge', scale=128, edge='short'),
            dict(type='mmpretrain.CenterCrop', crop_size=112),
        ):
            results = transforms.build(cfg)(results)
        ours = Preprocess(short_side=128, center_crop=(112, 112)).prepare(img, 16)
        np.testing.assert_array_equal(ours.img, results['img'])


@pytest.mark.parametrize(
    'name, value',
    [
        ('resize', (200000, 200000)),
        ('short_side', 70000),
        ('pad_val', float('nan')),
        ('pad_val', (0, float('inf'), 0)),
    ],
)
def test_impossible_numbers(name, value):
    with pytest.raises(HimeError, match=named(f'`{name}`', value)):
        Preprocess(**{name: value})
