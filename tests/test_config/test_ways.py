# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What encrypts on a way of images, beside what the hosts do with them."""

import copy
from types import SimpleNamespace
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
from config_parts import FLIP, LOAD, MIX, data_of, dataset, loading, make_roots
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms import Compose
from mmdet.registry import DATASETS, HOOKS
from mmengine.registry import DefaultScope

from hime_mm.apis import check_config
from hime_mm.config import read
from hime_mm.errors import ConfigError


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = make_roots(tmp_path_factory.mktemp('data'))
    cv2.imwrite(str(root / 'image.png'), np.zeros((64, 64, 3), np.uint8))
    return root


BRANCHES = dict(
    views=lambda a, b: dict(type='MultiView', num_views=[1, 1], transforms=[a, b]),
    branches=lambda a, b: dict(type='MultiBranch', branch_field=['x', 'y'], x=a, y=b),
    augmented=lambda a, b: dict(type='TestTimeAug', transforms=[[FLIP], [*a, *b]]),
    broadcast=lambda a, b: dict(
        type='mmcv.TransformBroadcaster', mapping=dict(img=['a', 'b']), transforms=[*a, *b]
    ),
    lists=lambda a, b: dict(type='ApplyToList', scatter_key='a', transforms=[*a, *b]),
)


@pytest.mark.parametrize('kind', BRANCHES)
def test_transforms_within_transforms(kind, root):
    """Each branch has to encrypt, each stage, and one of a sequence."""
    branches = BRANCHES[kind]

    def check(a, b, *after):
        cfg = loading(dataset(root / 'plain', branches(a, b), *after), 'test')
        cfg.val_dataloader = dict(dataset=data_of(root, 'pipeline'))
        return check_config(cfg)

    check([MIX], [MIX])
    check([FLIP], [FLIP], MIX)
    with pytest.raises(ConfigError, match=r'`test_dataloader.dataset.pipeline` .* plain images'):
        check([FLIP], [FLIP])
    if kind in ('broadcast', 'lists'):
        check([FLIP], [MIX])
        return
    with pytest.raises(ConfigError, match='`test_dataloader.* some plain images'):
        check([FLIP], [MIX])


STEPS = st.lists(st.sampled_from([FLIP, MIX]), max_size=3)
READ = dict(type='mmcv.LoadImageFromFile')


@settings(max_examples=100)
@given(
    st.lists(STEPS, min_size=2, max_size=2),
    st.sampled_from([*BRANCHES, 'choice', 'apply']),
    st.lists(st.sampled_from([FLIP, MIX, READ]), max_size=2),
)
def test_what_is_found_is_what_comes_out(root, lists, kind, before):
    """As the hosts' own transforms do it: each mix halves the image."""
    wrap_in = dict(
        BRANCHES,
        choice=lambda a, b: dict(type='mmcv.RandomChoice', transforms=[a, b]),
        apply=lambda a, b: dict(type='mmcv.RandomApply', transforms=[*a, *b], prob=0.5),
        broadcast=lambda a, b: dict(type='mmcv.KeyMapper', transforms=[*a, *b]),
        lists=lambda a, b: dict(
            type='ApplyToList', transforms=[*a, *b], scatter_key='x', collate_keys=[]
        ),
        augmented=lambda a, b: dict(type='TestTimeAug', transforms=[a or [FLIP], b or [FLIP]]),
    )[kind]
    steps = [READ, *before, wrap_in(*lists)]
    (found,) = read(loading(dataset(root / 'plain', pipeline=steps))).ways
    with DefaultScope.overwrite_default_scope('mmdet' if kind == 'branches' else 'mmpretrain'):
        *first, last = Compose(copy.deepcopy(steps)).transforms
        sizes = set()
        # Both outcomes of chance come, all but surely.
        for _ in range(20 if kind in ('choice', 'apply') else 1):
            results = Compose(first)(dict(img_path=str(root / 'image.png')))
            # One by one, since plain and encrypted views have other entries.
            for run in getattr(last, 'subroutines', [last]):
                img = run(copy.deepcopy(results))['img']
                img = list(img.values()) if isinstance(img, dict) else img
                sizes |= {len(one) for one in (img if isinstance(img, list) else [img])}
    assert (None in found.ends) is (64 in sizes)
    assert (found.encrypted_by is not None) is bool(sizes - {64})


