# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What `hime eval` does: results of encrypted images against the annotations of the originals."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from evaluation_parts import (
    ANN,
    KEY,
    META_KEYS,
    NUMBERS,
    as_results,
    detect,
    encrypted,
    judged,
    make_scenes,
    read,
    slowly_back,
    slowly_suppressed,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms import Compose, LoadImageFromFile
from mmdet.datasets.transforms import PackDetInputs
from mmdet.evaluation import CocoMetric
from owner_data import ROOT, edit_json, hime_env, named, tree

from hime_mm.apis import evaluate_results
from hime_mm.ciphers import Key
from hime_mm.datasets.coco import load_coco
from hime_mm.datasets.manifest import Manifest
from hime_mm.errors import BoxError, CocoError, HimeError, InvalidKey, ManifestError
from hime_mm.evaluation.coco import score
from hime_mm.evaluation.metrics import SlotCocoMetric
from hime_mm.transforms import LoadEncryptedMeta

CIPHERS = ('shuffle', 'center+erode2+shuffle', 'mix2+shuffle', 'mix2', 'erode2', 'center')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('scenes'), 2)


@pytest.fixture(scope='module')
def folders(scenes, tmp_path_factory):
    """The encrypted folder of each cipher, read only."""
    root = tmp_path_factory.mktemp('folders')
    for cipher in CIPHERS:
        encrypted(scenes, root / cipher, cipher)
    return root


def run(rows, folder, scenes, tmp_path, **kwargs):
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(rows))
    kwargs.setdefault('key', KEY if 'shuffle' in folder.name else None)
    kwargs = dict(dict(ann_file=str(scenes / ANN), progress=False), **kwargs)
    return evaluate_results(str(path), str(folder), **kwargs)


def values(numbers):
    """As pycocotools gives them."""
    return [-1 if value is None else value for value in numbers.values()]


@pytest.mark.parametrize('cipher', CIPHERS)
def test_perfect_results(scenes, folders, cipher, tmp_path):
    coco = read(folders / cipher)
    scores = run(as_results(detect(coco), coco), folders / cipher, scenes, tmp_path, nms=1.0)
    assert list(scores.numbers) == NUMBERS.split()
    for name in ('AP', 'AP50', 'AP75', 'AR@100'):
        assert scores.numbers[name] == pytest.approx(1)
    assert list(scores.classes) == ['cat', 'cup', 'dog']
    assert all(value == pytest.approx(1) for value in scores.classes.values())
    assert (scores.images, scores.left_out) == (4, 0)


def back_slowly(found, folder):
    """Detections in pixels of the originals, cut and suppressed there, all by loops."""
    data, new = Manifest.load(folder), {}
    for image in read(folder)['images']:
        layout = data.secret_layout(data.entry(f'val/{image["file_name"]}'), KEY)
        boxes, scores, labels = found[image['id']]
        h, w = layout.ori_shape
        boxes = np.array([slowly_back(box, layout) for box in boxes]).reshape(-1, 4)
        boxes = boxes.clip(0, [w, h, w, h])
        keep = slowly_suppressed(boxes, scores, labels, 0.5) if layout.shuffled else slice(None)
        new[image['id']] = tuple(column[keep] for column in (boxes, scores, labels))
    return new


@given(seed=st.integers(0, 2**31))
@settings(max_examples=6, deadline=None)
@pytest.mark.parametrize('cipher', ['shuffle', 'erode2', 'mix2+shuffle'])
def test_equals_pycocotools_on_boxes_mapped_by_a_loop(
    scenes, folders, cipher, seed, tmp_path_factory
):
    folder = folders / cipher
    found = detect(read(folder), seed)
    rows = as_results(found, read(folder))
    scores = run(rows, folder, scenes, tmp_path_factory.mktemp('run'))
    expected = judged(read(scenes), back_slowly(found, folder))
    np.testing.assert_allclose(values(scores.numbers), expected, atol=1e-9)


