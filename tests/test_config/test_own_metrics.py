# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Our metrics get what they need to know where boxes belong, before a run."""

import pytest
from config_parts import BOXES, META, ORIGINAL, dataset, loading, make_manifest, warnings_of
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from owner_data import SECRET, forms_of_key, found

from hime_mm.apis import check_config
from hime_mm.errors import ConfigError

ORIGINALS, SLOTS = 'hime_mm.OriginalCocoMetric', 'hime_mm.SlotCocoMetric'
KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'patch_layout')
PACK = dict(type='PackDetInputs', meta_keys=KEYS)
PLAIN_PACK = dict(type='PackDetInputs')
PHASES = ('val', 'test')


def encrypt(cipher='shuffle', **kwargs):
    return dict(type='hime_mm.Encrypt', cipher=cipher, **kwargs)


KEPT = encrypt(keep_permutation=True)


def checked(data, phase='val', **metric):
    """What the check warns of."""
    cfg = loading(data, phase, **{f'{phase}_evaluator': metric})
    with warnings_of() as lines:
        check_config(cfg)
    return lines


def refused(data, phase, *words, **metric):
    with pytest.raises(ConfigError) as caught:
        checked(data, phase, **metric)
    text = str(caught.value)
    assert all(word in text for word in words), text
    return text


@pytest.mark.parametrize('phase', PHASES)
@pytest.mark.parametrize(
    'steps, words',
    [
        ([KEPT, BOXES, PACK], None),
        ([encrypt(), BOXES, PACK], ['pipeline.1`', 'keep_permutation=True']),
        ([encrypt(keep_permutation=False), PACK], ['keep_permutation=True']),
        ([dict(type='hime_mm.PatchShuffle'), PACK], ['keep_permutation=True']),
        ([encrypt('center+erode2+shuffle'), PACK], ['keep_permutation=True']),
        ([KEPT, BOXES, PLAIN_PACK], ['pipeline.3`', "'patch_layout'"]),
        ([KEPT, dict(PACK, meta_keys=KEYS[:-1])], ['pipeline.2`', "'patch_layout'"]),
        ([KEPT], ["'patch_layout'"]),
        ([encrypt('mix2'), PLAIN_PACK], None),
        ([encrypt('shuffle', box_mode='keep'), PLAIN_PACK], None),
        ([BOXES, PLAIN_PACK], None),
    ],
)
def test_simulations(phase, steps, words):
    data = dataset('none', *steps)
    for name in (ORIGINALS, 'hime_mm.OriginalCocoMetric'):
        metric = dict(type=name, ann_file='a.json')
        if words is None:
            assert checked(data, phase, **metric) == []
        else:
            refused(data, phase, *words, **metric)
    # Others are not asked for it.
    checked(data, phase, type='CocoMetric', ann_file='a.json')
    # Nor in training.
    cfg = loading(dataset('none', encrypt(), PLAIN_PACK), 'train')
    cfg.val_evaluator = dict(type=ORIGINALS)
    check_config(cfg)


def test_a_list_of_metrics_and_wrapped_transforms():
    wrapped = dict(type='Compose', transforms=[encrypt(), PACK])
    cfg = loading(dataset('none', wrapped), 'val')
    cfg.val_evaluator = [dict(type='DumpDetResults'), dict(type=ORIGINALS, ann_file='a.json')]
    with pytest.raises(ConfigError, match='`val_evaluator.1`.*keep_permutation'):
        check_config(cfg)
    wrapped['transforms'][0]['keep_permutation'] = True
    check_config(loading(dataset('none', wrapped), 'val', val_evaluator=cfg.val_evaluator))


def test_views_with_permutations_of_their_own():
    cfg = loading(dataset('none', KEPT, PACK), 'test')
    cfg.test_evaluator = dict(type=ORIGINALS, ann_file='a.json')
    views = dict(type='TestTimeAug', transforms=[[KEPT], [PACK]])
    cfg.tta_pipeline = [dict(type='LoadImageFromFile'), views]
    with warnings_of() as lines:
        check_config(cfg)
    assert ['each view' in line for line in lines] == [True]


@pytest.fixture
def folder(tmp_path):
    def make(cipher='shuffle', key_id='0123456789abcdef', **head):
        root = make_manifest(tmp_path / 'data', cipher, key_id=key_id, **head)
        (root / 'images').mkdir()
        return root

    return make


@pytest.mark.parametrize('phase', PHASES)
@pytest.mark.parametrize(
    'cipher, metric, words',
    [
        ('shuffle', dict(key='owner.key'), None),
        ('shuffle', dict(key_env='HIME_KEY'), None),
        ('shuffle', {}, ['_evaluator`', 'key_env', '0123456789abcdef', 'SlotCocoMetric']),
        ('mix2', {}, None),
        ('mix2', dict(key='owner.key'), None),
    ],
)
@pytest.mark.parametrize('step', [META, ORIGINAL], ids=['encrypted', 'original'])
def test_folders(folder, phase, cipher, metric, words, step):
    if cipher == 'shuffle':
        step = META  # the other is refused as it was
    data = dataset(folder(cipher), step, BOXES, PACK)
    metric = dict(metric, type=ORIGINALS, ann_file='owner.json')
    if words is None:
        assert checked(data, phase, **metric) == []
    else:
        refused(data, phase, *words, **metric)


