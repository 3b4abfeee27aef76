# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import pytest
from config_parts import (
    BOXES,
    META,
    PACK,
    ROOT,
    dataset,
    encrypting,
    loading,
    make_manifest,
    on_device,
    warnings_of,
)
from mmdet.engine.hooks import DetVisualizationHook
from mmengine.config import Config

from hime_mm.apis import check_config
from hime_mm.engine import EncryptedVisualizationHook
from hime_mm.errors import ConfigError


@pytest.mark.parametrize(
    'where, name',
    [
        ('model.backbone', 'PEViT'),
        ('train_dataloader.dataset.pipeline.4', 'Encrypt'),
        ('model', 'PEYOLOS'),
        ('default_hooks.visualization', 'EncryptedVisualizationHook'),
    ],
)
def test_unprefixed_type(where, name):
    cfg = Config.fromfile(ROOT / 'configs/hime_vit_coco.py')
    cfg.merge_from_dict({f'{where}.type': name})
    with pytest.raises(ConfigError) as error:
        check_config(cfg)
    assert where in str(error.value)
    assert f"type='hime_mm.{name}'" in str(error.value)


def test_unknown_type_of_ours():
    cfg = Config(dict(model=dict(type='hime_mm.PEVit')))
    with pytest.raises(ConfigError, match="'hime_mm.PEVit'.*'PEViT'"):
        check_config(cfg)


PLAIN_HOOKS = [
    'DetVisualizationHook',
    'mmpretrain.VisualizationHook',
    'mmdet.engine.hooks.DetVisualizationHook',
    DetVisualizationHook,
]


@pytest.mark.parametrize('plain', PLAIN_HOOKS)
def test_plain_visualization_is_replaced(plain):
    hook = dict(type=plain, interval=3, backend_args=None)
    for key in ('visualization', 'vis'):
        cfg = check_config(encrypting(default_hooks={key: hook}))
        assert cfg.default_hooks[key] == dict(type='hime_mm.EncryptedVisualizationHook', interval=3)
    with pytest.raises(ConfigError, match='custom_hooks.0'):
        check_config(encrypting(custom_hooks=[hook]))
    # Nothing to protect in a config that does not encrypt.
    cfg = Config(dict(default_hooks=dict(visualization=dict(type=plain))))
    assert check_config(cfg).default_hooks.visualization.type == plain
    assert check_config(encrypting(default_hooks=None))


def test_a_visualization_hook_derived_from_ours_stays():

    class OurVisualizationHook(EncryptedVisualizationHook):
        pass

    hook = dict(type='OurVisualizationHook')
    cfg = encrypting(default_hooks=dict(visualization=dict(hook)), custom_hooks=[hook])
    assert check_config(cfg).default_hooks.visualization == dict(type=OurVisualizationHook.__name__)


@pytest.mark.parametrize('wrapper', ['RandomApply', 'mmcv.RandomChoice'])
def test_encryption_by_chance_is_refused(wrapper):
    encrypt = dict(type='hime_mm.Encrypt', cipher='mix2')
    inner = [[encrypt], [dict(type='Resize', scale=(64, 64))]]
    cfg = loading(dict(pipeline=[dict(type=wrapper, transforms=inner)]))
    with pytest.raises(ConfigError, match=rf'`train_dataloader.dataset.pipeline.0`.*{wrapper}'):
        check_config(cfg)


def test_a_choice_between_encryptions_is_none():
    encrypt = dict(type='hime_mm.Encrypt', cipher='mix2')
    inner = [[dict(type='Resize', scale=size), encrypt] for size in ((64, 64), (32, 32))]
    check_config(loading(dict(pipeline=[dict(type='RandomChoice', transforms=inner)])))