@pytest.mark.parametrize('format_only', [True, False])
@pytest.mark.parametrize('metric', [CocoMetric, SlotCocoMetric])
def test_through_files_as_in_memory(scenes, folders, tmp_path, metric, format_only):
    """Shuffle, folder, predictions of a model, the host's results file, the key: the same AP."""
    folder = folders / 'shuffle'
    found = detect(read(folder), 7)
    steps = [LoadImageFromFile(), LoadEncryptedMeta(), PackDetInputs(meta_keys=META_KEYS)]
    pipeline = Compose(steps)
    prefix = str(tmp_path / 'engineer')
    host = metric(str(folder / ANN), format_only=format_only, outfile_prefix=prefix)
    host.dataset_meta = dict(classes=['cat', 'cup', 'dog'])
    for image in read(folder)['images']:
        boxes, confidence, labels = found[image['id']]
        path = str(folder / 'val' / image['file_name'])
        sample = pipeline(dict(img_path=path, img_id=image['id']))['data_samples']
        # Models predict in float32.
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        found[image['id']] = (boxes.double().numpy(), confidence, labels)
        pred = dict(bboxes=boxes, scores=torch.tensor(confidence), labels=torch.tensor(labels))
        host.process({}, [dict(sample.to_dict(), pred_instances=pred)])
    host.evaluate(4)
    scores = evaluate_results(
        str(tmp_path / 'engineer.bbox.json'),
        str(folder),
        str(scenes / ANN),
        key=KEY,
        progress=False,
    )
    in_memory = judged(read(scenes), back_slowly(found, folder))
    np.testing.assert_allclose(values(scores.numbers), in_memory, atol=1e-6)
    assert 0.1 < scores.numbers['AP'] < 0.9


def test_subsets(scenes, folders, tmp_path):
    folder, coco = folders / 'mix2', read(folders / 'mix2')
    found = detect(coco, 3)
    rows, truth = as_results(found, coco), read(scenes)
    back = back_slowly(found, folder)
    scores = run(rows, folder, scenes, tmp_path, classes=['dog', 'cat'])
    np.testing.assert_allclose(values(scores.numbers), judged(truth, back, [2, 30]), atol=1e-9)
    assert list(scores.classes) == ['cat', 'dog']
    for name, number in scores.classes.items():
        only = judged(truth, back, [dict(cat=2, dog=30)[name]])[0]
        assert number == pytest.approx(only, abs=1e-9)
    scores = run(rows, folder, scenes, tmp_path, max_dets=[1, 2, 100])
    assert list(scores.numbers)[6:9] == ['AR@1', 'AR@2', 'AR@100']
    np.testing.assert_allclose(
        values(scores.numbers), judged(truth, back, max_dets=[1, 2, 100]), atol=1e-9
    )
    scores = run(rows, folder, scenes, tmp_path, iou_thrs=[0.75, 0.5])
    whole = judged(truth, back)
    assert scores.numbers['AP50'] == pytest.approx(whole[1], abs=1e-9)
    assert scores.numbers['AP'] == pytest.approx((whole[1] + whole[2]) / 2, abs=1e-9)
    assert run(rows, folder, scenes, tmp_path, iou_thrs=[0.3]).numbers['AP50'] is None


def test_no_results(scenes, folders, tmp_path):
    scores = run([], folders / 'shuffle', scenes, tmp_path)
    assert scores.numbers['AP'] == 0 and scores.mapping.results == 0


def test_images_that_are_no_part_of_the_data_set(scenes, tmp_path):
    """They do not count, and it is said how many they are."""
    small = make_scenes(tmp_path / 'small', 2)
    edit_json(small / ANN, lambda coco: drop_image(coco, 13))
    folder = encrypted(small, tmp_path / 'shuffle')
    rows = as_results(detect(read(folder)), read(folder))
    scores = run(rows, folder, scenes, tmp_path, nms=1)
    assert (scores.images, scores.left_out) == (3, 1)
    assert scores.numbers['AP'] == pytest.approx(1)


