# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmcv.transforms import Compose
from mmcv.transforms.utils import cache_random_params
from owner_data import SECRET, key_file, make_coco, photo, read, tree, write

from hime_mm.apis import encrypt_coco, encrypt_folder
from hime_mm.ciphers import (Cipher, Key, PatchLayout, shuffle_patches,
                             unshuffle_patches)
from hime_mm.ciphers.steps import center_patches, drop_patches
from hime_mm.datasets.manifest import Manifest
from hime_mm.registry import MODELS
from hime_mm.transforms import (Encrypt, EncryptedAugment,
                                EncryptedColorJitter, PatchDrop,
                                PatchReshuffle)

ColorJitter = pytest.importorskip('mmpretrain.datasets').ColorJitter

DTYPES = ['uint8', 'uint16', 'float32']
GREY = dict(uint8=128, uint16=32768, float32=128)
SIZES = st.tuples(
    st.integers(1, 5), st.integers(1, 6), st.sampled_from([1, 3, 8]),
    st.sampled_from([(), (1, ), (3, )]), st.sampled_from(DTYPES))


def cut(img, side):
    """The patches of an image, one after the other."""
    h, w = img.shape[:2]
    return [
        img[y:y + side, x:x + side] for y in range(0, h, side)
        for x in range(0, w, side)
    ]


