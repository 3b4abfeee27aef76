# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""CocoMetric in coordinates of the originals."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_parts import (
    ANN,
    META_KEYS,
    NAMES,
    RESIZE,
    detect,
    encrypted,
    evaluate,
    judged,
    make_scenes,
    owner_key,
    read,
    simulate,
    slowly_back,
    slowly_suppressed,
    travelled,
    with_predictions,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms import Compose, LoadImageFromFile
from mmdet.datasets.transforms import PackDetInputs
from mmdet.evaluation import CocoMetric, DumpDetResults
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from owner_data import SECRET, forms_of_key, forms_of_permutation, key_file, named
from owner_data import found as found_in

from hime_mm.ciphers import Cipher, Key
from hime_mm.datasets.manifest import Manifest
from hime_mm.errors import BoxError, ConfigError, InvalidKey, ManifestError
from hime_mm.evaluation.metrics import OriginalCocoMetric
from hime_mm.registry import METRICS
from hime_mm.transforms import LoadEncryptedMeta

#: Patches move in the first ones only.
CIPHERS = ('shuffle', 'center+erode2+shuffle', 'mix2+shuffle', 'mix2', 'erode2', 'center')
HOST = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('scenes'))


@pytest.fixture(scope='module')
def folders(scenes, tmp_path_factory):
    """The encrypted folder of each cipher, read only."""
    root = tmp_path_factory.mktemp('folders')
    owner_key(root)
    for cipher in (*CIPHERS, 'shuffle:pad'):
        name, _, fit = cipher.partition(':')
        encrypted(scenes, root / cipher, name, preprocess=dict(fit=fit or 'resize'))
    return root


def simulated(scenes, cipher, found, *before, **options):
    samples = simulate(scenes, cipher, *before, **options)
    return [
        with_predictions(
            sample, travelled(sample, found[sample.img_id][0]), *found[sample.img_id][1:]
        )
        for sample in samples
    ]


def loaded(folder, **options):
    """Samples of an encrypted folder."""
    pipeline = Compose(
        [LoadImageFromFile(), LoadEncryptedMeta(**options), PackDetInputs(meta_keys=META_KEYS)]
    )
    return [
        pipeline(dict(img_path=str(folder / 'val' / one['file_name']), img_id=one['id']))[
            'data_samples'
        ]
        for one in read(folder)['images']
    ]


def of_folder(folder, seed=None, **options):
    """Predictions for an encrypted folder, in pixels of its files or as the host rescales them."""
    # Boxes of a worse detector do not leave their patches either.
    found = detect(read(folder), seed)
    return [with_predictions(sample, *found[sample.img_id]) for sample in loaded(folder, **options)]


def test_resolves():
    assert METRICS.get('hime_mm.OriginalCocoMetric') is OriginalCocoMetric


#: With `center` padding would show the means.
FITS = [(cipher, 'resize') for cipher in CIPHERS]
FITS += [(cipher, 'pad') for cipher in ('shuffle', 'erode2+shuffle', 'mix2+shuffle', 'mix2')]


@pytest.mark.parametrize('cipher, fit', FITS)
@pytest.mark.parametrize('before', [(), (RESIZE,)], ids=['as they are', 'resized'])
def test_perfect_predictions_come_back(scenes, cipher, fit, before):
    samples = simulated(scenes, cipher, detect(read(scenes)), *before, fit=fit)
    metric = OriginalCocoMetric(str(scenes / ANN), nms=1)
    assert evaluate(metric, samples)['coco/bbox_mAP'] == 1
    if 'shuffle' in cipher:
        assert evaluate(CocoMetric(str(scenes / ANN)), samples)['coco/bbox_mAP'] < 0.7


