# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Scenes with known objects, perfect and worse detectors, and boxes mapped by loops."""

import contextlib
import io
import json

import numpy as np
import torch
from mmcv.transforms import Compose, LoadImageFromFile
from mmdet.datasets.transforms import PackDetInputs, Resize
from owner_data import SECRET, key_file, photo, write
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hime_mm.apis import encrypt_coco
from hime_mm.ciphers import Key
from hime_mm.transforms import Encrypt

KEY = Key(SECRET)
ANN = 'annotations/instances_val.json'
SIZES = ((70, 101), (96, 128), (99, 67), (64, 160))
NAMES = ('cat', 'cup', 'dog')
META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'patch_layout')
NUMBERS = 'AP AP50 AP75 AP_small AP_medium AP_large AR@1 AR@10 AR@100 AR_small AR_medium AR_large'


def make_scenes(folder, seed=0, sizes=SIZES, count=6):
    """Pictures with objects of three classes, whose ids are not in a row, and some crowds."""
    rng = np.random.default_rng(seed)
    images, anns = [], []
    for number, (h, w) in enumerate(sizes):
        name = f'{number}.png'
        write(folder / 'val' / name, photo(h, w, number))
        images.append(dict(id=10 + 3 * number, file_name=name, height=h, width=w))
        for _ in range(count):
            low, high = np.sort(rng.uniform(0, 1, (2, 2)), axis=0) * [w, h]
            size = np.maximum(high - low, 4)
            low = np.minimum(low, [w, h] - size)
            anns.append(
                dict(
                    id=len(anns) + 1,
                    image_id=images[-1]['id'],
                    category_id=int(rng.choice([2, 7, 30])),
                    bbox=[*low.tolist(), *size.tolist()],
                    area=float(size.prod()),
                    iscrowd=int(rng.random() < 0.1),
                )
            )
    categories = [dict(id=i, name=name) for i, name in zip((2, 7, 30), NAMES, strict=True)]
    coco = dict(images=images, annotations=anns, categories=categories)
    (folder / 'annotations').mkdir(parents=True, exist_ok=True)
    (folder / ANN).write_text(json.dumps(coco))
    return folder


def encrypted(source, out, cipher='shuffle', **kwargs):
    kwargs.setdefault('key', KEY)
    encrypt_coco(str(source), str(out), cipher, progress=False, dataset_id='d', **kwargs)
    return out


def owner_key(folder):
    return key_file(folder / 'owner.key')


def read(root):
    return json.loads((root / ANN).read_text())


def corners(boxes):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def detect(coco, seed=None):
    """``{image id: (boxes, scores, labels)}`` of a perfect detector, or with a seed of a worse one.

    A worse one is off by some pixels, misses objects, and takes some for others.
    """
    ids = [one['id'] for one in coco['categories']]
    rng, found = np.random.default_rng(seed), {}
    for image in coco['images']:
        anns = [ann for ann in coco['annotations'] if ann['image_id'] == image['id']]
        if seed is None:
            anns = [ann for ann in anns if not ann['iscrowd']]
        boxes = corners([ann['bbox'] for ann in anns])
        labels = np.array([ids.index(ann['category_id']) for ann in anns], np.int64)
        scores = rng.permutation(len(boxes)) / 100 + 0.5
        if seed is not None:
            keep = rng.random(len(boxes)) < 0.8
            # The centre stays, and with it the patch.
            grown = np.maximum(rng.normal(0, 2, (len(boxes), 2)), (boxes[:, :2] - boxes[:, 2:]) / 3)
            boxes = boxes + np.concatenate([-grown, grown], axis=1)
            wrong = rng.random(len(boxes)) < 0.2
            labels = np.where(wrong, (labels + 1) % len(ids), labels)
            boxes, labels, scores = boxes[keep], labels[keep], scores[keep]
        found[image['id']] = (boxes, scores, labels)
    return found


def as_results(found, coco):
    """Detections as a COCO results file has them."""
    ids = [one['id'] for one in coco['categories']]
    return [
        dict(
            image_id=image_id,
            category_id=ids[label],
            bbox=[*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            score=float(score),
        )
        for image_id, columns in found.items()
        for box, score, label in zip(*columns, strict=True)
    ]


def judged(coco, found, class_ids=None, max_dets=None):
    """COCO's twelve numbers by pycocotools as everybody runs it, of boxes of the originals."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(coco))
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(as_results(found, coco)), 'bbox')
        if class_ids is not None:
            judge.params.catIds = class_ids
        if max_dets is not None:
            judge.params.maxDets = max_dets
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


def slowly_back(box, layout):
    """One encrypted box in pixels of what was encrypted, by going through all slots."""
    size, (rows, cols) = layout.patch_size, layout.grid
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    for row in range(rows):
        for col in range(cols):
            if row * size <= y < (row + 1) * size and col * size <= x < (col + 1) * size:
                patch = row * cols + col
                if layout.permutation is not None:
                    patch = int(layout.permutation[row * cols + col])
                dx, dy = (patch % cols - col) * size, (patch // cols - row) * size
                moved = box + np.array([dx, dy, dx, dy])
                return moved / np.array([*layout.scale, *layout.scale])
    raise AssertionError('in no slot')


def overlap(one, other):
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = sides.clip(0).prod()
    return shared / max((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - shared, 1e-9)


def slowly_suppressed(boxes, scores, labels, iou):
    """Indices that stay, by comparing each with each."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(labels[i] != labels[j] or overlap(boxes[i], boxes[j]) <= iou for j in kept):
            kept.append(i)
    return sorted(kept)


def simulate(source, cipher, *before, **options):
    """Samples of the scenes as a pipeline of evaluation packs them."""
    options.setdefault('keep_permutation', True)
    steps = [LoadImageFromFile(), *before, Encrypt(cipher, **options)]
    pipeline = Compose([*steps, PackDetInputs(meta_keys=META_KEYS)])
    coco = read(source)
    return [
        pipeline(dict(img_path=str(source / 'val' / one['file_name']), img_id=one['id']))[
            'data_samples'
        ]
        for one in coco['images']
    ]


def travelled(sample, boxes):
    """Boxes of the original in the encrypted image of a sample, as its head would predict them."""
    layout, factor = sample.patch_layout, np.tile(sample.scale_factor, 2)
    return layout.map_boxes(boxes * factor / np.tile(layout.scale, 2))


def with_predictions(sample, boxes, scores, labels, dtype=torch.float32):
    """What reaches a metric: the host has divided the boxes by ``scale_factor``."""
    boxes = torch.tensor(boxes / np.tile(sample.scale_factor, 2)).to(dtype).reshape(-1, 4)
    pred = dict(bboxes=boxes, scores=torch.tensor(scores), labels=torch.tensor(labels))
    return dict(sample.to_dict(), pred_instances=pred)


def evaluate(metric, samples, names=NAMES):
    metric.dataset_meta = dict(classes=list(names))
    for sample in samples:
        metric.process({}, [sample])
    return metric.evaluate(len(samples))


RESIZE = Resize(scale=(150, 150), keep_ratio=True)
