# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import contextlib
import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.engine.hooks import DetVisualizationHook
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from hime_mm.apis import check_config, force_safe_loading
from hime_mm.ciphers import Cipher
from hime_mm.datasets.writing import write_manifest

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    p for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts)


@pytest.mark.parametrize('where, name', [
    ('model.backbone', 'PEViT'),
    ('train_dataloader.dataset.pipeline.4', 'Encrypt'),
    ('model', 'PEYOLOS'),
    ('default_hooks.visualization', 'EncryptedVisualizationHook'),
])
def test_unprefixed_type(where, name):
    cfg = Config.fromfile(ROOT / 'configs/hime_vit_coco.py')
    cfg.merge_from_dict({f'{where}.type': name})
    with pytest.raises(ValueError) as error:
        check_config(cfg)
    assert where in str(error.value)
    assert f"type='hime_mm.{name}'" in str(error.value)


def test_unknown_type_of_ours():
    cfg = Config(dict(model=dict(type='hime_mm.PEVit')))
    with pytest.raises(ValueError, match='no such type.*PEViT'):
        check_config(cfg)


def encrypting(**kwargs):
    pipeline = [dict(type='hime_mm.PatchShuffle'), dict(type='PackInputs')]
    return Config(
        dict(
            train_dataloader=dict(dataset=dict(pipeline=pipeline)), **kwargs))


PLAIN_HOOKS = [
    'DetVisualizationHook', 'mmpretrain.VisualizationHook',
    'mmdet.engine.hooks.DetVisualizationHook', DetVisualizationHook
]


@pytest.mark.parametrize('plain', PLAIN_HOOKS)
def test_plain_visualization_is_replaced(plain):
    hook = dict(type=plain, interval=3, backend_args=None)
    for key in ('visualization', 'vis'):
        cfg = check_config(encrypting(default_hooks={key: hook}))
        assert cfg.default_hooks[key] == dict(
            type='hime_mm.EncryptedVisualizationHook', interval=3)
    with pytest.raises(ValueError, match='custom_hooks.0'):
        check_config(encrypting(custom_hooks=[hook]))
    # Nothing to protect in a config that does not encrypt.
    cfg = Config(dict(default_hooks=dict(visualization=dict(type=plain))))
    assert check_config(cfg).default_hooks.visualization.type == plain
    assert check_config(encrypting(default_hooks=None))


def on_device(cipher='shuffle', inner=None, pipeline=(), **backbone):
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='hime_mm.PEViT', **backbone))
    if inner is not None:
        model['data_preprocessor'] = inner
    return Config(
        dict(
            model=model,
            data_preprocessor=dict(
                type='hime_mm.EncryptClsDataPreprocessor', cipher=cipher),
            train_dataloader=dict(
                dataset=dict(
                    type='CustomDataset',
                    data_root='none',
                    pipeline=[*pipeline, dict(type='PackInputs')])),
            default_hooks=dict(
                visualization=dict(type='VisualizationHook', enable=True))))


def test_encryption_on_the_device():
    cfg = check_config(on_device())
    # The host's hook would draw the plain batch.
    assert cfg.default_hooks.visualization == dict(
        type='hime_mm.EncryptedVisualizationHook', enable=True)
    with pytest.raises(ValueError, match='`data_preprocessor`.*patch_size=12'):
        check_config(on_device('erode2+shuffle'))
    check_config(on_device('erode2+shuffle', patch_size=12))
    with pytest.raises(ValueError, match="`data_preprocessor`: .*'shufle'"):
        check_config(on_device('shufle'))
    with pytest.raises(ValueError, match='data_preprocessor.*hime encrypt'):
        check_config(on_device('permute_pixels'))
    cfg = on_device()
    del cfg.data_preprocessor['cipher']
    with pytest.raises(ValueError, match='no `cipher`'):
        check_config(cfg)


def test_a_timm_backbone():

    def check(cipher, **kwargs):
        cfg = on_device(cipher, model_name=kwargs.pop(
            'model_name', 'vit_tiny_patch16_224'), **kwargs)
        cfg.model.backbone.type = 'hime_mm.TIMMPEViT'
        with warnings_of() as lines:
            check_config(cfg)
        return [line for line in lines if 'backbone' in line]

    assert check('shuffle') == []
    assert check('erode2+shuffle', patch_size=12) == []
    with pytest.raises(ValueError, match=r'set its `patch_size=12`$'):
        check('erode2+shuffle')
    # No mixed embedding there.
    with pytest.raises(ValueError, match=r'set its `patch_size=8`$'):
        check('mix2')
    with pytest.raises(ValueError, match='patch_size=16'):
        check('shuffle', model_name='vit_small_patch14_dinov2.lvd142m')
    line, = check('shuffle', pos_encoding='learned')
    assert 'learned positions mean nothing' in line
    # Building it gives the reason.
    assert check('shuffle', model_name='resnet18') == []