@pytest.mark.parametrize('cipher', ['shuffle', 'mix2'])
@pytest.mark.parametrize('ann_file', ['annotations/a.json', None])
def test_annotations_of_encrypted_images_are_refused(folder, cipher, ann_file):
    root = folder(cipher)
    metric = dict(type=ORIGINALS, key='owner.key')
    if ann_file is not None:
        metric['ann_file'] = str(root / ann_file)
    text = refused(dataset(root, META, BOXES, PACK), 'val', 'val_evaluator.ann_file', **metric)
    assert "owner's own" in text


@pytest.mark.parametrize(
    'options, word',
    [
        (dict(key_id=None), 'one-way'),
        (dict(preprocess=dict(center_crop=[64, 64])), 'center_crop'),
    ],
)
def test_boxes_that_nobody_maps_back(folder, options, word):
    root = folder(**options)
    metric = dict(type=ORIGINALS, ann_file='owner.json', key='owner.key')
    refused(dataset(root, META, BOXES, PACK), 'val', word, **metric)


@pytest.mark.parametrize('name', ['key', 'key_env'])
@pytest.mark.parametrize('form', ['hime-key-v1:{}', '{}', ' {} '])
def test_a_key_in_a_config(name, form):
    """It is refused before anything is logged or dumped, and the message does not show it."""
    metric = {'type': ORIGINALS, 'ann_file': 'a.json', name: form.format(SECRET.hex())}
    text = refused(dataset('none', BOXES, PLAIN_PACK), 'val', f'val_evaluator.{name}', **metric)
    assert not found(forms_of_key(SECRET), [text.encode()])


@pytest.mark.parametrize('cipher', ['shuffle', 'mix2'])
def test_slots(folder, cipher):
    root = folder(cipher)
    data = dataset(root, META, BOXES, PACK)
    ann_file = str(root / 'annotations/a.json')
    assert checked(data, type=SLOTS, ann_file=ann_file) == []
    (line,) = checked(data, type=SLOTS, ann_file='owner.json')
    assert line.startswith('`val_evaluator.ann_file`') and 'handed over' in line
    online = dataset('none', encrypt(cipher), PACK)
    refused(online, 'val', 'OriginalCocoMetric', 'encrypts anew', type=SLOTS, ann_file=ann_file)


@pytest.mark.parametrize('metric', ['segm', ['bbox', 'segm']])
def test_masks_that_cannot_follow(folder, metric):
    online = dataset('none', KEPT, BOXES, PACK)
    refused(online, 'val', 'evaluator.metric`', 'segm', type=ORIGINALS, metric=metric)
    root = folder('shuffle')
    handed_over = dataset(root, META, BOXES, PACK)
    ann_file = str(root / 'annotations/a.json')
    words = 'evaluator.metric`', 'pipeline.1`', 'segm'
    refused(handed_over, 'test', *words, type=SLOTS, metric=metric, ann_file=ann_file)
    still = dataset('none', encrypt('negate'), BOXES, PACK)
    assert checked(still, type=ORIGINALS, metric=metric) == []


@pytest.mark.parametrize('metric', ['bbox', ['bbox', 'proposal'], [], None, 5])
def test_other_metrics_are_the_hosts_matter(metric):
    data = dataset('none', KEPT, BOXES, PACK)
    assert checked(data, type=ORIGINALS, ann_file='a.json', metric=metric) == []


def test_others_are_told_of_ours():
    data = dataset('none', encrypt(), BOXES, PACK)
    lines = checked(data, type='CocoMetric', ann_file='a.json')
    (line,) = [line for line in lines if 'judges boxes in encrypted coordinates' in line]
    assert ORIGINALS in line and SLOTS in line and '`hime eval`' in line


def test_a_run_of_another_tool_is_checked(tmp_path):
    """The metric is built by a runner, which it has checked."""

    class Fake(Runner):
        def __init__(self, cfg):
            self.cfg = cfg

        def build(self):
            return Evaluator(self.cfg.val_evaluator)

    path = tmp_path / 'a.json'
    path.write_text('{"images": [], "annotations": [], "categories": []}')
    cfg = Config(
        dict(
            val_dataloader=dict(dataset=dataset('none', encrypt(), PACK)),
            val_evaluator=dict(type=ORIGINALS, ann_file=str(path)),
        )
    )
    with pytest.raises(ConfigError, match='keep_permutation=True'):
        Fake(cfg).build()
    cfg.val_dataloader.dataset.pipeline[1].keep_permutation = True
    (metric,) = Fake(cfg).build().metrics
    assert metric._checked
