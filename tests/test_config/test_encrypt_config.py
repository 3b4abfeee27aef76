# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Configs that know nothing of encryption, made to encrypt."""

import importlib
from copy import deepcopy
from functools import cache
from inspect import signature
from pathlib import Path

import pytest
import torch
from config_parts import make_manifest
from mmdet.datasets.transforms import PackDetInputs
from mmengine.config import Config
from mmengine.registry import init_default_scope
from scripts import ROOT
from stock_configs import file_name, names

from hime_mm.config import config_diff, encrypt_config, load_config, read, use_tta, validate
from hime_mm.errors import HimeError
from hime_mm.models import PEViT, TIMMPEViT

DIFFS = Path(__file__).parent / 'diffs'
STOCK = names()
loaded = cache(load_config)


@cache
def encrypted(name, cipher):
    return encrypt_config(loaded(name), cipher)


@pytest.mark.parametrize('name', STOCK, ids=file_name)
def test_what_changes(name):
    """The differences that a user is shown, as they were when somebody last read them."""
    found = config_diff(loaded(name), encrypted(name, 'mix2')) + '\n'
    path = DIFFS / f'{file_name(name)}.diff'
    if not path.exists():
        path.write_text(found)
        pytest.fail(f'{path} was not there: read what was written')
    assert found == path.read_text()


@pytest.mark.parametrize('cipher', ['mix2', pytest.param('center+erode2', marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', STOCK, ids=file_name)
def test_every_way_is_encrypted_once_and_last(name, cipher):
    plan = read(encrypted(name, cipher))
    assert {way.phase for way in plan.ways} >= {'train', 'val', 'test'}
    for way in plan.ways:
        assert None not in way.ends and way.encrypts, way.place
    # Transforms behind the encryption, hooks that draw, metrics, patches that do not fit.
    assert [str(finding) for finding in validate(plan)] == []


def changed(name, **options):
    cfg = deepcopy(loaded(name))
    cfg.merge_from_dict(options)
    return cfg


RETINANET = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
MASK = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
VOC = 'mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py'
RTMDET = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
SWIN = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'
DEIT = 'mmpretrain::deit/deit-tiny_4xb256_in1k.py'
CSRA = 'mmpretrain::csra/resnet101-csra_1xb16_voc07-448px.py'
SOFT = 'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
NO_PACK = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64))]
RESIZING = [dict(type='BatchResize', scale=(800, 1333))]
# Config, cipher, backbone; the reason, and what would make it work.
REFUSALS = {
    'convolutions': (
        (RETINANET, 'shuffle'),
        r'`model\.backbone` is ResNet, which convolves over the edges of patches',
        '--backbone pevit-small',
    ),
    'windows': ((SWIN, 'shuffle'), 'attends within windows', '--backbone pevit-small'),
    'positions': ((DEIT, 'shuffle'), 'learns the place of each patch', '--backbone pevit-small'),
    'patches of another size': (
        ('mmpretrain::vision_transformer/vit-base-p32_64xb64_in1k.py', 'mix2'),
        'embeds patches of side 32, but those of the cipher have side 16',
        '--patch-size 32',
    ),
    'masks': (
        (MASK, 'shuffle', 'pevit-small'),
        r'`train_dataloader\.dataset\.pipeline\.1\.with_mask` loads masks',
        '--cipher mix2',
    ),
    'boxes nobody maps back': (
        (VOC, 'shuffle', 'pevit-small'),
        'is VOCMetric, which judges boxes where they were predicted',
        'use CocoMetric',
    ),
    'two permutations of an image': (
        (SOFT, 'shuffle', 'pevit-small'),
        'teacher and student see two permutations',
        '--cipher mix2',
    ),
    'views with permutations of their own': (
        (lambda: use_tta(deepcopy(loaded(RTMDET))), 'shuffle', 'pevit-small'),
        'merges what was predicted on several views',
        'leave `--tta` out',
    ),
    'a border in plain pixels': (
        ('mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py', 'mix2'),
        'pads test images by a border',
        '--cipher mix2:tiled',
    ),
    'priors for one size': (
        ('mmdet::ssd/ssd300_coco.py', 'erode2'),
        'priors are made for one size',
        '--cipher mix2:tiled',
    ),
    'batches that are resized': (
        (
            lambda: changed(RETINANET, **{'model.data_preprocessor.batch_augments': RESIZING}),
            'mix2',
        ),
        'resizes encrypted images to the size that the model wants',
        r'--cfg-options model\.data_preprocessor\.batch_augments=None',
    ),
    'no end of a pipeline': (
        (lambda: changed(RETINANET, **{'val_dataloader.dataset.pipeline': NO_PACK}), 'mix2'),
        r'`val_dataloader\.dataset\.pipeline` has no transform that packs',
        'PackDetInputs',
    ),
    'videos': (
        (
            'mmdet::masktrack_rcnn/masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_youtubevis2019.py',
            'mix2',
        ),
        'handles several frames at once',
        'hime encrypt coco',
    ),
    'encrypted already': (
        (str(ROOT / 'configs/hime_vit_coco.py'), 'mix2'),
        'the config encrypts already',
        'leave `--cipher` out',
    ),
    'an unknown step': ((RETINANET, 'blur'), 'blur', 'choose from'),
    'one draw for a data set': ((RETINANET, 'permute_pixels'), 'permute_pixels', 'hime encrypt'),
    'an unknown backbone': (
        (RETINANET, 'mix2', 'pevit-huge'),
        "unknown backbone 'pevit-huge'",
        'pevit-small, pevit-base, or timm:NAME',
    ),
    'a backbone that needs the order': (
        (RETINANET, 'mix2', 'timm:swin_tiny_patch4_window7_224'),
        'swin_tiny_patch4_window7_224',
        '',
    ),
    'a neck of its own': (
        ('mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py', 'mix2', 'pevit-tiny'),
        r'`model\.neck` is YOLOV3Neck, which --backbone does not know how to fit',
        'SimpleFeaturePyramid',
    ),
    'a head that reads a map': (
        (CSRA, 'mix2', 'pevit-tiny'),
        r'`model\.head` is CSRAClsHead, which does not read the one vector',
        'MultiLabelLinearClsHead',
    ),
}


