# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from augment_parts import DTYPES, GREY, SIZES, cut, sample, some_boxes
from hypothesis import given
from hypothesis import strategies as st

from hime_mm.ciphers.steps import drop_patches
from hime_mm.errors import ConfigError
from hime_mm.transforms import PatchDrop


class TestPatchDrop:
    @given(SIZES, st.floats(0, 0.999), st.integers(0, 99))
    def test_values(self, make_image, size, ratio, seed):
        rows, cols, side, channels, dtype = size
        img = make_image((rows * side, cols * side, *channels), dtype, seed)
        # So that no patch is grey by itself.
        img[img == GREY[dtype]] = 3
        out = PatchDrop(ratio, patch_size=side)(dict(img=img))['img']
        assert out.shape == img.shape and out.dtype == img.dtype
        painted = 0
        for old, new in zip(cut(img, side), cut(out, side), strict=True):
            if (new != old).any():
                painted += 1
                assert (new == GREY[dtype]).all()
        num = rows * cols
        assert painted == min(int(num * ratio + 0.5), num - 1)

    def test_each_patch_alike(self, make_image):
        img = make_image((64, 96, 3))
        np.random.seed(0)
        hits, counts = np.zeros(24), []
        for _ in range(400):
            out = PatchDrop((0.25, 0.75))(sample(img))['img']
            hit = [(a != b).any() for a, b in zip(cut(img, 16), cut(out, 16), strict=True)]
            hits += hit
            counts.append(sum(hit))
        assert hits.min() > 140 and hits.max() < 260
        assert min(counts) == 6 and max(counts) == 18
        assert 11 < np.mean(counts) < 13

    @pytest.mark.parametrize('dtype', DTYPES)
    @pytest.mark.parametrize('shape', [(32, 32), (32, 32, 3)])
    def test_mean(self, dtype, shape, make_image):
        img = make_image(shape, dtype)
        out = PatchDrop(0.5, patch_size=16, fill='mean')(dict(img=img))['img']
        painted = [
            new for old, new in zip(cut(img, 16), cut(out, 16), strict=True) if (new != old).any()
        ]
        assert len(painted) == 2
        for channel in range(img[0, 0].size):
            plane = img.reshape(32, 32, -1)[..., channel]
            mean = sum(plane.ravel().tolist()) / 1024
            for patch in painted:
                patch = patch.reshape(16, 16, -1)[..., channel]
                assert np.ptp(patch) == 0
                assert abs(patch[0, 0] - mean) <= (0.5 if dtype != 'float32' else 1e-3)

    @pytest.mark.parametrize(
        'fill, colour', [(0, [0, 0, 0]), (2.6, [3, 3, 3]), ((1, 20, 255), [1, 20, 255])]
    )
    def test_colours(self, fill, colour, make_image):
        img = make_image((16, 48, 3))
        out = PatchDrop(0.4, 16, fill)(dict(img=img))['img']
        assert sum((patch == colour).all() for patch in cut(out, 16)) == 1
        out = PatchDrop(0.4, 16, fill)(dict(img=img.astype(np.float32)))['img']
        exact = np.float32([colour if fill != 2.6 else 2.6])
        assert sum((patch == exact).all() for patch in cut(out, 16)) == 1

    def test_boxes(self, make_image):
        """The patch of a box's centre is left, and the box as it is."""
        img = make_image((64, 96, 3))
        boxes = some_boxes(64, 96, 9)
        # As after a shuffle, boxes may stick out, centres of theirs too.
        boxes[0] += (96, 0, 96, 0)
        centres = {
            min(int((y1 + y2) / 2 // 16), 3) * 6 + min(int((x1 + x2) / 2 // 16), 5)
            for x1, y1, x2, y2 in boxes
        }
        others = 24 - len(centres)
        for spare in (True, False):
            hits = np.zeros(24, int)
            for _ in range(60):
                given_ = sample(img, boxes=boxes)
                results = PatchDrop(0.9, spare_boxes=spare)(dict(given_))
                assert results['gt_bboxes'] is given_['gt_bboxes']
                hit = [
                    (a != b).any()
                    for a, b in zip(cut(img, 16), cut(results['img'], 16), strict=True)
                ]
                assert sum(hit) == (others if spare else 22)
                hits += hit
            spared = set(np.flatnonzero(hits == 0))
            assert spared == (centres if spare else set())

    def test_box_types(self, make_image):
        boxes = pytest.importorskip('mmdet.structures.bbox').HorizontalBoxes
        img = make_image((16, 32, 3))
        for some in (boxes([[2.0, 3.0, 5.0, 6.0]]), boxes([[2.0, 3.0, 5.0, 6.0]]).numpy()):
            for _ in range(8):
                out = PatchDrop(0.5)(dict(sample(img), gt_bboxes=some))['img']
                np.testing.assert_array_equal(out[:, :16], img[:, :16])
                assert (out[:, 16:] == 128).all()
        for none in (np.zeros((0, 4)), np.zeros(0), boxes([])):
            out = PatchDrop(0.5)(dict(sample(img), gt_bboxes=none))['img']
            assert (out == 128).all(axis=2).sum() >= 256

    @pytest.mark.parametrize(
        'wrong, message',
        [
            (dict(ratio=1.0), '`ratio`.*1.0'),
            (dict(ratio=(0.5, 0.2)), r'`ratio`.*\(0.5, 0.2\)'),
            (dict(ratio=-0.1), '`ratio`.*-0.1'),
            (dict(ratio='half'), '`ratio`'),
            (dict(ratio=(0.1, 0.2, 0.3)), '`ratio`'),
            (dict(fill='gray'), "`fill`.*'gray'"),
            (dict(fill=()), '`fill`'),
            (dict(fill=None), '`fill`'),
        ],
    )
    def test_wrong_options(self, wrong, message):
        with pytest.raises(ConfigError, match=f'PatchDrop: {message}'):
            PatchDrop(**wrong)

    def test_colours_that_do_not_fit(self, make_image):
        with pytest.raises(ConfigError, match='`fill` .*2 values.* 3 channels'):
            PatchDrop(fill=(1, 2))(sample(make_image((32, 32, 3))))
        with pytest.raises(ConfigError, match='`fill` 256 .*uint8'):
            PatchDrop(fill=256)(sample(make_image((32, 32, 3))))
        img = make_image((32, 32), np.uint16)
        out = PatchDrop(0.25, fill=256)(sample(img))['img']
        assert sum((patch == 256).all() for patch in cut(out, 16)) == 1


def test_colour_of_dropped_patches(make_image):
    """The cipher's own function, one colour per channel or for all."""
    img = make_image((2, 32, 32, 3))
    dropped = np.array([[1, 0, 0, 1], [0, 0, 1, 0]], bool)
    out = drop_patches(img, dropped, 16, np.array([1, 2, 3]))
    for image, mask, new in zip(img, dropped, out, strict=True):
        for old, hit, patch in zip(cut(image, 16), mask, cut(new, 16), strict=True):
            want = np.broadcast_to([1, 2, 3], (16, 16, 3)) if hit else old
            np.testing.assert_array_equal(patch, want)
