# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the numbers of an evaluation mean, and what training does to batches."""

import pytest
import torch
from config_parts import BOXES, LOAD, META, ORIGINAL, dataset, loading, make_manifest, warnings_of
from mmdet.evaluation import CocoMetric, VOCMetric
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope

from hime_mm.apis import check_config
from hime_mm.errors import ConfigError

PACK = dict(type='PackDetInputs')
RESIZE = dict(type='Resize', scale=(320, 320), keep_ratio=True)


def encrypt(cipher, **kwargs):
    return dict(type='hime_mm.Encrypt', cipher=cipher, **kwargs)


def judged(steps, phase='test', **metric):
    """What the check says of a pipeline of evaluation."""
    data = dataset('none', *steps)
    if phase == 'tta':
        line = data['pipeline']
        # The last three as views are made of them.
        views = dict(type='TestTimeAug', transforms=[[step] for step in line[1:]])
        cfg = loading(data, 'test', tta_pipeline=[line[0], views])
        # Of the same pipeline once is enough.
        step = next(step for step in steps if step['type'].startswith('hime_mm.'))
        cfg.test_dataloader.dataset.pipeline = [LOAD, step, BOXES, PACK]
    else:
        cfg = loading(data, phase)
    cfg[f'{"val" if phase == "val" else "test"}_evaluator'] = [metric] if metric else None
    with warnings_of() as lines:
        check_config(cfg)
    return lines


@pytest.mark.parametrize('phase', ['val', 'test', 'tta'])
@pytest.mark.parametrize(
    'metric, level',
    [
        (dict(type='mmdet.VOCMetric'), 'error'),
        (dict(type='Flickr30kMetric'), 'error'),
        (dict(type='CocoFasterMetric'), 'warning'),
        (dict(type='FasterCocoMetric'), 'error'),
        (dict(type='FasterCocoMetric', ann_file='a.json'), 'warning'),
        (dict(type='CocoMetric', ann_file='a.json'), 'warning'),
        (dict(type='CocoMetric'), 'warning'),
        ({}, 'warning'),
    ],
)
@pytest.mark.parametrize('cipher', ['mix2', 'center+erode2'])
def test_annotations_that_shrink_with_the_image(phase, metric, level, cipher):
    wrong = [RESIZE, BOXES, encrypt(cipher), PACK]
    place = 'tta_pipeline' if phase == 'tta' else f'{phase}_dataloader.dataset.pipeline'
    if level == 'error':
        with pytest.raises(ConfigError, match=rf'`{place}\..*shrinks the boxes.*put it before'):
            judged(wrong, phase, **metric)
    else:
        (line,) = judged(wrong, phase, **metric)
        assert line.startswith(f'`{place}.') and 'put it before LoadAnnotations' in line
    assert judged([RESIZE, encrypt(cipher), BOXES, PACK], phase, **metric) == []


@pytest.mark.parametrize(
    'step, words',
    [
        (encrypt('mix2:tiled'), None),
        (encrypt('center'), None),
        (encrypt('noise25'), None),
        (encrypt('shuffle', box_mode='keep'), None),
        (encrypt('shuffle'), 'moves the boxes'),
        (encrypt('mix2+shuffle', box_mode='keep'), 'shrinks the boxes'),
        (dict(type='hime_mm.SubPatchMix'), 'shrinks the boxes'),
    ],
)
def test_which_ciphers_change_boxes(step, words):
    lines = judged([RESIZE, BOXES, step, PACK])
    assert [words in line for line in lines] == [True] * bool(words)
    # In training the loss is taken where the image is.
    with warnings_of() as lines:
        check_config(loading(dataset('none', BOXES, RESIZE, step, PACK)))
    assert lines == []


@pytest.mark.parametrize('between', [RESIZE, dict(type='RandomFlip', prob=0.5)])
def test_annotations_that_go_through_the_pipeline(between):
    """As in training: they are where the image is, before and after."""
    assert judged([BOXES, between, encrypt('mix2'), PACK], type='CocoMetric') == []
    (line,) = judged([BOXES, dict(type='ColorTransform'), encrypt('mix2'), PACK])
    assert 'shrinks the boxes' in line
    # What is predicted comes back in pixels of the original all the same.
    with pytest.raises(ConfigError, match='judges predictions in pixels of the original'):
        judged([BOXES, between, encrypt('mix2'), PACK], type='VOCMetric')


