# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import errno
import json
import os
import shutil
import threading
import tracemalloc
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from owner_data import edit_json, named
from version_1 import as_version_1

from hime_mm.apis import encrypt_coco, map_coco_results
from hime_mm.ciphers import Cipher, InvalidKey, Key, PatchLayout
from hime_mm.cli import main
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.segmentation import compress_rle, decode_rle, encode_rle
from hime_mm.datasets.writing import checksum
from hime_mm.errors import BoxError
from hime_mm.images import Recipe
from hime_mm.mapping.boxes import SHUFFLED_NMS, suppress, unmap_boxes
from hime_mm.mapping.image_ids import image_entries
from hime_mm.mapping.masks import unmap_masks
from hime_mm.mapping.results import map_results

KEY = Key(bytes(range(32)))
OTHER = Key(bytes(32))
# Height and width, none of them a multiple of the patches.
SIZES = {'train': {3: (70, 101), 5: (64, 96)}, 'val': {7: (99, 67), 9: (50, 130)}}


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """A COCO data set of two splits; two of its boxes per picture meet."""
    root = tmp_path_factory.mktemp('plain')
    (root / 'annotations').mkdir()
    rng = np.random.default_rng(0)
    for split, sizes in SIZES.items():
        (root / split).mkdir()
        images, annotations = [], []
        for image_id, (h, w) in sizes.items():
            cv2.imwrite(
                str(root / split / f'{image_id}.png'), rng.integers(0, 256, (h, w, 3), np.uint8)
            )
            images.append(dict(id=image_id, file_name=f'{image_id}.png', height=h, width=w))
            corners = rng.uniform(0, 1, (4, 2, 2)) * [w, h]
            for low, high in zip(corners.min(1), corners.max(1), strict=True):
                annotations.append(
                    dict(
                        id=len(annotations) + 1000 * image_id,
                        image_id=image_id,
                        category_id=len(annotations) % 2 + 1,
                        bbox=[*low.tolist(), *(high - low).tolist()],
                        iscrowd=0,
                    )
                )
        (root / f'annotations/instances_{split}.json').write_text(
            json.dumps(
                dict(
                    images=images,
                    annotations=annotations,
                    categories=[dict(id=1, name='a'), dict(id=2, name='b')],
                )
            )
        )
    return root


def encrypted(plain, tmp_path, cipher='shuffle', key=KEY, **kwargs):
    out = tmp_path / 'encrypted'
    encrypt_coco(str(plain), str(out), cipher, key=key, progress=False, dataset_id='test', **kwargs)
    return out


@pytest.fixture(scope='module')
def ready(plain, tmp_path_factory):
    """Gives the folder encrypted with a cipher; made once, read only."""

    @cache
    def make(cipher):
        return encrypted(plain, tmp_path_factory.mktemp('ready'), cipher)

    return make


def as_results(root, split='val'):
    """The annotations of a split as the results of a perfect detector."""
    coco = json.loads((root / f'annotations/instances_{split}.json').read_text())
    return [
        dict(
            image_id=ann['image_id'],
            category_id=ann['category_id'],
            bbox=ann['bbox'],
            score=1 / (i + 1),
        )
        for i, ann in enumerate(coco['annotations'])
    ]


def run(results, data, tmp_path, **kwargs):
    path, out = tmp_path / 'results.json', tmp_path / 'out.json'
    path.write_text(json.dumps(results))
    summary = map_coco_results(str(path), str(out), str(data), progress=False, **kwargs)
    return json.loads(out.read_text()), summary


