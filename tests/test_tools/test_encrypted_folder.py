# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""`tools/train.py` on a folder that an owner encrypted."""

import subprocess
import sys

import cv2
import pytest
from owner_data import ROOT, SECRET, forms_of_key, forms_of_permutation, found, hime_env, tree

from hime_mm.apis import encrypt_folder
from hime_mm.ciphers import Key
from hime_mm.datasets.manifest import Manifest

KEY = Key(SECRET)
CONFIG = """
_base_ = ['{root}/configs/encrypted/pevit-tiny_paper-rs-folder_1xb64-100e_custom.py']
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=16, num_layers=1,
                            num_heads=2, feedforward_channels=32),
                  img_size=64),
    head=dict(num_classes=2, in_channels=16),
    train_cfg=None)
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(data_root='{data}'))
val_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(data_root='{data}'))
test_dataloader = val_dataloader
data_preprocessor = dict(num_classes=2)
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = []
"""


@pytest.mark.slow
def test_neither_logs_nor_checkpoints_hold_a_secret(make_image, tmp_path):
    """Not even where the key is in the environment of the training."""
    pytest.importorskip('mmpretrain')
    for split in ('train', 'val'):
        for name in 'ab':
            folder = tmp_path / 'src' / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                cv2.imwrite(
                    str(folder / f'{i}.png'), make_image((64, 64, 3), seed=ord(name) + 10 * i)
                )
    out, work = tmp_path / 'out', tmp_path / 'work'
    encrypt_folder(str(tmp_path / 'src'), str(out), 'paper-rs', key=KEY, progress=False)
    (tmp_path / 'config.py').write_text(CONFIG.format(root=ROOT, data=out))
    done = subprocess.run(
        [sys.executable, 'tools/train.py', str(tmp_path / 'config.py'), '--work-dir', str(work)],
        capture_output=True,
        cwd=ROOT,
        env=hime_env(HIME_KEY=f'hime-key-v1:{SECRET.hex()}'),
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    contents = tree(work)
    # Weights, logs and the config that was dumped are all there.
    for suffix in ('.pth', '.log', '.py', 'scalars.json'):
        assert any(name.endswith(suffix) for name in contents), suffix
    contents = [*contents.values(), done.stdout, done.stderr]
    assert not found(forms_of_key(SECRET), contents)
    manifest = Manifest.load(out)
    for entry in manifest.files.values():
        permutation = manifest.secret_layout(entry, KEY).permutation
        assert len(permutation) == 16
        assert not found(forms_of_permutation(permutation), contents)