@pytest.mark.parametrize('cipher, mean, warned', [
    ('center+shuffle', [123.675, 116.28, 103.53], True),
    ('center+shuffle', [128., 128., 128.], False),
    ('center+shuffle', None, False),
    ('shuffle', [123.675, 116.28, 103.53], False),
])
def test_statistics_of_images_without_means(cipher, mean, warned):
    device = on_device(cipher)
    device.data_preprocessor.update(mean=mean, std=mean)
    pipeline = on_device(
        inner=dict(type='ClsDataPreprocessor', mean=mean, std=mean),
        pipeline=[dict(type='hime_mm.Encrypt', cipher=cipher)])
    pipeline.pop('data_preprocessor')
    for cfg in (device, pipeline):
        with warnings_of() as lines:
            check_config(cfg)
        assert any('mean 128' in line for line in lines) is warned


def test_no_data_preprocessor_is_one_too():
    """The runner leaves a None in the model alone."""
    cfg = on_device()
    cfg.model.data_preprocessor = None
    with pytest.raises(ValueError, match='pass in plain'):
        check_config(cfg)


def test_a_cipher_of_none():
    """Images are encrypted already, or shall stay plain."""
    assert check_config(
        on_device(None, pipeline=[dict(type='hime_mm.LoadEncryptedMeta')]))
    inner = dict(type='hime_mm.EncryptClsDataPreprocessor', cipher=None)
    with pytest.raises(ValueError, match='pass in plain'):
        check_config(on_device(inner=inner))


@pytest.mark.parametrize('step, fine', [
    (dict(type='CenterCrop', crop_size=224), True),
    (dict(type='CenterCrop', crop_size=230), False),
    (dict(type='mmpretrain.RandomResizedCrop', scale=(224, 100)), False),
    (dict(type='Resize', scale=(48, 32)), True),
    (dict(type='Resize', scale=(48, 33)), False),
    (dict(type='Resize', scale=(48, 33), keep_ratio=True), True),
    (dict(type='ResizeEdge', scale=230), True),
])
def test_sizes_for_encryption_on_the_device(step, fine):
    for before, after in (([], []), ([dict(type='CenterCrop', crop_size=7)],
                                     [dict(type='RandomFlip', prob=.5)])):
        cfg = on_device(pipeline=[*before, step, *after])
        cfg.val_dataloader = cfg.pop('train_dataloader')
        if fine:
            check_config(cfg)
            continue
        with pytest.raises(
                ValueError, match=rf'val_dataloader.*\.{len(before)}\..*16'):
            check_config(cfg)
        cfg.data_preprocessor.pad_size_divisor = 16
        check_config(cfg)


@pytest.mark.parametrize('name, warned', [('vit_tiny_patch16_224', True),
                                          ('resnet18', False)])
def test_a_timm_backbone_of_mmpretrain(name, warned):
    cfg = on_device()
    cfg.model.backbone = dict(type='TIMMBackbone', model_name=name)
    with warnings_of() as lines:
        check_config(cfg)
    assert any('TIMMPEViT' in line for line in lines) is warned
    if warned:
        cfg.data_preprocessor.patch_size = 8
        with pytest.raises(ValueError, match='patch_size=8'):
            check_config(cfg)


@pytest.mark.parametrize('first', [
    dict(type='hime_mm.Encrypt', cipher='shuffle'),
    dict(type='hime_mm.LoadEncryptedMeta')
])
def test_encryption_twice_is_refused(first):
    with pytest.raises(ValueError, match=r'train_dataloader.*pipeline\.0'):
        check_config(on_device(pipeline=[first]))


def test_encryption_that_the_model_would_not_use_is_refused():
    inner = dict(type='ClsDataPreprocessor')
    with pytest.raises(ValueError, match='`model.data_preprocessor`'):
        check_config(on_device(inner=inner))
    inner = dict(
        type='hime_mm.EncryptClsDataPreprocessor', cipher='center+shuffle')
    assert check_config(on_device(inner=inner))
    inner['cipher'] = 'erode2'
    with pytest.raises(ValueError, match='`model.data_preprocessor`'):
        check_config(on_device(inner=inner))


