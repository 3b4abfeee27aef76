# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A run is checked before its first batch, whoever started it."""

import copy
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, RUNNERS, TRANSFORMS
from mmengine.runner import Runner
from mmengine.runner._flexible_runner import FlexibleRunner

from hime_mm.apis import check_config
from hime_mm.config import findings
from hime_mm.errors import ConfigError
from hime_mm.transforms import Encrypt, LoadEncryptedMeta

pytestmark = pytest.mark.usefixtures('quick_dumps')
DRAWN = []
ENCRYPT = dict(type='hime_mm.Encrypt', cipher='shuffle')
META = dict(type='hime_mm.LoadEncryptedMeta')
LISTED = dict(type='hime_mm.EncryptionCheckHook')


@TRANSFORMS.register_module()
class CheckedLoad:
    """Gives a picture, and remembers that it was asked for one."""

    def __call__(self, results):
        DRAWN.append(results['sample_idx'])
        return dict(img=np.zeros((16, 16, 3), np.uint8))


@TRANSFORMS.register_module()
class CheckedPack:
    def __call__(self, results):
        return dict(inputs=torch.from_numpy(results['img']).permute(2, 0, 1))


@DATASETS.register_module()
class CheckedSet(BaseDataset):
    def load_data_list(self):
        return [dict(number=i) for i in range(2)]


@METRICS.register_module()
class CheckedMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {}


@MODELS.register_module()
class CheckedModel(BaseModel):
    def __init__(self, data_preprocessor=None, backbone=None):
        super().__init__(data_preprocessor)
        self.weight = torch.nn.Parameter(torch.ones(()))
        if backbone is not None:
            MODELS.build(backbone)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if isinstance(inputs, list):
            inputs = torch.stack(inputs)
        value = self.weight * inputs.float().mean()
        return dict(loss=value) if mode == 'loss' else [value]


@HOOKS.register_module()
class CheckedSwitchHook(Hook):
    """Builds its pipeline when it switches, as MMDetection's does."""

    def __init__(self, pipeline):
        self.pipeline = pipeline

    def before_train_epoch(self, runner):
        runner.train_loop.dataloader.dataset.pipeline = Compose(self.pipeline)


@RUNNERS.register_module()
class CheckedRunner(Runner):
    """A user's own."""


def pipeline(*steps):
    return [dict(type='CheckedLoad'), *steps, dict(type='CheckedPack')]


def config(folder, train=(), val=(), test=(), **kwargs):
    def loader(steps):
        return dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            # Serializing collects the garbage of all that is imported.
            dataset=dict(type='CheckedSet', serialize_data=False, pipeline=pipeline(*steps)),
        )

    return Config(
        dict(
            dict(
                work_dir=str(folder),
                experiment_name=f'{folder}{len(MMLogger._instance_dict)}',
                model=dict(type='CheckedModel'),
                train_dataloader=loader(train),
                val_dataloader=loader(val),
                test_dataloader=loader(test),
                train_cfg=dict(by_epoch=True, max_epochs=1),
                val_cfg={},
                test_cfg={},
                val_evaluator=dict(type='CheckedMetric'),
                test_evaluator=dict(type='CheckedMetric'),
                env_cfg=dict(dist_cfg=dict(backend='gloo')),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
                faulty=True,
            ),
            **kwargs,
        )
    )


@pytest.fixture(autouse=True)
def checks(monkeypatch):
    """A validator for these tests, and how often it was asked."""
    asked = []

    def refuse(plan):
        asked.append(plan)
        top = plan.nodes[0].value
        if top.get('faulty'):
            yield findings.error('faulty', 'is True', 'mend it')
        if top.get('odd'):
            yield findings.warning('odd', f'is {top["odd"]}')

    monkeypatch.setattr(findings, 'VALIDATORS', [refuse])
    # Asks compilers and drivers for their versions.
    monkeypatch.setattr(Runner, '_log_env', lambda *_: None)
    DRAWN.clear()
    return asked


ARCH = dict(embed_dims=8, num_layers=1, num_heads=1, feedforward_channels=8)
TIMM = dict(model_name='vit_tiny_patch16_224', embed_dim=24, depth=1)


def model_with(**backbone):
    return dict(model=dict(type='CheckedModel', backbone=backbone))


