# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What docs/training.md says to change in a detector, and the boxes that then find priors."""

import ast
import json
import re
from functools import cache
from inspect import signature
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS, TASK_UTILS, TRANSFORMS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from tiers import trials_but

from hime_mm.config import encrypt_config, load_config

PAGE = (Path(__file__).parents[3] / 'docs/training.md').read_text()
CONFIGS = {
    'RetinaNet': 'retinanet/retinanet_r50_fpn_1x_coco.py',
    'Faster': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'Mask': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'Cascade R-CNN': 'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    'ATSS': 'atss/atss_r50_fpn_1x_coco.py',
    'FCOS': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'YOLOF': 'yolof/yolof_r50-c5_8xb8-1x_coco.py',
    'YOLOv3': 'yolo/yolov3_d53_8xb8-ms-608-273e_coco.py',
}


def table(after):
    """The rows of the first table behind some words of the page."""
    rows = re.search(r'(?:^\|.*\n)+', PAGE[PAGE.index(after) :], re.M)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip('|').split('|')] for row in rows]


def model_of(name, changes=()):
    """The model of a stock config, with some settings changed."""
    init_default_scope('mmdet')
    cfg = get_config(f'mmdet::{CONFIGS[name]}')
    cfg.merge_from_dict({f'model.{key}': ast.literal_eval(value) for key, value in changes})
    return cfg.model


def settings_in(cell):
    return re.findall(r'(\w[\w.]+)=(\S+?)(?=[ `])', cell)


def strides_of(model):
    """The strides that the feature maps have, whatever the head is told."""
    neck = model.neck
    if neck.type == 'FPN':
        finest = 4 * 2**neck.start_level if 'start_level' in neck else 4
        return [finest * 2**i for i in range(neck.num_outs)]
    stages = model.backbone.get('strides', (1, 2, 2, 2))
    return {'DilatedEncoder': [4 * prod(stages)], 'YOLOV3Neck': [32, 16, 8]}[neck.type]


@pytest.fixture(scope='module')
def boxes(coco_tiny):
    """Size and boxes of each image as a model gets them: by cipher, of all images or fewer."""
    data = json.loads((coco_tiny / 'annotations/instances_train2017.json').read_text())
    found = {}
    for entry in data['annotations']:
        x, y, w, h = entry['bbox']
        if not entry['iscrowd'] and min(w, h) >= 1:
            found.setdefault(entry['image_id'], []).append([x, y, x + w, y + h])
    resize = TRANSFORMS.build(dict(type='mmdet.Resize', scale=(1333, 800), keep_ratio=True))

    @cache
    def of(cipher, every=1):
        encrypt = TRANSFORMS.build(dict(type='hime_mm.Encrypt', cipher=cipher))
        samples = []
        for image in data['images'][::every]:
            if image['id'] in found:
                size = (image['height'], image['width'])
                sample = dict(
                    img=np.zeros((*size, 3), np.uint8),
                    img_shape=size,
                    gt_bboxes=np.array(found[image['id']], np.float32),
                )
                sample = encrypt(resize(sample))
                samples.append((sample['img_shape'], torch.from_numpy(sample['gt_bboxes'])))
        return samples

    return of


def head_of(model):
    """The head whose priors are as many as the pixels of its feature maps."""
    return model.rpn_head if 'rpn_head' in model else model.bbox_head


