# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import re

import pytest
from config_parts import (
    BOXES,
    LOAD,
    META,
    MIXED,
    ORIGINAL,
    dataset,
    loading,
    make_manifest,
    warnings_of,
)
from mmengine.config import Config

from hime_mm.apis import check_config
from hime_mm.errors import ConfigError


def wrapped(kind, data):
    """A data set in one of the hosts' wrappers."""
    if kind == 'ConcatDataset':
        return dict(type=kind, datasets=[data])
    if kind == 'MultiImageMixDataset':
        steps = data.pop('pipeline')
        return dict(type=kind, dataset=dict(data, pipeline=steps[:1]), pipeline=steps[1:])
    return dict(type=kind, dataset=data)


@pytest.mark.parametrize(
    'kind', ['RepeatDataset', 'ConcatDataset', 'ClassBalancedDataset', 'MultiImageMixDataset']
)
@pytest.mark.parametrize('given', [False, True])
def test_the_manifest_is_found(kind, given, tmp_path):
    """Through wrappers, or where the transform says."""
    root = make_manifest(tmp_path / 'data', 'mix4')
    (root / 'images').mkdir()
    step = META
    if given:
        step = dict(META, manifest=str(root / 'hime.json'))
        root = tmp_path
    cfg = loading(wrapped(kind, dataset(root, step)), model=MIXED)
    with pytest.raises(ConfigError, match='`num_splits=4`'):
        check_config(cfg)