def drop_image(coco, image_id):
    coco['images'] = [one for one in coco['images'] if one['id'] != image_id]
    coco['annotations'] = [one for one in coco['annotations'] if one['image_id'] != image_id]


def test_an_annotation_of_id_0_counts(scenes):
    """For pycocotools 0 is nothing; some tools count from there."""
    coco = read(scenes)
    for i, ann in enumerate(coco['annotations']):
        ann['id'] = i
    rows = as_results(detect(coco), coco)
    ids = [image['id'] for image in coco['images']]
    assert score(coco, rows, ids).numbers['AR@100'] == pytest.approx(1)


def test_files_that_say_less(scenes, folders, tmp_path):
    """Annotations without area or crowd flag, images without sizes."""

    def change(coco):
        for ann in coco['annotations']:
            ann.pop('area')
            if not ann['iscrowd']:
                ann['iscrowd'] = None
        for image in coco['images']:
            image['height'] = image.pop('width') and None

    ann_file = tmp_path / 'less.json'
    ann_file.write_text((scenes / ANN).read_text())
    edit_json(ann_file, change)
    rows = as_results(detect(read(folders / 'mix2'), 1), read(folders / 'mix2'))
    less = run(rows, folders / 'mix2', scenes, tmp_path, ann_file=str(ann_file))
    assert less.numbers == run(rows, folders / 'mix2', scenes, tmp_path).numbers


@pytest.mark.parametrize('file_name', ['0.jpg', 'val/0.png', 'val\\\\0.webp'])
def test_a_picture_is_known_by_its_own_name(scenes, folders, tmp_path, file_name):
    """Its folder and extension may be written in another way than in the source."""
    ann_file = tmp_path / 'others.json'
    ann_file.write_text((scenes / ANN).read_text())
    edit_json(ann_file, lambda coco: coco['images'][0].update(file_name=file_name))
    scores = run([], folders / 'shuffle', scenes, tmp_path, ann_file=str(ann_file))
    assert scores.images == 4


def test_names_that_are_ids(scenes, tmp_path):
    folder = encrypted(scenes, tmp_path / 'ids', names='ids')
    rows = as_results(detect(read(folder)), read(folder))
    scores = run(rows, folder, scenes, tmp_path, nms=1, key=KEY)
    assert scores.numbers['AP'] == pytest.approx(1)


def entry_without_id(coco):
    coco['categories'].append(dict(name='background'))


def entry_of_text(coco):
    coco['categories'].insert(0, dict(id='x', name='background'))


def entry_twice(coco):
    coco['categories'].append(dict(coco['categories'][1]))


def name_of_nothing_twice(coco):
    coco['categories'].append(dict(id=0, name='cat', supercategory='none'))


def area_of_text(coco):
    for ann in coco['annotations']:
        ann['area'] = 'large'


@pytest.mark.parametrize(
    'change',
    [entry_without_id, entry_of_text, entry_twice, name_of_nothing_twice, area_of_text],
)
def test_what_other_tools_write(scenes, folders, tmp_path, change):
    """`hime encrypt` takes such files; what nothing refers to does not count here either."""
    folder, ann_file = folders / 'shuffle', tmp_path / 'others.json'
    ann_file.write_text((scenes / ANN).read_text())
    edit_json(ann_file, change)
    rows = as_results(detect(read(folder), 1), read(folder))
    for classes in (None, ['cat', 'dog']):
        scores, others = (
            run(rows, folder, scenes, tmp_path, ann_file=str(path), classes=classes)
            for path in (scenes / ANN, ann_file)
        )
        assert others.numbers == pytest.approx(scores.numbers)
        assert others.classes == pytest.approx(scores.classes)


