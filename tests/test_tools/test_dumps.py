# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What `tools/test.py --out` writes where the run keeps the permutations."""

import json
import pickle

import numpy as np
import pytest
import torch
from owner_data import forms_of_permutation, found, photo, tree, write
from scripts import run_script

from hime_mm.transforms import Encrypt

pytestmark = pytest.mark.usefixtures('quick_dumps')
SHUFFLE = "dict(type='hime_mm.PatchShuffle', keep_permutation=True)"
KEYS = "('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'patch_layout')"
BACKBONE = """dict(
    type='hime_mm.PEViT', pos_encoding='rpe', img_size=64, {more}
    arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32))"""
DETECTOR = f"""
default_scope = 'mmdet'
model = dict(
    type='hime_mm.PEYOLOS', data_preprocessor=dict(type='DetDataPreprocessor'),
    backbone={BACKBONE.format(more="num_det_tokens=7, out_type='det_tokens',")},
    bbox_head=dict(type='hime_mm.DetTokenHead', num_classes=2, embed_dims=16),
    test_cfg=dict(max_per_img=7))
test_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset', data_root='{{root}}/', ann_file='coco.json', data_prefix=dict(img=''),
        test_mode=True, metainfo=dict(classes=('cat', 'cup')),
        pipeline=[
            dict(type='LoadImageFromFile'), {SHUFFLE},
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='PackDetInputs', meta_keys={KEYS})]))
test_evaluator = dict(type='CocoMetric', ann_file='{{root}}/coco.json')
test_cfg = dict(type='TestLoop')
"""
CLASSIFIER = f"""
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier', data_preprocessor=dict(type='ClsDataPreprocessor'),
    backbone={BACKBONE.format(more='')},
    head=dict(type='VisionTransformerClsHead', num_classes=2, in_channels=16))
test_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset', data_root='{{root}}', data_prefix='classes',
        pipeline=[
            dict(type='LoadImageFromFile'), {SHUFFLE}, dict(type='PackInputs', meta_keys={KEYS})]))
test_evaluator = dict(type='Accuracy')
test_cfg = dict()
"""


@pytest.fixture
def data(tmp_path):
    """Two pictures, as a COCO data set and as two classes."""
    images, annotations = [], []
    for i, name in enumerate(('cat', 'cup')):
        path = write(tmp_path / f'classes/{name}/0.png', photo(64, 96, i))
        images.append(dict(id=i, file_name=str(path.relative_to(tmp_path)), height=64, width=96))
        box = dict(bbox=[3, 4, 30, 20], area=600, iscrowd=0)
        annotations.append(dict(box, id=i + 1, image_id=i, category_id=i))
    categories = [dict(id=i, name=name) for i, name in enumerate(('cat', 'cup'))]
    coco = dict(images=images, annotations=annotations, categories=categories)
    (tmp_path / 'coco.json').write_text(json.dumps(coco))
    return tmp_path


@pytest.mark.parametrize('config', [DETECTOR, CLASSIFIER], ids=['mmdet', 'mmpretrain'])
def test_layouts_are_public_there(config, data, monkeypatch, capfd):
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS

    path = data / 'config.py'
    path.write_text(config.format(root=data))
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), data / 'weights.pth')
    kept, transform = [], Encrypt.transform

    def keeping(self, results):
        kept.append(transform(self, results)['patch_layout'].permutation)
        return results

    monkeypatch.setattr(Encrypt, 'transform', keeping)
    args = ('--work-dir', data / 'work', '--out', data / 'work/out.pkl')
    run_script('tools/test.py', path, data / 'weights.pth', *args)
    assert len(kept) == 2 and all(len(perm) == 24 for perm in kept)
    dumped = pickle.loads((data / 'work/out.pkl').read_bytes())
    assert len(dumped) == 2
    for result in dumped:
        layout = result['patch_layout']
        assert layout.permutation is None and layout.shuffled and layout.grid == (4, 6)
    printed = capfd.readouterr()
    contents = [*tree(data / 'work').values(), printed.out.encode(), printed.err.encode()]
    for perm in kept:
        assert not found(forms_of_permutation(np.array(perm)), contents)