@pytest.mark.parametrize(
    'cipher',
    [
        'shuffle',
        'mix2',
        'mix2+shuffle',
        'center+erode2+shuffle',
        'negate',
        'permute_pixels',
        'mix2:tiled',
    ],
)
@pytest.mark.parametrize('fit', ['resize', 'pad'])
def test_perfect_results_come_back(plain, tmp_path, cipher, fit):
    if 'center' in cipher and fit == 'pad':
        cipher = 'noise25+erode2+shuffle'  # padding would show the means
    data = encrypted(plain, tmp_path, cipher, preprocess=dict(fit=fit))
    key = KEY if 'shuffle' in cipher else None
    moved = as_results(data)
    new, summary = run(moved, data, tmp_path, key=key, nms=1.0)
    old = as_results(plain)
    assert [{**row, 'bbox': None} for row in new] == [{**row, 'bbox': None} for row in old]
    np.testing.assert_allclose(
        [row['bbox'] for row in new], [row['bbox'] for row in old], atol=1e-9
    )
    if fit == 'resize' or cipher not in ('negate', 'permute_pixels', 'mix2:tiled'):
        assert not np.allclose([row['bbox'] for row in moved], [row['bbox'] for row in old])
    assert (summary.results, summary.kept, summary.images) == (8, 8, 2)