@pytest.mark.parametrize('train', [None, 'pipeline'])
def test_a_wrapper_that_cuts_the_new_pipeline(train, root):
    """MultiImageMixDataset goes through the types of its first pipeline."""
    data = dict(
        type='MultiImageMixDataset',
        dataset=dataset(root / 'plain'),
        pipeline=[FLIP, MIX if train else FLIP],
    )
    for steps, fits in (([FLIP, MIX], True), ([FLIP, FLIP, MIX], False)):
        hook = dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=steps)
        cfg = loading(copy.deepcopy(data), custom_hooks=[hook])
        if fits is bool(train):
            check_config(cfg)
            continue
        with pytest.raises(ConfigError, match='plain images') as caught:
            check_config(cfg)
        assert ('runs no more transforms' in str(caught.value)) is bool(train)


SWITCHED = [
    [FLIP, MIX],
    [MIX],
    # A wrapper runs only as many transforms as before.
    [FLIP, FLIP, MIX],
    # The file is read again.
    [MIX, LOAD],
]
MIXER = 'MultiImageMixDataset'


@pytest.mark.parametrize(
    'kind, pipeline, keys',
    [(kind, steps, ()) for kind in (MIXER, 'CocoDataset') for steps in SWITCHED]
    + [(MIXER, None, ('RandomFlip',)), (MIXER, None, ('hime_mm.SubPatchMix',))],
)
def test_what_is_found_is_what_the_hooks_do(kind, pipeline, keys, coco_like):
    """MMDetection's own hooks on its own data sets; each mix halves the image."""
    one = dict(
        dataset(coco_like, *([] if kind == MIXER else [FLIP, MIX])),
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        indices=1,
        test_mode=True,
    )
    data = one
    if kind == MIXER:
        data = dict(type=kind, dataset=one, pipeline=[FLIP, MIX])
    if pipeline is None:
        hook = dict(type='YOLOXModeSwitchHook', skip_type_keys=keys)
    else:
        steps = pipeline if kind == MIXER else [LOAD, *pipeline]
        hook = dict(type='PipelineSwitchHook', switch_epoch=0, switch_pipeline=steps)
    *_, way = read(loading(copy.deepcopy(data), custom_hooks=[hook])).ways
    assert way.phase == 'switch'
    with DefaultScope.overwrite_default_scope('mmdet'):
        images = DATASETS.build(data)
        loader = SimpleNamespace(dataset=images)
        head = SimpleNamespace(bbox_head=SimpleNamespace())
        runner = SimpleNamespace(
            epoch=0, max_epochs=1, train_dataloader=loader, model=head, logger=MagicMock()
        )
        HOOKS.build(hook).before_train_epoch(runner)
        results = images[0]
    plain = results['img'].shape[:2] == results['ori_shape']
    assert (None in way.ends) is plain
    assert (way.encrypted_by is None) is plain


@pytest.mark.parametrize('by', ['hook', 'wrapper'])
def test_a_wrapper_that_skips_the_encryption(by, root):
    data = data_of(root, 'wrapper')
    for keys, fine in ((('Mosaic', 'RandomFlip'), True), (('hime_mm.SubPatchMix',), False)):
        cfg = loading(copy.deepcopy(data))
        cfg.val_dataloader = dict(dataset=data_of(root, 'pipeline'))
        if by == 'hook':
            cfg.custom_hooks = [dict(type='YOLOXModeSwitchHook', skip_type_keys=keys)]
        else:
            cfg.train_dataloader.dataset.skip_type_keys = keys
        if fine:
            check_config(cfg)
            continue
        with pytest.raises(ConfigError, match='plain images .*skips .*SubPatchMix'):
            check_config(cfg)
