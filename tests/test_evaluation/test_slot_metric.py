# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""CocoMetric within the slots of encrypted images, without a key."""

import json
import logging
import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from evaluation_parts import (
    ANN,
    META_KEYS,
    detect,
    encrypted,
    evaluate,
    judged,
    make_scenes,
    owner_key,
    read,
    simulate,
    slowly_suppressed,
    with_predictions,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms import Compose, LoadImageFromFile
from mmdet.datasets.transforms import PackDetInputs
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger
from owner_data import named

from hime_mm.errors import BoxError, ConfigError
from hime_mm.evaluation.metrics import OriginalCocoMetric, SlotCocoMetric
from hime_mm.registry import METRICS
from hime_mm.transforms import LoadEncryptedMeta

CIPHERS = ('shuffle', 'erode2+shuffle', 'mix2+shuffle', 'mix2')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('scenes'), 1)


@pytest.fixture(scope='module')
def folders(scenes, tmp_path_factory):
    """The encrypted folder of each cipher, read only."""
    root = tmp_path_factory.mktemp('folders')
    owner_key(root)
    for cipher in CIPHERS:
        encrypted(scenes, root / cipher, cipher)
    return root


def loaded(folder, found):
    steps = [LoadImageFromFile(), LoadEncryptedMeta(), PackDetInputs(meta_keys=META_KEYS)]
    pipeline, samples = Compose(steps), []
    for one in read(folder)['images']:
        path = str(folder / 'val' / one['file_name'])
        sample = pipeline(dict(img_path=path, img_id=one['id']))['data_samples']
        samples.append(with_predictions(sample, *found[one['id']]))
    return samples


def test_resolves():
    assert METRICS.get('hime_mm.SlotCocoMetric') is SlotCocoMetric


@pytest.mark.parametrize('cipher', CIPHERS)
def test_perfect_predictions(folders, cipher):
    """The same number each time: annotations are moved once."""
    metric = SlotCocoMetric(str(folders / cipher / ANN), nms=1)
    for _ in range(2):
        samples = loaded(folders / cipher, detect(read(folders / cipher)))
        assert evaluate(metric, samples)['coco/bbox_mAP'] == 1


