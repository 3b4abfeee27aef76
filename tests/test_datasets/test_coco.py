# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import errno
import json
import os

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from owner_data import annotation, coco_file, named
from pycocotools import mask as mask_utils

from hime_mm.datasets.coco import (
    dropped_of_annotation,
    dropped_of_image,
    encrypted_annotation,
    from_corners,
    handed_lists,
    load_coco,
    to_corners,
)
from hime_mm.datasets.segmentation import compress_rle, decode_rle, encode_rle, scale_segmentation
from hime_mm.errors import CocoError

masks = st.tuples(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0, 1),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
).map(
    lambda drawn: np.kron(
        np.random.default_rng(drawn[4]).random(drawn[:2]) < drawn[2], np.ones((drawn[3], drawn[3]))
    ).astype(np.uint8)
)


class TestRunLengths:
    @given(masks)
    def test_decode_as_pycocotools(self, mask):
        rle = mask_utils.encode(np.asfortranarray(mask))
        text = rle['counts'].decode()
        np.testing.assert_array_equal(decode_rle(text, tuple(rle['size'])), mask)

    @given(masks)
    def test_encode_as_pycocotools(self, mask):
        rle = encode_rle(mask)
        assert json.loads(json.dumps(rle)) == rle
        assert rle['size'] == list(mask.shape)
        back = mask_utils.decode(mask_utils.frPyObjects(rle, *mask.shape))
        np.testing.assert_array_equal(back, mask)
        np.testing.assert_array_equal(decode_rle(rle['counts'], mask.shape), mask)
        # No run of length zero but the first.
        assert 0 not in rle['counts'][1:]

    def test_long_runs(self):
        # Of several groups of bits, and with negative differences.
        mask = np.zeros((640, 480), np.uint8)
        mask[3:, 7], mask[:, 9:300], mask[5, 301], mask[9, 470:] = 1, 1, 1, 1
        rle = mask_utils.encode(np.asfortranarray(mask))
        np.testing.assert_array_equal(decode_rle(rle['counts'].decode(), mask.shape), mask)

    @pytest.mark.parametrize('counts, total', [([3, 4], 7), ([3, 6], 9), ([], 0)])
    def test_runs_that_do_not_fill_the_mask(self, counts, total):
        with pytest.raises(CocoError, match=named(f' {total},', '2 x 4')):
            decode_rle(counts, (2, 4))

    @pytest.mark.parametrize(
        'counts',
        [
            [10, -2],
            [7.5, 0.5],
            [8.0],
            [True] * 8,
            [2**63],
            [-(2**70), 2**70 + 8],
            ['8'],
            [[8]],
            [None],
            None,
            8,
            dict(a=8),
            b'8',
        ],
    )
    def test_no_run_lengths(self, counts):
        """Also where their sum fits."""
        with pytest.raises(CocoError, match='whole numbers'):
            decode_rle(counts, (2, 4))

    @pytest.mark.parametrize(
        'text, reason',
        [
            ('o' * 1_000_000 + '0', 'damaged'),
            ('o' * 14 + '0', 'damaged'),
            ('8\n', 'damaged'),
            ('/', 'damaged'),
            ('p', 'damaged'),
            ('ü8', 'damaged'),
            ('8\ud800', 'damaged'),
            ('8o', 'cut off'),
            ('P', 'cut off'),
        ],
    )
    def test_no_compressed_run_lengths(self, text, reason):
        with pytest.raises(CocoError, match=reason):
            decode_rle(text, (2, 4))

    @given(st.lists(st.integers(0, 2**40), min_size=1, max_size=9))
    def test_memory_is_asked_for_after_the_sum_is_checked(self, runs):
        assume(sum(runs) != 12)
        with pytest.raises(CocoError):
            decode_rle(runs, (3, 4))
        with pytest.raises(CocoError):
            decode_rle(compress_rle(runs), (3, 4))