def test_without_an_annotation_file(scenes):
    """Instances come along in pixels of the original."""
    coco, samples = read(scenes), simulated(scenes, 'shuffle', detect(read(scenes)), RESIZE)
    ids = [one['id'] for one in coco['categories']]
    for sample in samples:
        sample['instances'] = [
            dict(
                bbox=[x, y, x + w, y + h],
                bbox_label=ids.index(ann['category_id']),
                ignore_flag=ann['iscrowd'],
            )
            for ann in coco['annotations']
            if ann['image_id'] == sample['img_id']
            for x, y, w, h in [ann['bbox']]
        ]
    assert evaluate(OriginalCocoMetric(nms=1), samples)['coco/bbox_mAP'] == 1


@given(seed=st.integers(0, 2**31), iou=st.sampled_from([None, 0.2, 0.5, 1]))
@settings(max_examples=8, deadline=None)
@pytest.mark.parametrize('cipher', ['shuffle', 'erode2+shuffle', 'mix2'])
def test_equals_pycocotools_on_boxes_mapped_by_a_loop(scenes, cipher, seed, iou):
    coco = read(scenes)
    found = detect(coco, seed)
    samples, expected, seen = simulated(scenes, cipher, found, RESIZE), {}, []
    for sample in samples:
        image_id, layout = sample['img_id'], sample['patch_layout']
        resized = np.tile(np.divide(sample['scale_factor'], layout.scale), 2)
        at = travelled_of(sample)
        back = np.array([slowly_back(box, layout) / resized for box in at]).reshape(-1, 4)
        h, w = sample['ori_shape']
        if layout.shuffled:
            back = np.clip(back, 0, [w, h, w, h])
        _, scores, labels = found[image_id]
        limit = (0.5 if layout.shuffled else 1) if iou is None else iou
        keep = slowly_suppressed(back, scores, labels, limit) if limit < 1 else range(len(back))
        expected[image_id] = (back[list(keep)], scores[list(keep)], labels[list(keep)])
        seen += list(keep)
    metric = OriginalCocoMetric(str(scenes / ANN), nms=iou)
    result = evaluate(metric, samples)
    stats = judged(coco, expected)
    got = [result[f'coco/bbox_{name}'] for name in HOST]
    np.testing.assert_allclose(got, stats[:6], atol=5.1e-4)  # the host rounds


def travelled_of(sample):
    """The encrypted boxes that are behind the predictions of a sample."""
    return sample['pred_instances']['bboxes'].double().numpy() * np.tile(sample['scale_factor'], 2)


def test_suppression_is_the_originals(scenes):
    """Of two boxes of one object in two patches one stays, and of two objects both."""
    (sample, *_) = simulate(scenes, 'shuffle')
    boxes = np.array([[20, 20, 42, 42], [24, 20, 46, 42], [24, 20, 46, 42], [60, 20, 82, 42.0]])
    args = (np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 1, 0]))
    there = travelled(sample, boxes)
    for nms, left in ((None, [0, 2, 3]), (0.99, [0, 1, 2, 3]), (1, [0, 1, 2, 3]), (0, [0, 2, 3])):
        metric = OriginalCocoMetric(str(scenes / ANN), nms=nms)
        metric.process({}, [with_predictions(sample, there, *args)])
        ((_, result),) = metric.results
        np.testing.assert_allclose(result['bboxes'], boxes[left], atol=1e-4)
        np.testing.assert_array_equal(result['labels'], args[1][left])


def test_boxes_are_cut_to_the_original(scenes):
    (sample, *_) = simulate(scenes, 'shuffle', RESIZE)
    h, w = sample.ori_shape
    there = travelled(sample, np.array([[-30, -20, 40, 50], [w - 20, h - 10, w + 10, h + 5.0]]))
    metric = OriginalCocoMetric(str(scenes / ANN))
    metric.process({}, [with_predictions(sample, there, np.ones(2), np.zeros(2, int))])
    expected = [[0, 0, 40, 50], [w - 20, h - 10, w, h]]
    np.testing.assert_allclose(metric.results[0][1]['bboxes'], expected, atol=1e-4)


#: LoadEncryptedMeta refuses the original's coordinates where patches moved.
PLACES = [(cipher, 'encrypted') for cipher in (*CIPHERS, 'shuffle:pad')]
PLACES += [(cipher, 'original') for cipher in CIPHERS if 'shuffle' not in cipher]


