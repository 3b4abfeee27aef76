# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A config is read once; what is found comes out together."""

import re

import pytest
from config_parts import META, ROOT, on_device, warnings_of
from mmengine.config import Config
from mmengine.hub import get_config

from hime_mm.apis import check_config, cipher_on_device
from hime_mm.ciphers import Cipher
from hime_mm.config import Finding, error, read, validate, validator, warning
from hime_mm.config.findings import VALIDATORS
from hime_mm.config.rewriters.mending import replace_hooks
from hime_mm.errors import ConfigError


def test_pipelines_of_a_stock_config():
    """Of loaders, wrappers, hooks and test-time augmentation."""
    cfg = get_config('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py')
    data = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='MultiImageMixDataset',
        dataset=dict(type='ConcatDataset', datasets=[data]),
        pipeline=[dict(type='Mosaic')],
    )
    plan = read(cfg)
    switch = next(i for i, hook in enumerate(cfg.custom_hooks) if hook.type == 'PipelineSwitchHook')
    assert {line.place for line in plan.pipelines} == {
        'train_dataloader.dataset.dataset.datasets.0.pipeline',
        'train_dataloader.dataset.pipeline',
        'val_dataloader.dataset.pipeline',
        'test_dataloader.dataset.pipeline',
        f'custom_hooks.{switch}.switch_pipeline',
        'tta_pipeline',
    }
    # The variables of the file are there, and not used.
    assert {'train_pipeline', 'train_pipeline_stage2', 'test_pipeline'} <= set(cfg)
    assert plan.preprocessor.place == 'model.data_preprocessor'
    assert plan.backbone.name == 'CSPNeXt' and plan.patch_size is None
    assert plan.device is None and plan.uses == () == plan.findings
    assert {node.place for node in plan.evaluators} == {'val_evaluator', 'test_evaluator'}
    assert f'custom_hooks.{switch}' in {hook.place for hook in plan.hooks}
    assert validate(plan) == []


def test_what_a_plan_says_of_a_cipher():
    plan = read(on_device('mix2+shuffle', patch_embed='mixed'))
    assert plan.device.place == plan.preprocessor.place == 'data_preprocessor'
    assert plan.device.cipher == Cipher('mix2+shuffle')
    assert plan.patch_size == 16 and plan.uses == (plan.device,)
    cfg = Config.fromfile(ROOT / 'configs/hime_vit_coco.py')
    plan = read(cfg)
    (use,) = [use for use in plan.uses if use.is_for('train')]
    node = cfg
    for key in use.place.split('.'):
        node = node[int(key) if key.isdigit() else key]
    assert node is use.value and node.type == 'hime_mm.Encrypt'
    assert use.online and use.cipher == Cipher.build(node.cipher, node.get('patch_size'))


def test_nodes_can_be_edited():
    """A rewriter works on the config itself."""
    cfg = on_device()
    plan = read(cfg)
    (line,) = [one for one in plan.pipelines if one.phase == 'train']
    line.value.insert(0, META)
    assert cfg.train_dataloader.dataset.pipeline[0] == META
    assert [one.place for one in read(cfg).uses] == ['data_preprocessor']
    (done,) = replace_hooks(plan)
    assert done.level == 'warning' and done.place == ('default_hooks.visualization')
    assert cfg.default_hooks.visualization.type == ('hime_mm.EncryptedVisualizationHook')
    assert replace_hooks(read(cfg)) == []


def test_reading_changes_nothing(quick_dumps):
    """Lazy imports stay lazy, so that a config can still be dumped."""
    cfg = Config.fromfile(ROOT / 'configs/hime_vit_coco.py')
    before = cfg.pretty_text
    validate(read(cfg))
    assert cfg.pretty_text == before


def test_lazy_imports(tmp_path):
    path = tmp_path / 'lazy.py'
    path.write_text(
        'from hime_mm.transforms import Encrypt\n'
        'from nowhere.at_all import Model\n'
        'train_dataloader = dict(dataset=dict(pipeline=[\n'
        "    dict(type=Encrypt, cipher='shuffle')]))\n"
        'model = dict(type=Model, backbone=dict(type=Encrypt))\n'
    )
    plan = read(Config.fromfile(path, lazy_import=True))
    assert plan.find('model').name == 'nowhere.at_all.Model'
    (use,) = plan.uses
    assert use.name == 'hime_mm.transforms.Encrypt'
    assert use.cipher == Cipher('shuffle')


def test_all_errors_come_out_together():
    cfg = on_device(
        'erode2+shuffle',
        pipeline=[
            dict(type='hime_mm.Encrypt', cipher='shuffel'),
            dict(type='hime_mm.Encrpyt'),
            dict(type='RandomApply', transforms=[dict(type='hime_mm.SubPatchMix')]),
        ],
    )
    cfg.custom_hooks = [dict(type='VisualizationHook')]
    with warnings_of() as lines, pytest.raises(ConfigError) as caught:
        check_config(cfg)
    head, *errors = str(caught.value).split('\n')
    assert head == f'{len(errors)} errors in the config:'
    for words in (
        "pipeline.0`: .*'shuffel'",
        'pipeline.1.type` is .*Encrpyt',
        'pipeline.2`: .*RandomApply',
        r'^`data_preprocessor` .*pipeline\.2',
        '`model.backbone` .*`patch_size=12`',
        'custom_hooks.0',
    ):
        assert any(re.search(words, line) for line in errors), words
    # Nothing is changed in a config that is refused.
    assert cfg.default_hooks.visualization.type == 'VisualizationHook'
    assert len(set(errors)) == len(errors)
    assert lines and not set(lines) & set(errors)


def test_one_error_stands_alone():
    with pytest.raises(ConfigError, match='^`model.backbone` .*`patch_size=12`$') as e:
        check_config(on_device('erode2+shuffle'))
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('inner', [None, dict(type='ClsDataPreprocessor')])
def test_cipher_on_device(inner):
    assert cipher_on_device(on_device('mix2')) == Cipher('mix2')
    assert cipher_on_device(on_device(None)) is None
    # Not where no cipher would be used, or none makes sense.
    with pytest.raises(ConfigError, match='data_preprocessor`'):
        cipher_on_device(on_device('mix3' if inner is None else 'mix2', inner=inner))


def test_a_validator_of_a_users_own():

    @validator
    def small_batches(plan):
        """Batches hold two images at least."""
        loader = plan.find('train_dataloader')
        size = loader.value.get('batch_size', 2)
        if size < 2:
            level = error if size < 1 else warning
            yield level(f'{loader.place}.batch_size', f'is {size}', 'take 2')

    try:
        cfg = on_device()
        check_config(cfg)
        cfg.train_dataloader.batch_size = 1
        with warnings_of() as lines:
            check_config(cfg)
        assert lines == ['`train_dataloader.batch_size` is 1: take 2']
        cfg.train_dataloader.batch_size = 0
        with pytest.raises(ConfigError, match='is 0: take 2'):
            check_config(cfg)
    finally:
        VALIDATORS.remove(small_batches)


@pytest.mark.parametrize(
    'finding, text',
    [
        (Finding('error', 'a.b', 'is 3', 'set it to 4'), '`a.b` is 3: set it to 4'),
        (Finding('warning', 'a.b', ': c works on d'), '`a.b`: c works on d'),
        (
            Finding('error', 'a.b', 'is 3: that is odd', 'Set it to 4'),
            '`a.b` is 3: that is odd. Set it to 4',
        ),
    ],
)
def test_the_text_of_a_finding(finding, text):
    assert str(finding) == text