class TestScaledSegmentation:
    @given(
        st.lists(
            st.lists(st.tuples(st.floats(0, 99), st.floats(0, 99)), min_size=3, max_size=5),
            max_size=3,
        ),
        st.floats(0.1, 4),
        st.floats(0.1, 4),
    )
    def test_polygons(self, polygons, sx, sy):
        flat = [[v for point in p for v in point] for p in polygons]
        scaled = scale_segmentation(flat, (sx, sy), (400, 400))
        assert scaled == [[v for x, y in p for v in (x * sx, y * sy)] for p in polygons]

    def test_polygon_covers_what_it_covered(self):
        polygon = [[10, 8, 50.5, 12, 44, 60, 12, 50]]
        before = mask_utils.decode(mask_utils.frPyObjects(polygon, 64, 64)[0])
        after = mask_utils.decode(
            mask_utils.frPyObjects(scale_segmentation(polygon, (0.5, 0.25), (16, 32)), 16, 32)[0]
        )
        assert abs(after.sum() * 8 / before.sum() - 1) < 0.1
        assert (before[2::4, 1::2] == after).mean() > 0.97

    @given(masks, st.sampled_from([2, 3]))
    def test_run_lengths_grow_as_pixels_do(self, mask, factor):
        h, w = mask.shape
        scaled = scale_segmentation(encode_rle(mask), (factor, factor), (h * factor, w * factor))
        np.testing.assert_array_equal(
            decode_rle(scaled['counts'], tuple(scaled['size'])),
            np.kron(mask, np.ones((factor, factor))),
        )

    def test_run_lengths_of_a_padded_image(self):
        mask = np.ones((10, 20), np.uint8)
        scaled = scale_segmentation(encode_rle(mask), (1, 1), (16, 32))
        back = decode_rle(scaled['counts'], (16, 32))
        assert scaled['size'] == [16, 32]
        assert back[:10, :20].all() and back.sum() == 200

    def test_run_lengths_shrink(self):
        mask = np.zeros((32, 64), np.uint8)
        mask[8:24, 16:48] = 1
        scaled = scale_segmentation(encode_rle(mask), (0.5, 0.25), (8, 32))
        expected = np.zeros((8, 32), np.uint8)
        expected[2:6, 8:24] = 1
        np.testing.assert_array_equal(decode_rle(scaled['counts'], (8, 32)), expected)


class TestLoad:
    IMAGES = {'a.jpg': (20, 30), 'b/c.jpg': (40, 50)}
    COCO = coco_file(IMAGES, [annotation(1, 7, [1, 2, 3, 4])])

    def load(self, tmp_path, change=None, **kwargs):
        coco = copy.deepcopy(self.COCO)
        if change:
            change(coco)
        path = tmp_path / 'instances.json'
        path.write_text(json.dumps(coco))
        return load_coco(str(path), **kwargs)

    def test_content(self, tmp_path):
        assert self.load(tmp_path) == self.COCO

    def test_pycocotools_takes_the_same(self, tmp_path):
        from pycocotools.coco import COCO

        self.load(tmp_path)
        assert COCO(tmp_path / 'instances.json').getAnnIds() == [1]

    @pytest.mark.parametrize(
        'change, things',
        [
            (lambda c: c.pop('images'), ['`images`']),
            (lambda c: c.update(annotations={}), ['`annotations`']),
            (lambda c: c.update(licenses=5), ['`licenses`']),
            (lambda c: c.pop('categories'), ['`categories`']),
            (lambda c: c['images'].append(5), ['`images[2]`', '`file_name`']),
            (lambda c: c['images'][1].pop('file_name'), ['`images[1]`', '`file_name`']),
            (lambda c: c['images'][1].update(file_name=''), ['`images[1]`', '`file_name`']),
            (lambda c: c['images'][1].update(id='8'), ['`id`', '`images[1]`', 'b/c.jpg']),
            (lambda c: c['images'][1].update(id=True), ['`id`', '`images[1]`', 'b/c.jpg']),
            (lambda c: c['images'][1].update(id=7), ['image id 7 ']),
            (lambda c: c['images'][1].update(file_name='/etc/a.jpg'), ["'/etc/a.jpg'"]),
            (lambda c: c['images'][1].update(file_name='../a.jpg'), ["'../a.jpg'"]),
            (lambda c: c['images'][1].update(file_name='a/../../b'), ["'a/../../b'"]),
            (lambda c: c['images'][1].update(file_name='..\\a.jpg'), [repr('..\\a.jpg')]),
            (lambda c: c['annotations'].append(None), ['`annotations[1]`']),
            (
                lambda c: c['annotations'].append(c['annotations'][0]),
                ['`id`', '`annotations[1]`'],
            ),
            (lambda c: c['annotations'][0].pop('id'), ['`id`', '`annotations[0]`']),
            (lambda c: c['annotations'][0].update(image_id=99), ['`annotations[0]`', 'image 99']),
            (lambda c: c['annotations'][0].update(image_id=[7]), ['`annotations[0]`', 'image [7]']),
            (
                lambda c: c['annotations'][0].update(category_id=4),
                ['`annotations[0]`', 'category 4'],
            ),
            (
                lambda c: c['annotations'][0].update(category_id={}),
                ['`annotations[0]`', 'category {}'],
            ),
            (lambda c: c['annotations'][0].pop('bbox'), ['`bbox`', '`annotations[0]`']),
            (lambda c: c['annotations'][0].update(bbox=[1, 2, 3]), ['`bbox`']),
            (lambda c: c['annotations'][0].update(bbox=[1, 2, 3, None]), ['`bbox`']),
            (lambda c: c['annotations'][0].update(bbox=[1, 2, 3, '4']), ['`bbox`']),
            (lambda c: c['annotations'][0].update(bbox=[1, 2, 3, True]), ['`bbox`']),
            (lambda c: c['annotations'][0].update(bbox=[1, 2, 3, float('nan')]), ['`bbox`']),
            (lambda c: c['annotations'][0].update(bbox=[1, 2, 3, float('inf')]), ['`bbox`']),
        ],
    )
    def test_entry_is_named(self, tmp_path, change, things):
        with pytest.raises(CocoError, match=named('instances.json', *things)):
            self.load(tmp_path, change)

    @pytest.mark.parametrize(
        'segmentation',
        [
            'polygons',
            5,
            [[1, 2, 3]],
            [[1, float('nan')]],
            [5],
            [[1, 2], None],
            dict(counts=[600]),
            dict(counts=[500], size=[20, 30]),
            dict(counts=[600], size=[30, 20]),
            dict(counts=None, size=[20, 30]),
            dict(counts=[700, -100], size=[20, 30]),
            dict(counts='0', size=[20, 30]),
            dict(counts='é', size=[20, 30]),
        ],
    )
    def test_segmentation(self, tmp_path, segmentation):
        def change(coco):
            coco['annotations'][0]['segmentation'] = segmentation

        self.load(tmp_path, change)
        with pytest.raises(CocoError, match=named('`segmentation`', '`annotations[0]`')):
            self.load(tmp_path, change, segmentation=True)

    def test_segmentations_as_pycocotools_writes_them(self, tmp_path):
        mask = np.zeros((20, 30), np.uint8, order='F')
        mask[4:9, 5:20] = 1
        rle = mask_utils.encode(mask)
        rle['counts'] = rle['counts'].decode()
        for value in (rle, encode_rle(mask), [[1, 2, 3, 4, 5, 6]], [], None):
            self.load(
                tmp_path,
                lambda c, value=value: c['annotations'][0].update(segmentation=value),
                segmentation=True,
            )

    @pytest.mark.parametrize(
        'content, thing',
        [
            (b'', 'JSON'),
            (b'{"images": [', 'JSON'),
            (b'\xff\xfe{', 'JSON'),
            (b'[]', 'object'),
            (b'null', 'object'),
        ],
    )
    def test_no_json(self, tmp_path, content, thing):
        path = tmp_path / 'x.json'
        path.write_bytes(content)
        with pytest.raises(CocoError, match=named(path, thing)):
            load_coco(str(path))

    def test_missing(self, tmp_path):
        path = tmp_path / 'none.json'
        with pytest.raises(CocoError, match=named(path, os.strerror(errno.ENOENT))):
            load_coco(str(path))