@pytest.mark.parametrize('cipher, coordinates', PLACES)
def test_folders(scenes, folders, cipher, coordinates, monkeypatch):
    moving = 'shuffle' in cipher
    folder = folders / cipher
    samples = of_folder(folder, coordinates=coordinates)
    monkeypatch.setenv('SOME_KEY', f'hime-key-v1:{SECRET.hex()}')
    given = [dict(key=str(folders / 'owner.key')), dict(key_env='SOME_KEY')]
    for key in given if moving else [*given, {}]:
        metric = OriginalCocoMetric(str(scenes / ANN), nms=1, **key)
        assert evaluate(metric, samples)['coco/bbox_mAP'] == 1
        assert metric.results == []


@pytest.mark.parametrize('cipher', ['shuffle', 'mix2'])
def test_files_that_are_resized_after_loading(scenes, folders, cipher):
    """The host has divided by what its Resize says, so boxes are in pixels of the file."""
    samples = of_folder(folders / cipher)
    for sample in samples:
        sample['scale_factor'] = (1.5, 2.0)
    metric = OriginalCocoMetric(str(scenes / ANN), nms=1, key=str(folders / 'owner.key'))
    assert evaluate(metric, samples)['coco/bbox_mAP'] == 1


@pytest.mark.parametrize('cipher', ['shuffle', 'mix2'])
def test_a_folder_gives_what_its_results_give(scenes, folders, cipher):
    """Without the pipeline's layout, too: the manifest is found from the path."""
    found = detect(read(folders / cipher), 3)
    data, key = Manifest.load(folders / cipher), owner_key_of(folders)
    samples = of_folder(folders / cipher, 3)
    for sample in samples[1:]:
        del sample['patch_layout']
    metric = OriginalCocoMetric(str(scenes / ANN), nms=1, key=str(folders / 'owner.key'))
    result = evaluate(metric, samples)
    back = {}
    for sample in samples:
        boxes, *rest = found[sample['img_id']]
        layout = data.secret_layout(data.entry(sample['img_path']), key)
        h, w = layout.ori_shape
        boxes = np.array([slowly_back(box, layout) for box in boxes]).clip(0, [w, h, w, h])
        back[sample['img_id']] = (boxes, *rest)
    got = [result[f'coco/bbox_{name}'] for name in HOST]
    np.testing.assert_allclose(got, judged(read(scenes), back)[:6], atol=5.1e-4)


def owner_key_of(folders):
    return Key.from_file(str(folders / 'owner.key'))


def test_where_patches_stay_it_is_the_host(scenes):
    for cipher in ('mix2', 'center'):
        samples = simulated(scenes, cipher, detect(read(scenes), 5), RESIZE)
        pair = [
            kind(str(scenes / ANN), classwise=True) for kind in (OriginalCocoMetric, CocoMetric)
        ]
        ours, host = (evaluate(metric, samples) for metric in pair)
        assert ours == host and ours['coco/bbox_mAP'] > 0
        kept = [OriginalCocoMetric(str(scenes / ANN), nms=nms) for nms in (1, 0)]
        for metric in kept:
            metric.process({}, samples)
        sizes = [sum(len(result['labels']) for _, result in metric.results) for metric in kept]
        assert sizes[0] > sizes[1] > 0


class PlainRun(Runner):
    """A run of which the config was checked, and encrypts nothing."""

    def __init__(self):
        self.cfg = Config({})

    def build(self, *args, **kwargs):
        return OriginalCocoMetric(*args, **kwargs)


