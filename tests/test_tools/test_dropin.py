# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""MMDetection's detectors on compact MI: the configs that are theirs with a few lines more."""

import json
import re
from inspect import signature

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.models.dense_heads import FCOSHead
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from scripts import ROOT, run_script
from tiers import trials_but

from hime_mm.models.detectors import PaddingAware

pytestmark = pytest.mark.usefixtures('quick_dumps')
CONFIGS = {path.stem.split('-small_')[0]: path for path in (ROOT / 'configs/dropin').glob('*.py')}
of_all = pytest.mark.parametrize('name', sorted(CONFIGS))
DETRS = ('detr', 'deformable-detr', 'dino')
TINY = """
_base_ = ['{path}']
model = dict(
    backbone=dict(init_cfg=None, arch=dict(
        _delete_=True, embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)),
    neck=dict(in_channels={width}), {more})
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, batch_sampler=None,
    dataset=dict(data_root='{coco}/'))
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root='{coco}/'))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{coco}/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1))
visualizer = dict(name='{coco}{name}')
"""
#: What else is smaller, and lets doubtful boxes pass.
MORE = {
    'dino': 'num_queries=10',
    'faster-rcnn': 'test_cfg=dict(rcnn=dict(score_thr=0))',
    'mask-rcnn': 'test_cfg=dict(rcnn=dict(score_thr=0, max_per_img=30))',
    **dict.fromkeys(('retinanet', 'atss', 'fcos', 'yolof'), 'test_cfg=dict(score_thr=0)'),
}
SIZES = (
    'val_dataloader.dataset.pipeline.1.scale=(192,128)',
    'test_dataloader.dataset.pipeline.1.scale=(192,128)',
)
TRAIN_SIZES = ('train_dataloader.dataset.pipeline.2.scale=(192,128)',)
TRAIN_SIZES_OF_DETRS = (
    'train_dataloader.dataset.pipeline.3.transforms.0.0.scales=[(128,192)]',
    'train_dataloader.dataset.pipeline.3.transforms.1.0.scales=[(128,192)]',
    'train_dataloader.dataset.pipeline.3.transforms.1.1.crop_size=(64,96)',
    'train_dataloader.dataset.pipeline.3.transforms.1.2.scales=[(128,192)]',
)


def tiny(name, coco):
    width = [32] if name in DETRS else 32
    text = TINY.format(
        path=CONFIGS[name], width=width, more=MORE.get(name, ''), coco=coco, name=name
    )
    path = coco / f'{name}.py'
    path.write_text(text)
    return path


def sizes(name):
    return *SIZES, *(TRAIN_SIZES_OF_DETRS if name in DETRS else TRAIN_SIZES)


@pytest.fixture
def coco(coco_like, tmp_path):
    """Two images in each split, of different shapes."""
    for split in ('train', 'val'):
        name = f'annotations/instances_{split}2017.json'
        run_script(
            'tools/dataset_converters/subset_coco.py', coco_like / name, tmp_path / name, '-n2'
        )
        (tmp_path / f'{split}2017').symlink_to(coco_like / f'{split}2017')
    return tmp_path


def test_there_are_nine():
    assert sorted(CONFIGS) == sorted((*DETRS, *MORE.keys() - {'dino'}))
    assert all(10 <= len(path.read_text().splitlines()) <= 25 for path in CONFIGS.values())


@of_all
def test_strides_are_told_to_heads(name):
    """Those of the maps that neck and backbone give."""
    cfg = Config.fromfile(CONFIGS[name])
    init_default_scope('mmdet')
    with torch.device('meta'):
        model = MODELS.build({**cfg.model, 'data_preprocessor': None})
    assert isinstance(model, PaddingAware)
    x = torch.zeros(1, 3, 256, 384, device='meta')
    strides = [256 / one.shape[2] for one in model.extract_feat(x)]
    if name in DETRS:
        assert strides == ([8] if name == 'detr' else [8, 16, 32, 64])
        return
    head = model.rpn_head if name.endswith('rcnn') else model.bbox_head
    assert [stride for stride, _ in head.prior_generator.strides] == strides
    rois = [node for key, node in cfg.model.get('roi_head', {}).items() if 'extractor' in key]
    assert len(rois) == {'faster-rcnn': 1, 'mask-rcnn': 2}.get(name, 0)
    assert all(one.featmap_strides == strides[:4] and one.finest_scale == 28 for one in rois)