def test_encryption_on_the_device_of_encrypted_files_is_refused(tmp_path):
    cfg = on_device()
    make_manifest(tmp_path / 'train', 'paper-rs')
    cfg.train_dataloader.dataset.data_root = str(tmp_path)
    cfg.train_dataloader.dataset.data_prefix = 'train'
    with pytest.raises(ValueError, match='encrypted already'):
        check_config(cfg)


@pytest.mark.parametrize('wrapper', ['RandomApply', 'mmcv.RandomChoice'])
def test_encryption_by_chance_is_refused(wrapper):
    inner = [[dict(type='hime_mm.Encrypt', cipher='mix2')]]
    cfg = Config(
        dict(pipeline=[dict(type=wrapper, transforms=inner)]))
    with pytest.raises(ValueError, match='pipeline.0.*in plain'):
        check_config(cfg)


@contextlib.contextmanager
def warnings_of():
    """What the code inside logs."""
    logger = MMLogger.get_instance('check')
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def test_geometry_after_the_encryption_is_warned_of():
    cfg = Config(
        dict(pipeline=[
            dict(type='hime_mm.PatchShuffle'),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackInputs')
        ]))
    with warnings_of() as lines:
        check_config(cfg)
    assert any('RandomFlip works on encrypted' in line for line in lines)


@pytest.mark.parametrize('step, backbone, remedy', [
    (dict(cipher='mix4'), dict(patch_embed='mixed'), '`num_splits=4`'),
    (dict(cipher='mix2'), dict(), '`patch_size=8`'),
    (dict(cipher='mix2:tiled'), dict(patch_embed='mixed'),
     "`input_form='full'`"),
    (dict(cipher='shuffle'), dict(patch_embed='mixed'),
     "`input_form='full'`"),
    (dict(cipher='shuffle', patch_size=8), dict(), '`patch_size=8`'),
    (dict(cipher='center+erode2+shuffle'), dict(), '`patch_size=12`'),
    (dict(cipher='erode2+mix2'), dict(patch_embed='mixed'),
     '`patch_size=12`, `num_splits=2`'),
    (dict(cipher='paper-mi'), dict(type='mmpretrain.VisionTransformer'),
     '`patch_size=8`'),
    (dict(cipher='erode2'), dict(type='DeiT3', patch_size=14),
     '`patch_size=12`'),
    (dict(cipher='shuffle'),
     dict(type='mmpretrain.BEiTViT', patch_size=32), '`patch_size=16`'),
])
@pytest.mark.parametrize('folder', [False, True])
def test_backbone_that_does_not_fit_the_cipher(step, backbone, remedy, folder,
                                               tmp_path):
    cfg = fitted(step, backbone, folder, tmp_path)
    with pytest.raises(ValueError) as error:
        check_config(cfg)
    assert remedy in str(error.value)
    assert 'train_dataloader.dataset.pipeline.0' in str(error.value)
    assert (str(tmp_path / 'hime.json') in str(error.value)) == folder


def fitted(step, backbone, folder, tmp_path):
    """A config of a backbone and a cipher, in the pipeline or the data."""
    if folder:
        make_manifest(tmp_path, Cipher.build(**step))
        step = dict(type='hime_mm.LoadEncryptedMeta')
    else:
        step = dict(type='hime_mm.Encrypt', **step)
    return Config(
        dict(
            train_dataloader=dict(
                dataset=dict(data_root=str(tmp_path), pipeline=[step])),
            model=dict(backbone=dict(dict(type='hime_mm.PEViT'), **backbone))))


@pytest.mark.parametrize('step, backbone', [
    (dict(cipher='mix4'), dict(patch_embed='mixed', num_splits=4)),
    (dict(cipher='mix2'), dict(patch_size=8)),
    (dict(cipher='mix2:tiled'), dict()),
    (dict(cipher='mix2:tiled'), dict(patch_embed='mixed',
                                     input_form='full')),
    (dict(cipher='mix2+shuffle'), dict(patch_embed='mixed')),
    (dict(cipher='shuffle'), dict(pos_encoding='none')),
    (dict(cipher='center+erode2+shuffle'), dict(patch_size=12)),
    (dict(cipher='erode2+mix2'), dict(patch_embed='mixed', patch_size=12)),
    (dict(cipher='paper-mi'),
     dict(type='mmpretrain.VisionTransformer', patch_size=8)),
    (dict(cipher='erode2:filled'), dict(type='DeiT3')),
    # Of another kind: not for us to say.
    (dict(cipher='mix4'), dict(type='SwinTransformer')),
    (dict(cipher='mix4'), dict(type='mmdet.ResNet')),
])
@pytest.mark.parametrize('folder', [False, True])
def test_backbone_that_fits_the_cipher(step, backbone, folder, tmp_path):
    with warnings_of() as lines:
        check_config(fitted(step, backbone, folder, tmp_path))
    assert lines == []