#: What of ours a run builds, and what a run has to do so that it is built.
WAYS = dict(
    train=(dict(train=[ENCRYPT]), 'train'),
    kin=(dict(train=[dict(type='hime_mm.PatchShuffle')]), 'train'),
    mix=(dict(train=[dict(type='hime_mm.SubPatchMix')]), 'train'),
    folder=(dict(train=[META]), 'train'),
    validation_of_a_training=(dict(val=[ENCRYPT]), 'train'),
    validation=(dict(val=[META]), 'val'),
    test=(dict(test=[ENCRYPT]), 'test'),
    device=(
        dict(data_preprocessor=dict(type='hime_mm.EncryptClsDataPreprocessor', cipher='shuffle')),
        'test',
    ),
    backbone=(model_with(type='hime_mm.PEViT', arch=ARCH), 'train'),
    backbone_test=(model_with(type='hime_mm.PEViT', arch=ARCH), 'test'),
    timm_test=(model_with(type='hime_mm.TIMMPEViT', **TIMM), 'test'),
    listed=(dict(custom_hooks=[LISTED]), 'train'),
    listed_test=(dict(custom_hooks=[LISTED]), 'test'),
    named=(dict(default_hooks=dict(encryption=LISTED)), 'train'),
    named_test=(dict(default_hooks=dict(encryption=LISTED)), 'test'),
    both=(dict(train=[ENCRYPT], val=[META], custom_hooks=[LISTED, LISTED]), 'train'),
)
way = pytest.mark.parametrize('parts, phase', WAYS.values(), ids=WAYS)


@way
def test_stops_before_the_first_batch(tmp_path, parts, phase):
    with pytest.raises(ConfigError, match='`faulty` is True: mend it'):
        getattr(Runner.from_cfg(config(tmp_path, **parts)), phase)()
    assert DRAWN == []


@way
def test_checks_a_runner_once(tmp_path, checks, parts, phase):
    runner = Runner.from_cfg(config(tmp_path, faulty=False, **parts))
    # Not run: LoadEncryptedMeta would ask for files.
    for name in ('train', 'val', 'test'):
        getattr(runner, f'build_{name}_loop')(getattr(runner, f'_{name}_loop'))
        runner.call_hook('before_run')
    assert len(checks) == 1


def test_lets_pass_what_has_no_fault(tmp_path, checks):
    runner = Runner.from_cfg(config(tmp_path, [ENCRYPT], [ENCRYPT], [ENCRYPT], faulty=False))
    runner.train()
    runner.test()
    assert DRAWN == 3 * [0, 1]
    assert len(checks) == 1


def test_what_has_nothing_of_ours_is_left_alone(tmp_path, checks):
    runner = Runner.from_cfg(config(tmp_path))
    runner.train()
    assert DRAWN and not checks


def test_switch_is_stopped_before_its_first_batch(tmp_path):
    hook = dict(type='CheckedSwitchHook', pipeline=pipeline(ENCRYPT))
    with pytest.raises(ConfigError):
        Runner.from_cfg(config(tmp_path, custom_hooks=[hook])).train()
    assert DRAWN == []


def test_listed_as_the_docs_say_it_costs_no_hook_of_the_base(tmp_path):
    """In a config whose base has hooks of its own, one of which switches pipelines."""
    page = (Path(__file__).parents[2] / 'docs/training.md').read_text()
    (line,) = [line for line in page.splitlines() if 'type=' in line and LISTED['type'] in line]
    base = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
    (tmp_path / 'mine.py').write_text(f'_base_ = [{base!r}]\n{line}\n')
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert {'EMAHook', 'PipelineSwitchHook'} <= {hook.type for hook in cfg.custom_hooks}
    assert LISTED in cfg.default_hooks.values()


@pytest.mark.parametrize('parts', [dict(train=[ENCRYPT]), dict(custom_hooks=[LISTED])])
def test_who_goes_on_is_stopped_again(tmp_path, parts):
    runner = Runner.from_cfg(config(tmp_path, **parts))
    for _ in range(2):
        with pytest.raises(ConfigError):
            runner.train()
    assert DRAWN == []