@pytest.mark.parametrize(
    'args',
    [
        dict(type='ImageNet', data_root='data', split='val'),
        dict(type='CustomDataset', data_root='data', data_prefix='val'),
        dict(
            type='CustomDataset',
            data_root='data/',
            ann_file='meta/val.txt',
            data_prefix=dict(img_path='val/'),
        ),
        dict(type='CustomDataset', data_prefix='data/val/'),
        dict(type='CustomDataset', data_root='data/val'),
        dict(type='VOCDataset', data_root='data/', data_prefix=dict(sub_data_root='val/')),
    ],
)
def test_where_hosts_have_the_images_of_a_data_set(args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_manifest(tmp_path / 'data/val', 'mix4')
    make_manifest(tmp_path / 'data/train')
    cfg = loading(dict(args, pipeline=[LOAD, META]), model=MIXED)
    with pytest.raises(ConfigError, match='data/val/hime.json.*`num_splits=4`'):
        check_config(cfg)


def test_a_manifest_that_is_missing(tmp_path):
    (tmp_path / 'data/images').mkdir(parents=True)
    with pytest.raises(ConfigError, match='pipeline`: .*hime.json in .*/data .*Copy hime.json'):
        check_config(loading(dataset(tmp_path / 'data', META)))
    gone = dict(META, manifest=str(tmp_path / 'data/hime.json'))
    with pytest.raises(ConfigError, match='pipeline`: .*/data/hime.json: '):
        check_config(loading(dataset(tmp_path / 'data', gone)))
    # What was changed cannot be told from what is damaged.
    make_manifest(tmp_path / 'data')
    path = tmp_path / 'data/hime.json'
    path.write_text(path.read_text().replace('some', 'other'))
    with pytest.raises(ConfigError, match='pipeline`: .*/data/hime.json .*checksum'):
        check_config(loading(dataset(tmp_path / 'data', META)))
    # Data that come later: the config may be looked at before.
    for step in (META, dict(META, manifest=str(tmp_path / 'later/hime.json'))):
        with warnings_of() as lines:
            check_config(loading(dataset(tmp_path / 'later', step)))
        assert len(lines) == 1 and str(tmp_path / 'later') in lines[0]
    # Variables of a config file are no data sets.
    with warnings_of() as lines:
        check_config(
            Config(dict(data_root=str(tmp_path), ann_file='a', train_pipeline=[LOAD, META]))
        )
    assert lines == []


@pytest.mark.parametrize('case', ['pipeline', 'wrapper', 'inside', 'data'])
def test_encrypting_twice_is_refused(case, tmp_path):
    root = make_manifest(tmp_path)
    (root / 'images').mkdir()
    mix = dict(type='hime_mm.SubPatchMix')
    data = dict(
        pipeline=dataset(root, META, mix),
        wrapper=dict(type='MultiImageMixDataset', dataset=dataset(root, META), pipeline=[mix]),
        inside=dict(
            type='MultiImageMixDataset', dataset=dataset(tmp_path / 'other', mix), pipeline=[META]
        ),
        data=dataset(root, mix),
    )[case]
    with pytest.raises(ConfigError, match='pipeline` .*hime_mm.LoadEncryptedMeta'):
        check_config(loading(data))


def test_encrypted_data_without_their_transform(tmp_path):
    (make_manifest(tmp_path) / 'images').mkdir()
    with warnings_of() as lines:
        check_config(loading(dataset(tmp_path, BOXES)))
    assert len(lines) == 1 and "'hime_mm.LoadEncryptedMeta'" in lines[0]
    # A wrapper of a data set that has it sees encrypted images.
    outer = [dict(type='RandomFlip', prob=0.5), dict(type='Mosaic')]
    with warnings_of() as lines:
        check_config(
            loading(
                dict(
                    type='MultiImageMixDataset',
                    dataset=dataset(tmp_path, META, BOXES),
                    pipeline=outer,
                )
            )
        )
    assert len(lines) == 1 and 'Mosaic' in lines[0]


@pytest.mark.parametrize(
    'cipher, step, warned',
    [
        ('mix2', dict(type='Resize', scale=(32, 32)), True),
        ('mix2', dict(type='RandomCrop', crop_size=(32, 32)), True),
        ('mix2', dict(type='PhotoMetricDistortion'), True),
        ('mix2', dict(type='FilterAnnotations'), False),
        ('center+erode2+shuffle', dict(type='RandomFlip', prob=0.5), False),
        ('permute_pixels', dict(type='RandomFlip', prob=0.5), True),
    ],
)
@pytest.mark.parametrize('order', [(0, 1), (1, 0)])
def test_geometry_on_encrypted_images_is_warned_of(cipher, step, warned, order, tmp_path):
    (make_manifest(tmp_path, cipher) / 'images').mkdir()
    steps = [META, step]
    cfg = loading(dataset(tmp_path, *(steps[i] for i in order), BOXES, dict(type='PackDetInputs')))
    with warnings_of() as lines:
        check_config(cfg)
    assert len(lines) == warned
    assert all(step['type'] in line for line in lines)


@pytest.mark.parametrize('phase', ['val', 'test'])
@pytest.mark.parametrize('online', [None, 'train', 'other'])
def test_ciphers_of_training_and_evaluation(phase, online, tmp_path):
    data = {}
    for which, cipher in (('train', 'center'), ('other', 'noise25')):
        root = make_manifest(tmp_path / which, cipher)
        (root / 'images').mkdir()
        data[which] = dataset(root, META)
        if online == which:
            data[which] = dataset(tmp_path / 'plain', dict(type='hime_mm.Encrypt', cipher=cipher))
    cfg = loading(data['other'], phase, train_dataloader=dict(dataset=data['train']))
    if phase == 'val':
        with pytest.raises(ConfigError, match="noise25.*'center'"):
            check_config(cfg)
    else:
        with warnings_of() as lines:
            check_config(cfg)
        assert len(lines) == 1 and re.search("noise25.*'center'", lines[0])
    cfg[f'{phase}_dataloader'].dataset = cfg.train_dataloader.dataset
    with warnings_of() as lines:
        check_config(cfg)
    assert lines == []


@pytest.mark.parametrize(
    'head, words',
    [
        (dict(cipher='paper-rs'), 'hime boxes'),
        (dict(preprocess=dict(augment=dict(flip=0.5))), '`center_crop`'),
        (dict(preprocess=dict(center_crop=[64, 48])), '`center_crop`'),
    ],
)
def test_original_coordinates_that_nobody_knows(head, words, tmp_path):
    (make_manifest(tmp_path, **head) / 'images').mkdir()
    with pytest.raises(ConfigError, match=f'pipeline.1.*{words}'):
        check_config(loading(dataset(tmp_path, ORIGINAL), 'val'))
    assert check_config(loading(dataset(tmp_path, META), 'val'))


def test_masks_in_original_coordinates(tmp_path):
    masks = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
    with pytest.raises(ConfigError, match="pipeline.1`.*`coordinates='original'`.*LoadAnnotations"):
        check_config(loading(dataset(tmp_path / 'no', ORIGINAL, masks), 'val'))
    check_config(loading(dataset(tmp_path / 'no', masks, ORIGINAL), 'val'))
    check_config(loading(dataset(tmp_path / 'no', META, masks), 'val'))


@pytest.mark.parametrize('phase', ['val', 'test'])
def test_metrics_and_predictions_are_in_the_same_coordinates(phase, tmp_path):
    (make_manifest(tmp_path / 'data') / 'images').mkdir()

    def check(step, **metric):
        cfg = loading(dataset(tmp_path / 'data', step), phase)
        cfg[f'{phase}_evaluator'] = [dict(dict(type='CocoMetric'), **metric)]
        with warnings_of() as lines:
            check_config(cfg)
        return lines

    own = str(tmp_path / 'data/annotations/a.json')
    other = str(tmp_path / 'data-original/a.json')
    assert check(META, ann_file=own) == []
    assert check(META) == []
    assert check(ORIGINAL, ann_file=other) == []
    (line,) = check(META, ann_file=other)
    assert f'{phase}_evaluator.ann_file' in line and 'original' in line
    with pytest.raises(ConfigError, match=f'`{phase}_evaluator.ann_file` '):
        check(ORIGINAL, ann_file=own)
    with pytest.raises(ConfigError, match=f'`{phase}_evaluator` .*`ann_file`'):
        check(ORIGINAL)
    with pytest.raises(ConfigError, match=f'`{phase}_evaluator` .*`ann_file`'):
        check(ORIGINAL, type='mmdet.VOCMetric')
    assert check(ORIGINAL, type='DumpResults') == []


AUGMENTS = [
    dict(type='hime_mm.PatchDrop'),
    dict(type='hime_mm.PatchReshuffle'),
    dict(type='hime_mm.EncryptedColorJitter', brightness=0.2),
]


@pytest.mark.parametrize('augment', AUGMENTS)
def test_augmentations_of_encrypted_images(augment, tmp_path):
    (make_manifest(tmp_path, 'paper-rs') / 'images').mkdir()

    def check(phase, *steps):
        with warnings_of() as lines:
            check_config(loading(dataset(tmp_path, *steps), phase))
        return lines

    assert check('train', META, augment) == []
    assert check('train', META, dict(type='mmpretrain.ColorJitter')) == []
    (line,) = check('train', META, dict(type='RandomErasing'))
    assert 'RandomErasing' in line
    for phase in ('val', 'test'):
        if augment['type'].endswith('Reshuffle'):
            with pytest.raises(ConfigError, match='hime_mm.PatchReshuffle'):
                check(phase, META, augment)
        else:
            (line,) = check(phase, META, augment)
            assert augment['type'] in line


def test_colour_and_centred_images(tmp_path):
    (make_manifest(tmp_path, 'center+shuffle') / 'images').mkdir()
    with warnings_of() as lines:
        check_config(loading(dataset(tmp_path, META, dict(type='mmpretrain.ColorJitter')), 'train'))
    assert 'ColorJitter' in lines[0]


def test_hooks_for_encrypted_data(tmp_path):
    """Nothing plain is there to be shown, but boxes have to fit."""
    (make_manifest(tmp_path) / 'images').mkdir()
    hook = dict(type='DetVisualizationHook', draw=True)

    def check(step):
        cfg = loading(
            dataset(tmp_path, step),
            'val',
            default_hooks=dict(visualization=hook),
            custom_hooks=[hook],
        )
        with warnings_of() as lines:
            check_config(cfg)
        return cfg.default_hooks.visualization, lines

    assert check(META) == (hook, [])
    replaced, lines = check(ORIGINAL)
    assert replaced == dict(type='hime_mm.EncryptedVisualizationHook', draw=True)
    assert len(lines) == 2 and all(' DetVisualizationHook' in line for line in lines)
    assert lines[0].startswith('`custom_hooks.0` ')
    assert lines[1].startswith('`default_hooks.visualization` ')
