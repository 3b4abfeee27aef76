# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy

import pytest
from config_parts import make_manifest, on_device
from mmengine.config import Config
from mmpretrain.registry import MODELS

from hime_mm.apis import check_config
from hime_mm.config import read
from hime_mm.errors import ConfigError
from hime_mm.models import EncryptClsDataPreprocessor


def test_encryption_on_the_device():
    cfg = check_config(on_device())
    # The host's hook would draw the plain batch.
    assert cfg.default_hooks.visualization == dict(
        type='hime_mm.EncryptedVisualizationHook', enable=True
    )
    with pytest.raises(ConfigError, match='`data_preprocessor`.*patch_size=12'):
        check_config(on_device('erode2+shuffle'))
    check_config(on_device('erode2+shuffle', patch_size=12))
    with pytest.raises(ConfigError, match="`data_preprocessor`: .*'shufle'"):
        check_config(on_device('shufle'))
    with pytest.raises(ConfigError, match='data_preprocessor.*hime encrypt'):
        check_config(on_device('permute_pixels'))
    cfg = on_device()
    del cfg.data_preprocessor['cipher']
    with pytest.raises(ConfigError, match='`data_preprocessor` .*`cipher`'):
        check_config(cfg)


def test_no_data_preprocessor_is_one_too():
    """The runner leaves a None in the model alone."""
    cfg = on_device()
    cfg.model.data_preprocessor = None
    with pytest.raises(ConfigError, match='`data_preprocessor` .*`model.data_preprocessor`'):
        check_config(cfg)


def test_a_cipher_of_none():
    """Images are encrypted already, or shall stay plain."""
    assert check_config(on_device(None, pipeline=[dict(type='hime_mm.LoadEncryptedMeta')]))
    inner = dict(type='hime_mm.EncryptClsDataPreprocessor', cipher=None)
    with pytest.raises(ConfigError, match='`data_preprocessor` .*`model.data_preprocessor`'):
        check_config(on_device(inner=inner))


@pytest.mark.parametrize(
    'step, fine',
    [
        (dict(type='CenterCrop', crop_size=224), True),
        (dict(type='CenterCrop', crop_size=230), False),
        (dict(type='mmpretrain.RandomResizedCrop', scale=(224, 100)), False),
        (dict(type='Resize', scale=(48, 32)), True),
        (dict(type='Resize', scale=(48, 33)), False),
        (dict(type='Resize', scale=(48, 33), keep_ratio=True), True),
        (dict(type='ResizeEdge', scale=230), True),
    ],
)
def test_sizes_for_encryption_on_the_device(step, fine):
    for before, after in (
        ([], []),
        ([dict(type='CenterCrop', crop_size=7)], [dict(type='RandomFlip', prob=0.5)]),
    ):
        cfg = on_device(pipeline=[*before, step, *after])
        cfg.val_dataloader = cfg.pop('train_dataloader')
        if fine:
            check_config(cfg)
            continue
        with pytest.raises(ConfigError, match=rf'val_dataloader.*\.{len(before)}\..*16'):
            check_config(cfg)
        cfg.data_preprocessor.pad_size_divisor = 16
        check_config(cfg)


@pytest.mark.parametrize(
    'first',
    [dict(type='hime_mm.Encrypt', cipher='shuffle'), dict(type='hime_mm.LoadEncryptedMeta')],
)
def test_encryption_twice_is_refused(first):
    with pytest.raises(ConfigError, match=r'train_dataloader.*pipeline\.0'):
        check_config(on_device(pipeline=[first]))


def test_encryption_that_the_model_would_not_use_is_refused():
    inner = dict(type='ClsDataPreprocessor')
    with pytest.raises(ConfigError, match='`data_preprocessor` .*`model.data_preprocessor`'):
        check_config(on_device(inner=inner))
    inner = dict(type='hime_mm.EncryptClsDataPreprocessor', cipher='center+shuffle')
    assert check_config(on_device(inner=inner))
    inner['cipher'] = 'erode2'
    with pytest.raises(ConfigError, match='`model.data_preprocessor`.*`patch_size=12`'):
        check_config(on_device(inner=inner))


@pytest.mark.parametrize('outer', [True, False, None])
@pytest.mark.parametrize('inner', [True, False, None])
@pytest.mark.parametrize('wrapped', [True, False])
def test_which_data_preprocessor_a_model_has(outer, inner, wrapped):
    """As MMEngine builds them; the wrapper of test-time augmentation has another order."""
    configs = {
        True: dict(type='hime_mm.EncryptClsDataPreprocessor', cipher='shuffle'),
        False: dict(type='mmpretrain.ClsDataPreprocessor'),
    }
    model = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='hime_mm.PEViT', arch='deit-tiny', img_size=32),
    )
    if inner is not None:
        model['data_preprocessor'] = configs[inner]
    if wrapped:
        model = dict(type='mmpretrain.AverageClsScoreTTA', module=model)
    cfg = Config(dict(model=model, data_preprocessor=configs.get(outer)))
    built = copy.deepcopy(cfg)
    if outer is not None:
        # As the runner does.
        built.model.setdefault('data_preprocessor', built.data_preprocessor)
    built = MODELS.build(built.model)
    built = built.module if wrapped else built
    encrypts = isinstance(built.data_preprocessor, EncryptClsDataPreprocessor)
    assert (read(cfg).device is not None) is encrypts
    if encrypts or True not in (outer, inner):
        check_config(cfg)
        return
    with pytest.raises(ConfigError, match='encrypts, but .* plain'):
        check_config(cfg)


def test_encryption_on_the_device_of_encrypted_files_is_refused(tmp_path):
    cfg = on_device()
    make_manifest(tmp_path / 'train', 'paper-rs')
    cfg.train_dataloader.dataset.data_root = str(tmp_path)
    cfg.train_dataloader.dataset.data_prefix = 'train'
    with pytest.raises(ConfigError, match=f'pipeline` .*{tmp_path}/train .*hime.json'):
        check_config(cfg)