def sample(img, cipher='shuffle', boxes=None, **kwargs):
    """As the loading transforms leave an encrypted image."""
    cipher = Cipher(cipher, patch_size=16)
    side = cipher.encrypted_patch_size
    grid = (img.shape[0] // side, img.shape[1] // side)
    layout = cipher.plan((grid[0] * 16, grid[1] * 16))
    results = dict(
        img=img,
        img_shape=img.shape[:2],
        ori_shape=img.shape[:2],
        cipher=cipher,
        patch_layout=layout,
        **kwargs)
    if boxes is not None:
        results['gt_bboxes'] = np.array(boxes, np.float32).reshape(-1, 4)
        results['gt_bboxes_labels'] = np.arange(len(boxes))
    return results


def some_boxes(height, width, num, seed=0):
    """Boxes with centres inside the image."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, (width, height), (num, 2))
    half = rng.uniform(1, 25, (num, 2))
    return np.concatenate([centre - half, centre + half], 1)


@pytest.mark.parametrize('host', ['mmdet', 'mmpretrain'])
def test_registered(host):
    registry = pytest.importorskip(f'{host}.registry').TRANSFORMS
    for cfg, text in (
        (dict(type='hime_mm.PatchDrop', ratio=(.1, .3), fill=7),
         'PatchDrop(ratio=(0.1, 0.3), patch_size=None, fill=7, '
         'spare_boxes=True, prob=1.0)'),
        (dict(type='hime_mm.PatchReshuffle', patch_size=8, prob=.5),
         "PatchReshuffle(patch_size=8, unshuffled='error', prob=0.5)"),
        (dict(type='hime_mm.EncryptedColorJitter', brightness=.4,
              contrast=(.5, 1)),
         'EncryptedColorJitter(brightness=0.4, contrast=(0.5, 1), '
         "saturation=0.0, hue=0.0, backend='cv2', keep_grey=None, prob=1.0)")
    ):
        transform = registry.build(cfg)
        assert isinstance(transform, EncryptedAugment)
        assert type(transform).legal_on_encrypted is True
        assert repr(transform) == text


ALL = [
    PatchDrop(), PatchReshuffle(),
    EncryptedColorJitter(.5, .5, .5)
]


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
        assert (results['img'] != img).mean() > .1
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
        transform.prob = .3
        np.random.seed(0)
        changed = [
            transform(sample(img))['img'] is not img for _ in range(300)
        ]
        assert .2 < np.mean(changed) < .4
        transform.prob = 0
        assert transform(sample(img))['img'] is img
        # What cannot be augmented is found at once, not by chance.
        with pytest.raises(ValueError, match='hime_mm'):
            transform(dict(img=img))

    def test_needs_an_image(self, transform):
        with pytest.raises(KeyError, match='found no `img`'):
            transform(dict())
        for bad in ([1], np.zeros((2, 16, 16, 3), np.uint8)):
            with pytest.raises(TypeError, match='takes one image'):
                transform(dict(img=bad))
        with pytest.raises(TypeError, match='int64'):
            transform(dict(img=np.zeros((16, 16, 3), np.int64)))

    def test_draws_are_not_shared(self, transform):
        with pytest.raises(RuntimeError, match='not allowed to be used'):
            with cache_random_params(transform):
                pass


@pytest.mark.parametrize('kind', [PatchDrop, PatchReshuffle])
@pytest.mark.parametrize('wrong, message', [
    (dict(prob=1.5), '`prob`.*1.5'), (dict(prob=True), '`prob`.*True'),
    (dict(patch_size=0), '`patch_size`.*got 0'),
    (dict(patch_size=8.), '`patch_size`.*8.0')
])
def test_wrong_common_options(kind, wrong, message):
    with pytest.raises(ValueError, match=f'{kind.__name__}: {message}'):
        kind(**wrong)


@pytest.mark.parametrize('kind', [PatchDrop, PatchReshuffle])
def test_the_grid_is_that_of_the_encrypted_image(kind, make_image):
    img = make_image((32, 48, 3))
    with pytest.raises(ValueError, match='no `patch_layout`.*set `patch_size'):
        kind()(dict(img=img))
    with pytest.raises(ValueError, match='32x48.*multiples.*20'):
        kind(patch_size=20)(dict(img=img))
    with pytest.raises(ValueError, match='`patch_size` is 8, .*16 pixels'):
        kind(patch_size=8)(sample(img))
    with pytest.raises(ValueError, match='32x32.*encrypted to 32x48'):
        kind()(dict(sample(img), img=img[:, :32]))
    # Of the same size as the layout says.
    kind(patch_size=16)(sample(img))
    # Mixed images are smaller, and so are their patches.
    results = sample(img, 'mix2+shuffle')
    assert results['patch_layout'].patch_size == 8
    changed = kind()(results)['img']
    whole = [(a == b).all() for a, b in zip(cut(img, 8), cut(changed, 8))]
    assert len(whole) == 24 and not all(whole)


class TestPatchDrop:

    @given(SIZES, st.floats(0, .999), st.integers(0, 99))
    def test_values(self, make_image, size, ratio, seed):
        rows, cols, side, channels, dtype = size
        img = make_image((rows * side, cols * side, *channels), dtype, seed)
        # So that no patch is grey by itself.
        img[img == GREY[dtype]] = 3
        out = PatchDrop(ratio, patch_size=side)(dict(img=img))['img']
        assert out.shape == img.shape and out.dtype == img.dtype
        painted = 0
        for old, new in zip(cut(img, side), cut(out, side)):
            if (new != old).any():
                painted += 1
                assert (new == GREY[dtype]).all()
        num = rows * cols
        assert painted == min(int(num * ratio + .5), num - 1)

    def test_each_patch_alike(self, make_image):
        img = make_image((64, 96, 3))
        np.random.seed(0)
        hits, counts = np.zeros(24), []
        for _ in range(400):
            out = PatchDrop((.25, .75))(sample(img))['img']
            hit = [(a != b).any() for a, b in zip(cut(img, 16), cut(out, 16))]
            hits += hit
            counts.append(sum(hit))
        assert hits.min() > 140 and hits.max() < 260
        assert min(counts) == 6 and max(counts) == 18
        assert 11 < np.mean(counts) < 13

    @pytest.mark.parametrize('dtype', DTYPES)
    @pytest.mark.parametrize('shape', [(32, 32), (32, 32, 3)])
    def test_mean(self, dtype, shape, make_image):
        img = make_image(shape, dtype)
        out = PatchDrop(.5, patch_size=16, fill='mean')(dict(img=img))['img']
        painted = [
            new for old, new in zip(cut(img, 16), cut(out, 16))
            if (new != old).any()
        ]
        assert len(painted) == 2
        for channel in range(img[0, 0].size):
            plane = img.reshape(32, 32, -1)[..., channel]
            mean = sum(plane.ravel().tolist()) / 1024
            for patch in painted:
                patch = patch.reshape(16, 16, -1)[..., channel]
                assert np.ptp(patch) == 0
                assert abs(patch[0, 0] - mean) <= (
                    .5 if dtype != 'float32' else 1e-3)

    @pytest.mark.parametrize('fill, colour', [(0, [0, 0, 0]),
                                              (2.6, [3, 3, 3]),
                                              ((1, 20, 255), [1, 20, 255])])
    def test_colours(self, fill, colour, make_image):
        img = make_image((16, 48, 3))
        out = PatchDrop(.4, 16, fill)(dict(img=img))['img']
        assert sum((patch == colour).all() for patch in cut(out, 16)) == 1
        out = PatchDrop(.4, 16, fill)(
            dict(img=img.astype(np.float32)))['img']
        exact = np.float32([colour if fill != 2.6 else 2.6])
        assert sum((patch == exact).all() for patch in cut(out, 16)) == 1

    def test_boxes(self, make_image):
        """The patch of a box's centre is left, and the box as it is."""
        img = make_image((64, 96, 3))
        boxes = some_boxes(64, 96, 9)
        # As after a shuffle, boxes may stick out, centres of theirs too.
        boxes[0] += (96, 0, 96, 0)
        centres = {
            min(int((y1 + y2) / 2 // 16), 3) * 6 + min(
                int((x1 + x2) / 2 // 16), 5)
            for x1, y1, x2, y2 in boxes
        }
        others = 24 - len(centres)
        for spare in (True, False):
            hits = np.zeros(24, int)
            for _ in range(60):
                given_ = sample(img, boxes=boxes)
                results = PatchDrop(.9, spare_boxes=spare)(dict(given_))
                assert results['gt_bboxes'] is given_['gt_bboxes']
                hit = [(a != b).any()
                       for a, b in zip(cut(img, 16), cut(results['img'], 16))]
                assert sum(hit) == (others if spare else 22)
                hits += hit
            spared = set(np.flatnonzero(hits == 0))
            assert spared == (centres if spare else set())

    def test_box_types(self, make_image):
        boxes = pytest.importorskip('mmdet.structures.bbox').HorizontalBoxes
        img = make_image((16, 32, 3))
        for some in (boxes([[2., 3., 5., 6.]]),
                     boxes([[2., 3., 5., 6.]]).numpy()):
            for _ in range(8):
                out = PatchDrop(.5)(dict(sample(img), gt_bboxes=some))['img']
                np.testing.assert_array_equal(out[:, :16], img[:, :16])
                assert (out[:, 16:] == 128).all()
        for none in (np.zeros((0, 4)), np.zeros(0), boxes([])):
            out = PatchDrop(.5)(dict(sample(img), gt_bboxes=none))['img']
            assert (out == 128).all(axis=2).sum() >= 256

    @pytest.mark.parametrize('wrong, message', [
        (dict(ratio=1.), '`ratio`.*1.0'),
        (dict(ratio=(.5, .2)), r'`ratio`.*\(0.5, 0.2\)'),
        (dict(ratio=-.1), '`ratio`.*-0.1'), (dict(ratio='half'), '`ratio`'),
        (dict(ratio=(.1, .2, .3)), '`ratio`'),
        (dict(fill='gray'), "`fill`.*'gray'"), (dict(fill=()), '`fill`'),
        (dict(fill=None), '`fill`'), (dict(spare_boxes=1), '`spare_boxes`')
    ])
    def test_wrong_options(self, wrong, message):
        with pytest.raises(ValueError, match=f'PatchDrop: {message}'):
            PatchDrop(**wrong)

    def test_colours_that_do_not_fit(self, make_image):
        with pytest.raises(ValueError, match='2 values.*3 channels'):
            PatchDrop(fill=(1, 2))(sample(make_image((32, 32, 3))))
        with pytest.raises(ValueError, match='256.*uint8.*0 to 255'):
            PatchDrop(fill=256)(sample(make_image((32, 32, 3))))
        img = make_image((32, 32), np.uint16)
        out = PatchDrop(.25, fill=256)(sample(img))['img']
        assert sum((patch == 256).all() for patch in cut(out, 16)) == 1


class TestPatchReshuffle:

    @given(SIZES, st.integers(0, 99))
    def test_values(self, make_image, size, seed):
        """Against a loop over patches, found again by their content."""
        rows, cols, side, channels, dtype = size
        img = make_image((rows * side, cols * side, *channels), dtype, seed)
        for i, patch in enumerate(cut(img, side)):
            patch[:] //= 40
            patch[:] += 41 * i % 251
            patch[0, 0] = i
        boxes = some_boxes(rows * side, cols * side, 7, seed)
        results = dict(
            img=img, gt_bboxes=boxes, proposals=boxes[::-1].astype('f4'),
            gt_bboxes_labels=np.arange(7), gt_ignore_flags=np.zeros(7, bool))
        labels = results['gt_bboxes_labels']
        out = PatchReshuffle(
            patch_size=side, unshuffled='shuffle')(results)['img']
        assert out.shape == img.shape and out.dtype == img.dtype
        old, new = cut(img, side), cut(out, side)
        where = {int(patch[0, 0].flat[0]): k for k, patch in enumerate(new)}
        assert sorted(where) == list(range(rows * cols))
        for i, k in where.items():
            np.testing.assert_array_equal(old[i], new[k])
        for box, moved, proposal in zip(boxes, results['gt_bboxes'],
                                        results['proposals'][::-1]):
            col, row = ((box[:2] + box[2:]) / 2 // side).astype(int)
            k = where[row * cols + col]
            dx, dy = (k % cols - col) * side, (k // cols - row) * side
            want = box + (dx, dy, dx, dy)
            np.testing.assert_allclose(moved, want, rtol=0, atol=1e-9)
            np.testing.assert_allclose(proposal, want, rtol=0, atol=1e-4)
        assert results['gt_bboxes_labels'] is labels
        # Nothing said how the image was encrypted; nothing does now.
        assert 'patch_layout' not in results

    def test_every_order_is_as_likely(self, make_image):
        img = make_image((16, 48, 3))
        np.random.seed(0)
        orders = [
            tuple(
                int(np.flatnonzero([(new == old).all()
                                    for old in cut(img, 16)])[0])
                for new in cut(PatchReshuffle()(sample(img))['img'], 16))
            for _ in range(600)
        ]
        counts = [orders.count(order) for order in set(orders)]
        assert len(counts) == 6 and 65 < min(counts) and max(counts) < 140

    def test_the_layout_is_marked(self, make_image):
        """Nobody can map boxes of the new order, and nobody does."""
        img = make_image((64, 96, 3))
        cipher = Cipher('shuffle')
        encrypted, secret, _ = cipher.encrypt(img)
        boxes = some_boxes(64, 96, 4)
        before = secret.public()
        results = PatchReshuffle()(
            dict(
                img=encrypted,
                cipher=cipher,
                patch_layout=before,
                gt_bboxes=secret.map_boxes(boxes)))
        layout = results['patch_layout']
        assert layout.reshuffled and layout.shuffled
        assert layout.permutation is None and not before.reshuffled
        assert (layout.grid, layout.patch_size) == ((4, 6), 16)
        for method in (layout.map_boxes, layout.unmap_boxes):
            with pytest.raises(ValueError, match='once more.*training'):
                method(results['gt_bboxes'])
        # Not with the permutation of the encryption either.
        state = dict(vars(layout), permutation=secret.permutation)
        with pytest.raises(ValueError, match='once more'):
            PatchLayout(**state)
        state = json.loads(json.dumps(layout.to_dict()))
        assert PatchLayout.from_dict(state).reshuffled
        assert not PatchLayout.from_dict(before.to_dict()).reshuffled
        # A second time is as good as once.
        again = PatchReshuffle()(results)
        assert again['patch_layout'].reshuffled

    def test_a_known_permutation_stays_right(self, make_image):
        img = make_image((64, 96, 3))
        boxes = some_boxes(64, 96, 20)
        results = Encrypt(
            'shuffle', keep_permutation=True)(
                dict(img=img, gt_bboxes=boxes))
        for _ in range(3):
            before = results['patch_layout'].permutation
            results = PatchReshuffle()(results)
            layout = results['patch_layout']
            assert (layout.permutation != before).any()
            np.testing.assert_array_equal(
                unshuffle_patches(results['img'], layout.permutation, 16),
                img)
            np.testing.assert_allclose(
                layout.unmap_boxes(results['gt_bboxes']), boxes, atol=1e-9)

    @pytest.mark.parametrize('cipher', ['mix2', 'center'])
    def test_patches_in_their_places(self, cipher, make_image):
        img = make_image((64, 96, 3))
        boxes = some_boxes(64, 96, 20)
        given_ = Encrypt(cipher)(dict(img=img, gt_bboxes=boxes))
        with pytest.raises(ValueError, match='lie in their places.*unshuffl'):
            PatchReshuffle()(dict(given_))
        kept = PatchReshuffle(unshuffled='keep')(dict(given_))
        assert all(kept[key] is value for key, value in given_.items())
        moved = PatchReshuffle(unshuffled='shuffle')(dict(given_))
        layout = moved['patch_layout']
        side = layout.patch_size
        np.testing.assert_array_equal(
            unshuffle_patches(moved['img'], layout.permutation, side),
            given_['img'])
        assert (moved['img'] != given_['img']).any()
        np.testing.assert_allclose(
            layout.unmap_boxes(moved['gt_bboxes']), boxes, atol=1e-9)
        # Where nothing is known, nothing is assumed.
        with pytest.raises(ValueError, match='no `patch_layout`, so nothing'):
            PatchReshuffle(patch_size=16)(dict(img=img))

    def test_box_types(self, make_image):
        boxes = pytest.importorskip('mmdet.structures.bbox').HorizontalBoxes
        some = boxes([[2., 3., 5., 6.]])
        img = make_image((16, 32, 3))
        results = dict(sample(img), gt_bboxes=some)
        seen = set()
        for _ in range(20):
            out = PatchReshuffle()(dict(results))
            assert type(out['gt_bboxes']) is boxes
            moved = (out['img'][:, 16:] == img[:, :16]).all()
            np.testing.assert_array_equal(
                out['gt_bboxes'].numpy(), [[2 + 16 * moved, 3, 5 + 16 * moved,
                                            6]])
            seen.add(bool(moved))
        assert seen == {True, False}
        assert some.tensor.tolist() == [[2, 3, 5, 6]]

    @pytest.mark.parametrize('key', ['gt_masks', 'gt_seg_map', 'depth',
                                     'gt_keypoints', 'mix_results'])
    def test_what_cannot_move(self, key, make_image):
        img = make_image((32, 48, 3))
        for prob in (0, 1):
            results = sample(img)
            results[key] = make_image((32, 48))
            with pytest.raises(ValueError, match=f'cannot move `{key}`'):
                PatchReshuffle(prob=prob)(results)
            assert results['img'] is img
        results[key] = None
        PatchReshuffle()(results)

    def test_boxes_that_cannot_move(self, make_image):
        results = sample(make_image((32, 48, 3)))
        results['gt_bboxes'] = np.zeros((2, 5), np.float32)
        before = dict(results)
        with pytest.raises(TypeError, match='PatchReshuffle cannot move'):
            PatchReshuffle()(results)
        assert all(results[key] is before[key] for key in before)

    def test_wrong_option(self):
        with pytest.raises(ValueError, match="unknown `unshuffled` 'no'"):
            PatchReshuffle(unshuffled='no')


class TestEncryptedColorJitter:

    @pytest.mark.parametrize('backend', ['cv2', 'pillow'])
    def test_is_that_of_mmpretrain(self, backend, make_image):
        img = make_image((64, 96, 3))
        args = dict(
            brightness=.4, contrast=.5, saturation=.6, hue=.2, backend=backend)
        for seed in range(5):
            np.random.seed(seed)
            np.random.rand()
            want = ColorJitter(**args)(dict(img=img))['img']
            np.random.seed(seed)
            got = EncryptedColorJitter(**args)(sample(img, 'mix2+shuffle'))
            np.testing.assert_array_equal(got['img'], want)
            # MMPretrain gives a mirrored view with one of the backends.
            assert got['img'].flags.c_contiguous
            assert (want != img).mean() > .5

    @pytest.mark.parametrize('backend', ['cv2', 'pillow'])
    @pytest.mark.parametrize('grey', [True, False])
    def test_commutes_with_shuffling(self, backend, grey, make_image):
        """It does not matter where a patch lies."""
        img = make_image((64, 96, 3))
        perm = np.random.default_rng(0).permutation(24)
        transform = EncryptedColorJitter(
            .4, .5, .6, 0 if grey else .2, backend, keep_grey=grey)
        np.random.seed(0)
        want = shuffle_patches(transform(dict(img=img))['img'], perm, 16)
        np.random.seed(0)
        got = transform(dict(img=shuffle_patches(img, perm, 16)))['img']
        np.testing.assert_array_equal(got, want)

    @pytest.mark.parametrize('dtype', ['uint8', 'float32'])
    @pytest.mark.parametrize('name, factor', [('brightness', 1.3),
                                              ('brightness', .4),
                                              ('contrast', 1.2),
                                              ('contrast', .5),
                                              ('saturation', 1.3),
                                              ('saturation', 0.)])
    def test_commutes_with_centring(self, dtype, name, factor):
        """Jittering centred images is centring jittered originals."""
        rng = np.random.default_rng(0)
        # Dark and light patches, of values that no factor takes too far.
        img = rng.integers(-25, 26, (64, 96, 3)) + np.kron(
            rng.integers(80, 150, (4, 6, 3)), np.ones((16, 16, 1), int))
        img = img.astype(dtype)
        args = {name: (factor, factor)}
        want, clipped = center_patches(
            ColorJitter(**args, backend='cv2')(dict(img=img))['img'], 16)
        assert clipped == 0
        centred = center_patches(img, 16)[0]
        got = EncryptedColorJitter(**args)(sample(centred, 'center+shuffle'))
        got = got['img']
        assert got.dtype == want.dtype == dtype
        error = np.abs(got.astype(float) - want).max()
        assert error <= (2 if dtype == 'uint8' else 1.)
        assert np.abs(centred.astype(float) - want).max() > 5
        means = [patch.mean(axis=(0, 1)) for patch in cut(got, 16)]
        assert np.abs(np.array(means) - 128).max() < 1
        # Which is not what stays of it otherwise.
        if name == 'brightness':
            plain = EncryptedColorJitter(**args, keep_grey=False)
            assert abs(plain(dict(img=centred))['img'].mean() - 128) > 30

    def test_both_factors(self, make_image):
        img = make_image((32, 32, 3)).astype(np.float32) / 4 + 96
        out = EncryptedColorJitter((2, 2), (.25, .25), keep_grey=True)(
            dict(img=img))['img']
        np.testing.assert_allclose(out, 128 + .5 * (img - 128), atol=1e-3)

    @pytest.mark.parametrize('cipher', [
        'drop50+shuffle', 'erode2:filled', 'center', 'drop50+mix2'])
    def test_mid_grey_stays(self, cipher, make_image):
        """By itself where the cipher gives it a meaning."""
        img = make_image((64, 96, 3))
        transform = EncryptedColorJitter(.5, .5, .5)
        assert not transform._check(sample(img, 'shuffle'))
        results = Encrypt(cipher)(dict(img=img))
        before = results['img']
        grey = (before == 128).all(axis=2)
        assert grey.any() or cipher == 'center'
        after = transform(results)['img']
        assert (after[grey] == 128).all()
        assert (after != before).mean() > .2

    @pytest.mark.parametrize('factor', [.3, .77, 1.31, 1.9])
    @pytest.mark.parametrize('dtype', ['uint8', 'float32'])
    def test_linear_around_grey(self, factor, dtype, make_image):
        img = make_image((32, 32, 3)).astype(dtype)
        out = EncryptedColorJitter((factor, factor), keep_grey=True)(
            dict(img=img))['img']
        for x, y in zip(img.ravel().tolist(), out.ravel().tolist()):
            want = min(max(128 + factor * (x - 128), 0), 255)
            assert abs(y - want) <= (.5001 if dtype == 'uint8' else 1e-3)

    def test_hue_moves_means(self, make_image):
        img = make_image((32, 48, 3))
        with pytest.raises(ValueError, match='`keep_grey` is set.*`hue` out'):
            EncryptedColorJitter(hue=.1, keep_grey=True)
        transform = EncryptedColorJitter(hue=.1)
        transform(sample(img, 'shuffle'))
        with pytest.raises(ValueError, match="'center.mix2'.*center.*`hue`"):
            transform(sample(img, 'center+mix2'))

    def test_what_it_cannot_take(self, make_image):
        transform = EncryptedColorJitter(.5)
        with pytest.raises(ValueError, match='no `cipher`.*`keep_grey`'):
            transform(dict(img=make_image((16, 16, 3))))
        for shape in ((16, 16), (16, 16, 1)):
            with pytest.raises(ValueError, match='three channels.*color_type'):
                transform(sample(make_image(shape)))
        img = make_image((16, 16, 3), np.uint16)
        with pytest.raises(TypeError, match='got uint16'):
            transform(sample(img))
        with pytest.raises(TypeError, match="'pillow'`, got float32"):
            EncryptedColorJitter(.5, backend='pillow')(
                sample(make_image((16, 16, 3), np.float32)))

    @pytest.mark.parametrize('wrong, error', [
        (dict(brightness=-1), ValueError), (dict(contrast='a'), TypeError),
        (dict(backend='torch'), ValueError), (dict(keep_grey=1), ValueError),
        (dict(prob=2), ValueError)])
    def test_wrong_options(self, wrong, error):
        with pytest.raises(error, match=next(iter(wrong))):
            EncryptedColorJitter(**wrong)


def test_colour_of_dropped_patches(make_image):
    """The cipher's own function, one colour per channel or for all."""
    img = make_image((2, 32, 32, 3))
    dropped = np.array([[1, 0, 0, 1], [0, 0, 1, 0]], bool)
    out = drop_patches(img, dropped, 16, np.array([1, 2, 3]))
    for image, mask, new in zip(img, dropped, out):
        for old, hit, patch in zip(cut(image, 16), mask, cut(new, 16)):
            want = np.broadcast_to([1, 2, 3], (16, 16, 3)) if hit else old
            np.testing.assert_array_equal(patch, want)


def test_reshuffling_is_nothing_to_a_model_without_positions(make_image):
    img = make_image((64, 64, 3))
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='hime_mm.PEViT',
            arch=dict(
                embed_dims=16, num_layers=2, num_heads=2,
                feedforward_channels=32),
            img_size=64,
            pos_encoding='rpe')).eval()
    moved = PatchReshuffle()(sample(img))['img']
    dropped = PatchDrop(.5)(sample(img))['img']
    batch = torch.from_numpy(np.stack([img, moved, dropped]))
    with torch.no_grad():
        out = model(batch.permute(0, 3, 1, 2).float() / 255)[-1]
    torch.testing.assert_close(out[0], out[1], rtol=0, atol=1e-5)
    assert (out[0] - out[2]).abs().max() > 1e-3


AUGMENTS = [
    dict(type='hime_mm.PatchReshuffle', unshuffled='keep'),
    dict(type='hime_mm.EncryptedColorJitter', brightness=.4, contrast=.4,
         saturation=.4),
    dict(type='hime_mm.PatchDrop', ratio=.25)
]


@pytest.mark.parametrize('cipher', [
    'paper-rs', 'center+erode2+shuffle', 'paper-mi', 'drop50+shuffle'])
def test_classification_from_a_folder(cipher, tmp_path):
    registry = pytest.importorskip('mmpretrain.registry')
    for i in range(3):
        write(tmp_path / f'src/a/{i}.png', photo(64, 96, i))
    out = tmp_path / 'out'
    key = Key(SECRET) if Cipher(cipher).random else None
    encrypt_folder(
        str(tmp_path / 'src'), str(out), cipher, key=key, progress=False)
    files = tree(out)

    def build(steps):
        return registry.DATASETS.build(
            dict(
                type='CustomDataset',
                data_root=str(out),
                _scope_='mmpretrain',
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='hime_mm.LoadEncryptedMeta'), *steps,
                    dict(type='PackInputs', meta_keys=('patch_layout', ))
                ]))

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
    encrypt_coco(
        str(source), str(out), 'paper-rs', key=Key(SECRET), progress=False)
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
                dict(type='hime_mm.PatchReshuffle')
            ]))
    results = dataset[0]
    path = results['img_path']
    manifest = Manifest.load(out)
    entry = manifest.entry(path)
    encrypted = cut(read(path), 16)
    boxes = np.array([
        ann['bbox'] for ann in json.loads(
            (out / 'annotations/instances_val2017.json').read_text())
        ['annotations'] if ann['image_id'] == results['img_id']
    ])
    boxes[:, 2:] += boxes[:, :2]
    assert len(boxes) == 2 and entry.shape == (96, 128)
    for box, moved in zip(boxes, results['gt_bboxes'].numpy()):
        col, row = ((box[:2] + box[2:]) / 2 // 16).astype(int)
        # The offset to the patch is kept, so that is where it went.
        slot_col, slot_row = ((moved[:2] + moved[2:]) / 2 // 16).astype(int)
        np.testing.assert_array_equal(
            results['img'][slot_row * 16:slot_row * 16 + 16,
                           slot_col * 16:slot_col * 16 + 16],
            encrypted[row * 8 + col])
        np.testing.assert_allclose(
            moved - np.tile([slot_col, slot_row], 2) * 16,
            box - np.tile([col, row], 2) * 16, atol=1e-3)
    assert results['gt_bboxes_labels'].tolist() == [0, 1]
    assert results['gt_ignore_flags'].tolist() == [False, True]
    # Masks are not thought to follow.
    with pytest.raises(ValueError, match='cannot move `gt_masks`'):
        Compose([PatchReshuffle()])(dict(results, gt_masks=object()))
