# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""All images that a run uses are encrypted, or none."""

import copy

import pytest
from config_parts import (
    FLIP,
    LOAD,
    MIX,
    PACK,
    ROOT,
    data_of,
    loading,
    make_roots,
    on_device,
    warnings_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import TRANSFORMS

from hime_mm.apis import check_config
from hime_mm.config import read
from hime_mm.errors import ConfigError
from hime_mm.transforms import SubPatchMix

PLACES = ('train', 'val', 'test', 'tta', 'switch', 'recipe')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_roots(tmp_path_factory.mktemp('data'))


def wrap(kind, data):
    """A data set within wrappers that leave pipelines alone."""
    if kind == 'ConcatDataset':
        return dict(type=kind, datasets=[data, copy.deepcopy(data)])
    if kind == 'nested':
        return dict(type='RepeatDataset', times=2, dataset=wrap('ConcatDataset', data))
    if kind == 'named':
        return dict(type='custom.OfSeveral', parts=dict(one=data))
    return data if kind is None else dict(type=kind, dataset=data)


WRAPPERS = [None, 'RepeatDataset', 'ClassBalancedDataset', 'KFoldDataset', 'ConcatDataset']
WRAPPERS += ['nested', 'named']
WAYS = ['meta', 'folder', 'pipeline', 'views', 'wrapper']


def build(root, present, ways, wrapper=None):
    """A config with pipelines in some places, each encrypted in its way, or plain."""
    cfg = {}
    for phase in ('train', 'val', 'test'):
        if phase in present:
            data = wrap(wrapper, data_of(root, ways.get(phase)))
            cfg[f'{phase}_dataloader'] = dict(dataset=data)
        else:
            cfg[f'{phase}_dataloader'] = None
    lines = {
        place: [LOAD, *([MIX] if place in ways else []), PACK] for place in ('switch', 'recipe')
    }
    hooks = cfg['custom_hooks'] = []
    if 'switch' in present:
        hooks.append(dict(type='PipelineSwitchHook', switch_pipeline=lines['switch']))
    if 'recipe' in present:
        recipe = dict(action_epoch=2, train_pipeline=lines['recipe'])
        hooks.append(dict(type='SwitchRecipeHook', schedule=[dict(action_epoch=1), recipe]))
    if 'tta' in present:
        # Flip, then encrypt; each stage is a list of alternatives.
        stages = [[FLIP, dict(FLIP, prob=0.0)], *([[MIX]] if 'tta' in ways else []), [PACK]]
        cfg['tta_pipeline'] = [LOAD, dict(type='TestTimeAug', transforms=stages)]
    return Config(cfg)


@settings(max_examples=80)
@given(st.data())
def test_the_check_accepts_what_agrees(root, data):
    """For any places that are there, and any of them encrypted, in any way."""
    present = data.draw(st.sets(st.sampled_from(PLACES), min_size=1))
    ways = {}
    for place in sorted(data.draw(st.sets(st.sampled_from(sorted(present))))):
        # Other transforms than those of a loader replace its pipeline, not its folder.
        replaced = {'test': 'tta', 'train': 'switch'}.get(place) in present or (
            place == 'train' and 'recipe' in present
        )
        ways[place] = data.draw(st.sampled_from(['pipeline', 'views'] if replaced else WAYS))
    wrapper = data.draw(st.sampled_from(WRAPPERS))
    # Nothing is switched, and no view is made, where there is no loader.
    loaders = {'tta': 'test', 'switch': 'train', 'recipe': 'train'}
    used = {place for place in present if loaders.get(place, place) in present}
    cfg = build(root, present, ways, wrapper)
    encrypted = used & set(ways)
    if encrypted in (set(), used):
        check_config(cfg)
        return
    with pytest.raises(ConfigError) as caught:
        check_config(cfg)
    names = dict(
        tta='`tta_pipeline`', switch='switch_pipeline`', recipe='schedule.1.train_pipeline`'
    )
    plain = [line for line in str(caught.value).split('\n') if 'plain images' in line]
    for place in used - encrypted:
        assert any(names.get(place, f'`{place}_dataloader.') in line for line in plain), place
    for place in encrypted:
        name = names.get(place, f'`{place}_dataloader.')
        assert not any(line.startswith(name) for line in plain), place


@pytest.mark.parametrize('place', ['tta', 'switch', 'recipe'])
@pytest.mark.parametrize('plain', [False, True])
def test_pipelines_in_place_of_others_and_folders(place, plain, root):
    """The folder stays what it is when another pipeline reads it."""
    loader = 'test' if place == 'tta' else 'train'
    cfg = build(root, {loader, place}, {} if plain else {loader: 'meta'})
    check_config(cfg)
    cfg = build(root, {loader, place}, {loader: 'meta', place: 'pipeline'})
    with pytest.raises(ConfigError, match='pipeline` would encrypt images that are encrypted'):
        check_config(cfg)


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_other_pipelines_stand_in_place_of_those_of_data_sets(wrapper, root):
    """They do not come after them, whatever the wrappers."""
    cfg = build(root, set(PLACES), {}, wrapper)
    for way in read(cfg).ways:
        (line,) = way.lines
        assert way.place == line.place and way.data.value['type'] == 'CocoDataset'
        assert (way.phase in ('tta', 'switch')) is ('_dataloader' not in line.place)


@pytest.mark.parametrize('first', [False, True])
@pytest.mark.parametrize('nested', [False, True])
def test_one_plain_data_set_among_several(first, nested, root):
    sets = [data_of(root, 'meta'), data_of(root, 'pipeline')]
    check_config(loading(dict(type='ConcatDataset', datasets=sets)))
    sets.insert(0 if first else 2, data_of(root, None))
    data = dict(type='ConcatDataset', datasets=sets)
    if nested:
        data = dict(type='RepeatDataset', dataset=data, times=2)
    place = 'datasets.0' if first else 'datasets.2'
    by = 'datasets.1' if first else 'datasets.0'
    with pytest.raises(ConfigError, match=rf'{place}\.pipeline` .*plain images.*{by}\.pipeline\.1'):
        check_config(loading(data))


def test_an_error_names_both_places_and_the_remedy(root):
    cfg = build(root, {'train', 'val', 'test'}, {'train': 'pipeline', 'test': 'pipeline'})
    with pytest.raises(ConfigError) as caught:
        check_config(cfg)
    text = str(caught.value)
    assert text.startswith('`val_dataloader.dataset.pipeline` gives the model plain images')
    assert '`train_dataloader.dataset.pipeline.1` encrypts' in text
    assert '`hime_mm.SubPatchMix` as there' in text
    cfg = build(root, {'train', 'val'}, {'train': 'folder'})
    with pytest.raises(ConfigError, match=f'belongs to {root}/encrypted/hime.json.*hime encrypt'):
        check_config(cfg)
    cfg = build(root, {'test', 'tta'}, {'test': 'pipeline'})
    with pytest.raises(ConfigError, match='`tta_pipeline` .*behind all else.*`tta_pipeline=None`'):
        check_config(cfg)
    cfg.tta_pipeline = None
    check_config(cfg)


@TRANSFORMS.register_module()
class OfAUser(SubPatchMix):
    """A transform that a user has derived from ours."""


@pytest.mark.parametrize('kind', ['OfAUser', OfAUser])
def test_transforms_of_users_encrypt(kind, root):
    """As much as that from which they are derived."""
    cfg = build(root, {'train', 'val', 'test'}, dict(train='pipeline', test='pipeline'))
    cfg.train_dataloader.dataset.pipeline[1].type = kind
    with pytest.raises(ConfigError, match='^`val_dataloader.dataset.pipeline` gives .*plain'):
        check_config(cfg)
    cfg.val_dataloader.dataset.pipeline.insert(1, dict(type=kind, num_splits=2))
    check_config(cfg)
    cfg.val_dataloader.dataset.pipeline[1]['num_splits'] = 4
    with pytest.raises(ConfigError, match='another cipher'):
        check_config(cfg)


@pytest.mark.parametrize('kind', ['hime_mm.Encrypt', 'hime_mm.PatchShuffle'])
@pytest.mark.parametrize('trained, judged', [(None, 'keep'), ('keep', 'patch'), ('keep', None)])
def test_boxes_are_judged_where_they_were_learnt(root, kind, trained, judged):
    cipher = dict(cipher='shuffle') if kind.endswith('Encrypt') else {}

    def shuffle(mode):
        return dict(type=kind, **cipher, **(dict(box_mode=mode) if mode else {}))

    cfg = build(root, {'train', 'val', 'test'}, dict(train='pipeline', test='pipeline'))
    for phase, mode in dict(train=trained, val=trained, test=judged).items():
        cfg[f'{phase}_dataloader'].dataset.pipeline[1:1] = [shuffle(mode)]
        cfg[f'{phase}_dataloader'].dataset.pipeline[2:] = [PACK]
    with warnings_of() as lines:
        check_config(cfg)
    (line,) = [line for line in lines if 'box_mode' in line]
    assert line.startswith('`test_dataloader.dataset.pipeline.1.box_mode`') and "'keep'" in line
    cfg.val_dataloader.dataset.pipeline[1] = shuffle(judged)
    with pytest.raises(ConfigError, match='^`val_dataloader.*box_mode` is .* that of training'):
        check_config(cfg)
    cfg.train_dataloader.dataset.pipeline[1] = shuffle(judged)
    with warnings_of() as lines:
        check_config(cfg)
    assert not any('box_mode' in line for line in lines)


def test_a_loader_in_a_model(root):
    """MMPretrain's retrievers have one, of prototypes."""
    cfg = build(root, {'train'}, {'train': 'pipeline'})
    prototype = dict(batch_size=1, dataset=data_of(root, 'pipeline'))
    cfg.model = dict(type='ImageToImageRetriever', prototype=prototype)
    check_config(cfg)
    cfg.model.prototype.dataset = data_of(root, None)
    with pytest.raises(ConfigError, match='`model.prototype.dataset.pipeline` .*plain images'):
        check_config(cfg)


def test_what_encrypts_on_the_device_encrypts_all():
    cfg = on_device()
    cfg.val_dataloader = cfg.test_dataloader = cfg.train_dataloader
    cfg.tta_pipeline = [dict(type='PackInputs')]
    check_config(cfg)


def test_variables_of_a_file_are_not_used(root):
    """Neither lists that are left over, nor types in them."""
    cfg = build(root, {'train', 'val'}, {})
    cfg.train_pipeline = [LOAD, MIX, dict(type='hime_mm.Unknown')]
    cfg.encrypt = dict(type='Encrypt', cipher='shuffel')
    cfg.val_set = data_of(root, 'pipeline')
    check_config(cfg)
    assert read(cfg).uses == ()
    cfg.test_dataloader = dict(dataset=cfg.val_set)
    with pytest.raises(ConfigError, match='plain images'):
        check_config(cfg)


def test_the_override_of_the_readme():
    """Another cipher for the COCO job, as configs/README.md has it."""
    text = (ROOT / 'configs/README.md').read_text()
    options = {}
    for phase, at in (('train', 4), ('val', 2), ('test', 2)):
        key = f'{phase}_dataloader.dataset.pipeline.{at}.cipher'
        if phase != 'test':
            assert f'`{key}=mix4`' in text
        options[key] = 'mix4'
    assert '`model.backbone.num_splits=4`' in text
    options['model.backbone.num_splits'] = 4
    shipped = Config.fromfile(ROOT / 'configs/hime_vit_coco.py')
    cfg = copy.deepcopy(shipped)
    cfg.merge_from_dict(options)
    assert cfg.train_pipeline[4].cipher != 'mix4'
    check_config(cfg)
    for key in options:
        cfg = copy.deepcopy(shipped)
        cfg.merge_from_dict({one: value for one, value in options.items() if one != key})
        with pytest.raises(ConfigError):
            check_config(cfg)


@pytest.mark.parametrize(
    'name', ['rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'yolox/yolox_tiny_8xb8-300e_coco.py']
)
def test_stock_configs_with_switches_and_views(name):
    """As they are they pass; with our encryption in the loaders only they do not."""
    cfg = get_config(f'mmdet::{name}')
    check_config(cfg)
    for phase in ('train', 'val', 'test'):
        data = cfg[f'{phase}_dataloader'].dataset
        data.pipeline.insert(len(data.pipeline) - 1, MIX)
    with pytest.raises(ConfigError, match='`tta_pipeline`') as caught:
        check_config(cfg)
    switches = 'rtmdet' in name
    assert ('switch_pipeline` gives' in str(caught.value)) is switches
    cfg.tta_pipeline = None
    if switches:
        with pytest.raises(ConfigError, match='switch_pipeline` gives'):
            check_config(cfg)
        hook = next(hook for hook in cfg.custom_hooks if 'switch_pipeline' in hook)
        hook.switch_pipeline.insert(len(hook.switch_pipeline) - 1, MIX)
    check_config(cfg)


@pytest.mark.parametrize('place', ['val', 'test', 'tta', 'switch', 'recipe'])
def test_another_cipher_than_that_of_training(place, root):
    """Online ones too: an error before a training, a warning of test."""
    loaders = {'train', 'test' if place == 'tta' else 'train', place}
    cfg = build(root, loaders, dict.fromkeys(loaders, 'pipeline'))
    check_config(cfg)
    other = dict(type='hime_mm.SubPatchMix', num_splits=4)
    if place == 'tta':
        cfg.tta_pipeline[1].transforms[1] = [other]
    elif place == 'switch':
        cfg.custom_hooks[0].switch_pipeline[1] = other
    elif place == 'recipe':
        cfg.custom_hooks[0].schedule[1].train_pipeline[1] = other
    else:
        cfg[f'{place}_dataloader'].dataset.pipeline[1] = other
    if place in ('test', 'tta'):
        with warnings_of() as lines:
            check_config(cfg)
        assert len(lines) == 1 and 'metrics are those of other pictures' in lines[0]
    else:
        with pytest.raises(ConfigError, match="'mix4'.* another cipher .*'mix2'"):
            check_config(cfg)
