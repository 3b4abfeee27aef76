# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Heads of detectors where patches have moved."""

import pytest
from config_parts import BOXES, META, dataset, make_manifest, warnings_of
from mmengine.config import Config

from hime_mm.apis import check_config
from hime_mm.errors import ConfigError
from hime_mm.models import PatchTokenHead
from hime_mm.registry import MODELS

TOKEN_HEAD = dict(type='hime_mm.PatchTokenHead', num_classes=3, in_channels=192)


def config(cipher, **model):
    encrypt = dict(type='hime_mm.Encrypt', cipher=cipher)
    side = 12 if 'erode' in cipher else 8 if 'mix' in cipher else 16
    backbone = dict(type='hime_mm.PEViT', patch_size=side, out_type='featmap')
    return Config(
        dict(
            train_dataloader=dict(
                dataset=dataset('none', BOXES, encrypt, dict(type='PackDetInputs'))
            ),
            model=dict(type='hime_mm.PESingleStageDetector', backbone=backbone, **model),
        )
    )


def said_of(cfg, name):
    with warnings_of() as lines:
        check_config(cfg)
    return [line for line in lines if f'`model.{name}' in line]


@pytest.mark.parametrize('cipher', ['shuffle', 'center+erode2+shuffle', 'mix2+shuffle'])
@pytest.mark.parametrize(
    'place, head',
    [
        ('bbox_head', dict(type='RetinaHead')),
        ('bbox_head', dict(type='mmdet.FCOSHead')),
        ('bbox_head', dict(type='hime_mm.DetTokenHead')),
        ('rpn_head', dict(type='RPNHead')),
        ('roi_head', dict(type='StandardRoIHead')),
    ],
)
def test_heads_that_need_the_grid(cipher, place, head):
    (line,) = said_of(config(cipher, **{place: head}), place)
    assert head['type'] in line and 'pipeline.2' in line and 'hime_mm.PatchTokenHead' in line


@pytest.mark.parametrize('cipher', ['mix2', 'negate', 'erode2'])
def test_any_head_where_patches_stay(cipher):
    nms = dict(nms=dict(type='nms', iou_threshold=0.6))
    for head in (dict(type='RetinaHead'), dict(TOKEN_HEAD, test_cfg=nms)):
        assert said_of(config(cipher, bbox_head=head, neck=dict(type='FPN')), '') == []


def test_the_head_for_moved_patches():
    assert said_of(config('shuffle', bbox_head=TOKEN_HEAD), 'bbox_head') == []
    assert said_of(config('shuffle', bbox_head=dict(TOKEN_HEAD, test_cfg=dict(nms=None))), '') == []


@pytest.mark.parametrize('detector', ['hime_mm.PESingleStageDetector', 'SingleStageDetector'])
@pytest.mark.parametrize(
    'cipher, side, other',
    [('shuffle', 16, 8), ('center+erode2+shuffle', 12, None), ('mix2+shuffle', 8, 16)],
)
def test_slots_of_the_head_are_the_patches(detector, cipher, side, other):
    cfg = config(cipher, bbox_head=dict(TOKEN_HEAD, patch_size=side))
    cfg.model.type = detector
    assert said_of(cfg, 'bbox_head') == []
    cfg.model.bbox_head.pop('patch_size')
    if other is not None:
        cfg.model.bbox_head.patch_size = other
    with pytest.raises(
        ConfigError, match=rf'^`model\.bbox_head` does not fit.*`patch_size={side}`'
    ):
        check_config(cfg)


class DerivedHead(PatchTokenHead):
    pass


@pytest.fixture
def derived():
    MODELS.register_module(module=DerivedHead)
    yield 'hime_mm.DerivedHead'
    del MODELS._module_dict['DerivedHead']


@pytest.mark.parametrize('named', ['name', 'class', 'derived'])
def test_the_head_under_any_name(derived, named):
    kind = dict(name=TOKEN_HEAD['type'], derived=derived).get(named, PatchTokenHead)
    head = dict(TOKEN_HEAD, type=kind)
    assert said_of(config('shuffle', bbox_head=head), 'bbox_head') == []
    head['test_cfg'] = dict(nms=dict(type='nms', iou_threshold=0.6))
    with pytest.raises(ConfigError, match='suppresses boxes'):
        check_config(config('shuffle', bbox_head=head))


def test_what_mixes_neighbours():
    (line,) = said_of(config('shuffle', bbox_head=TOKEN_HEAD, neck=dict(type='FPN')), 'neck')
    assert 'FPN' in line


@pytest.mark.parametrize('inside', [True, False])
def test_suppression_in_encrypted_coordinates(inside):
    test_cfg = dict(nms=dict(type='nms', iou_threshold=0.6))
    model = dict(bbox_head=dict(TOKEN_HEAD, test_cfg=test_cfg))
    if not inside:
        model = dict(bbox_head=TOKEN_HEAD, test_cfg=test_cfg)
    place = r'model\.bbox_head\.test_cfg' if inside else r'model\.test_cfg'
    with pytest.raises(ConfigError, match=rf'`{place}\.nms`.*`None`'):
        check_config(config('shuffle', **model))
    check_config(config('mix2', **model))


def test_folders_that_were_shuffled(tmp_path):
    make_manifest(tmp_path, 'shuffle')
    (tmp_path / 'images').mkdir()
    cfg = config('shuffle', bbox_head=dict(type='RetinaHead'))
    cfg.train_dataloader.dataset = dataset(tmp_path, META, BOXES, dict(type='PackDetInputs'))
    (line,) = said_of(cfg, 'bbox_head')
    assert 'pipeline.1' in line
