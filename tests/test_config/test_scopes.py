# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""`_scope_`, which configs inherit, where MMEngine would pass it on to a function."""

import pytest
import torch
from config_parts import warnings_of
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner

from hime_mm.apis import check_config
from hime_mm.config import read
from hime_mm.config.hosts import CALLED

LOADER = dict(
    batch_size=2,
    num_workers=0,
    dataset=[torch.zeros(1), torch.ones(1)],
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    worker_init_fn=dict(type=print, end='.'),
)
OPTIMIZER = dict(optimizer=dict(type='SGD', lr=1.0), clip_grad=dict(type='value', clip_value=0.25))


def inheriting(**parts):
    """A config whose every dict with a type has a scope, as if all were inherited."""

    def scoped(part):
        if not isinstance(part, dict):
            return part
        scope = {'_scope_': 'mmpretrain'} if 'type' in part else {}
        return {**{key: scoped(value) for key, value in part.items()}, **scope}

    return Config(scoped(parts))


def scopes(cfg):
    """The places that have one."""
    return {node.place for node in read(cfg).nodes if '_scope_' in node.value}


@pytest.mark.parametrize('key', CALLED)
@pytest.mark.parametrize(
    'place', ['train_dataloader', 'val_dataloader', 'optim_wrapper', 'model.prototype', 'a.b.c']
)
def test_is_taken_out_wherever_it_becomes_an_argument(place, key):
    part = {key: dict(type='f', option=1), 'sampler': dict(type='DefaultSampler')}
    for name in reversed(place.split('.')):
        part = {name: part}
    cfg = inheriting(**part)
    assert scopes(cfg) == {f'{place}.{key}', f'{place}.sampler'}
    with warnings_of() as lines:
        check_config(cfg)
    assert scopes(cfg) == {f'{place}.sampler'}
    assert read(cfg).find(f'{place}.{key}').value == dict(type='f', option=1)
    (line,) = lines
    assert f'`{place}.{key}`' in line and f'`{key}=dict(_delete_=True' in line
    # A second time there is nothing to take out.
    with warnings_of() as lines:
        check_config(cfg)
    assert not lines


def test_functions_instead_of_dicts_are_left_alone():
    loader = dict(collate_fn=print, worker_init_fn=None, clip_grad='_scope_')
    cfg = Config(dict(train_dataloader=dict(loader)))
    assert check_config(cfg).train_dataloader == loader


def test_what_mmengine_makes_of_it():
    """Fails without the check, here or in a later MMEngine: then there is nothing to mend."""
    weight = torch.nn.Linear(1, 1, bias=False)

    def run(cfg):
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
        wrapper = build_optim_wrapper(weight, cfg.optim_wrapper)
        weight.weight.data.zero_()
        calls = (
            lambda: next(iter(loader)),
            lambda: loader.worker_init_fn(0),
            lambda: wrapper.update_params((weight(torch.ones(1, 1)) * 9).sum()),
        )
        return calls

    parts = dict(train_dataloader=LOADER, optim_wrapper=OPTIMIZER)
    for call in run(inheriting(**parts)):
        with pytest.raises(TypeError, match='_scope_'):
            call()
    batch, init, step = run(check_config(inheriting(**parts)))
    assert batch().tolist() == [[0.0], [1.0]]
    init()
    step()
    assert weight.weight.item() == -0.25


@pytest.mark.parametrize(
    'name',
    [
        'mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py',
        'simclr/simclr_resnet50_16xb256-coslr-200e_in1k.py',
        'swav/swav_resnet50_8xb32-mcrop-coslr-200e_in1k-224px-96px.py',
        'mixmim/benchmarks/mixmim-base_8xb128-coslr-100e_in1k.py',
        'beit/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k.py',
        'minigpt4/minigpt-4_baichuan-7b_caption.py',
    ],
)
def test_stock_configs(name, tmp_path):
    path = tmp_path / 'child.py'
    path.write_text(f"_base_ = ['mmpretrain::{name}']\n")
    cfg = Config.fromfile(path)
    before = scopes(cfg)
    wrong = {place for place in before if place.endswith('.collate_fn')}
    assert wrong and before - scopes(check_config(cfg)) == wrong


def test_the_override_for_other_tools(tmp_path):
    path = tmp_path / 'child.py'
    path.write_text(
        "_base_ = ['mmpretrain::mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py']\n"
        "train_dataloader = dict(collate_fn=dict(_delete_=True, type='default_collate'))\n"
    )
    assert Config.fromfile(path).train_dataloader.collate_fn == dict(type='default_collate')