def grids_of(shape, strides, divisor):
    """Rows and columns of each feature map, of a batch padded to a multiple of the divisor."""
    sides = [-(-side // divisor) * divisor for side in shape]
    return [tuple(-(-side // stride) for side in sides) for stride in strides]


def learns(model, strides, samples, divisor=32):
    """Which boxes have a prior to learn from: bool, (all boxes, )."""
    head = head_of(model)
    way = {'FCOSHead': _by_regions, 'ATSSHead': _by_atss}.get(head.type, _by_overlap)(head)
    flags = []
    for shape, boxes in samples:
        flag = torch.zeros(len(boxes), dtype=torch.bool)
        flag[way(grids_of(shape, strides, divisor), boxes)] = True
        flags.append(flag)
    return torch.cat(flags)


def _by_overlap(head):
    generator = TASK_UTILS.build(head.anchor_generator)

    def way(grids, boxes):
        anchors = torch.cat(generator.grid_priors(grids, device='cpu'))
        return bbox_overlaps(boxes, anchors).amax(dim=1) >= 0.5

    return way


def _by_atss(head):
    generator = TASK_UTILS.build(head.anchor_generator)
    assigner = TASK_UTILS.build(dict(type='ATSSAssigner', topk=9))

    def way(grids, boxes):
        anchors = generator.grid_priors(grids, device='cpu')
        truth = InstanceData(bboxes=boxes, labels=torch.zeros(len(boxes)).long())
        result = assigner.assign(
            InstanceData(priors=torch.cat(anchors)), [len(level) for level in anchors], truth
        )
        return result.gt_inds[result.gt_inds > 0] - 1

    return way


def _by_regions(head):
    built = MODELS.build(
        dict(head, num_classes=999, in_channels=8, feat_channels=8, stacked_convs=0, norm_cfg=None)
    )

    def way(grids, boxes):
        points = built.prior_generator.grid_priors(grids, device='cpu')
        truth = InstanceData(bboxes=boxes, labels=torch.arange(len(boxes)))
        labels = torch.cat(built.get_targets(points, [truth])[0])
        return labels[labels < 999]

    return way


def percent(flags):
    return round(100 * flags.double().mean().item(), 1)


CNN = table('**A CNN**')
COUNTED = [row for row in CNN if row[2]]


@pytest.fixture(scope='module')
def share(boxes):
    """Percentage of boxes with a prior, by detector, settings and cipher."""

    @cache
    def of(name, changes, cipher):
        model = model_of(name, changes)
        return percent(learns(model, strides_of(model), boxes(cipher)))

    return of


@pytest.mark.slow
class TestCNN:
    @pytest.mark.parametrize(
        'row',
        [
            pytest.param(row, id=row[0], marks=() if 'RetinaNet' in row[0] else pytest.mark.trial)
            for row in COUNTED
        ],
    )
    def test_share_of_boxes(self, boxes, share, row):
        kind, cell, *figures = row
        name, changes = kind.split(',')[0], tuple(settings_in(cell))
        total = int(re.search(r'the (\d+) boxes of 80 COCO photos', PAGE)[1])
        assert total == sum(len(found) for _, found in boxes('mix2'))
        shares = [share(name, (), 'center'), share(name, (), 'mix2')]
        if figures[2]:
            assert changes
            shares.append(share(name, changes, 'mix2'))
            assert shares[2] > shares[1]
        assert shares == [float(figure) for figure in figures if figure]

    @pytest.mark.parametrize(
        'name', trials_but(lambda name: name in ('RetinaNet', 'Faster'), CONFIGS)
    )
    def test_what_is_rewritten_loses_next_to_none(self, boxes, name):
        """Two points of the share that the stock config has on plain images, at most."""
        before = load_config(f'mmdet::{CONFIGS[name]}')
        after = encrypt_config(before, 'mix2').model
        plain = percent(learns(before.model, strides_of(before.model), boxes('center')))
        assert percent(learns(after, strides_of(after), boxes('mix2'))) >= plain - 2
        # What the network makes of an image has the strides that its head is told.
        head = head_of(after)
        if 'strides' in head:
            assert list(head.strides) == strides_of(after)
        elif 'strides' in head.anchor_generator:
            assert list(head.anchor_generator.strides) == strides_of(after)

    def test_detectors_with_the_same_priors(self):
        (row,) = [row for row in CNN if 'R-CNN' in row[0]]
        names = row[0].split(', ')
        assert names == ['Faster', 'Mask', 'Cascade R-CNN']
        models = [model_of(name, settings_in(row[1])) for name in names]
        for model in models[1:]:
            assert model.rpn_head.anchor_generator == models[0].rpn_head.anchor_generator
            assert strides_of(model) == strides_of(models[0])

    @pytest.mark.parametrize('row', COUNTED, ids=[row[0] for row in COUNTED])
    def test_what_does_not_help(self, boxes, row):
        found = re.search(r'halving `(\w+)`.*?([\d.]+)$', row[1])
        if found is None:
            return
        model = model_of(row[0])
        head = model.bbox_head
        if found[1] == 'regress_ranges':
            # Where the config does not name them, they are the head's defaults.
            defaults = signature(MODELS.get(head.type)).parameters
            head[found[1]] = halved(defaults[found[1]].default)
        else:
            head.anchor_generator[found[1]] = halved(head.anchor_generator[found[1]])
        share = percent(learns(model, strides_of(model), boxes('mix2')))
        assert share == float(found[2]) <= float(row[3])

    def test_halved_strides(self, boxes):
        """The advice that was wrong: strides that the feature maps do not have."""
        model = model_of('RetinaNet')
        real = strides_of(model)
        model.bbox_head.anchor_generator.strides = [stride // 2 for stride in real]
        for shape, _ in boxes('mix2'):
            generator = TASK_UTILS.build(model.bbox_head.anchor_generator)
            for anchors in generator.grid_priors(grids_of(shape, real, 32), device='cpu'):
                centres = (anchors[:, :2] + anchors[:, 2:]) / 2
                assert (centres.amax(dim=0) < torch.tensor(shape[::-1]) * 0.6).all()
        assert percent(learns(model, real, boxes('mix2'))) < 30

    @pytest.mark.parametrize('row', [row for row in CNN if 'start_level' in row[1]], ids=str)
    def test_a_level_finer_is_a_pyramid_of_those_strides(self, row):
        model = model_of(row[0].split(',')[0], settings_in(row[1]))
        head = model.bbox_head
        told = head.anchor_generator.strides if 'anchor_generator' in head else head.strides
        outs = [
            torch.zeros(1, c, 128 // s, 128 // s)
            for c, s in zip(model.neck.in_channels, (4, 8, 16, 32), strict=True)
        ]
        maps = MODELS.build(model.neck)(outs)
        assert [128 // feature.shape[-1] for feature in maps] == list(told)


def halved(value):
    if isinstance(value, (list, tuple)):
        return [halved(item) for item in value]
    return value / 2 if 0 < value < 1e7 else value


PEVIT = table('**PEViT with the mixed patch embedding**')


class TestPEViT:
    """Whatever is counted in pixels halves: each box finds what it finds in the plain twin."""

    @staticmethod
    def models():
        """Name, settings of the plain twin and of compact MI."""
        found, names = {}, ()
        for kind, setting, plain, mixed in PEVIT:
            # A row without a name belongs to the one above.
            names = [name for name in CONFIGS if name in kind] if kind else names
            if 'R-CNN' in kind:
                names = ['Faster']
            for name in names:
                if plain:
                    found.setdefault(name, []).append([setting.strip('`'), plain, mixed])
        return found

    def test_names(self):
        assert set(self.models()) == {'RetinaNet', 'ATSS', 'FCOS', 'Faster', 'YOLOF'}

    @pytest.mark.parametrize(
        'embed, side', [({}, 128), (dict(patch_embed='mixed', pos_encoding='learned'), 64)]
    )
    def test_strides_are_those_of_the_maps(self, embed, side):
        """Of a plain image, and of the compact one that is made of it."""
        vit = dict(type='hime_mm.PEViT', arch='deit-tiny', out_type='featmap', **embed)
        neck = dict(type='mmdet.FPN', in_channels=[192], out_channels=8, num_outs=3)
        maps = MODELS.build(neck)(MODELS.build(vit)(torch.zeros(1, 3, side, side)))
        column = 1 if side == 128 else 2
        for name, rows in self.models().items():
            told = ast.literal_eval(rows[0][column].strip('`'))
            real = [side // feature.shape[-1] for feature in maps]
            assert list(told) == real[: len(told)], name

    @pytest.mark.parametrize('every', [8, pytest.param(1, marks=pytest.mark.slow)])
    @pytest.mark.parametrize('name', ['RetinaNet', 'ATSS', 'FCOS', 'Faster', 'YOLOF'])
    def test_boxes(self, boxes, name, every):
        shares = []
        for column, cipher, first in ((1, 'center', 16), (2, 'mix2', 8)):
            model = model_of(
                name, [(row[0], row[column].strip('`')) for row in self.models()[name]]
            )
            strides = [first] if name == 'YOLOF' else [first, 2 * first, 4 * first]
            head = head_of(model)
            told = head.strides if name == 'FCOS' else head.anchor_generator.strides
            assert list(told) == strides
            samples = boxes(cipher, every)
            shares.append(learns(model, strides, samples, divisor=1))
            if name == 'Faster':
                cfg = model.roi_head.bbox_roi_extractor
                assert list(cfg.featmap_strides) == strides[:2]
                levels = MODELS.build(cfg).map_roi_levels(
                    torch.cat([torch.nn.functional.pad(b, (1, 0)) for _, b in samples]),
                    len(cfg.featmap_strides),
                )
                shares[-1] = torch.stack([shares[-1], levels])
        assert shares[0].double().mean() > 0.3
        assert torch.equal(*shares)