@pytest.mark.parametrize('case', REFUSALS.values(), ids=REFUSALS)
def test_refusals(case):
    (config, *args), reason, remedy = case
    cfg = config() if callable(config) else loaded(config)
    before = deepcopy(cfg)
    with pytest.raises(HimeError, match=f'(?s){reason}.*{remedy}'):
        encrypt_config(cfg, *args)
    assert cfg.to_dict() == before.to_dict()


def test_all_reasons_are_given_at_once():
    with pytest.raises(HimeError, match='(?s)errors in the config.*convolves.*loads masks'):
        encrypt_config(MASK, 'shuffle')


FCOS = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
FASTER = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
DEFORMABLE = 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'
# Config, cipher and backbone; of the result, what has to be so.
SWAPS = {
    'pyramid': (
        (FASTER, 'mix2', 'pevit-tiny'),
        {
            'type': 'hime_mm.PaddingAware',
            'detector': 'FasterRCNN',
            'data_preprocessor.pad_size_divisor': 8,
            'backbone.patch_size': 16,
            'backbone.input_form': 'compact',
            'backbone.pos_encoding': 'learned',
            'neck.in_channels': 192,
            'neck.scale_factors': [4, 2, 1, 0.5],
            'neck.num_outs': 5,
            'rpn_head.anchor_generator.strides': [2, 4, 8, 16, 32],
            'rpn_head.anchor_generator.scales': [8],
            'roi_head.bbox_roi_extractor.featmap_strides': [2, 4, 8, 16],
            'roi_head.bbox_roi_extractor.finest_scale': 28,
        },
    ),
    'pyramid from the second level': (
        (RETINANET, 'center+erode2', 'pevit-tiny'),
        {
            'backbone.patch_size': 12,
            'backbone.patch_embed': None,
            # Weights of plain patches, and how plain and encrypted images are normalized.
            'backbone.warm_start': dict(
                cipher='center+erode2',
                mean=[128.0] * 3,
                std=[40.0] * 3,
                plain_mean=[123.675, 116.28, 103.53],
                plain_std=[58.395, 57.12, 57.375],
            ),
            'neck.scale_factors': [2, 1, 0.5],
            'bbox_head.anchor_generator.strides': [6, 12, 24, 48, 96],
            'data_preprocessor.mean': [128.0] * 3,
        },
    ),
    'several levels of one width': (
        (DEFORMABLE, 'mix2:tiled', 'pevit-tiny'),
        {
            'backbone.input_form': 'full',
            'backbone.warm_start.cipher': 'mix2:tiled',
            'neck.scale_factors': [2, 1, 0.5],
            'neck.num_outs': 4,
        },
    ),
    'one level': (
        ('mmdet::detr/detr_r50_8xb2-150e_coco.py', 'mix2', 'pevit-tiny'),
        {'neck.in_channels': [192], 'detector': 'DETR'},
    ),
    'dilated encoder': (
        ('mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py', 'mix2', 'pevit-tiny'),
        {'neck.in_channels': 192, 'bbox_head.anchor_generator.strides': [8]},
    ),
    'points': (
        (FCOS, 'mix2', 'timm:deit_tiny_patch16_224'),
        {
            'backbone.patch_size': 8,
            'neck.in_channels': 192,
            'bbox_head.strides': [4, 8, 16, 32, 64],
            'bbox_head.regress_ranges': ((-1, 32), (32, 64), (64, 128), (128, 256), (256, 1e8)),
        },
    ),
    'strides that the config leaves out': (
        ('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', 'mix2', 'pevit-tiny'),
        {
            'neck.scale_factors': [2, 1, 0.5],
            'bbox_head.strides': (4, 8, 16),
            # It starts from no weights.
            'data_preprocessor.mean': None,
        },
    ),
    'moved patches': (
        (FASTER, 'center+erode2+shuffle', 'pevit-tiny'),
        {
            'type': 'hime_mm.PESingleStageDetector',
            'backbone.pos_encoding': 'rpe',
            'bbox_head.patch_size': 12,
            'bbox_head.num_classes': 80,
            'data_preprocessor.pad_size_divisor': 12,
            'test_cfg.nms': None,
            'rpn_head': None,
        },
    ),
    'classifier': (
        ('mmpretrain::resnet/resnet18_8xb32_in1k.py', 'shuffle', 'pevit-tiny'),
        {
            'backbone.pos_encoding': 'rpe',
            'backbone.warm_start': None,
            'neck': None,
            'head.in_channels': 192,
        },
    ),
    'classifier without a class token': (
        (DEIT, 'shuffle', 'timm:vit_small_patch16_224.augreg_in21k'),
        {'backbone.out_type': 'cls_token', 'head.in_channels': 384, 'backbone.pretrained': False},
    ),
    'weights of other statistics': (
        (FASTER, 'mix2', 'timm:vit_small_patch16_224.augreg_in21k'),
        {
            'data_preprocessor.mean': [127.5] * 3,
            'data_preprocessor.std': [127.5] * 3,
            'backbone.warm_start.mean': [127.5] * 3,
            'backbone.warm_start.plain_mean': [127.5] * 3,
            'backbone.warm_start.plain_std': [127.5] * 3,
        },
    ),
    # Of another order of channels, and of a standard deviation of one, before.
    'weights in place of those of caffe': (
        (FCOS, 'center+erode2', 'pevit-tiny'),
        {
            'data_preprocessor.bgr_to_rgb': True,
            'data_preprocessor.mean': [128.0] * 3,
            'data_preprocessor.std': [40.0] * 3,
            'backbone.warm_start.std': [40.0] * 3,
            'backbone.warm_start.plain_std': [58.395, 57.12, 57.375],
        },
    ),
    'nothing to start from': ((DEIT, 'center', 'pevit-tiny'), {'backbone.warm_start': None}),
}