def test_suppression_is_done_in_the_original(plain, tmp_path):
    """Two boxes of one object lie apart once their patches are moved."""
    data = encrypted(plain, tmp_path)
    manifest = Manifest.load(data)
    layout = manifest.secret_layout(manifest.entry('val/7.png'), KEY)
    # Their centres lie in neighbouring patches, of 16 original pixels.
    pair = np.array([[4, 20, 24, 40], [7, 20, 29, 40.0]])
    there = layout.map_boxes(pair)
    assert (
        there[0, 2] < there[1, 0]
        or there[1, 2] < there[0, 0]
        or (there[0, 3] < there[1, 1] or there[1, 3] < there[0, 1])
    )
    results = [
        dict(
            image_id=7,
            category_id=category,
            score=score,
            bbox=[*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
        )
        for category, score, box in ((1, 0.5, there[0]), (1, 0.9, there[1]), (2, 0.1, there[0]))
    ]
    new, summary = run(results, data, tmp_path, key=KEY)
    assert [(row['category_id'], row['score']) for row in new] == [(1, 0.9), (2, 0.1)]
    assert (summary.kept, summary.nms) == (2, SHUFFLED_NMS)
    assert len(run(results, data, tmp_path, key=KEY, nms=1.0, force=True)[0]) == 3
    # Patches in place: the model has done it.
    (tmp_path / 'encrypted').rename(tmp_path / 'moved')
    data = encrypted(plain, tmp_path, 'mix2', key=None)
    for row in results:
        row['bbox'] = [1, 2, 9, 9]
    assert len(run(results, data, tmp_path, force=True)[0]) == 3
    assert len(run(results, data, tmp_path, force=True, nms=0.5)[0]) == 2


def test_boxes_are_cut_to_the_original():
    layout = PatchLayout((40, 50), 16, (2, 3), (0.96, 0.8))
    boxes = np.array([[-8, 8, 60, 40.0], [8, 8, 16, 16]])
    np.testing.assert_allclose(
        unmap_boxes(layout, boxes), [[0, 10, 50, 40], [8 / 0.96, 10, 16 / 0.96, 20]]
    )
    np.testing.assert_allclose(unmap_boxes(layout, boxes, clip=False)[0], [-8 / 0.96, 10, 62.5, 50])


def test_no_clip(plain, tmp_path):
    data = encrypted(plain, tmp_path, 'mix2', key=None)
    result = dict(image_id=7, category_id=1, bbox=[-4, 0, 8, 8], score=1)
    box = run([result], data, tmp_path)[0][0]['bbox']
    assert box[0] == 0
    box = run([result], data, tmp_path, clip=False, force=True)[0][0]['bbox']
    assert box[0] < -4


# Non-maximum suppression


@given(st.integers(0, 40), st.integers(0, 10**6), st.floats(0.1, 0.9))
def test_suppression_against_the_definition(num, seed, iou):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 20, (num, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    scores, labels = rng.permutation(num) / 40, rng.integers(0, 3, num)

    def overlap(a, b):
        w = min(a[2], b[2]) - max(a[0], b[0])
        h = min(a[3], b[3]) - max(a[1], b[1])
        both = max(w, 0) * max(h, 0)
        total = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - both
        return both / total

    kept = []
    for i in sorted(range(num), key=lambda i: -scores[i]):
        if all(labels[i] != labels[j] or overlap(boxes[i], boxes[j]) <= iou for j in kept):
            kept.append(i)
    assert suppress(boxes, scores, labels, iou).tolist() == sorted(kept)


def test_suppression_is_that_of_torchvision():
    torch = pytest.importorskip('torch')
    from torchvision.ops import batched_nms

    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 200, (500, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    scores, labels = rng.permutation(500) / 500, rng.integers(0, 4, 500)
    theirs = batched_nms(*map(torch.tensor, (boxes, scores, labels)), 0.5)
    ours = suppress(boxes, scores, labels, 0.5)
    assert 0 < len(ours) < 500
    assert sorted(theirs.tolist()) == ours.tolist()


def test_suppression_of_boxes_without_area():
    boxes = np.array([[5, 5, 5, 5]] * 2 + [[0, 0, 9, 9]])
    assert suppress(boxes, np.arange(3), np.zeros(3), 0.5).tolist() == [0, 1, 2]


@pytest.mark.parametrize('nms', [-0.1, 1.5, float('nan'), '0.5', True])
def test_nms_is_a_share(plain, tmp_path, nms):
    data = encrypted(plain, tmp_path)
    with pytest.raises(BoxError, match='0 to 1'):
        run(as_results(data), data, tmp_path, key=KEY, nms=nms)


# Masks


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6))
def test_compressed_run_lengths(h, w, seed):
    mask = np.random.default_rng(seed).random((h, w)) < 0.3
    rle = encode_rle(mask.astype(np.uint8))
    text = compress_rle(rle['counts'])
    assert np.array_equal(decode_rle(text, (h, w)), mask)
    coco = pytest.importorskip('pycocotools.mask')
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert theirs['counts'].decode() == text


def test_masks_follow_the_scale_and_leave_the_padding():
    # 40 x 50 was halved to 20 x 25 and padded to 32 x 32.
    layout = PatchLayout((40, 50), 16, (2, 2), (0.5, 0.5))
    mask = np.zeros((2, 32, 32), bool)
    mask[0, 4:10, 6:20] = True
    mask[1, 18:, 20:] = True
    found = unmap_masks(layout, mask)
    assert found.shape == (2, 40, 50) and found.dtype == bool
    wanted = np.zeros((2, 40, 50), bool)
    wanted[0, 8:20, 12:40] = True
    wanted[1, 36:, 40:] = True
    # Corners of a smoothed edge may differ.
    assert (found != wanted).sum() <= 8
    assert unmap_masks(layout, mask[:0]).shape == (0, 40, 50)
    with pytest.raises(BoxError, match='20, 25.*32x32'):
        unmap_masks(layout, mask[:, :20, :25])


@pytest.mark.parametrize('scale', [(2.0, 3.0), (1.0, 1.0), (0.25, 0.5)])
def test_anisotropic_masks(scale):
    shape = (32, 48)
    layout = PatchLayout((round(32 / scale[1]), round(48 / scale[0])), 16, (2, 3), scale)
    mask = np.zeros(shape, bool)
    mask[:16, 24:] = True
    h, w = layout.ori_shape
    found = unmap_masks(layout, mask[None])[0]
    wanted = np.zeros((h, w), bool)
    wanted[: h // 2, w // 2 :] = True
    # Pixels that the edge goes through may fall to either side.
    assert (found != wanted).mean() < 0.02


def test_segmentations_of_results(plain, tmp_path):
    data = encrypted(plain, tmp_path, 'mix2', key=None)
    entry = Manifest.load(data).entry('val/9.png')
    mask = np.zeros(entry.shape, np.uint8)
    mask[4:16, 8:40] = 1
    row = dict(image_id=9, category_id=1, bbox=[8, 4, 32, 12], score=1, area=384)
    runs = encode_rle(mask)
    results = [
        dict(row, segmentation=dict(size=list(mask.shape), counts=compress_rle(runs['counts']))),
        dict(row, segmentation=runs),
        dict(row, segmentation=[[8, 4, 40, 4, 40, 16, 8, 16]]),
    ]
    new, summary = run(results, data, tmp_path)
    assert summary.masks == 0
    sx, sy = entry.scale
    for got in new[:2]:
        assert got['segmentation']['size'] == [50, 130]
        back = decode_rle(got['segmentation']['counts'], (50, 130))
        assert abs(int(back.sum()) - got['area']) < 60
        x1, y1 = back.any(0).argmax(), back.any(1).argmax()
        assert abs(x1 - 8 / sx) <= 1 and abs(y1 - 4 / sy) <= 1
    np.testing.assert_allclose(new[2]['segmentation'][0][:4], [8 / sx, 4 / sy, 40 / sx, 4 / sy])
    results[0]['segmentation']['size'] = [50, 130]
    with pytest.raises(BoxError, match=r'results\[0\].*50, 130'):
        run(results, data, tmp_path, force=True)


@pytest.mark.parametrize('name', ['shape', 'ori_shape'])
@pytest.mark.parametrize('size', [[2**30, 2**10], [2**15, 16], [16, 40_000], [2**30, 2**30]])
def test_memory_for_a_mask_is_not_asked_for_on_the_word_of_a_manifest(plain, tmp_path, name, size):
    data = encrypted(plain, tmp_path, 'mix2', key=None)
    edit_json(
        as_version_1(data) / 'hime.json',
        lambda s: (
            [row.update({name: size}) for row in s['files']],
            s.update(checksum=checksum(s)),
        ),
    )
    h, w = Manifest.load(data).entry('val/9.png').shape
    masks = dict(counts=[h * w], size=[h, w])
    row = dict(image_id=9, category_id=1, bbox=[8, 4, 32, 12], score=1, segmentation=masks)
    with pytest.raises(BoxError, match=rf'results\[0\].*{max(size)}.*larger'):
        run([row], data, tmp_path)


@pytest.mark.parametrize('size', [None, [2**20, 2**20], [10**9, 1], [2**70, 2**70], [1.5, 2], 7])
@pytest.mark.parametrize(
    'counts', [[2**40], [2**39, 2**39], '`' * 9, 'o' * 300_000 + '0', [0.5] * 8, None, dict(a=1)]
)
def test_memory_for_a_mask_is_not_asked_for_on_somebodys_word(plain, tmp_path, size, counts):
    data = encrypted(plain, tmp_path, 'mix2', key=None)
    size = list(Manifest.load(data).entry('val/9.png').shape) if size is None else size
    row = dict(image_id=9, category_id=1, bbox=[8, 4, 32, 12], score=1)
    tracemalloc.start()
    try:
        with pytest.raises(BoxError, match=r'`segmentation` of `results\[0\]`'):
            run([dict(row, segmentation=dict(size=size, counts=counts))], data, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_segmentations_cannot_follow_moved_pixels(plain, tmp_path):
    data = encrypted(plain, tmp_path)
    rows = as_results(data)
    for row in rows:
        row['segmentation'] = [[0, 0, 4, 0, 4, 4]]
    new, summary = run(rows, data, tmp_path, key=KEY, nms=1.0)
    assert summary.masks == len(rows) == len(new)
    assert not any('segmentation' in row for row in new)


# What has to be refused


def test_wrong_and_missing_keys(plain, tmp_path):
    data = encrypted(plain, tmp_path)
    with pytest.raises(BoxError, match=named(data, KEY.id)):
        run(as_results(data), data, tmp_path)
    with pytest.raises(InvalidKey, match=named(KEY.id, OTHER.id)):
        run(as_results(data), data, tmp_path, key=OTHER)
    assert not (tmp_path / 'out.json').exists()


def test_one_way(plain, tmp_path):
    data = encrypted(plain, tmp_path, key=None, one_way=True)
    for key in (None, KEY):
        with pytest.raises(BoxError, match=named(data, 'one-way')):
            run(as_results(data), data, tmp_path, key=key)


@pytest.mark.parametrize(
    'kwargs, match',
    [
        (dict(preprocess=dict(augment=dict(flip=0.5))), 'augmentation'),
        (dict(views=2), '2 files'),
    ],
)
def test_data_sets_without_a_way_back(plain, tmp_path, kwargs, match):
    data = encrypted(plain, tmp_path, **kwargs)
    # Asked of the data set, not of each box.
    for results in (as_results(data), []):
        with pytest.raises(BoxError, match=match):
            run(results, data, tmp_path, key=KEY)


def test_image_ids(plain, tmp_path):
    data = encrypted(plain, tmp_path)
    good = as_results(data)[0]
    with pytest.raises(BoxError, match=r'results.json.*id 8 of.*results\[1\]'):
        run([good, dict(good, image_id=8)], data, tmp_path, key=KEY)
    # With one file named, the images of the other are not known.
    val = 'annotations/instances_val.json'
    assert run([good], data, tmp_path, key=KEY, annotations=val)[0]
    with pytest.raises(BoxError, match='id 3 '):
        run(
            as_results(data, 'train'),
            data,
            tmp_path,
            key=KEY,
            annotations=str(data / val),
            force=True,
        )


def test_results_may_come_through_a_pipe(plain, tmp_path):
    """As a shell's `<(...)` gives them."""
    data = encrypted(plain, tmp_path)
    results = as_results(data)
    expected = run(results, data, tmp_path, key=KEY)[0]
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(json.dumps(results),))
    writer.start()
    out = tmp_path / 'of_the_pipe.json'
    map_coco_results(str(pipe), str(out), str(data), progress=False, key=KEY)
    writer.join()
    assert json.loads(out.read_text()) == expected


def test_ambiguous_image_ids(plain, tmp_path):
    # The train images get ids that val images have.
    source = tmp_path / 'plain'
    shutil.copytree(plain, source)
    path = source / 'annotations/instances_train.json'
    text = (
        path.read_text().replace('"id": 3,', '"id": 7,').replace('"image_id": 3,', '"image_id": 7,')
    )
    path.write_text(text)
    data = encrypted(source, tmp_path)
    rows = as_results(data, 'val')
    with pytest.raises(
        BoxError, match=named('id 7 ', 'instances_train.json', 'instances_val.json')
    ):
        run(rows, data, tmp_path, key=KEY)
    # What is not ambiguous goes through, and so does all with the file.
    assert run(rows[4:], data, tmp_path, key=KEY, nms=1.0)[1].images == 1
    for split in ('train', 'val'):
        new, _ = run(
            as_results(data, split),
            data,
            tmp_path,
            key=KEY,
            nms=1.0,
            force=True,
            annotations=f'annotations/instances_{split}.json',
        )
        np.testing.assert_allclose(
            [row['bbox'] for row in new],
            [row['bbox'] for row in as_results(source, split)],
            atol=1e-9,
        )


def test_annotation_file_from_elsewhere(plain, tmp_path):
    data = encrypted(plain, tmp_path)
    elsewhere = tmp_path / 'subset.json'
    shutil.copy(data / 'annotations/instances_val.json', elsewhere)
    rows = as_results(data)
    assert run(rows, data, tmp_path, key=KEY, nms=1.0, annotations=str(elsewhere))[1].kept == 8
    coco = json.loads(elsewhere.read_text())
    coco['images'][0]['file_name'] = 'other.png'
    elsewhere.write_text(json.dumps(coco))
    with pytest.raises(BoxError, match=named(elsewhere, 'other.png', data)):
        run(rows, data, tmp_path, key=KEY, annotations=str(elsewhere), force=True)
    with pytest.raises(BoxError, match='missing.json'):
        run(rows, data, tmp_path, key=KEY, annotations='missing.json', force=True)


def test_file_names_that_stand_for_two_images(plain, tmp_path):
    source = tmp_path / 'plain'
    shutil.copytree(plain, source)
    for split, image_id in (('train', 3), ('val', 7)):
        (source / split / f'{image_id}.png').rename(source / split / 'same.png')
        path = source / f'annotations/instances_{split}.json'
        path.write_text(path.read_text().replace(f'"{image_id}.png"', '"same.png"'))
    data = encrypted(source, tmp_path)
    # The manifest knows which folder a file of its own speaks of.
    assert len(image_entries(Manifest.load(data))) == 4
    elsewhere = tmp_path / 'subset.json'
    shutil.copy(data / 'annotations/instances_val.json', elsewhere)
    with pytest.raises(BoxError, match=named(elsewhere, 'train/same.png', 'val/same.png')):
        image_entries(Manifest.load(data), str(elsewhere))


def test_path_of_many_folders_takes_little_memory(plain, tmp_path):
    data = encrypted(plain, tmp_path)
    manifest = Manifest.load(data)
    entry = next(iter(manifest.files.values()))
    deep = 'a/' * 10_000 + 'x.png'
    manifest.files[deep] = replace(entry, path=deep)
    elsewhere = tmp_path / 'subset.json'
    shutil.copy(data / 'annotations/instances_val.json', elsewhere)
    tracemalloc.start()
    try:
        assert len(image_entries(manifest, str(elsewhere))) == 2
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_changed_annotations(plain, tmp_path):
    data = encrypted(plain, tmp_path)
    rows = as_results(data)
    path = data / 'annotations/instances_val.json'
    path.write_text(path.read_text().replace('"7.png"', '"9.png"'))
    with pytest.raises(BoxError, match=named(path)):
        run(rows, data, tmp_path, key=KEY)
    path.unlink()
    with pytest.raises(BoxError, match=named(path, os.strerror(errno.ENOENT))):
        run(rows, data, tmp_path, key=KEY)


@pytest.mark.parametrize('cipher', ['shuffle', 'mix2+shuffle', 'center+erode2+shuffle'])
@pytest.mark.parametrize('side', ['left', 'above', 'right', 'below'])
@pytest.mark.parametrize('far', [1, 0.01, 1e6])
def test_results_in_no_slot(ready, tmp_path, cipher, side, far):
    """Named with the row of the file, the image and its size; nothing is written."""
    data = ready(cipher)
    rows = as_results(data)
    h, w = Manifest.load(data).entry('val/9.png').shape
    x, y = dict(left=(-far, 5), above=(5, -far), right=(w + far, 5), below=(5, h + far))[side]
    # Other boxes stick out, too, but their centres do not.
    rows[6].update(bbox=[-w, -h, 2 * w + 8, 2 * h + 8])
    rows[7].update(bbox=[x - 3, y - 4, 6, 8])
    things = ('results.json', '`results[7]`', 'image id 9', f'({x:g}, {y:g})', f'{h}x{w}', 'token')
    with pytest.raises(BoxError, match=named(*things)):
        run(rows, data, tmp_path, key=KEY)
    assert not (tmp_path / 'out.json').exists()
    # What is there already stays, also where it may be replaced.
    (tmp_path / 'out.json').write_text('[]')
    with pytest.raises(BoxError, match=named(*things)):
        run(rows, data, tmp_path, key=KEY, force=True)
    assert (tmp_path / 'out.json').read_text() == '[]'
    # One on the edge is in a slot.
    edge_x, edge_y = min(max(x, 0), w), min(max(y, 0), h)
    rows[7].update(bbox=[edge_x - 3, edge_y - 4, 6, 8])
    assert run(rows, data, tmp_path, key=KEY, force=True, nms=1.0)[1].kept == 8


@pytest.mark.parametrize('cipher', ['mix2', 'negate', 'center+erode2'])
def test_results_outside_where_patches_lie_in_their_places(ready, tmp_path, cipher):
    data = ready(cipher)
    row = dict(image_id=9, category_id=1, bbox=[-9, -9, 4, 4], score=1)
    assert run([row], data, tmp_path)[0][0]['bbox'] == [0, 0, 0, 0]


MALFORMED = [
    (dict(bbox=[1, 2, 3]), 'bbox'),
    (dict(bbox=[1, 2, 3, -4]), 'bbox'),
    (dict(bbox=[1, 2, 3, float('nan')]), 'bbox'),
    (dict(bbox=None), 'bbox'),
    (dict(bbox=[8, 8, 9, 9, 0.5]), 'bbox'),  # rotated
    (dict(bbox=[0, 0, 8, 0, 8, 8, 0, 8]), 'bbox'),
    (dict(bbox=[[1, 2, 3, 4]]), 'bbox'),
    (dict(bbox=[1, 2, True, 4]), 'bbox'),
    (dict(bbox=['1', '2', '3', '4']), 'bbox'),
    (dict(bbox=[30, 20, -20, -10]), 'bbox'),  # corners of the wrong order
    (dict(bbox=[1, float('inf'), 3, 4]), 'bbox'),
    (dict(bbox=[1, 2, 3e9, 4]), 'bbox'),
    (dict(bbox=dict(x=1, y=2, w=3, h=4)), 'bbox'),
    (dict(rbbox=[8, 8, 9, 9, 0.5]), 'rbbox'),
    (dict(polygon=[0, 0, 8, 0, 8, 8, 0, 8]), 'polygon'),
    (dict(score='high'), 'score'),
    (dict(score=float('inf')), 'score'),
    (dict(image_id='7'), 'image_id'),
    (dict(image_id=[7]), 'image_id'),
    (dict(category_id=None), 'category_id'),
    (dict(area='large'), 'area'),
    (dict(keypoints=[1, 2, 2]), 'keypoints'),
    (dict(segmentation='abc'), 'segmentation'),
    (dict(segmentation=dict(size=[48, 48])), 'segmentation'),
    (dict(segmentation=dict(size=[48], counts='0')), 'segmentation'),
    (dict(segmentation=dict(size=[48, 48], counts=[10**30])), 'segmentation'),
    (dict(segmentation=[[10**400, 1, 2, 3, 4, 5]]), 'segmentation'),
]


# Where pixels moved, a segmentation is left out, whatever it is.
@pytest.mark.parametrize(
    'cipher, change, match',
    [('negate', *case) for case in MALFORMED]
    + [('shuffle', *case) for case in MALFORMED if case[1] != 'segmentation'],
)
def test_malformed_results(ready, tmp_path, cipher, change, match):
    data = ready(cipher)
    rows = as_results(data)[:2]
    rows[1].update(change)
    # A box in another format is shown, so that it is known.
    value = [json.dumps(change['bbox'])] if 'bbox' in change else []
    with pytest.raises(
        BoxError,
        match=named(f'`{match}`', '`results[1]`', *value),
    ):
        run(rows, data, tmp_path, key=KEY)
    assert not (tmp_path / 'out.json').exists()


@pytest.mark.parametrize(
    'content, match',
    [
        ('{"images": []}', 'annotation file'),
        ('[3]', '`results[0]`'),
        ('[', 'JSON'),
        ('"text"', 'string'),
    ],
)
def test_files_that_hold_no_results(plain, tmp_path, content, match):
    data = encrypted(plain, tmp_path, 'mix2', key=None)
    path = tmp_path / 'results.json'
    path.write_text(content)
    with pytest.raises(BoxError, match=named(path, match)):
        map_coco_results(str(path), str(tmp_path / 'out.json'), str(data))


def test_no_results_at_all(plain, tmp_path):
    data = encrypted(plain, tmp_path)
    assert run([], data, tmp_path, key=KEY)[0] == []


def test_results_stay_as_they_are():
    """The caller's list is not written to."""
    cipher = Cipher('mix2')
    manifest = type(
        'Manifest',
        (),
        dict(
            cipher=cipher,
            overview=cipher.plan((16, 16)),
            key_id=None,
            root='.',
            recipe=Recipe.build(cipher),
            layout=lambda self, entry: cipher.plan((64, 64)),
        ),
    )()
    from hime_mm.datasets.entries import FileEntry

    entry = FileEntry('a.png', '', 0, (32, 32), 3, (64, 64), (0.5, 0.5))
    rows = [dict(image_id=1, category_id=1, bbox=[4, 4, 8, 8], score=1)]
    before = json.dumps(rows)
    new, _ = map_results(rows, manifest, {1: entry})
    assert new[0]['bbox'] == [8, 8, 16, 16] and json.dumps(rows) == before


# The command


def hime(*args, **kwargs):
    return CliRunner().invoke(main, [str(arg) for arg in args], **kwargs)


@pytest.fixture
def files(plain, tmp_path):
    data = encrypted(plain, tmp_path)
    results, key = tmp_path / 'results.json', tmp_path / 'key'
    results.write_text(json.dumps(as_results(data)))
    KEY.save(str(key))
    return results, tmp_path / 'out.json', data, key


def test_command(plain, files):
    results, out, data, key = files
    done = hime('boxes', results, out, '--data', data, '--key', key, '--nms', 1)
    assert done.exit_code == 0, done.output
    assert '8 boxes of 2 images' in done.output
    np.testing.assert_allclose(
        [row['bbox'] for row in json.loads(out.read_text())],
        [row['bbox'] for row in as_results(plain)],
        atol=1e-9,
    )
    again = hime('boxes', results, out, '--data', data, '--key', key)
    assert again.exit_code == 1
    assert again.output.startswith('hime: ')
    assert str(out) in again.output and '--force' in again.output
    again = hime('boxes', results, out, '--data', data, '--key', key, '--force')
    assert again.exit_code == 0 and 'IoU 0.5' in again.output


def test_command_and_keys(files, monkeypatch):
    results, out, data, key = files
    monkeypatch.delenv('HIME_KEY', raising=False)
    done = hime('boxes', results, out, '--data', data)
    assert done.exit_code == 2 and '--key-env' in done.output
    secret = key.read_text().strip()
    monkeypatch.setenv('HIME_KEY', secret[:-1] + ('0' if secret[-1] != '0' else '1'))
    done = hime('boxes', results, out, '--data', data)
    assert done.exit_code == 1 and KEY.id in done.output
    assert secret[12:60] not in done.output
    monkeypatch.setenv('HIME_KEY', secret)
    assert hime('boxes', results, out, '--data', data).exit_code == 0


def test_key_of_another_data_set_where_none_counts(plain, tmp_path, monkeypatch):
    data = encrypted(plain, tmp_path, 'negate')
    results = tmp_path / 'results.json'
    results.write_text(json.dumps(as_results(data)))
    monkeypatch.setenv('HIME_KEY', '00' * 32)
    done = hime('boxes', results, tmp_path / 'out.json', '--data', data)
    assert done.exit_code == 0, done.output


def test_places_to_write_to(files, tmp_path):
    results, out, data, key = files
    rest = ('--data', data, '--key', key, '--force')
    before = results.read_bytes()
    done = hime('boxes', results, results, *rest)
    assert done.exit_code == 1 and str(results) in done.output
    assert results.read_bytes() == before
    done = hime('boxes', results, data / 'mapped.json', *rest)
    assert done.exit_code == 1 and str(data / 'mapped.json') in done.output
    assert not (data / 'mapped.json').exists()
    assert hime('boxes', results, tmp_path, *rest).exit_code != 0
    assert hime('boxes', results, tmp_path / 'new/out.json', *rest).exit_code == 0