@pytest.mark.parametrize('name', sorted(MORE.keys() - {'dino', 'fcos'}))
def test_anchors_have_half_of_the_stock_sides(name):
    ours, stock = (Config.fromfile(path).model for path in (CONFIGS[name], stock_of(CONFIGS[name])))
    init_default_scope('mmdet')
    sides = []
    for model in (ours, stock):
        head = model.get('rpn_head') or model.bbox_head
        boxes = torch.cat(TASK_UTILS.build(head.anchor_generator).base_anchors)
        sides.append(boxes[:, 2:] - boxes[:, :2])
    torch.testing.assert_close(sides[0] * 2, sides[1])
    if name == 'yolof':
        assert [one.bbox_head.bbox_coder.ctr_clamp for one in (ours, stock)] == [16, 32]


def test_ranges_are_half_of_the_stock_ones():
    ours = Config.fromfile(CONFIGS['fcos']).model.bbox_head.regress_ranges
    stock = signature(FCOSHead).parameters['regress_ranges'].default
    halves = [tuple(side if side in (-1, 1e8) else side / 2 for side in pair) for pair in stock]
    assert [tuple(pair) for pair in ours] == halves


def stock_of(path):
    """The path of the config of MMDetection's that it is made of."""
    (name,) = re.findall(r"'mmdet::(\S+)'", path.read_text())
    return get_config(f'mmdet::{name}').filename


def scalars(folder, key):
    (path,) = folder.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line[key] for line in lines if key in line]


@pytest.mark.slow
@pytest.mark.parametrize('name', trials_but(lambda name: name == 'retinanet', CONFIGS))
def test_trains_and_is_tested(name, coco):
    """Two iterations, each validated, and a test of the weights."""
    work, config, out = coco / 'work', tiny(name, coco), coco / 'metrics.json'
    options = ('--cfg-options', *sizes(name))
    run_script('tools/train.py', config, '--work-dir', work, *options)
    losses = scalars(work, 'loss')
    assert len(losses) == 2 and np.isfinite(losses).all()
    run_script(
        'tools/test.py',
        config,
        work / 'epoch_2.pth',
        *('--work-dir', coco / 'test', '--out', out, '--out-item', 'metrics'),
        *options,
    )
    metrics = json.loads(out.read_text())
    for kind in ('bbox', 'segm') if name == 'mask-rcnn' else ('bbox',):
        validated = scalars(work, f'coco/{kind}_mAP')
        assert len(validated) == 2 and metrics[f'coco/{kind}_mAP'] == validated[1]


@pytest.mark.slow
def test_results_are_in_original_pixels(coco):
    """Boxes and masks; by MMDetection's own functions, which know nothing of us."""
    cfg = Config.fromfile(tiny('mask-rcnn', coco))
    cfg.test_dataloader.dataset.pipeline[1].scale = (192, 128)
    torch.manual_seed(0)
    model = init_detector(cfg, None, device='cpu')
    path = sorted((coco / 'val2017').glob('*'))[0]
    result = inference_detector(model, str(path))
    found = result.pred_instances
    assert len(found) == 30 and found.masks.shape[1:] == result.ori_shape
    # Encrypted, it is of a fraction of the sides; boxes are anywhere in the original.
    h, w = result.ori_shape
    assert result.img_shape[0] <= 64 and result.img_shape[1] <= 96
    corner = found.bboxes[:, 2:].amax(0)
    assert 192 < corner[0] <= w and 128 < corner[1] <= h
    checkpoint = str(coco / 'weights.pth')
    torch.save(dict(state_dict=model.state_dict(), meta={}), checkpoint)
    inferencer = DetInferencer(cfg, checkpoint, device='cpu', show_progress=False)
    predictions = inferencer(str(path), no_save_vis=True)['predictions'][0]
    np.testing.assert_allclose(predictions['bboxes'], found.bboxes, atol=1e-3)