def test_batch_augmentations():
    """What cuts through patches is replaced; what resizes goes, and its probability with it."""
    mixing = dict(
        augments=[dict(type='Mixup', alpha=0.2), dict(type='ResizeMix'), dict(type='CutMix')],
        probs=[0.2, 0.5, 0.3],
    )
    cutmix = dict(type='hime_mm.PatchCutMix', alpha=1.0, patch_size=8, mode='block')
    new = encrypt_config(changed(DEIT, **{'model.train_cfg': mixing}), 'mix2')
    assert new.model.train_cfg.augments == [mixing['augments'][0], cutmix]
    assert new.model.train_cfg.probs == [0.2, 0.3]


def test_what_packing_keeps():
    """The host's default, and what maps boxes back."""
    pack = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]
    cfg = changed(RETINANET, **{'val_dataloader.dataset.pipeline': pack})
    new = encrypt_config(cfg, 'shuffle', 'pevit-tiny')
    host = signature(PackDetInputs).parameters['meta_keys'].default
    kept = new.val_dataloader.dataset.pipeline[-1].meta_keys
    assert tuple(kept) == (*host, 'patch_layout')


def found(part, key):
    for name in key.split('.'):
        part = part.get(name) if part is not None else None
    return part


@pytest.mark.parametrize('case', SWAPS.values(), ids=SWAPS)
def test_backbones(case):
    """What is put in place of a backbone fits neck, heads and cipher, and can be built."""
    (name, *args), expected = case
    new = encrypt_config(loaded(name), *args)
    assert {key: found(new.model, key) for key in expected} == expected
    assert [str(one) for one in validate(read(new)) if one.level == 'error'] == []
    # It starts from weights if the backbone before did.
    trained = 'Pretrained' in str(loaded(name).model.backbone)
    assert (
        bool(new.model.backbone.get('init_cfg') or new.model.backbone.get('pretrained')) == trained
    )
    new.model.backbone.update(init_cfg=None, **dict(pretrained=False) if 'timm' in args[1] else {})
    host = name.partition(':')[0]
    init_default_scope(host)
    model = importlib.import_module(f'{host}.registry').MODELS.build(new.model)
    assert isinstance(model.backbone, (PEViT, TIMMPEViT))
    head = getattr(model, 'rpn_head', getattr(model, 'bbox_head', None))
    generator = getattr(head, 'prior_generator', None)
    if generator is not None:
        # The maps have the strides that the head is told.
        side = model.backbone.patch_stride
        with torch.no_grad():
            maps = model.eval().extract_feat(torch.zeros(1, 3, 8 * side, 16 * side))
        shapes = [(-(-8 * side // s), -(-16 * side // s)) for s, _ in generator.strides]
        assert [tuple(one.shape[-2:]) for one in maps] == shapes


@pytest.mark.parametrize(
    'name, kind',
    [(DEIT, 'mmpretrain.ClsDataPreprocessor'), (RETINANET, 'mmdet.DetDataPreprocessor')],
)
def test_trained_weights_where_nothing_is_normalized(name, kind):
    """A config without a data preprocessor gets one: the weights are of normalized images."""
    cfg = deepcopy(loaded(name))
    (cfg if 'data_preprocessor' in cfg else cfg.model).pop('data_preprocessor')
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='torchvision://resnet50')
    new = encrypt_config(cfg, 'center+erode2', 'pevit-tiny')
    made = new.data_preprocessor
    assert made.type == kind
    assert (made.mean, made.std) == ([128.0] * 3, [40.0] * 3)
    warm = new.model.backbone.warm_start
    assert (warm.mean, warm.std) == (made.mean, made.std)


def test_boxes_that_move_are_judged_in_the_original():
    new = encrypt_config(loaded(RETINANET), 'shuffle', 'pevit-tiny')
    assert new.val_evaluator.type == new.test_evaluator.type == 'hime_mm.OriginalCocoMetric'
    for phase in ('val', 'test'):
        *_, encrypt, _, pack = new[f'{phase}_dataloader'].dataset.pipeline
        assert encrypt.keep_permutation is True and 'patch_layout' in pack.meta_keys
    assert 'keep_permutation' not in str(new.train_dataloader)
    assert 'tta_model' not in new and 'tta_pipeline' not in new
    assert validate(read(new)) == []


CLASSES = """
from mmcv.transforms import LoadImageFromFile, RandomFlip
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.evaluation import CocoMetric
from mmdet.models import FPN, DetDataPreprocessor, ResNet, RetinaHead, RetinaNet
from mmdet.models.task_modules import AnchorGenerator

steps = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations, with_bbox=True)]
pipeline = [*steps, dict(type=Resize, scale=(96, 64)), dict(type=RandomFlip, prob=0.5),
            dict(type=PackDetInputs)]
judged = [steps[0], dict(type=Resize, scale=(96, 64)), steps[1], dict(type=PackDetInputs)]
train_dataloader = dict(dataset=dict(type=CocoDataset, data_root='a', pipeline=pipeline))
val_dataloader = dict(dataset=dict(type=CocoDataset, data_root='a', pipeline=judged))
val_evaluator = dict(type=CocoMetric)
default_hooks = dict(visualization=dict(type=DetVisualizationHook))
model = dict(
    type=RetinaNet,
    data_preprocessor=dict(type=DetDataPreprocessor, pad_size_divisor=32),
    backbone=dict(type=ResNet, depth=18),
    neck=dict(type=FPN, in_channels=[64, 128, 256, 512], out_channels=8, start_level=1, num_outs=5),
    bbox_head=dict(type=RetinaHead, num_classes=2, in_channels=8, anchor_generator=dict(
        type=AnchorGenerator, octave_base_scale=4, scales_per_octave=3, ratios=[1.0],
        strides=[8, 16, 32, 64, 128])))
"""


def test_a_class_valued_config(tmp_path):
    """Types that are imported stay what they are, and what is written can be read."""
    path = tmp_path / 'classes.py'
    path.write_text(CLASSES)
    new = encrypt_config(load_config(str(path)), 'mix2')
    assert not isinstance(dict.get(new.model.neck, 'type'), str)
    plan = read(new)
    assert [way.ends for way in plan.ways if None in way.ends] == [] and validate(plan) == []
    assert new.model.bbox_head.anchor_generator.strides == [4, 8, 16, 32, 64]
    (tmp_path / 'new.py').write_text(new.pretty_text)
    again = Config.fromfile(tmp_path / 'new.py')
    assert config_diff(new, again) == ''
    steps = [step.type for step in again.val_dataloader.dataset.pipeline]
    assert [step.rpartition('.')[2] for step in steps] == [
        *('LoadImageFromFile', 'Resize', 'Encrypt', 'LoadAnnotations', 'PackDetInputs')
    ]


@pytest.mark.parametrize('name', STOCK[::4], ids=file_name)
def test_what_is_written_is_the_same_config(name, tmp_path):
    new = encrypted(name, 'mix2')
    path = tmp_path / 'new.py'
    path.write_text(new.pretty_text)
    assert config_diff(new, Config.fromfile(path)) == ''


def test_patches_of_another_size():
    new = encrypt_config(
        'mmpretrain::vision_transformer/vit-base-p32_64xb64_in1k.py', 'mix2', None, 32
    )
    assert (new.model.backbone.patch_size, new.model.backbone.img_size) == (16, 112)
    assert new.train_dataloader.dataset.pipeline[-2].patch_size == 32


def test_there_is_no_such_config():
    with pytest.raises(HimeError, match=r"no config 'mmdet::retina/none.py': write PACKAGE::"):
        encrypt_config('mmdet::retina/none.py', 'mix2')
    with pytest.raises(HimeError, match="no package 'mmnone'"):
        encrypt_config('mmnone::a/b.py', 'mix2')


class TestDiff:
    def test_settings_lists_and_classes(self):
        before = Config(dict(a=1, b=dict(c=[1, 2], d='x'), e=[dict(type='A', n=1), dict(type='B')]))
        after = Config(
            dict(
                a=1,
                b=dict(c=[1, 3]),
                e=[dict(type='A', n=2), dict(type='N', k=(1,)), dict(type='B')],
            )
        )
        assert config_diff(before, after).splitlines() == [
            '- b.c = [1, 2]',
            '+ b.c = [1, 3]',
            "- b.d = 'x'",
            '- e.0.n = 1',
            '+ e.0.n = 2',
            "+ e.1 = dict(type='N', k=(1,))",
        ]

    def test_nothing(self):
        assert config_diff(loaded(RETINANET), loaded(RETINANET)) == ''


class TestOfADataSet:
    """The folder of an encrypted data set in place of a cipher."""

    def test_its_cipher_and_statistics(self, tmp_path):
        numbers = dict(pixels=9, mean=[128.0, 128.1, 127.9], std=[30.0, 31.0, 32.6])
        make_manifest(tmp_path, 'center+shuffle', statistics=numbers)
        name = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
        cfg = encrypt_config(loaded(name), str(tmp_path), 'pevit-tiny')
        assert cfg.data_preprocessor['std'] == [31.2] * 3
        assert cfg.data_preprocessor['mean'] == [128.0] * 3
        (use, *_) = read(cfg).uses
        assert str(use.cipher) == 'center+shuffle'
        usual = encrypt_config(loaded(name), 'center+shuffle', 'pevit-tiny')
        assert usual.data_preprocessor['std'] == [40.0] * 3
        assert str(tmp_path) not in cfg.pretty_text

    def test_that_says_nothing_of_them(self, tmp_path):
        make_manifest(tmp_path, 'center+shuffle')
        name = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
        cfg = encrypt_config(loaded(name), str(tmp_path), 'pevit-tiny')
        assert cfg.data_preprocessor['std'] == [40.0] * 3

    def test_that_is_damaged(self, tmp_path):
        (tmp_path / 'hime.json').write_text('{')
        with pytest.raises(HimeError, match='hime.json'):
            encrypt_config(loaded('mmpretrain::resnet/resnet18_8xb32_in1k.py'), str(tmp_path))

    def test_that_has_the_name_of_a_cipher(self, tmp_path, monkeypatch):
        """The cipher comes first."""
        make_manifest(tmp_path / 'mix2', 'center+shuffle')
        monkeypatch.chdir(tmp_path)
        cfg = loaded('mmpretrain::resnet/resnet18_8xb32_in1k.py')
        for written, expected in (('mix2', 'mix2'), ('./mix2', 'center+shuffle')):
            new = encrypt_config(cfg, written, 'pevit-tiny')
            assert str(read(new).uses[0].cipher) == expected
