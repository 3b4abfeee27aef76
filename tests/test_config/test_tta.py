# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Test-time augmentation, as ``tools/test.py --tta`` puts it into a config."""

from argparse import Namespace

import pytest
from config_parts import BOXES, LOAD, ROOT, dataset, loading
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from scripts import load_script

from hime_mm.apis import check_config
from hime_mm.config import use_tta
from hime_mm.errors import ConfigError

MIX = dict(type='hime_mm.SubPatchMix')
PACK = dict(type='PackDetInputs')
FLIPS = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
RESIZE = dict(type='Resize', scale=(64, 64), keep_ratio=True)


def views(*steps):
    return [LOAD, dict(type='TestTimeAug', transforms=[[RESIZE], FLIPS, *([s] for s in steps)])]


def wrapped(kind, *data):
    if kind == 'ConcatDataset':
        return dict(type=kind, datasets=list(data))
    if kind == 'nested':
        inner = dict(type='ConcatDataset', datasets=list(data))
        return dict(type='RepeatDataset', times=2, dataset=inner)
    return data[0] if kind is None else dict(type=kind, times=2, dataset=data[0])


def merge(cfg):
    """What the tool does before it builds a runner."""
    args = Namespace(
        launcher='none', cfg_options=None, work_dir='w', checkpoint='c.pth', amp=False, tta=True
    )
    return load_script('tools/test.py').merge_args(cfg, args)


@pytest.mark.parametrize('kind', [None, 'RepeatDataset', 'ConcatDataset', 'nested'])
@pytest.mark.parametrize('encrypted', [False, True])
def test_views_of_data_sets_in_wrappers(kind, encrypted, coco_like):
    """The innermost data sets get the pipeline; wrappers that take none still build."""
    init_default_scope('mmdet')
    one = dict(
        dataset(coco_like, RESIZE, MIX, BOXES, PACK),
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
    )
    cfg = loading(
        wrapped(kind, one, dict(one)),
        'test',
        tta_model=dict(type='DetTTAModel'),
        tta_pipeline=views(*([MIX] if encrypted else []), PACK),
        model=dict(type='DETR'),
    )
    merge(cfg)
    assert cfg.model.type == 'DetTTAModel' and cfg.model.module.type == 'DETR'
    if not encrypted:
        # Every view is plain, and nothing of the old pipeline is left to compare with.
        cfg.val_dataloader = dict(dataset=one)
        with pytest.raises(ConfigError, match=r'`test_dataloader\..*plain images'):
            check_config(cfg)
        return
    check_config(cfg)
    sample = DATASETS.build(cfg.test_dataloader.dataset)[0]
    assert len(sample['inputs']) == 2
    # Half of what `RESIZE` gives.
    assert all(max(img.shape[1:]) == 32 for img in sample['inputs'])


def test_views_that_nobody_described():
    cfg = loading(dataset('none', MIX, PACK), 'test', model=dict(type='DETR'))
    for key, example in (('tta_model', 'DetTTAModel'), ('tta_pipeline', 'flips before')):
        with pytest.raises(ConfigError, match=f'`{key}`.*{example}'):
            use_tta(cfg)
        cfg[key] = dict(type='DetTTAModel') if key == 'tta_model' else views(MIX, PACK)
    assert check_config(use_tta(cfg)).model.module.type == 'DETR'
    # `None` is how a config gets rid of an inherited one.
    cfg.tta_pipeline = None
    with pytest.raises(ConfigError, match='`tta_pipeline`'):
        use_tta(cfg)


def test_a_shipped_config_with_views():
    cfg = Config.fromfile(ROOT / 'configs/hime_vit_coco.py')
    cfg.tta_model = dict(type='DetTTAModel')
    cfg.tta_pipeline = views(BOXES, PACK)
    with pytest.raises(ConfigError, match='`tta_pipeline` gives the model plain images'):
        check_config(cfg)
    encrypt = next(s for s in cfg.test_dataloader.dataset.pipeline if 'cipher' in s)
    cfg.tta_pipeline = views(encrypt, BOXES, PACK)
    check_config(merge(cfg))
    assert cfg.test_dataloader.dataset.pipeline[1].type == 'TestTimeAug'