def test_two_classes_of_one_name_both_count(scenes, folders, tmp_path):
    folder, ann_file, truth = folders / 'mix2', tmp_path / 'twice.json', read(scenes)
    truth['categories'][1]['name'] = 'cat'
    ann_file.write_text(json.dumps(truth))
    found = detect(read(folder), 1)
    back = back_slowly(found, folder)
    rows = as_results(found, read(folder))
    scores = run(rows, folder, scenes, tmp_path, ann_file=str(ann_file))
    np.testing.assert_allclose(values(scores.numbers), judged(truth, back), atol=1e-9)
    assert scores.classes['cat'] == pytest.approx(judged(truth, back, [2, 7])[0], abs=1e-9)
    assert list(scores.classes) == ['cat', 'dog']
    scores = run(rows, folder, scenes, tmp_path, ann_file=str(ann_file), classes=['cat'])
    np.testing.assert_allclose(values(scores.numbers), judged(truth, back, [2, 7]), atol=1e-9)


def test_results_are_written_where_they_may(scenes, folders, tmp_path):
    folder = folders / 'shuffle'
    rows = as_results(detect(read(folder)), read(folder))
    out = tmp_path / 'mapped.json'
    run(rows, folder, scenes, tmp_path, nms=1, out=str(out))
    mapped = {one['score']: one['bbox'] for one in json.loads(out.read_text())}
    assert len(json.loads(out.read_text())) == len(rows) and mapped
    numbers = score(load_coco(str(scenes / ANN)), json.loads(out.read_text()), [10, 13, 16, 19])
    assert numbers.numbers['AP'] == pytest.approx(1)
    before = out.read_bytes()
    with pytest.raises(FileExistsError, match='force=True'):
        run(rows, folder, scenes, tmp_path, out=str(out))
    assert out.read_bytes() == before
    run(rows[:1], folder, scenes, tmp_path, out=str(out), force=True)
    assert len(json.loads(out.read_text())) == 1
    content, truth = tree(folder), (scenes / ANN).read_bytes()
    for wrong, force in (
        (folder / 'mapped.json', False),
        (folder, False),
        (scenes / ANN, True),
        (tmp_path / 'results.json', True),
    ):
        with pytest.raises(BoxError, match=named(wrong)):
            run(rows, folder, scenes, tmp_path, out=str(wrong), force=force)
    assert tree(folder) == content and (scenes / ANN).read_bytes() == truth


def changed(row, **values):
    return dict(row, **values)


WRONG_RESULTS = {
    'an image that nobody knows': (dict(image_id=99), 'image id 99'),
    'a class that nobody knows': (dict(category_id=4), '`category_id` 4'),
    'a box of corners': (dict(bbox=[9, 9, -3, 2]), 'x, y, width, height'),
    'a rotated box': (dict(bbox=[9, 9, 3, 2, 0.5]), 'x, y, width, height'),
    'no number': (dict(bbox=[9, 9, 3, float('nan')]), 'x, y, width, height'),
    'a rotated box of its own': (dict(rbbox=[1, 2, 3, 4, 5]), 'rbbox'),
}


@pytest.mark.parametrize('case', WRONG_RESULTS)
def test_wrong_results(scenes, folders, tmp_path, case):
    folder, (change, word) = folders / 'shuffle', WRONG_RESULTS[case]
    rows = as_results(detect(read(folder)), read(folder))
    rows[-1].update(change)
    out = tmp_path / 'out.json'
    with pytest.raises(BoxError, match=named('results.json', word)):
        run(rows, folder, scenes, tmp_path, out=str(out))
    assert not out.exists()


def other_sizes(coco):
    for image in coco['images']:
        image['width'] += 1


def other_ids(coco):
    for one in coco['images']:
        one['id'] += 1000
    for one in coco['annotations']:
        one['image_id'] += 1000


def other_names(coco):
    """As another split has them: the same ids and sizes."""
    for one in coco['images']:
        one['file_name'] = 'other_' + one['file_name']


def names_in_turn(coco):
    images = coco['images'][:2]
    images[0]['file_name'], images[1]['file_name'] = (one['file_name'] for one in images[::-1])
    for one in images:
        del one['width']


