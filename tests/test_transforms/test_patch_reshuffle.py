# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest
from augment_parts import SIZES, cut, sample, some_boxes
from hypothesis import given
from hypothesis import strategies as st

from hime_mm.ciphers import Cipher, PatchLayout, unshuffle_patches
from hime_mm.ciphers.travel import BORDER
from hime_mm.errors import BoxError, ConfigError
from hime_mm.transforms import Encrypt, PatchReshuffle


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
            img=img,
            gt_bboxes=boxes,
            proposals=boxes[::-1].astype('f4'),
            gt_bboxes_labels=np.arange(7),
            gt_ignore_flags=np.zeros(7, bool),
        )
        labels = results['gt_bboxes_labels']
        out = PatchReshuffle(patch_size=side, unshuffled='shuffle')(results)['img']
        assert out.shape == img.shape and out.dtype == img.dtype
        old, new = cut(img, side), cut(out, side)
        where = {int(patch[0, 0].flat[0]): k for k, patch in enumerate(new)}
        assert sorted(where) == list(range(rows * cols))
        for i, k in where.items():
            np.testing.assert_array_equal(old[i], new[k])
        for box, moved, proposal in zip(
            boxes, results['gt_bboxes'], results['proposals'][::-1], strict=True
        ):
            centre = (box[:2] + box[2:]) / 2
            col, row = ((centre + BORDER) // side).astype(int).clip(0, (cols - 1, rows - 1))
            k = where[row * cols + col]
            dx, dy = (k % cols - col) * side, (k // cols - row) * side
            want = box + (dx, dy, dx, dy)
            np.testing.assert_allclose(moved, want, rtol=0, atol=1e-6)
            np.testing.assert_allclose(proposal, want, rtol=0, atol=1e-4)
        assert results['gt_bboxes_labels'] is labels
        # Nothing said how the image was encrypted; nothing does now.
        assert 'patch_layout' not in results

    def test_every_order_is_as_likely(self, make_image):
        img = make_image((16, 48, 3))
        np.random.seed(0)
        orders = [
            tuple(
                int(np.flatnonzero([(new == old).all() for old in cut(img, 16)])[0])
                for new in cut(PatchReshuffle()(sample(img))['img'], 16)
            )
            for _ in range(600)
        ]
        counts = [orders.count(order) for order in set(orders)]
        assert len(counts) == 6 and min(counts) > 65 and max(counts) < 140

    def test_the_layout_is_marked(self, make_image):
        """Nobody can map boxes of the new order, and nobody does."""
        img = make_image((64, 96, 3))
        cipher = Cipher('shuffle')
        encrypted, secret, _ = cipher.encrypt(img)
        boxes = some_boxes(64, 96, 4)
        before = secret.public()
        results = PatchReshuffle()(
            dict(
                img=encrypted, cipher=cipher, patch_layout=before, gt_bboxes=secret.map_boxes(boxes)
            )
        )
        layout = results['patch_layout']
        assert layout.reshuffled and layout.shuffled
        assert layout.permutation is None and not before.reshuffled
        assert (layout.grid, layout.patch_size) == ((4, 6), 16)
        for method in (layout.map_boxes, layout.unmap_boxes):
            with pytest.raises(BoxError, match='`hime_mm.PatchReshuffle`.*training'):
                method(results['gt_bboxes'])
        # Not with the permutation of the encryption either.
        state = dict(vars(layout), permutation=secret.permutation)
        with pytest.raises(BoxError, match='once more'):
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
        results = Encrypt('shuffle', keep_permutation=True)(dict(img=img, gt_bboxes=boxes))
        for _ in range(3):
            before = results['patch_layout'].permutation
            results = PatchReshuffle()(results)
            layout = results['patch_layout']
            assert (layout.permutation != before).any()
            np.testing.assert_array_equal(
                unshuffle_patches(results['img'], layout.permutation, 16), img
            )
            np.testing.assert_allclose(layout.unmap_boxes(results['gt_bboxes']), boxes, atol=1e-9)

    @pytest.mark.parametrize('cipher', ['mix2', 'center'])
    def test_patches_in_their_places(self, cipher, make_image):
        img = make_image((64, 96, 3))
        boxes = some_boxes(64, 96, 20)
        given_ = Encrypt(cipher)(dict(img=img, gt_bboxes=boxes))
        with pytest.raises(ConfigError, match="^(?!.*`patch_layout`).*`unshuffled='shuffle'`"):
            PatchReshuffle()(dict(given_))
        kept = PatchReshuffle(unshuffled='keep')(dict(given_))
        assert all(kept[key] is value for key, value in given_.items())
        moved = PatchReshuffle(unshuffled='shuffle')(dict(given_))
        layout = moved['patch_layout']
        side = layout.patch_size
        np.testing.assert_array_equal(
            unshuffle_patches(moved['img'], layout.permutation, side), given_['img']
        )
        assert (moved['img'] != given_['img']).any()
        np.testing.assert_allclose(layout.unmap_boxes(moved['gt_bboxes']), boxes, atol=1e-9)
        # Where nothing is known, nothing is assumed.
        with pytest.raises(ConfigError, match="`patch_layout`.*`unshuffled='shuffle'`"):
            PatchReshuffle(patch_size=16)(dict(img=img))

    def test_box_types(self, make_image):
        boxes = pytest.importorskip('mmdet.structures.bbox').HorizontalBoxes
        some = boxes([[2.0, 3.0, 5.0, 6.0]])
        img = make_image((16, 32, 3))
        results = dict(sample(img), gt_bboxes=some)
        seen = set()
        for _ in range(20):
            out = PatchReshuffle()(dict(results))
            assert type(out['gt_bboxes']) is boxes
            moved = (out['img'][:, 16:] == img[:, :16]).all()
            np.testing.assert_array_equal(
                out['gt_bboxes'].numpy(), [[2 + 16 * moved, 3, 5 + 16 * moved, 6]]
            )
            seen.add(bool(moved))
        assert seen == {True, False}
        assert some.tensor.tolist() == [[2, 3, 5, 6]]

    @pytest.mark.parametrize(
        'key', ['gt_masks', 'gt_seg_map', 'depth', 'gt_keypoints', 'mix_results']
    )
    def test_what_cannot_move(self, key, make_image):
        img = make_image((32, 48, 3))
        for prob in (0, 1):
            results = sample(img)
            results[key] = make_image((32, 48))
            with pytest.raises(ConfigError, match=f'PatchReshuffle: .*`{key}`'):
                PatchReshuffle(prob=prob)(results)
            assert results['img'] is img
        results[key] = None
        PatchReshuffle()(results)

    def test_boxes_that_cannot_move(self, make_image):
        results = sample(make_image((32, 48, 3)))
        results['gt_bboxes'] = np.zeros((2, 5), np.float32)
        before = dict(results)
        with pytest.raises(TypeError, match=r'PatchReshuffle .*`gt_bboxes` .*\(2, 5\)'):
            PatchReshuffle()(results)
        assert all(results[key] is before[key] for key in before)

    def test_wrong_option(self):
        with pytest.raises(ConfigError, match="`unshuffled` 'no'.*'keep'"):
            PatchReshuffle(unshuffled='no')