def slot(box, layout):
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return int(y // layout.patch_size) * layout.grid[1] + int(x // layout.patch_size)


@given(seed=st.integers(0, 2**31), iou=st.sampled_from([None, 0.3, 1]))
@settings(max_examples=6, deadline=None)
@pytest.mark.parametrize('cipher', ['shuffle', 'mix2+shuffle'])
def test_equals_slots_as_images(folders, cipher, seed, iou):
    """Each slot as an image of its own: what is matched is the same, and so are the numbers."""
    coco = read(folders / cipher)
    found = detect(coco, seed)
    rng = np.random.default_rng(seed)
    for image_id, (boxes, scores, labels) in found.items():
        # Some are elsewhere, by less than a patch or by more.
        lost = rng.random(len(boxes)) < 0.3
        boxes = boxes + np.tile(rng.normal(0, 12, (len(boxes), 2)), 2) * lost[:, None]
        found[image_id] = (boxes, scores, labels)
    samples = loaded(folders / cipher, found)
    images, anns, split = [], [], {}
    for sample in samples:
        image_id, layout = sample['img_id'], sample['patch_layout']
        h, w = layout.shape
        boxes, scores, labels = found[image_id]
        inside = [0 < x < w and 0 < y < h for x, y in (boxes[:, :2] + boxes[:, 2:]) / 2]
        boxes, scores, labels = boxes[inside], scores[inside], labels[inside]
        found[image_id] = (boxes, scores, labels)
        slots = np.array([slot(box, layout) for box in boxes], int)
        for number in range(layout.num_patches):
            new = image_id * 10**5 + number
            images.append(dict(id=new, height=h, width=w, file_name='none'))
            part = [column[slots == number] for column in (boxes, scores, labels)]
            keep = (
                slowly_suppressed(*part, 0.5 if iou is None else iou) if iou != 1 else slice(None)
            )
            split[new] = tuple(column[keep] for column in part)
        for ann in coco['annotations']:
            if ann['image_id'] == image_id:
                x, y, width, height = ann['bbox']
                number = slot([x, y, x + width, y + height], layout)
                anns.append(dict(ann, image_id=image_id * 10**5 + number))
    # Fewer detections per image than COCO looks at.
    stats = judged(dict(coco, images=images, annotations=anns), split)
    metric = SlotCocoMetric(str(folders / cipher / ANN), nms=iou)
    result = evaluate(metric, loaded(folders / cipher, found))
    got = [result[f'coco/bbox_{name}'] for name in ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m')]
    np.testing.assert_allclose(got, stats[:5], atol=5.1e-4)


def test_a_neighbour_does_not_count(folders):
    """Beside an object, one pixel on the wrong side of a border: the host takes it, we do not."""
    folder = folders / 'shuffle'
    coco = read(folder)
    annotation = dict(coco['annotations'][0], iscrowd=0, bbox=[20.0, 20.0, 23.0, 20.0])
    path = folders / 'one.json'
    path.write_text(json.dumps(dict(coco, annotations=[annotation])))
    found = {one['id']: (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)) for one in images(folder)}
    box = np.array([[22.0, 20, 45, 40]])  # its centre is at 33.5, the object's at 31.5
    label = [one['id'] for one in coco['categories']].index(annotation['category_id'])
    found[annotation['image_id']] = (box, np.ones(1), np.array([label]))
    host, ours = (
        evaluate(kind(str(path)), loaded(folder, found)) for kind in (CocoMetric, SlotCocoMetric)
    )
    assert host['coco/bbox_mAP_50'] == 1 and ours['coco/bbox_mAP_50'] == 0


def test_boxes_of_two_slots_suppress_nothing(folders):
    """Side by side they have nothing to do with each other; within a slot one stays."""
    folder = folders / 'shuffle'
    found = {one['id']: (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)) for one in images(folder)}
    boxes = np.array([[17.0, 20, 46, 40], [18, 20, 47, 40], [12, 20, 47, 40]])
    found[images(folder)[0]['id']] = (boxes, np.array([0.9, 0.8, 0.7]), np.zeros(3, int))
    metric = SlotCocoMetric(str(folder / ANN), nms=0.5)
    metric.process({}, loaded(folder, found))
    # Their centres are at 31.5, 32.5 and 29.5.
    gt, result = metric.results[0]
    placed = metric._in_slots(result, gt['layout'])
    np.testing.assert_array_equal(placed['scores'], [0.9, 0.8])


def images(folder):
    return read(folder)['images']