@pytest.mark.parametrize('backbone, words', [
    (dict(pos_encoding='learned'), 'pos_encoding` is "learned"'),
    (dict(type='VisionTransformer'), 'VisionTransformer, which learns posit'),
])
@pytest.mark.parametrize('folder', [False, True])
def test_positions_of_moved_patches(backbone, words, folder, tmp_path):
    with warnings_of() as lines:
        check_config(
            fitted(dict(cipher='shuffle'), backbone, folder, tmp_path))
    assert len(lines) == 1 and words in lines[0] and '"rpe"' in lines[0].replace(
        "'", '"')


# Encrypted data sets -----------------------------------------------------------

LOAD = dict(type='LoadImageFromFile')
META = dict(type='hime_mm.LoadEncryptedMeta')
BOXES = dict(type='LoadAnnotations', with_bbox=True)


def dataset(root, *steps, **kwargs):
    return dict(
        dict(
            type='CocoDataset',
            data_root=str(root),
            ann_file='annotations/a.json',
            data_prefix=dict(img='images/'),
            pipeline=[LOAD, *steps]), **kwargs)


def loading(data, phase='train', **kwargs):
    return Config({f'{phase}_dataloader': dict(dataset=data), **kwargs})


def wrapped(kind, data):
    """A data set in one of the hosts' wrappers."""
    if kind == 'ConcatDataset':
        return dict(type=kind, datasets=[data])
    if kind == 'MultiImageMixDataset':
        steps = data.pop('pipeline')
        return dict(
            type=kind, dataset=dict(data, pipeline=steps[:1]),
            pipeline=steps[1:])
    return dict(type=kind, dataset=data)


MIXED = dict(backbone=dict(type='hime_mm.PEViT', patch_embed='mixed'))


@pytest.mark.parametrize('kind', [
    'RepeatDataset', 'ConcatDataset', 'ClassBalancedDataset',
    'MultiImageMixDataset'
])
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
    with pytest.raises(ValueError, match='`num_splits=4`'):
        check_config(cfg)