@pytest.mark.parametrize('kind', ['CheckedRunner', 'FlexibleRunner'])
@pytest.mark.parametrize('parts', [dict(train=[ENCRYPT]), dict(custom_hooks=[LISTED])])
def test_runners_of_other_kinds(tmp_path, kind, parts):
    cfg = config(tmp_path, runner_type=kind, **parts)
    if kind == 'FlexibleRunner':
        cfg.strategy = dict(type='SingleDeviceStrategy')
        runner = FlexibleRunner.from_cfg(cfg)
    else:
        runner = RUNNERS.build(cfg)
    with pytest.raises(ConfigError):
        runner.train()
    assert DRAWN == []


def test_resumed_run(tmp_path):
    Runner.from_cfg(config(tmp_path, [ENCRYPT], faulty=False)).train()
    DRAWN.clear()
    cfg = config(tmp_path, [ENCRYPT], resume=True, train_cfg=dict(by_epoch=True, max_epochs=2))
    with pytest.raises(ConfigError):
        Runner.from_cfg(cfg).train()
    assert DRAWN == []


def test_runner_made_of_objects(tmp_path, checks):
    """It has no config that could be read."""
    cfg = config(tmp_path, test=[ENCRYPT])
    runner = Runner(
        CheckedModel(),
        str(tmp_path),
        test_dataloader=cfg.test_dataloader,
        test_cfg={},
        test_evaluator=cfg.test_evaluator,
        custom_hooks=[LISTED],
        experiment_name=cfg.experiment_name,
    )
    runner.test()
    assert len(DRAWN) == 2 and len(checks) == 1


def test_lazy_config(tmp_path):
    path = tmp_path / 'lazy.py'
    text = config(tmp_path, faulty=True).to_dict()
    path.write_text(
        'from mmengine.config import read_base\n'
        'from hime_mm.transforms import Encrypt\n'
        + '\n'.join(f'{key} = {value!r}' for key, value in text.items())
        + "\ntrain_dataloader['dataset']['pipeline'].insert(1, dict(type=Encrypt, cipher='mix2'))"
    )
    with pytest.raises(ConfigError):
        Runner.from_cfg(Config.fromfile(path)).train()
    assert DRAWN == []


def test_outside_of_a_run_nothing_is_checked(checks):
    """Nor in a worker, to which transforms come pickled or as copies."""
    for step in (Encrypt('shuffle'), LoadEncryptedMeta(), TRANSFORMS.build(ENCRYPT)):
        copy.deepcopy(step)
        pickle.loads(pickle.dumps(step))
    assert not checks


@pytest.mark.parametrize(
    'hook, stopped',
    [
        (dict(type='DetVisualizationHook', draw=True), True),
        (dict(type='mmpretrain.VisualizationHook', enable=True), True),
        (dict(type='SomebodysVisualizationHook'), True),
        (dict(type='SomebodysVisualizationHook', draw=False), False),
        (dict(type='DetVisualizationHook'), False),
        (dict(type='DetVisualizationHook', draw=False, interval=1), False),
        (dict(type='mmpretrain.VisualizationHook', enable=False), False),
        (dict(type='hime_mm.EncryptedVisualizationHook', draw=True), False),
    ],
)
def test_default_hooks_that_would_draw_plain_images(hook, stopped):
    from hime_mm.config import check_run

    data = dict(type='CustomDataset', data_root='none', pipeline=[ENCRYPT])
    cfg = dict(train_dataloader=dict(dataset=data), default_hooks=dict(visualization=hook))
    cfg = Config(cfg)
    before = copy.deepcopy(cfg.to_dict())
    if stopped:
        with pytest.raises(ConfigError, match='`default_hooks.visualization`.* plain'):
            check_run(cfg)
    else:
        check_run(cfg)
    assert cfg.to_dict() == before


def test_our_tools_say_nothing_twice(tmp_path):
    """What check_config has warned of, the hook does not; what is new, it does."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_instance(f'told{tmp_path}')
    logger.addHandler(handler)
    cfg = config(tmp_path, [ENCRYPT], faulty=False, odd=str(tmp_path))
    check_config(cfg)
    runner = Runner.from_cfg(cfg)
    runner.logger.addHandler(handler)
    runner.train()
    assert [line for line in lines if '`odd`' in line] == [f'`odd` is {tmp_path}']
    cfg.update(odd='new', experiment_name=f'{tmp_path}-new')
    runner = Runner.from_cfg(cfg)
    runner.logger.addHandler(handler)
    runner.train()
    assert sum('`odd` is new' in line for line in lines) == 1