def test_geometry_after_the_encryption_is_warned_of():
    steps = [
        dict(type='hime_mm.PatchShuffle'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    wrapped = dict(
        type='MultiImageMixDataset', dataset=dict(pipeline=steps[:1]), pipeline=steps[1:]
    )
    views = dict(type='MultiView', num_views=1, transforms=[steps[:2]])
    for data in (dict(pipeline=steps), wrapped, dict(pipeline=[views, steps[2]])):
        with warnings_of() as lines:
            check_config(loading(data))
        (line,) = lines
        assert line.startswith('`train_dataloader.dataset.pipeline`') and 'RandomFlip' in line


@pytest.mark.parametrize('inside', [False, True])
def test_batch_augmentations_of_encrypted_images(inside):

    def check(augments, cipher='center+erode2+shuffle', device=False):
        model = dict(
            type='ImageClassifier',
            backbone=dict(type='hime_mm.PEViT', patch_size=12),
            train_cfg=None if inside else dict(augments=augments),
        )
        cfg = dict(model=model, data_preprocessor={})
        if inside:
            cfg['data_preprocessor']['batch_augments'] = dict(augments=augments)
        steps = []
        if device:
            cfg['data_preprocessor'].update(
                type='hime_mm.EncryptClsDataPreprocessor', cipher=cipher
            )
        else:
            steps = [dict(type='hime_mm.Encrypt', cipher=cipher)]
        cfg['train_dataloader'] = dict(
            dataset=dict(type='CustomDataset', data_root='none', pipeline=steps)
        )
        with warnings_of() as lines:
            check_config(Config(cfg))
        return lines

    mixup = dict(type='Mixup', alpha=0.8)
    ours = dict(type='hime_mm.PatchCutMix', alpha=1.0, patch_size=12)
    assert check([mixup, ours]) == []
    assert check(mixup) == []
    wrong = dict(ours, patch_size=16)
    for augments in ([mixup, wrong], wrong, dict(type='hime_mm.PatchCutMix', alpha=1.0)):
        with pytest.raises(ConfigError, match='patch_size=12'):
            check(augments)
    (line,) = check([dict(type='CutMix', alpha=1.0)])
    assert 'PatchCutMix' in line and 'patch_size=12' in line
    # There, images are plain when they are mixed.
    assert check([wrong, dict(type='CutMix', alpha=1.0)], device=True) == []


@pytest.mark.parametrize(
    'cipher, mean, warned',
    [
        ('center+shuffle', [123.675, 116.28, 103.53], True),
        ('center+shuffle', [128.0, 128.0, 128.0], False),
        ('center+shuffle', None, False),
        ('shuffle', [123.675, 116.28, 103.53], False),
    ],
)
def test_statistics_of_images_without_means(cipher, mean, warned):
    device = on_device(cipher)
    device.data_preprocessor.update(mean=mean, std=mean)
    pipeline = on_device(
        inner=dict(type='ClsDataPreprocessor', mean=mean, std=mean),
        pipeline=[dict(type='hime_mm.Encrypt', cipher=cipher)],
    )
    pipeline.pop('data_preprocessor')
    for cfg in (device, pipeline):
        with warnings_of() as lines:
            check_config(cfg)
        assert any('mean 128' in line for line in lines) is warned


@pytest.mark.parametrize(
    'mean, std, warned',
    [
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], True),
        ([128.0] * 3, [58.395, 57.12, 57.375], True),
        ([128.0] * 3, [31.0] * 3, False),
        ([128.0] * 3, [1.0] * 3, False),
    ],
)
def test_statistics_of_a_data_set(tmp_path, mean, std, warned):
    """Those that the manifest says."""
    numbers = dict(pixels=9, mean=[128.0, 128.1, 127.9], std=[30.0, 31.0, 32.0])
    make_manifest(tmp_path / 'images', 'center+shuffle', statistics=numbers)
    cfg = loading(dataset(tmp_path, META))
    cfg.data_preprocessor = dict(type='ClsDataPreprocessor', mean=mean, std=std)
    with warnings_of() as lines:
        check_config(cfg)
    told = [line for line in lines if 'mean 128' in line]
    assert bool(told) is warned
    assert all('std=[30.0, 31.0, 32.0]' in line for line in told)


@pytest.mark.parametrize('asked', ['with_mask', 'with_seg'])
@pytest.mark.parametrize(
    'step, found',
    [
        (dict(type='hime_mm.PatchShuffle'), True),
        (dict(type='hime_mm.Encrypt', cipher='orient'), True),
        (dict(type='RandomOrder', transforms=[dict(type='hime_mm.PatchShuffle')]), True),
        (dict(type='hime_mm.Encrypt', cipher='center+mix2'), False),
        (dict(type='RandomFlip', prob=0.5), False),
    ],
)
@pytest.mark.parametrize('phase', ['train', 'val'])
def test_masks_that_cannot_follow(asked, step, found, phase):
    def check(*steps):
        with warnings_of() as lines:
            check_config(loading(dataset('none', *steps, PACK), phase))
        return [line for line in lines if 'masks' in line]

    lines = check(dict(BOXES, **{asked: True}), step)
    assert [f'pipeline.1.{asked}`' in line for line in lines] == [True] * found
    assert not check(dict(BOXES, **{asked: False}), step)
    # Loaded behind it they are the metric's, of originals.
    assert not check(step, dict(BOXES, **{asked: True}))