def test_plain_images_of_a_checked_run(scenes):
    """Nothing encrypts there, as its config says: it is the host's metric."""
    coco = read(scenes)
    found, samples = detect(coco, 5), []
    pipeline = Compose([LoadImageFromFile(), RESIZE, PackDetInputs(meta_keys=META_KEYS)])
    for one in coco['images']:
        path = str(scenes / 'val' / one['file_name'])
        sample = pipeline(dict(img_path=path, img_id=one['id']))['data_samples']
        boxes, *rest = found[one['id']]
        boxes = boxes * np.tile(sample.scale_factor, 2)
        samples.append(with_predictions(sample, boxes, *rest))
    ours, host = (
        evaluate(metric, samples)
        for metric in (PlainRun().build(str(scenes / ANN)), CocoMetric(str(scenes / ANN)))
    )
    assert ours == host and ours['coco/bbox_mAP'] > 0
    with pytest.raises(BoxError, match='patch_layout'):
        OriginalCocoMetric(str(scenes / ANN)).process({}, samples)


def test_a_damaged_manifest_does_not_make_images_plain(scenes, tmp_path):
    folder = encrypted(scenes, tmp_path / 'shuffle')
    samples = of_folder(folder)
    for sample in samples:
        del sample['patch_layout']
    (folder / 'hime.json').write_text('{}')
    with pytest.raises(ManifestError, match='hime.json'):
        PlainRun().build(str(scenes / ANN)).process({}, samples)


def test_options_of_the_host(scenes, tmp_path):
    coco = read(scenes)
    found = detect(coco, 5)
    samples = simulated(scenes, 'shuffle', found)
    metric = OriginalCocoMetric(
        str(scenes / ANN),
        ['bbox', 'proposal'],
        True,
        nms=1,
        metric_items=['mAP_50', 'AR@100'],
        proposal_nums=(100, 300, 1000),
        prefix='owner',
    )
    result = evaluate(metric, samples)
    stats = judged(coco, found)
    assert result['owner/bbox_mAP_50'] == pytest.approx(stats[1], abs=5.1e-4)
    assert {'owner/bbox_AR@100', 'owner/AR@100', 'owner/cat_precision'} < set(result)
    assert 'owner/bbox_mAP' not in result
    # A subset of classes, whose labels count from 0.
    some = {
        key: tuple(column[labels == 2] for column in (boxes, scores, labels * 0))
        for key, (boxes, scores, labels) in found.items()
    }
    part = OriginalCocoMetric(str(scenes / ANN), nms=1, metric_items=['mAP_50'])
    result = evaluate(part, simulated(scenes, 'shuffle', some), names=NAMES[2:])
    assert result['coco/bbox_mAP_50'] == pytest.approx(judged(coco, found, [30])[1], abs=5.1e-4)
    files = OriginalCocoMetric(
        str(scenes / ANN), nms=1, format_only=True, outfile_prefix=str(tmp_path / 'mapped')
    )
    assert evaluate(files, samples) == {}
    rows = json.loads((tmp_path / 'mapped.bbox.json').read_text())
    boxes = np.concatenate([found[sample['img_id']][0] for sample in samples])
    sizes = [row['bbox'][2] for row in rows]
    assert len(rows) == len(boxes) and max(sizes) <= 160