@pytest.mark.parametrize('kind', [VOCMetric, CocoMetric])
@pytest.mark.parametrize('fine', [False, True])
def test_perfect_predictions(kind, fine, coco_like, tmp_path):
    """As the check says: boxes of the original score 1, or what is judged has shrunk."""
    steps = [encrypt('mix2'), BOXES] if fine else [BOXES, encrypt('mix2')]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances')
    init_default_scope('mmdet')
    images = DATASETS.build(
        dict(
            type='CocoDataset',
            data_root=str(coco_like),
            ann_file='annotations/instances_val2017.json',
            data_prefix=dict(img='val2017/'),
            test_mode=True,
            indices=4,
            pipeline=[LOAD, RESIZE, *steps, dict(PACK, meta_keys=keys)],
        )
    )
    metric = kind() if kind is VOCMetric else CocoMetric(outfile_prefix=str(tmp_path / 'out'))
    metric.dataset_meta = dict(images.metainfo, dataset_type='VOC')
    size = 0
    for index in range(len(images)):
        sample = images[index]['data_samples']
        known = images.get_data_info(index)['instances']
        known = [one for one in known if not one['ignore_flag']]
        size += len(known)
        boxes = torch.tensor([one['bbox'] for one in known], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([one['bbox_label'] for one in known], dtype=torch.long)
        found = dict(bboxes=boxes, labels=labels, scores=torch.ones(len(known)))
        metric.process({}, [dict(sample.to_dict(), pred_instances=found)])
    assert size
    (score,) = [
        value for name, value in metric.evaluate(len(images)).items() if name.endswith('mAP')
    ]
    # CocoMetric takes boxes as the annotation file has them.
    if fine or kind is CocoMetric:
        assert score == pytest.approx(1)
    else:
        assert score < 0.1
    evaluation = [RESIZE, *steps, PACK]
    if fine:
        assert judged(evaluation, type=kind.__name__) == []
    elif kind is CocoMetric:
        assert len(judged(evaluation, type=kind.__name__)) == 1
    else:
        with pytest.raises(ConfigError, match='shrinks the boxes'):
            judged(evaluation, type=kind.__name__)


MOVED = 'judges boxes in encrypted coordinates'


@pytest.mark.parametrize('phase', ['val', 'test', 'tta'])
@pytest.mark.parametrize(
    'step, metric, warned',
    [
        (encrypt('shuffle'), 'CocoMetric', True),
        (encrypt('center+erode2+shuffle'), 'mmdet.VOCMetric', True),
        (dict(type='hime_mm.PatchShuffle'), 'LVISMetric', True),
        (encrypt('shuffle', box_mode='keep'), 'CocoMetric', False),
        (encrypt('mix2'), 'CocoMetric', False),
        (encrypt('shuffle'), 'Accuracy', False),
        (encrypt('shuffle'), 'DumpDetResults', False),
    ],
)
def test_boxes_that_moved_with_their_patches(phase, step, metric, warned):
    lines = judged([RESIZE, step, BOXES, PACK], phase, type=metric, ann_file='a.json')
    lines = [line for line in lines if MOVED in line]
    # Views are of a test data set that is judged as well.
    assert len(lines) == warned * (2 if phase == 'tta' else 1)
    for line in lines:
        prefix = 'val' if phase == 'val' else 'test'
        assert line.startswith(f'`{prefix}_evaluator') and '`hime boxes`' in line


@pytest.mark.parametrize('cipher, warned', [('paper-rs', True), ('paper-mi', False)])
def test_boxes_of_encrypted_folders(cipher, warned, tmp_path):
    (make_manifest(tmp_path, cipher) / 'images').mkdir()
    metric = dict(type='CocoMetric', ann_file=str(tmp_path / 'annotations/a.json'))
    for step in (META, ORIGINAL):
        cfg = loading(dataset(tmp_path, step, BOXES), 'val', val_evaluator=metric)
        if step is ORIGINAL:
            # Nobody but the key holder can.
            with pytest.raises(ConfigError, match='coordinates='):
                check_config(cfg)
            continue
        with warnings_of() as lines:
            check_config(cfg)
        assert [MOVED in line for line in lines] == [True] * warned


BATCHES = [
    (dict(type='BatchSyncRandomResize', random_size_range=(480, 800)), 'resizes'),
    (dict(type='mmdet.BatchResize', scale=(800, 1400)), 'resizes'),
    (dict(type='BatchFixedSizePad', size=(64, 64)), None),
    (dict(type='CutMix', alpha=1.0), 'run through patches'),
]


@pytest.mark.parametrize('augment, words', BATCHES)
@pytest.mark.parametrize('how', ['list', 'single', 'branches', 'hook', 'augments'])
@pytest.mark.parametrize('source', ['pipeline', 'folder', 'plain', 'device', 'val'])
def test_batches_that_are_resized(augment, words, how, source, tmp_path):
    """Wherever batches are augmented, if they are encrypted then."""
    step, root = encrypt('center+shuffle'), 'none'
    if source == 'folder':
        (make_manifest(tmp_path, 'center+shuffle') / 'images').mkdir()
        step, root = META, tmp_path
    elif source in ('plain', 'device'):
        step = RESIZE
    cfg = loading(dataset(root, step, PACK), 'val' if source == 'val' else 'train')
    cfg.data_preprocessor = dict(type='DetDataPreprocessor')
    owner = cfg.data_preprocessor
    if source == 'device':
        owner.update(type='hime_mm.EncryptClsDataPreprocessor', cipher='center+shuffle')
        owner.pad_size_divisor = 16
    several = dict(augments=[augment])
    if how == 'branches' and source != 'device':
        owner.type = 'MultiBranchDataPreprocessor'
        owner.data_preprocessor = dict(type='DetDataPreprocessor', batch_augments=[augment])
    elif how == 'hook':
        recipe = dict(action_epoch=1, batch_augments=several)
        cfg.custom_hooks = [dict(type='SwitchRecipeHook', schedule=[recipe])]
    elif how == 'list':
        owner.batch_augments = [augment]
    elif how == 'single':
        owner.batch_augments = dict(augments=augment)
    else:
        owner.batch_augments = several
    with warnings_of() as lines:
        check_config(cfg)
    if source in ('pipeline', 'folder') and words:
        (line,) = lines
        assert words in line and 'batch_augments' in line
        assert augment['type'].rpartition('.')[2] in line
    else:
        assert lines == []
