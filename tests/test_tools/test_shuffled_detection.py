# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Detection on shuffled images from end to end: an owner's folder, an engineer's run, the key."""

import json
import subprocess
import sys

import numpy as np
import pytest
from owner_data import ROOT, SECRET, forms_of_key, forms_of_permutation, found, hime_env, tree
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scripts import load_script, run_script

from hime_mm.apis import encrypt_coco, evaluate_results
from hime_mm.ciphers import Key
from hime_mm.datasets.manifest import Manifest
from hime_mm.transforms import Encrypt

pytestmark = pytest.mark.slow
KEY = Key(SECRET)
ANN = 'annotations/instances_val.json'
CONFIG = """
_base_ = ['{root}/configs/demo/petoken_rs_demo.py']
model = dict(
    backbone=dict(
        arch=dict(embed_dims=64, num_layers=2, num_heads=2, feedforward_channels=128)),
    bbox_head=dict(in_channels=64, feat_channels=64))
train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False,
    dataset=dict(dataset=dict(data_root='{data}/', ann_file='{ann}', data_prefix=dict(img='val/'))))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='{data}/'))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=60, val_interval=60)
param_scheduler = [dict(type='ConstantLR', factor=1.0, by_epoch=True, begin=0, end=1)]
default_hooks = dict(checkpoint=dict(interval=60))
"""
METRICS = """
val_evaluator = dict(ann_file='{data}/{ann}')
test_evaluator = [
    dict(type='hime_mm.SlotCocoMetric', ann_file='{data}/{ann}', outfile_prefix='{work}/found'),
    dict(type='hime_mm.OriginalCocoMetric', prefix='owner', ann_file='{plain}/{ann}',
         key='{key}', outfile_prefix='{owner}/mapped')]
"""


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """Eight of them, learnt by heart: predictions that are neither perfect nor nothing."""
    folder = tmp_path_factory.mktemp('demo') / 'plain'
    return load_script('tools/demo_scenes.py').make_demo_coco(folder, 1, 8, size=160)


def numbers(ann_file, results):
    """The twelve of pycocotools, unrounded."""
    truth = COCO(str(ann_file))
    judge = COCOeval(truth, truth.loadRes(str(results)), 'bbox')
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats


def test_from_the_folder_to_the_owners_numbers(scenes, tmp_path):
    """AP through files and key is that of slots carried in memory; nothing tells a secret."""
    data, work, owner = (tmp_path / name for name in ('data', 'work', 'owner'))
    owner.mkdir()
    encrypt_coco(
        str(scenes), str(data), 'center+erode2+shuffle', annotations=[ANN], key=KEY, progress=False
    )
    KEY.save(str(owner / 'owner.key'))
    places = dict(root=ROOT, data=data, ann=ANN, plain=scenes, work=work, owner=owner)
    (tmp_path / 'config.py').write_text(
        (CONFIG + METRICS).format(**places, key=owner / 'owner.key')
    )
    done = subprocess.run(
        [sys.executable, 'tools/train.py', str(tmp_path / 'config.py'), '--work-dir', str(work)],
        capture_output=True,
        cwd=ROOT,
        env=hime_env(),
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    run_script(
        'tools/test.py',
        tmp_path / 'config.py',
        work / 'epoch_60.pth',
        *('--work-dir', work, '--out', work / 'out.pkl'),
    )
    in_memory = numbers(scenes / ANN, owner / 'mapped.bbox.json')
    assert 0.05 < in_memory[0] < 0.99
    through_files = evaluate_results(
        str(work / 'found.bbox.json'), str(data), str(scenes / ANN), key=KEY, progress=False
    )
    given = [-1 if n is None else n for n in through_files.numbers.values()]
    np.testing.assert_allclose(given[:6], in_memory[:6], atol=1e-6)
    manifest = Manifest.load(data)
    secrets = forms_of_key(SECRET)
    for entry in manifest.files.values():
        secrets |= forms_of_permutation(manifest.secret_layout(entry, KEY).permutation)
    contents = [*tree(work).values(), *tree(data).values(), done.stdout, done.stderr]
    assert len(contents) > 15
    assert not found(secrets, contents)


def test_a_simulation_leaves_no_permutation(scenes, tmp_path, monkeypatch, capfd):
    """A fresh one for every image and epoch, through tools/train.py; in no file."""
    drawn, transform = [], Encrypt.transform

    def watched(self, results):
        kept, self.keep_permutation = self.keep_permutation, True
        results = transform(self, results)
        self.keep_permutation = kept
        drawn.append(results['patch_layout'].permutation)
        if not kept:
            results['patch_layout'] = results['patch_layout'].public()
        return results

    monkeypatch.setattr(Encrypt, 'transform', watched)
    config = f"""
_base_ = ['{ROOT}/configs/bccd/petoken-tiny_rs_1xb4-40e_bccd.py']
data = dict(
    metainfo=dict(classes=('person', 'cat', 'cup', 'coin', 'motorcycle')),
    data_root='{scenes}/', ann_file='{ANN}', data_prefix=dict(img='val/'))
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=data)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=data)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{scenes}/{ANN}')
test_evaluator = val_evaluator
model = dict(
    backbone=dict(arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)),
    bbox_head=dict(num_classes=5, in_channels=16, feat_channels=16))
train_cfg = dict(max_epochs=3, val_interval=3)
# One of the name that another test used would write to the folder of that one.
visualizer = dict(name='simulation')
"""
    (tmp_path / 'config.py').write_text(config)
    work = tmp_path / 'work'
    run_script('tools/train.py', tmp_path / 'config.py', '--work-dir', work)
    run_script(
        'tools/test.py',
        tmp_path / 'config.py',
        work / 'epoch_3.pth',
        *('--work-dir', work, '--out', work / 'out.pkl', '--show-dir', work / 'shown'),
    )
    assert len(drawn) == 8 * (3 + 1 + 1)
    assert len({perm.tobytes() for perm in drawn}) == len(drawn)
    printed = capfd.readouterr()
    contents = [*tree(work).values(), printed.out.encode(), printed.err.encode()]
    for perm in drawn:
        assert not found(forms_of_permutation(perm), contents)
    assert json.loads(next(work.glob('*/vis_data/scalars.json')).read_text().split('\n')[0])
