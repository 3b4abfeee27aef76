# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Parts of configs for the tests of their checks."""

import contextlib
import logging
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import MMLogger

from hime_mm.ciphers import Cipher
from hime_mm.datasets.stores import LocalStore
from hime_mm.datasets.writing import write_manifest

ROOT = Path(__file__).parents[2]


def encrypting(**kwargs):
    pipeline = [dict(type='hime_mm.PatchShuffle'), dict(type='PackInputs')]
    return Config(dict(train_dataloader=dict(dataset=dict(pipeline=pipeline)), **kwargs))


def on_device(cipher='shuffle', inner=None, pipeline=(), **backbone):
    model = dict(type='ImageClassifier', backbone=dict(type='hime_mm.PEViT', **backbone))
    if inner is not None:
        model['data_preprocessor'] = inner
    return Config(
        dict(
            model=model,
            data_preprocessor=dict(type='hime_mm.EncryptClsDataPreprocessor', cipher=cipher),
            train_dataloader=dict(
                dataset=dict(
                    type='CustomDataset',
                    data_root='none',
                    pipeline=[*pipeline, dict(type='PackInputs')],
                )
            ),
            default_hooks=dict(visualization=dict(type='VisualizationHook', enable=True)),
        )
    )


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


LOAD = dict(type='LoadImageFromFile')


META = dict(type='hime_mm.LoadEncryptedMeta')


ORIGINAL = dict(META, coordinates='original')


BOXES = dict(type='LoadAnnotations', with_bbox=True)


def dataset(root, *steps, **kwargs):
    return dict(
        dict(
            type='CocoDataset',
            data_root=str(root),
            ann_file='annotations/a.json',
            data_prefix=dict(img='images/'),
            pipeline=[LOAD, *steps],
        ),
        **kwargs,
    )


def loading(data, phase='train', **kwargs):
    return Config({f'{phase}_dataloader': dict(dataset=data), **kwargs})


MIXED = dict(backbone=dict(type='hime_mm.PEViT', patch_embed='mixed'))


def make_manifest(folder, cipher='paper-mi', **head):
    folder.mkdir(parents=True, exist_ok=True)
    head = dict(
        dict(dataset_id='some', key_id=None, cipher=Cipher.build(cipher).to_dict(), preprocess={}),
        **head,
    )
    write_manifest(LocalStore(str(folder)), dict(storage='files', **head), ())
    return folder


MIX = dict(type='hime_mm.SubPatchMix')


PACK = dict(type='PackDetInputs')


FLIP = dict(type='RandomFlip', prob=0.5)


def data_of(root, way):
    """A data set whose images are encrypted in some way, or are not."""
    if way == 'meta':
        return dataset(root / 'encrypted', META, PACK)
    if way == 'folder':
        return dataset(root / 'encrypted', PACK)
    if way == 'pipeline':
        return dataset(root / 'plain', MIX, PACK)
    if way == 'views':
        views = dict(type='MultiView', num_views=[1, 1], transforms=[[FLIP, MIX], [MIX]])
        return dataset(root / 'plain', views, PACK)
    inner = dataset(root / 'plain')
    if way == 'wrapper':
        return dict(type='MultiImageMixDataset', dataset=inner, pipeline=[FLIP, MIX, PACK])
    inner['pipeline'] += [PACK]
    return inner


def make_roots(folder):
    """An encrypted and a plain data set."""
    make_manifest(folder / 'encrypted', 'mix2')
    for name in ('encrypted', 'plain'):
        (folder / name / 'images').mkdir(parents=True, exist_ok=True)
    return folder
