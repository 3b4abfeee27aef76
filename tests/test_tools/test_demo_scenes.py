# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from scripts import load_script

demo_scenes = load_script('tools/demo_scenes.py')
CLASSES, make_demo_coco = demo_scenes.CLASSES, demo_scenes.make_demo_coco


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return make_demo_coco(tmp_path_factory.mktemp('demo') / 'data', 12, 5, size=128)


def read(folder, split):
    return COCO(str(folder / f'annotations/instances_{split}.json'))


def test_is_valid_coco(folder):
    for split, num in (('train', 12), ('val', 5)):
        coco = read(folder, split)
        assert len(coco.imgs) == num
        assert [c['name'] for c in coco.loadCats([1, 2, 3, 4, 5])] == list(CLASSES)
        for info in coco.imgs.values():
            image = cv2.imread(str(folder / split / info['file_name']))
            assert image.shape == (128, 128, 3)
        for ann in coco.anns.values():
            x, y, w, h = ann['bbox']
            assert x >= 0 and y >= 0 and x + w <= 128 and y + h <= 128
            mask = coco.annToMask(ann)
            ys, xs = np.nonzero(mask)
            np.testing.assert_allclose(
                [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], [x, y, x + w, y + h], atol=2
            )
            assert mask.sum() == pytest.approx(ann['area'], rel=0.1)


def test_objects_do_not_claim_what_others_hide():
    rng = np.random.default_rng(0)
    # A white disc on black, so that every image has overlaps to settle.
    disc = [(np.full((40, 40, 3), 255, np.uint8), 2)]
    cutouts = dict.fromkeys(CLASSES, disc)
    black = [np.zeros((200, 200, 3), np.uint8)]
    shared = total = 0
    for _ in range(40):
        _, objects = demo_scenes.make_scene(cutouts, black, 96, rng)
        cover = np.zeros((192, 192), int)
        for item in objects:
            polygon = np.array(item['segmentation'][0]).reshape(-1, 2)
            mask = np.zeros_like(cover, np.uint8)
            cv2.fillPoly(mask, [np.int32(polygon * 2)], 1)
            cover += mask
        shared += (cover > 1).sum()
        total += (cover > 0).sum()
    # Outlines are drawn on both sides of a border, areas are not.
    assert shared < 0.0005 * total


def test_boxes_show_their_objects(folder):
    """The paint inside differs from the same scene without objects."""
    coco = read(folder, 'train')
    counts = [len(coco.getAnnIds(i)) for i in coco.imgs]
    assert min(counts) >= 1 and max(counts) <= 4
    assert len({a['category_id'] for a in coco.anns.values()}) == 5
    cups = [a for a in coco.anns.values() if a['category_id'] == 3]
    for ann in cups:
        name = coco.imgs[ann['image_id']]['file_name']
        image = cv2.imread(str(folder / 'train' / name)).astype(float)
        mask = coco.annToMask(ann).astype(bool)
        blue, _, red = image[mask].mean(0)
        assert red > blue + 30  # A red cup on a red saucer.


def test_the_same_recipe_gives_the_same_bytes(folder, tmp_path):
    again = make_demo_coco(tmp_path / 'again', 12, 5, size=128)
    for path in sorted(folder.rglob('*')):
        if path.is_file():
            twin = again / path.relative_to(folder)
            assert twin.read_bytes() == path.read_bytes()
    # Fewer images are the first of many.
    part = make_demo_coco(tmp_path / 'part', 2, 1, size=128)
    assert (part / 'train/000001.png').read_bytes() == (folder / 'train/000001.png').read_bytes()
    other = make_demo_coco(tmp_path / 'other', 2, 1, size=128, seed=1)
    assert (other / 'train/000001.png').read_bytes() != (folder / 'train/000001.png').read_bytes()


def test_train_and_val_differ(folder):
    assert (folder / 'train/000000.png').read_bytes() != (folder / 'val/000000.png').read_bytes()


def test_is_kept_or_refused(folder, tmp_path, monkeypatch):
    def fail(*args):
        raise AssertionError('made again')

    monkeypatch.setattr(demo_scenes, '_write_split', fail)
    assert make_demo_coco(folder, 12, 5, size=128) == folder
    with pytest.raises(FileExistsError, match=f'{folder} '):
        make_demo_coco(folder, 13, 5, size=128)
    (tmp_path / 'mine').mkdir()
    with pytest.raises(FileExistsError):
        make_demo_coco(tmp_path / 'mine', 2, 1)


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    real = demo_scenes.make_scene
    calls = []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(demo_scenes, 'make_scene', interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_demo_coco(tmp_path / 'data', 4, 1, size=64)
    assert list(tmp_path.iterdir()) == []


def test_recipe_is_written(folder):
    assert json.loads((folder / 'recipe.json').read_text())['size'] == 128