def one_image_less(coco):
    drop_image(coco, coco['images'][0]['id'])


def other_classes(coco):
    for one in coco['categories']:
        one['id'] += 100
    for one in coco['annotations']:
        one['category_id'] += 100


@pytest.mark.parametrize(
    'change, kind, word',
    [
        (other_sizes, CocoError, '70x102'),
        (other_ids, CocoError, 'no image'),
        (other_names, CocoError, 'other_0.png'),
        (names_in_turn, CocoError, '1.png'),
        (one_image_less, BoxError, '`image_id` 10'),
        (other_classes, BoxError, '`category_id`'),
        (lambda coco: coco.pop('images'), CocoError, 'images'),
    ],
)
@pytest.mark.parametrize('cipher', ['shuffle', 'mix2'])
def test_wrong_original_files(scenes, folders, tmp_path, cipher, change, kind, word):
    folder, wrong = folders / cipher, tmp_path / 'wrong.json'
    wrong.write_text((scenes / ANN).read_text())
    edit_json(wrong, change)
    rows = as_results(detect(read(folder)), read(folder))
    out = tmp_path / 'out.json'
    with pytest.raises(kind, match=named(wrong, word)):
        run(rows, folder, scenes, tmp_path, ann_file=str(wrong), out=str(out))
    assert not out.exists()


@pytest.mark.parametrize('cipher', ['shuffle', 'mix2', 'center'])
def test_the_file_that_was_handed_over_is_refused(scenes, folders, tmp_path, cipher):
    """Where it lies, and as a copy; for RS it is of the same sizes."""
    folder, copy = folders / cipher, tmp_path / 'copy.json'
    copy.write_bytes((folder / ANN).read_bytes())
    rows = as_results(detect(read(folder)), read(folder))
    for path in (folder / ANN, copy):
        with pytest.raises(CocoError, match=named(path, 'originals')):
            run(rows, folder, scenes, tmp_path, ann_file=str(path))


def test_wrong_keys_and_folders(scenes, folders, tmp_path):
    folder = folders / 'shuffle'
    rows = as_results(detect(read(folder)), read(folder))
    with pytest.raises(BoxError, match='needs the key'):
        run(rows, folder, scenes, tmp_path, key=None)
    with pytest.raises(InvalidKey, match='wrong key'):
        run(rows, folder, scenes, tmp_path, key=Key(bytes(32)))
    with pytest.raises(ManifestError):
        run(rows, scenes, scenes, tmp_path)


@pytest.mark.parametrize(
    'options, word',
    [
        (dict(max_dets=[]), 'max_dets'),
        (dict(max_dets=[10, 1]), 'max_dets'),
        (dict(max_dets=[0, 1]), 'max_dets'),
        (dict(max_dets=[1.5]), 'max_dets'),
        (dict(iou_thrs=[]), 'iou_thrs'),
        (dict(iou_thrs=[0]), 'iou_thrs'),
        (dict(iou_thrs=[50]), 'iou_thrs'),
        (dict(nms=2), '0 to 1'),
        (dict(classes=['cat', 'cow']), "'cow'.*cat, cup, dog"),
        (dict(classes=[]), 'classes'),
    ],
)
def test_options_that_make_no_sense(scenes, folders, tmp_path, options, word):
    with pytest.raises(HimeError, match=word):
        run([], folders / 'mix2', scenes, tmp_path, **options)


def test_without_pycocotools(tmp_path):
    """It is asked for when it is needed, and not before."""
    code = (
        "import sys; sys.modules['pycocotools'] = None\n"
        'import hime_mm.cli.evaluation\n'
        'from hime_mm.apis import evaluate_results\n'
        'try:\n'
        "    evaluate_results('a', 'b', 'c')\n"
        'except ValueError as error:\n'
        '    print(error)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, env=hime_env()
    )
    assert 'pip install "hime_mm[eval]"' in done.stdout, done.stderr