@pytest.mark.parametrize('args', [
    dict(type='ImageNet', data_root='data', split='val'),
    dict(type='CustomDataset', data_root='data', data_prefix='val'),
    dict(type='CustomDataset', data_root='data/', ann_file='meta/val.txt',
         data_prefix=dict(img_path='val/')),
    dict(type='CustomDataset', data_prefix='data/val/'),
    dict(type='CustomDataset', data_root='data/val'),
])
def test_the_manifest_of_a_classification_data_set(args, tmp_path,
                                                   monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_manifest(tmp_path / 'data/val', 'mix4')
    make_manifest(tmp_path / 'data/train')
    cfg = loading(dict(args, pipeline=[LOAD, META]), model=MIXED)
    with pytest.raises(ValueError,
                       match='data/val/hime.json.*`num_splits=4`'):
        check_config(cfg)


def test_a_manifest_that_is_missing(tmp_path):
    (tmp_path / 'data/images').mkdir(parents=True)
    with pytest.raises(ValueError, match='no hime.json in .*Copy hime.json'):
        check_config(loading(dataset(tmp_path / 'data', META)))
    gone = dict(META, manifest=str(tmp_path / 'data/hime.json'))
    with pytest.raises(ValueError, match='cannot read.*data/hime.json'):
        check_config(loading(dataset(tmp_path / 'data', gone)))
    # What was changed cannot be told from what is damaged.
    make_manifest(tmp_path / 'data')
    path = tmp_path / 'data/hime.json'
    path.write_text(path.read_text().replace('some', 'other'))
    with pytest.raises(ValueError, match='pipeline`: .*was changed after'):
        check_config(loading(dataset(tmp_path / 'data', META)))
    # Data that come later: the config may be looked at before.
    for step in (META, dict(META, manifest=str(tmp_path / 'later/hime.json'))):
        with warnings_of() as lines:
            check_config(loading(dataset(tmp_path / 'later', step)))
        assert len(lines) == 1 and 'there is no folder' in lines[0]
    # Variables of a config file are no data sets.
    with warnings_of() as lines:
        check_config(
            Config(
                dict(
                    data_root=str(tmp_path),
                    ann_file='a',
                    train_pipeline=[LOAD, META])))
    assert lines == []


@pytest.mark.parametrize('case', ['pipeline', 'wrapper', 'inside', 'data'])
def test_encrypting_twice_is_refused(case, tmp_path):
    root = make_manifest(tmp_path)
    (root / 'images').mkdir()
    mix = dict(type='hime_mm.SubPatchMix')
    data = dict(
        pipeline=dataset(root, META, mix),
        wrapper=dict(
            type='MultiImageMixDataset',
            dataset=dataset(root, META),
            pipeline=[mix]),
        inside=dict(
            type='MultiImageMixDataset',
            dataset=dataset(tmp_path / 'other', mix),
            pipeline=[META]),
        data=dataset(root, mix))[case]
    with pytest.raises(ValueError, match='encrypt images that are encrypted'):
        check_config(loading(data))


def test_encrypted_data_without_their_transform(tmp_path):
    (make_manifest(tmp_path) / 'images').mkdir()
    with warnings_of() as lines:
        check_config(loading(dataset(tmp_path, BOXES)))
    assert len(lines) == 1 and "'hime_mm.LoadEncryptedMeta'" in lines[0]
    # A wrapper of a data set that has it sees encrypted images.
    outer = [dict(type='RandomFlip', prob=.5), dict(type='Mosaic')]
    with warnings_of() as lines:
        check_config(
            loading(
                dict(
                    type='MultiImageMixDataset',
                    dataset=dataset(tmp_path, META, BOXES),
                    pipeline=outer)))
    assert len(lines) == 1 and 'Mosaic works on encrypted' in lines[0]


@pytest.mark.parametrize('cipher, step, warned', [
    ('mix2', dict(type='Resize', scale=(32, 32)), True),
    ('mix2', dict(type='RandomCrop', crop_size=(32, 32)), True),
    ('mix2', dict(type='PhotoMetricDistortion'), True),
    ('mix2', dict(type='FilterAnnotations'), False),
    ('center+erode2+shuffle', dict(type='RandomFlip', prob=.5), False),
    ('permute_pixels', dict(type='RandomFlip', prob=.5), True),
])
@pytest.mark.parametrize('order', [(0, 1), (1, 0)])
def test_geometry_on_encrypted_images_is_warned_of(cipher, step, warned, order,
                                                   tmp_path):
    (make_manifest(tmp_path, cipher) / 'images').mkdir()
    steps = [META, step]
    cfg = loading(
        dataset(tmp_path, *(steps[i] for i in order), BOXES,
                dict(type='PackDetInputs')))
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
            data[which] = dataset(
                tmp_path / 'plain', dict(type='hime_mm.Encrypt', cipher=cipher))
    cfg = loading(
        data['other'], phase, train_dataloader=dict(dataset=data['train']))
    if phase == 'val':
        with pytest.raises(ValueError, match="noise25.*another.*'center'"):
            check_config(cfg)
    else:
        with warnings_of() as lines:
            check_config(cfg)
        assert len(lines) == 1 and 'of other pictures' in lines[0]
    cfg[f'{phase}_dataloader'].dataset = cfg.train_dataloader.dataset
    with warnings_of() as lines:
        check_config(cfg)
    assert lines == []


ORIGINAL = dict(META, coordinates='original')


@pytest.mark.parametrize('head, words', [
    (dict(cipher='paper-rs'), 'moves patches.*hime boxes'),
    (dict(preprocess=dict(augment=dict(flip=.5))), 'cropped or flipped'),
])
def test_original_coordinates_that_nobody_knows(head, words, tmp_path):
    (make_manifest(tmp_path, **head) / 'images').mkdir()
    with pytest.raises(ValueError, match=f'pipeline.1.*{words}'):
        check_config(loading(dataset(tmp_path, ORIGINAL), 'val'))
    assert check_config(loading(dataset(tmp_path, META), 'val'))


def test_masks_in_original_coordinates(tmp_path):
    masks = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
    with pytest.raises(ValueError, match='put LoadAnnotations before it'):
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
    line, = check(META, ann_file=other)
    assert f'{phase}_evaluator.ann_file' in line and 'original' in line
    with pytest.raises(ValueError, match="owner's own annotation file"):
        check(ORIGINAL, ann_file=own)
    with pytest.raises(ValueError, match='boxes from the pipeline'):
        check(ORIGINAL)
    with pytest.raises(ValueError, match='boxes from the pipeline'):
        check(ORIGINAL, type='mmdet.VOCMetric')
    assert check(ORIGINAL, type='DumpResults') == []


AUGMENTS = [
    dict(type='hime_mm.PatchDrop'),
    dict(type='hime_mm.PatchReshuffle'),
    dict(type='hime_mm.EncryptedColorJitter', brightness=.2)
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
    line, = check('train', META, dict(type='RandomErasing'))
    assert 'RandomErasing works on encrypted images' in line
    for phase in ('val', 'test'):
        if augment['type'].endswith('Reshuffle'):
            with pytest.raises(ValueError, match='is for training'):
                check(phase, META, augment)
        else:
            line, = check(phase, META, augment)
            assert 'is for training' in line


def test_colour_and_centred_images(tmp_path):
    (make_manifest(tmp_path, 'center+shuffle') / 'images').mkdir()
    with warnings_of() as lines:
        check_config(
            loading(
                dataset(tmp_path, META, dict(type='mmpretrain.ColorJitter')),
                'train'))
    assert 'ColorJitter works on encrypted images' in lines[0]


@pytest.mark.parametrize('inside', [False, True])
def test_batch_augmentations_of_encrypted_images(inside):

    def check(augments, cipher='center+erode2+shuffle', device=False):
        model = dict(
            type='ImageClassifier',
            backbone=dict(type='hime_mm.PEViT', patch_size=12),
            train_cfg=None if inside else dict(augments=augments))
        cfg = dict(model=model, data_preprocessor=dict())
        if inside:
            cfg['data_preprocessor']['batch_augments'] = dict(
                augments=augments)
        steps = []
        if device:
            cfg['data_preprocessor'].update(
                type='hime_mm.EncryptClsDataPreprocessor', cipher=cipher)
        else:
            steps = [dict(type='hime_mm.Encrypt', cipher=cipher)]
        cfg['train_dataloader'] = dict(
            dataset=dict(
                type='CustomDataset', data_root='none', pipeline=steps))
        with warnings_of() as lines:
            check_config(Config(cfg))
        return lines

    mixup = dict(type='Mixup', alpha=.8)
    ours = dict(type='hime_mm.PatchCutMix', alpha=1., patch_size=12)
    assert check([mixup, ours]) == []
    assert check(mixup) == []
    wrong = dict(ours, patch_size=16)
    for augments in ([mixup, wrong], wrong,
                     dict(type='hime_mm.PatchCutMix', alpha=1.)):
        with pytest.raises(ValueError, match='patch_size=12'):
            check(augments)
    line, = check([dict(type='CutMix', alpha=1.)])
    assert 'PatchCutMix' in line and 'patch_size=12' in line
    # There, images are plain when they are mixed.
    assert check([wrong, dict(type='CutMix', alpha=1.)], device=True) == []


def test_hooks_for_encrypted_data(tmp_path):
    """Nothing plain is there to be shown, but boxes have to fit."""
    (make_manifest(tmp_path) / 'images').mkdir()
    hook = dict(type='DetVisualizationHook', draw=True)

    def check(step):
        cfg = loading(
            dataset(tmp_path, step), 'val',
            default_hooks=dict(visualization=hook), custom_hooks=[hook])
        with warnings_of() as lines:
            check_config(cfg)
        return cfg.default_hooks.visualization, lines

    assert check(META) == (hook, [])
    replaced, lines = check(ORIGINAL)
    assert replaced == dict(
        type='hime_mm.EncryptedVisualizationHook', draw=True)
    assert len(lines) == 2 and all('coordinates of' in line for line in lines)


@pytest.mark.parametrize(
    'path', CONFIGS, ids=[str(p.relative_to(ROOT)) for p in CONFIGS])
def test_shipped_configs(path):
    """Each loads, checks, dumps to readable text and names a real cipher."""
    cfg = check_config(Config.fromfile(path))
    text = cfg.pretty_text
    assert Config.fromstring(text, '.py').to_dict() == cfg.to_dict()
    if path.parent.name == 'encrypted':
        return
    assert cfg.default_hooks.visualization.type == (
        'hime_mm.EncryptedVisualizationHook')
    for phase in ('train', 'val', 'test'):
        dataset = cfg[f'{phase}_dataloader'].dataset
        dataset = dataset.get('dataset', dataset)
        names = [t.type for t in dataset.pipeline]
        if 'plain' in path.name:
            assert 'hime_mm.Encrypt' not in names
            assert 'cipher' not in cfg.get('data_preprocessor', {})
            continue
        if cfg.default_scope == 'mmpretrain':
            # Encrypted on the device: the check has compared it with the
            # backbone, and seen that the pipelines do not encrypt as well.
            assert cfg.data_preprocessor.type == (
                'hime_mm.EncryptClsDataPreprocessor')
            assert 'hime_mm.Encrypt' not in names
            continue
        at = names.index('hime_mm.Encrypt')
        step = dataset.pipeline[at]
        Cipher.build(step.cipher, step.patch_size)
        # Nothing geometric behind it, and annotations of the file's scale
        # stay behind it at test time.
        rest = [n for n in names[at + 1:] if not n.startswith('Pack')]
        assert rest == ([] if phase == 'train' else ['LoadAnnotations'])


CLASSIFIERS = [
    p for p in CONFIGS if p.parent.name in ('pevit', 'caltech101', 'cifar')
]


@pytest.mark.parametrize('path', CLASSIFIERS, ids=[p.stem for p in CLASSIFIERS])
def test_classification_configs(path):
    """They build, and differ from their plain twin in two things only."""
    cfg = Config.fromfile(path)
    _, cipher, *rest = path.stem.split('_')
    twin, = [
        p for p in CLASSIFIERS
        if p.parent == path.parent and p.stem.endswith('_'.join(rest))
        and p.stem.split('_')[1] == 'plain'
        and p.stem.split('_')[0].split('-')[1] == path.stem.split('_')[0]
        .split('-')[1]
    ]
    twin = Config.fromfile(twin)
    if cipher == 'plain':
        assert cfg.model.backbone.type == 'VisionTransformer'
    else:
        assert cfg.data_preprocessor.pop('type') == (
            'hime_mm.EncryptClsDataPreprocessor')
        cfg.data_preprocessor.pop('patch_size', None)
        steps = str(Cipher.build(cfg.data_preprocessor.pop('cipher')))
        assert steps == {
            'rs': 'shuffle',
            'rs-nopos': 'shuffle',
            'mi2': 'mix2',
            'center-erode2-rs': 'center+erode2+shuffle'
        }[cipher]
        if 'center' in cipher:
            # Images without means have statistics of their own.
            cfg.data_preprocessor.update(
                mean=twin.data_preprocessor.mean,
                std=twin.data_preprocessor.std)
        backbone = cfg.model.backbone
        assert backbone.pos_encoding == dict(
            mi2='learned').get(cipher, 'none' if 'nopos' in cipher else 'rpe')
        cfg.model.backbone = twin.model.backbone
        assert cfg.to_dict() == twin.to_dict()
        cfg.model.backbone = backbone
    if path.parent.name == 'pevit':
        # What MMPretrain's configs leave out of the DeiT recipe.
        assert cfg.model.backbone.drop_path_rate == .1
        assert cfg.custom_hooks[0].type == 'EMAHook'
        assert cfg.train_dataloader.sampler.type == 'RepeatAugSampler'
        assert cfg.auto_scale_lr == dict(base_batch_size=1024, enable=True)
        assert cfg.train_cfg.max_epochs == 300
    init_default_scope('mmpretrain')
    registry = importlib.import_module('mmpretrain.registry')
    # The preprocessor holds numbers.
    with torch.device('meta'):
        model = registry.MODELS.build(
            {k: v for k, v in cfg.model.items() if k != 'train_cfg'})
    size = cfg.model.backbone.img_size
    classes = cfg.data_preprocessor.num_classes
    if cipher == 'mi2':
        size //= 2
    out = model.eval()(torch.zeros(2, 3, size, size, device='meta'))
    assert out.shape == (2, classes)


ENCRYPTED = [p for p in CONFIGS if p.parent.name == 'encrypted']


def make_manifest(folder, cipher='paper-mi', **head):
    folder.mkdir(parents=True, exist_ok=True)
    head = dict(
        dict(
            dataset_id='some',
            key_id=None,
            cipher=Cipher.build(cipher).to_dict(),
            preprocess={}), **head)
    write_manifest(folder, head, ())
    return folder


@pytest.mark.parametrize('path', ENCRYPTED, ids=[p.stem for p in ENCRYPTED])
def test_configs_for_encrypted_data_sets(path, tmp_path, monkeypatch):
    """Stock data sets, nothing encrypted twice, model and pipelines build."""
    cfg = Config.fromfile(path)
    monkeypatch.chdir(tmp_path)
    with warnings_of() as lines:
        check_config(cfg)
    assert lines and all('there is no folder' in line for line in lines)
    registry = importlib.import_module(f'{cfg.default_scope}.registry')
    init_default_scope(cfg.default_scope)
    cipher = path.stem.split('_')[1].replace('-folder', '')
    manifests = set()
    for phase in ('train', 'val', 'test'):
        dataset = cfg[f'{phase}_dataloader'].dataset
        assert dataset.type in ('CocoDataset', 'ImageNet', 'CustomDataset')
        names = [t.type for t in dataset.pipeline]
        assert names[:2] == ['LoadImageFromFile', 'hime_mm.LoadEncryptedMeta']
        assert 'hime_mm.Encrypt' not in names
        Compose([registry.TRANSFORMS.build(t) for t in dataset.pipeline])
        root = tmp_path / dataset.data_root
        if dataset.type == 'CocoDataset':
            (root / dataset.data_prefix['img']).mkdir(
                parents=True, exist_ok=True)
        else:
            root /= dataset.get('split') or dataset.data_prefix
        manifests.add(make_manifest(root, cipher))
    cfg.model.backbone.init_cfg = None
    with torch.device('meta'):
        model = registry.MODELS.build(cfg.model)
    assert type(model.backbone).__name__ == 'PEViT'
    # With its data in place there is nothing left to warn of.
    with warnings_of() as lines:
        check_config(cfg)
    assert lines == []
    # Another cipher than that of the name is noticed.
    for root in manifests:
        make_manifest(root, 'mix4')
    with pytest.raises(ValueError, match='does not fit.*hime.json'):
        check_config(cfg)


def test_coco_recipe():
    """The optimiser does what DESIGN's recipe says, parameter by parameter."""
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import init_default_scope
    from mmdet.registry import MODELS
    init_default_scope('mmdet')
    for name, base, embedding in (
        ('hime_vit_coco.py', 2.5e-5, 1e-4),
        ('peyolos/peyolos-small_mi2-yolos_8xb1-150e_coco.py', 1e-5, 1e-4)):
        cfg = Config.fromfile(ROOT / 'configs' / name)
        cfg.model.backbone.init_cfg = None
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        rates = {}
        for group in wrapper.optimizer.param_groups:
            for param in group['params']:
                rates[param] = (group['lr'], group['weight_decay'])
        for key, param in model.named_parameters():
            lr, decay = rates[param]
            assert lr == pytest.approx(
                embedding if '.patch_embed.' in key else base), key
            bare = key.startswith('backbone.') and (
                key.endswith('.bias') or '.ln' in key or 'token' in key
                or 'pos_embed' in key)
            assert decay == (0 if bare else 1e-4), key


def test_checkpoints_cannot_run_code(tmp_path):
    class Bomb:

        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / 'ran'), ))

    torch.save(dict(state_dict={}, bomb=Bomb()), tmp_path / 'bad.pth')
    code = ('from hime_mm.apis import force_safe_loading\n'
            'force_safe_loading()\n'
            'from mmengine.runner.checkpoint import _load_checkpoint\n'
            f'_load_checkpoint({str(tmp_path / "bad.pth")!r})')
    done = subprocess.run([sys.executable, '-c', code],
                          capture_output=True,
                          text=True,
                          cwd=ROOT,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode != 0 and 'UnpicklingError' in done.stderr
    assert not (tmp_path / 'ran').exists()


def test_nothing_inherited_weakens_loading(monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    force_safe_loading()
    assert os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] == '1'
    assert 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' not in os.environ


def test_import_alone_is_light():
    code = ('import sys, hime_mm, hime_mm.ciphers, hime_mm.datasets\n'
            'bad = [m for m in sys.modules if m.split(".")[0] in '
            '("torch", "mmengine", "mmcv", "mmdet", "mmpretrain")]\n'
            'assert not bad, bad')
    subprocess.run([sys.executable, '-c', code],
                   check=True,
                   cwd=ROOT,
                   env={**os.environ, 'PYTHONPATH': str(ROOT)})