def test_clipping_costs(coco_like):
    """Why nothing may clip boxes to the encrypted image: perfect ones do not come back whole."""
    path = coco_like / 'annotations/instances_val2017.json'
    coco = json.loads(path.read_text())
    shown = coco['images'][:6]
    ids = [one['id'] for one in coco['categories']]
    scores = []
    for clips in (False, True):
        metric = OriginalCocoMetric(str(path), nms=1)
        metric.dataset_meta = dict(classes=[one['name'] for one in coco['categories']])
        metric.img_ids = [image['id'] for image in shown]
        for number, image in enumerate(shown):
            anns = [a for a in coco['annotations'] if a['image_id'] == image['id']]
            anns = [a for a in anns if not a['iscrowd']]
            boxes = np.array([a['bbox'] for a in anns]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            shape = tuple(image[side] // 16 * 16 for side in ('height', 'width'))
            layout = Cipher.build('shuffle').secret_layout(
                shape, [np.random.default_rng(number).permutation(shape[0] * shape[1] // 256)]
            )
            scale = np.tile([shape[1] / image['width'], shape[0] / image['height']], 2)
            there = layout.map_boxes(boxes * scale)
            if clips:
                there = there.clip(0, np.tile(layout.shape[::-1], 2))
            metric.process(
                {},
                [
                    dict(
                        img_id=image['id'],
                        ori_shape=(image['height'], image['width']),
                        scale_factor=tuple(scale[:2]),
                        patch_layout=layout,
                        pred_instances=dict(
                            bboxes=torch.tensor(there / scale),
                            scores=torch.ones(len(boxes)),
                            labels=torch.tensor(
                                [ids.index(a['category_id']) for a in anns], dtype=torch.long
                            ),
                        ),
                    )
                ],
            )
        # There is no runner whose images could be plain.
        scores.append(metric.evaluate(len(shown))['coco/bbox_mAP'])
    assert scores[0] == 1 and scores[1] < 0.9


WRONG = {
    'no layout': (dict(patch_layout=None), ('patch_layout', 'meta_keys', 'CocoMetric')),
    'no permutation': ('public', ('keep_permutation=True', 'meta_keys')),
    'reshuffled': ('reshuffled', ('PatchReshuffle',)),
    'cropped': ('cropped', ('cropped',)),
    'rotated': (dict(bboxes=torch.zeros(1, 5)), ('(n, 4)', '(1, 5)')),
}


@pytest.mark.parametrize('case', WRONG)
@pytest.mark.parametrize('at', [0, 1])
def test_what_cannot_be_mapped(scenes, case, at):
    """At that sample, not when all are evaluated; nothing of its batch is taken."""
    change, words = WRONG[case]
    samples = simulated(scenes, 'shuffle', detect(read(scenes)))
    sample = samples[at]
    layout = sample['patch_layout']
    if change == 'public':
        sample['patch_layout'] = layout.public()
    elif change == 'reshuffled':
        sample['patch_layout'] = replace(layout.public(), reshuffled=True)
    elif change == 'cropped':
        sample['patch_layout'] = replace(layout, cropped=True)
    elif 'bboxes' in change:
        sample['pred_instances'].update(change)
    else:
        del sample['patch_layout']
    metric = OriginalCocoMetric(str(scenes / ANN))
    with pytest.raises(BoxError, match=named('OriginalCocoMetric', sample['img_path'], *words)):
        metric.process({}, samples[: at + 1])
    assert metric.results == []
    del sample['img_path']
    with pytest.raises(BoxError, match=named(f'the image {sample["img_id"]}', *words)):
        metric.process({}, samples[: at + 1])


def test_wrong_folders(scenes, folders, tmp_path):
    key = str(folders / 'owner.key')
    moved = of_folder(folders / 'shuffle')
    original, handed_over = str(scenes / ANN), str(folders / 'mix2' / ANN)

    def refused(kind, samples, *words, **options):
        options.setdefault('ann_file', original)
        metric = OriginalCocoMetric(**options)
        with pytest.raises(kind, match=named(*words)) as caught:
            metric.process({}, samples)
        assert not found_in(forms_of_key(SECRET), [str(caught.value).encode()])

    refused(BoxError, moved, 'key_env', moved[0]['img_path'])
    other = key_file(tmp_path / 'other.key', bytes(32))
    refused(InvalidKey, moved, 'wrong key', key=str(other))
    refused(BoxError, moved, 'ann_file', ann_file=None, key=key)
    refused(BoxError, of_folder(folders / 'mix2'), 'ann_file', '70x101', ann_file=handed_over)
    # Of the same sizes, where patches move: a copy, and another split's file.
    copy = tmp_path / 'copy.json'
    copy.write_bytes((folders / 'shuffle' / ANN).read_bytes())
    refused(BoxError, moved[1:2], moved[1]['img_path'], 'a copy', ann_file=str(copy), key=key)
    coco = read(scenes)
    for image in coco['images']:
        image['file_name'] = f'train_{image["file_name"]}'
    copy.write_text(json.dumps(coco))
    refused(BoxError, moved, 'ann_file', 'train_0.png', ann_file=str(copy), key=key)
    small = make_scenes(tmp_path / 'small', sizes=((70, 101), (96, 128)))
    refused(BoxError, of_folder(folders / 'mix2')[2:], 'the image id 16', ann_file=str(small / ANN))
    once = encrypted(scenes, tmp_path / 'one-way', 'shuffle', key=None, one_way=True)
    refused(BoxError, of_folder(once), 'no key was used', key=key)
    for sample in moved:
        sample['patch_layout'] = replace(sample['patch_layout'], reshuffled=True)
    refused(BoxError, moved, 'PatchReshuffle', key=key)


@pytest.mark.parametrize(
    'options, kind, word',
    [
        (dict(nms=-0.1), BoxError, '0 to 1'),
        (dict(nms='0.5'), BoxError, '0 to 1'),
        (dict(key='no.key', key_env='HIME_KEY'), ConfigError, 'key_env'),
        (dict(key='no.key'), InvalidKey, 'no.key'),
        (dict(key_env='NOT_THERE'), InvalidKey, 'NOT_THERE'),
        (dict(key=f'hime-key-v1:{SECRET.hex()}'), InvalidKey, 'a key itself'),
        (dict(key_env=SECRET.hex()), InvalidKey, 'a key itself'),
    ],
)
def test_options_that_make_no_sense(scenes, options, kind, word):
    with pytest.raises(kind, match=word) as caught:
        OriginalCocoMetric(str(scenes / ANN), **options)
    assert not found_in(forms_of_key(SECRET), [str(caught.value).encode()])


def test_masks_cannot_follow(scenes):
    samples = simulated(scenes, 'shuffle', detect(read(scenes)))
    for sample in samples:
        count = len(sample['pred_instances']['labels'])
        sample['pred_instances']['masks'] = torch.zeros(count, *sample['ori_shape']).bool()
    with pytest.raises(BoxError, match='segm'):
        OriginalCocoMetric(str(scenes / ANN), ['bbox', 'segm']).process({}, samples)
    metric = OriginalCocoMetric(str(scenes / ANN), nms=1)
    with pytest.warns(UserWarning, match='masks'):
        assert evaluate(metric, samples)['coco/bbox_mAP'] == 1
    stay = simulated(scenes, 'mix2', detect(read(scenes)))
    for sample in stay:
        count = len(sample['pred_instances']['labels'])
        sample['pred_instances']['masks'] = torch.ones(count, *sample['ori_shape']).bool()
    for nms in (None, 0.6):
        metric = OriginalCocoMetric(str(scenes / ANN), nms=nms)
        metric.process({}, stay)
        assert all(len(result['masks']) == len(result['labels']) for _, result in metric.results)


def test_no_secret_is_kept(scenes, folders, tmp_path, caplog):
    """Neither the permutation nor the key: in results, which ranks exchange, dumps and logs."""
    samples = simulated(scenes, 'shuffle', detect(read(scenes)))
    secrets = set()
    for sample in samples:
        secrets |= forms_of_permutation(sample['patch_layout'].permutation)
    metric = OriginalCocoMetric(str(scenes / ANN), key=str(folders / 'owner.key'))
    MMLogger.get_instance('eval', log_file=str(tmp_path / 'log'), log_level='DEBUG')
    metric.dataset_meta = dict(classes=NAMES)
    metric.process({}, samples)
    assert {key for pair in metric.results for part in pair for key in part} == {
        'width', 'height', 'img_id', 'bboxes', 'scores', 'labels',
    }  # fmt: skip
    kept = [pickle.dumps(metric.results), repr(metric.results).encode(), repr(metric).encode()]
    kept.append(repr(vars(metric)).encode())
    metric.evaluate(len(samples))
    dump = DumpDetResults(str(tmp_path / 'dump.pkl'))
    dump.process({}, samples)
    dump.evaluate(len(samples))
    kept += [path.read_bytes() for path in tmp_path.iterdir()] + [caplog.text.encode()]
    assert not found_in(secrets | forms_of_key(SECRET), kept)
    with pytest.raises(TypeError, match='key is not pickled'):
        pickle.dumps(metric._key)