class TestEncrypted:
    def test_corners(self):
        boxes = [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]]
        corners = to_corners(boxes)
        assert corners[0] == [1, 2, 4, 6]
        assert from_corners(np.array(corners)) == boxes

    def test_annotation_keeps_only_what_is_coco(self):
        ann = annotation(
            5,
            7,
            [1, 2, 4, 6],
            caption='x',
            keypoints=[1],
            iscrowd=1,
            segmentation=[[1, 2, 3, 4]],
            ignore=1,
        )
        new = encrypted_annotation(ann, [8, 9, 2, 12], (0.5, 2), False, None)
        assert new == dict(
            id=5,
            image_id=7,
            category_id=3,
            bbox=[8, 9, 2, 12],
            area=ann['area'],
            iscrowd=1,
            ignore=1,
        )
        assert ann['bbox'] == [1, 2, 4, 6]

    def test_area_of_a_cut_or_unmeasured_object_is_its_boxs(self):
        ann = annotation(5, 7, [1, 2, 4, 6])
        assert encrypted_annotation(ann, [0, 0, 3, 5], (1, 1), True, None)['area'] == 15
        for area in (None, 'big', float('nan')):
            assert (
                encrypted_annotation(dict(ann, area=area), [0, 0, 3, 5], (1, 1), False, None)[
                    'area'
                ]
                == 15
            )
        del ann['area'], ann['iscrowd']
        new = encrypted_annotation(ann, [0, 0, 3, 5], (1, 1), False, [[1]])
        assert (new['area'], new['iscrowd'], new['segmentation']) == (15, 0, [[1]])

    def test_names_what_is_dropped(self):
        ann = annotation(1, 7, [0, 0, 1, 1], caption='x', segmentation=[])
        assert dropped_of_annotation(ann, False) == {
            'annotations.caption',
            'annotations.segmentation',
        }
        assert dropped_of_annotation(ann, True) == {'annotations.caption'}
        (image,) = coco_file({'a.jpg': (2, 2)})['images']
        assert dropped_of_image(image) == {'images.coco_url', 'images.date_captured'}

    def test_lists(self):
        coco = coco_file({'a.jpg': (2, 2)}, captions=['secret'])
        coco['categories'][0]['notes'] = 'secret'
        kept = handed_lists(coco, True)
        assert set(kept) == {'licenses', 'categories'} and kept['licenses'] == coco['licenses']
        assert 'notes' not in kept['categories'][0]
        assert set(handed_lists(coco, False)) == {'categories'}
