# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Boxes from the original through an annotation file and back, and whom hosts keep."""

import json

import numpy as np
import pytest
from encryption_parts import KEY, annotations, check_coco, coco
from hypothesis import given
from hypothesis import strategies as st
from owner_data import annotation, coco_file, photo, write
from pycocotools.coco import COCO

from hime_mm.datasets.coco import to_corners
from hime_mm.datasets.manifest import Manifest
from hime_mm.encryption.verify import verify_dataset
from hime_mm.errors import EncryptionError
from hime_mm.images import Recipe, seal

ANN = 'annotations/instances_val2017.json'
HEIGHT, WIDTH = 70, 101


@st.composite
def recipes(draw):
    p = draw(st.sampled_from([4, 6, 8, 14, 16, 32]))
    erosion = draw(st.integers(1, p // 2 - 1))
    cipher = draw(
        st.sampled_from(
            [
                'shuffle',
                f'erode{erosion}+shuffle',
                f'shuffle+erode{erosion}',
                f'erode{erosion}:filled+shuffle',
                'mix2+shuffle',
                'mix2:tiled+shuffle',
                'drop25+shuffle',
            ]
        )
    )
    fit = draw(st.sampled_from(['resize', 'pad', 'error']))
    if fit == 'error':
        shape = (draw(st.integers(1, 4)) * p, draw(st.integers(1, 4)) * p)
    else:
        shape = (draw(st.integers(1, 4 * p)), draw(st.integers(1, 4 * p)))
    return Recipe.build(cipher, p, dict(fit=fit)), shape


@pytest.mark.slow
@given(recipes(), st.data())
def test_there_and_back_as_they_are_written(case, data):
    """For every size, patch size, erosion and fit, with centres anywhere in the original."""
    recipe, shape = case
    p = recipe.cipher.patch_size
    boxes = []
    for _ in range(6):
        centre = []
        for length in shape[::-1]:
            border = st.integers(0, length // p).map(lambda i: i * p)
            near = st.sampled_from([0, 1e-9, -1e-9, 1e-5, -1e-3, -1e-3 - 1e-9])
            on = st.tuples(border, near).map(sum)
            point = data.draw(st.one_of(st.floats(0, length), st.just(length), on))
            centre.append(min(max(point, 0), length))
        half = np.array(data.draw(st.tuples(st.floats(0, 300), st.floats(0, 300))))
        boxes.append([*(centre - half), *(centre + half)])
    sealed = seal(np.zeros((*shape, 3), np.uint8), recipe, KEY.image_rng('d', 'a'), boxes)
    there = sealed.layout.map_boxes(boxes)
    np.testing.assert_allclose(sealed.layout.unmap_boxes(there), boxes, rtol=0, atol=1e-6)
    written = json.loads(json.dumps(np.hstack([sealed.boxes[:, :2], sealed.sizes]).tolist()))
    back = sealed.layout.unmap_boxes(to_corners(written))
    # In pixels of the encrypted image, in which they are rounded.
    scale = np.tile(sealed.layout.scale, 2)
    np.testing.assert_allclose(back * scale, np.array(boxes) * scale, rtol=0, atol=1e-3)
    # Whoever reads them in single precision finds the same slots.
    held = np.array(to_corners(written), np.float32)
    firm = np.abs(held).max(axis=1) < 4000
    assert sealed.layout.cells(held)[firm].tolist() == sealed.layout.cells(there)[firm].tolist()


@pytest.mark.parametrize('cipher', ['shuffle', 'center+erode2+shuffle', 'mix2+shuffle'])
@pytest.mark.parametrize('shape', [(480, 640), (427, 633)])
def test_last_digits_do_not_tell_from_which_patch(cipher, shape):
    """Boxes that lie alike in their patches are written alike in their slots.

    Larger coordinates are rounded more coarsely, and moving does not take that away.
    """
    recipe, rng = Recipe.build(cipher), np.random.default_rng(len(cipher))
    layout = recipe.cipher.plan(tuple(side // 16 * 16 for side in shape))
    size, (rows, cols) = layout.patch_size, layout.grid
    scale = np.divide(layout.shape, shape)[::-1]
    for _ in range(5):
        centre, sides = rng.uniform(1, size - 1, 2), rng.uniform(0.2, 3 * size, 2)
        # As annotation tools write them, in hundredths of a pixel.
        grid = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), axis=2).reshape(-1, 2)
        low = np.round(((grid * size + centre - sides / 2) / scale), 2)
        sides = np.round(sides / scale, 2)
        # The scale would show: boxes of one patch are compared with their moved selves.
        offsets = np.round(low * scale - grid * size, 9)
        boxes = to_corners(np.hstack([low, np.tile(sides, (len(low), 1))]))
        sealed = seal(np.zeros((*shape, 3), np.uint8), recipe, KEY.image_rng('d', 'a'), boxes)
        cells = sealed.layout.cells(sealed.boxes)
        slots = np.stack([cells % cols, cells // cols], axis=1) * size
        written = np.hstack([sealed.boxes[:, :2] - slots, sealed.sizes])
        for alike in {tuple(one) for one in offsets}:
            assert len(np.unique(written[(offsets == alike).all(axis=1)], axis=0)) == 1
        grain = written / 2**-26
        np.testing.assert_array_equal(grain, np.rint(grain))
    assert len({tuple(one) for one in sealed.sizes}) == 1


@pytest.mark.parametrize('given', [True, False])
@pytest.mark.parametrize('cipher', ['shuffle', 'center+erode2+shuffle'])
def test_areas_do_not_tell_from_which_patch(tmp_path, cipher, given):
    """A width is the difference of two ends, whose rounding shows how large they were."""
    x = np.arange(20) * 48 + 0.1
    rows = [
        annotation(i, 7, [low, 5.0, (low + 12.3) - low, 20.0]) for i, low in enumerate(x.tolist())
    ]
    for row in rows:
        row['area'] = row['bbox'][2] * row['bbox'][3] if given else None
    assert len({row['bbox'][2] for row in rows}) > 3
    root = tmp_path / 'plain'
    write(root / 'val2017/a.png', photo(32, 1000))
    (root / 'annotations').mkdir()
    (root / ANN).write_text(json.dumps(coco_file({'a.png': (32, 1000)}, rows)))
    coco(root, tmp_path / 'out', cipher)
    assert len({row['area'] for row in annotations(tmp_path / 'out')['annotations']}) == 1


def nasty_boxes():
    """(x, y, w, h) and further fields: all that annotation files hold, and more."""
    rng = np.random.default_rng(0)
    boxes = [
        ([8, 8, 16, 16], {}),  # a centre on a corner of patches
        ([24, 3, 16, 9], {}),
        ([0, 0, WIDTH, HEIGHT], {}),
        ([-40, -30, 200, 150], {}),  # larger than the image
        ([-1000, 5, 2100, 10], dict(iscrowd=1)),
        ([3, 4, 30, 20], dict(iscrowd=1)),
        ([3, 4, 30, 20], dict(ignore=1)),
        ([50, 50, 0, 10], {}),  # empty
        ([50, 50, 0, 0], {}),
        ([WIDTH, 20, 0, 4], {}),
        ([50, 50, 0.3, 0.3], {}),
        ([50, 50, 9, 9], dict(area=0)),
        ([WIDTH - 4, HEIGHT - 3, 8, 6], {}),  # the centre is the corner
        ([WIDTH - 1, 20, 30, 10], {}),  # outside, the image holds a part
        ([-20, 20, 21, 10], {}),
        ([20, HEIGHT - 2, 5, 90], {}),
        ([300, 300, 20, 20], {}),  # outside altogether
        ([-60, -60, 20, 20], {}),
        *(([16 * i - 2 + d, 9, 4, 4], {}) for i in (1, 2, 3) for d in (-1e-4, -1e-9, 1e-9)),
        # Of just the size below which they are left out.
        *(([*rng.uniform(0, 60, 2).tolist(), 1, 1], {}) for _ in range(40)),
        *(([*rng.uniform(0, 60, 2).tolist(), 1 / 0.95, 1 / 0.9], {}) for _ in range(40)),
    ]
    return [annotation(i, 7, box, **extra) for i, (box, extra) in enumerate(boxes, 1)]


@pytest.fixture(scope='module')
def nasty(tmp_path_factory):
    root = tmp_path_factory.mktemp('nasty')
    write(root / 'val2017/a.png', photo(HEIGHT, WIDTH))
    (root / 'annotations').mkdir()
    (root / ANN).write_text(json.dumps(coco_file({'a.png': (HEIGHT, WIDTH)}, nasty_boxes())))
    return root


@pytest.fixture(scope='module')
def coco_dataset():
    return pytest.importorskip('mmdet.datasets').CocoDataset


def kept(coco_dataset, root, classes=None):
    """Ids of the annotations that the stock data set keeps for training."""
    dataset = coco_dataset(
        data_root=str(root),
        ann_file=ANN,
        data_prefix=dict(img='val2017/'),
        metainfo=classes,
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[],
    )
    content = json.loads((root / ANN).read_text())
    images = {image['id']: dict(image, img_id=image['id']) for image in content['images']}
    trained = {dataset.get_data_info(i)['img_id'] for i in range(len(dataset))}
    return {
        row['id']
        for row in content['annotations']
        if row['image_id'] in trained
        and dataset.parse_data_info(dict(raw_img_info=images[row['image_id']], raw_ann_info=[row]))[
            'instances'
        ]
    }


def assert_keeps(coco_dataset, still, moved, **kwargs):
    """Every box of the unshuffled file, and of others only those that lay outside of it."""
    before, after = (kept(coco_dataset, root, **kwargs) for root in (still, moved))
    assert before and before <= after
    content = json.loads((still / ANN).read_text())
    images = {image['id']: image for image in content['images']}
    for row in content['annotations']:
        if row['id'] in after - before:
            (x, y, w, h), image = row['bbox'], images[row['image_id']]
            assert min(x + w, y + h) <= 0 or x >= image['width'] or y >= image['height']
    return before, after


@pytest.mark.parametrize('fit', ['resize', 'pad'])
@pytest.mark.parametrize('first', ['', 'erode2+', 'erode2:filled+', 'mix2+'])
def test_a_nasty_file(coco_dataset, nasty, tmp_path, first, fit):
    still, moved = tmp_path / 'still', tmp_path / 'moved'
    for cipher, out in (('negate', still), ('shuffle', moved)):
        coco(nasty, out, first + cipher, preprocess=dict(fit=fit))
    before, after = assert_keeps(coco_dataset, still, moved, classes=dict(classes=('cat', 'cup')))
    assert len(after) > 20
    old, new = annotations(still), annotations(moved)
    assert old['images'] == new['images']
    # All but the place is the same, sizes but for the digits that would tell it.
    for one, other in zip(old['annotations'], new['annotations'], strict=True):
        assert one['bbox'][2:] == pytest.approx(other['bbox'][2:], rel=0, abs=2**-26)
        assert [side < 1 for side in one['bbox'][2:]] == [side < 1 for side in other['bbox'][2:]]
        assert one['area'] == pytest.approx(other['area'], rel=0, abs=2**-26)
        assert dict(one, bbox=None, area=None) == dict(other, bbox=None, area=None)
    api = COCO(moved / ANN)
    assert len(api.anns) == len(nasty_boxes())
    # The owner has every box back; one whose centre was outside, at the edge of the image.
    manifest = Manifest.load(moved)
    layout = manifest.secret_layout(manifest.entry('val2017/a.png'), KEY)
    back = layout.unmap_boxes(to_corners([row['bbox'] for row in new['annotations']]))
    boxes = np.array(to_corners([row['bbox'] for row in nasty_boxes()]))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    edge = np.divide(layout.shape[::-1], layout.scale)
    way = centres.clip(0, edge) - centres
    np.testing.assert_allclose(back, boxes + np.tile(way, 2), rtol=0, atol=0.005)
    inside = ~way.any(axis=1)
    assert inside.sum() > 80
    np.testing.assert_allclose(back[inside], boxes[inside], rtol=0, atol=2e-3)


@pytest.mark.trial
@pytest.mark.parametrize('first', ['', 'center+erode2+'])
def test_real_annotations(coco_dataset, coco_tiny, tmp_path, first):
    still, moved = tmp_path / 'still', tmp_path / 'moved'
    for cipher, out in (('negate', still), ('shuffle', moved)):
        coco(coco_tiny, out, first + cipher, preprocess=dict(resize=(320, 240), keep_ratio=True))
    before, after = assert_keeps(coco_dataset, still, moved)
    assert len(before) > 600 and after == before
    check_coco(moved / ANN, moved / 'val2017')


@pytest.mark.parametrize('fit', ['resize', 'pad'])
@pytest.mark.parametrize('cipher', ['shuffle', 'erode2+shuffle', 'mix2+shuffle', 'mix2'])
@pytest.mark.parametrize('kind', ['boxes', 'float32', 'float64'])
def test_a_pipeline_gives_the_same_boxes(nasty, tmp_path, monkeypatch, cipher, fit, kind):
    mmcv = pytest.importorskip('mmcv')
    boxes_of = pytest.importorskip('mmdet.structures.bbox').HorizontalBoxes
    from hime_mm.transforms import Encrypt, encrypt

    coco(nasty, tmp_path / 'out', cipher, preprocess=dict(fit=fit))
    wanted = np.array(
        to_corners([row['bbox'] for row in annotations(tmp_path / 'out')['annotations']])
    )
    # The draw of the data set in place of a fresh one.
    rng = KEY.image_rng('d', 'val2017/a.png')
    monkeypatch.setattr(encrypt, 'seal', lambda img, recipe, _: seal(img, recipe, rng))
    boxes = np.array(to_corners([row['bbox'] for row in nasty_boxes()]))
    if kind != 'float64':
        boxes = boxes.astype(np.float32)
    flags = np.array([row['iscrowd'] == 1 for row in nasty_boxes()])
    results = Encrypt(cipher, fit=fit, keep_permutation=True)(
        dict(
            img=mmcv.imread(nasty / 'val2017/a.png'),
            gt_bboxes=boxes_of(boxes) if kind == 'boxes' else boxes,
            gt_ignore_flags=flags,
        )
    )
    np.testing.assert_array_equal(
        results['img'], mmcv.imread(tmp_path / 'out/val2017/a.png', 'unchanged')
    )
    found = results['gt_bboxes']
    found = found.numpy() if kind == 'boxes' else found
    assert found.dtype == (np.float64 if kind == 'float64' else np.float32)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)
    layout = results['patch_layout']
    assert layout.cells(found).tolist() == layout.cells(wanted).tolist()
    assert results['gt_ignore_flags'] is flags


@pytest.mark.parametrize('cipher', ['shuffle', 'center+erode2+shuffle', 'negate'])
def test_round_numbers_are_counted_and_rounded(tmp_path, cipher):
    """Whole pixels tell the row and the column of a resized picture; rounded ones tell nothing."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 430, 40), rng.integers(0, 260, 40)
    w, h = rng.integers(3, 60, 40), rng.integers(3, 60, 40)
    boxes = np.stack([x, y, w, h], 1).tolist()
    rows = [annotation(i, 7, box) for i, box in enumerate(boxes, 1)]
    root = tmp_path / 'plain'
    write(root / 'val2017/a.png', photo(333, 500))
    (root / 'annotations').mkdir()
    (root / ANN).write_text(json.dumps(coco_file({'a.png': (333, 500)}, rows)))
    moves = cipher != 'negate'
    plain = coco(root, tmp_path / 'plain_out', cipher)
    assert plain.telling == (40 if moves else 0)
    assert 'round_boxes' not in Manifest.load(tmp_path / 'plain_out').state['options']
    coarse = coco(root, tmp_path / 'coarse', cipher, round_boxes=True)
    assert coarse.telling == 0
    assert Manifest.load(tmp_path / 'coarse').state['options']['round_boxes'] is True
    assert verify_dataset(str(tmp_path / 'coarse'), KEY, progress=False).ok
    old, new = (
        np.array([row['bbox'] for row in annotations(tmp_path / name)['annotations']])
        for name in ('plain_out', 'coarse')
    )
    if not moves:
        assert (old == new).all()
        # Areas are the objects', not the boxes'.
        assert [row['area'] for row in annotations(tmp_path / 'coarse')['annotations']] == [
            row['area'] for row in annotations(tmp_path / 'plain_out')['annotations']
        ]
        return
    assert (new == np.rint(new)).all() and not (old == np.rint(old)).any(axis=1).all()
    assert np.abs(new[:, :2] - old[:, :2]).max() <= 1.5
    manifest = Manifest.load(tmp_path / 'coarse')
    for row in annotations(tmp_path / 'coarse')['annotations']:
        assert row['area'] == row['bbox'][2] * row['bbox'][3]
    layout = manifest.secret_layout(manifest.entry('val2017/a.png'), KEY)
    assert layout.cells(to_corners(new)).tolist() == layout.cells(to_corners(old)).tolist()


@pytest.mark.parametrize('grid', [1 / 3, 640 * 5e-7, 2.0**-17])
def test_other_numbers_are_rounded_to_hundredths(tmp_path, grid):
    """Normalized coordinates and single precision are no round numbers, and tell as much."""
    rng = np.random.default_rng(0)
    boxes = np.rint(rng.uniform(64, 120, (20, 4)) / grid) * grid
    root = tmp_path / 'plain'
    write(root / 'val2017/a.png', photo(480, 640))
    (root / 'annotations').mkdir()
    rows = [annotation(i, 7, box) for i, box in enumerate(boxes.tolist())]
    (root / ANN).write_text(json.dumps(coco_file({'a.png': (480, 640)}, rows)))
    coco(root, tmp_path / 'out', 'shuffle', round_boxes=True)
    found = np.array([row['bbox'] for row in annotations(tmp_path / 'out')['annotations']])
    assert (found * 64 == np.rint(found * 64)).all()


def test_going_on_with_other_rounding_is_refused(nasty, tmp_path):
    coco(nasty, tmp_path / 'out', 'shuffle', round_boxes=True)
    with pytest.raises(EncryptionError):
        coco(nasty, tmp_path / 'out', 'shuffle')