@pytest.mark.parametrize('side', [200, 300, 500, 1e3, 1e6, 1e9])
def test_a_huge_box_matches_nothing_of_other_slots(folders, side):
    folder = folders / 'shuffle'
    coco, found = read(folder), {}
    for sample in loaded(folder, detect(coco)):
        layout, image_id = sample['patch_layout'], sample['img_id']
        anns = [ann['bbox'] for ann in coco['annotations'] if ann['image_id'] == image_id]
        taken = {slot([x, y, x + w, y + h], layout) for x, y, w, h in anns}
        free = np.array([k for k in range(layout.num_patches) if k not in taken])
        cols = layout.grid[1]
        centres = np.stack([free % cols, free // cols], axis=1) * layout.patch_size + 8.0
        boxes = np.concatenate([centres - side / 2, centres + side / 2], axis=1)
        labels = np.repeat(np.arange(3), len(boxes))
        found[image_id] = (np.tile(boxes, (3, 1)), np.ones(len(labels)), labels)
    few = dict(iou_thrs=np.array([0.01]), metric_items=['AR@1000'])
    host, ours = (
        evaluate(kind(str(folder / ANN), **few), loaded(folder, found))
        for kind in (CocoMetric, partial(SlotCocoMetric, nms=1))
    )
    assert ours['coco/bbox_AR@1000'] == 0
    assert side > 300 or host['coco/bbox_AR@1000'] > 0.2


def test_it_is_the_host_where_patches_stay(folders):
    folder = folders / 'mix2'
    samples = loaded(folder, detect(read(folder), 4))
    pair = [kind(str(folder / ANN), classwise=True) for kind in (SlotCocoMetric, CocoMetric)]
    ours, host = (evaluate(metric, samples) for metric in pair)
    assert ours == host and ours['coco/bbox_mAP'] > 0


def test_it_says_what_it_cannot_see(folders):
    folder = folders / 'shuffle'
    samples = loaded(folder, detect(read(folder)))
    lines = []
    logger = MMLogger.get_current_instance()
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    try:
        evaluate(SlotCocoMetric(str(folder / ANN)), samples)
    finally:
        logger.removeHandler(handler)
    (line,) = [line for line in lines if 'SlotCocoMetric' in line]
    assert 'without the key' in line and 'areas' in line


def test_only_public_facts_are_gathered(folders):
    metric = SlotCocoMetric(str(folders / 'shuffle' / ANN))
    metric.process({}, loaded(folders / 'shuffle', detect(read(folders / 'shuffle'))))
    gathered = pickle.loads(pickle.dumps(metric.results))
    assert len(gathered) == 4
    assert all(gt['layout'].permutation is None and gt['layout'].shuffled for gt, _ in gathered)


def test_wrong_input(scenes, folders, tmp_path):
    folder = folders / 'shuffle'
    with pytest.raises(ConfigError, match='ann_file'):
        SlotCocoMetric()
    with pytest.raises(BoxError, match='0 to 1'):
        SlotCocoMetric(str(folder / ANN), nms=2)
    samples = loaded(folder, detect(read(folder)))
    metric = SlotCocoMetric(str(scenes / ANN))
    with pytest.raises(BoxError, match=named(samples[0]['img_path'], 'handed over', '70x101')):
        metric.process({}, samples)
    assert metric.results == []
    (sample, *_) = simulate(scenes, 'shuffle')
    sample = with_predictions(sample, np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    with pytest.raises(BoxError, match=named(sample['img_path'], 'OriginalCocoMetric')):
        SlotCocoMetric(str(folder / ANN)).process({}, [sample])
    coco = read(folder)
    for image in coco['images']:
        image['file_name'] = f'train_{image["file_name"]}'
    other = tmp_path / 'other.json'
    other.write_text(json.dumps(coco))
    with pytest.raises(BoxError, match=named(samples[0]['img_path'], 'handed over', 'train_0.png')):
        SlotCocoMetric(str(other)).process({}, samples)
    coco['images'] = []
    other.write_text(json.dumps(dict(coco, annotations=[])))
    with pytest.raises(BoxError, match=named(samples[0]['img_path'], 'image 10 is not there')):
        SlotCocoMetric(str(other)).process({}, samples)
    samples[0]['patch_layout'] = replace(samples[0]['patch_layout'], reshuffled=True)
    with pytest.raises(BoxError, match='PatchReshuffle'):
        SlotCocoMetric(str(folder / ANN)).process({}, samples)


@pytest.mark.parametrize('cipher', ['shuffle', 'mix2'])
@pytest.mark.parametrize('box', [[-9, 5, 1, 9], [5, 900, 9, 910], [0, 0, np.inf, 9], [np.nan] * 4])
def test_boxes_in_no_slot(folders, cipher, box):
    """They are refused as the owner will refuse them, where patches moved."""
    folder = folders / cipher
    found = dict.fromkeys(
        [image['id'] for image in read(folder)['images']],
        (np.array([[4, 4, 9, 9], box], float), np.ones(2), np.zeros(2, int)),
    )
    samples, metric = loaded(folder, found), SlotCocoMetric(str(folder / ANN))
    if cipher == 'mix2':
        metric.process({}, samples)
        assert len(metric.results) == len(samples)
        return
    with pytest.raises(BoxError, match=named(samples[0]['img_path'], 'box 1 is in no slot')):
        metric.process({}, samples)
    assert metric.results == []


def test_the_owner_sees_at_least_what_the_engineer_sees(scenes, folders):
    """Of predictions that are where they belong."""
    folder = folders / 'shuffle'
    for seed in range(3):
        samples = loaded(folder, detect(read(folder), seed))
        engineer = evaluate(SlotCocoMetric(str(folder / ANN), nms=1), samples)
        key = str(folders / 'owner.key')
        owner = evaluate(OriginalCocoMetric(str(scenes / ANN), nms=1, key=key), samples)
        assert owner['coco/bbox_mAP_50'] >= engineer['coco/bbox_mAP_50'] - 0.02
