# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import os
import subprocess
import sys
from pathlib import Path

import torch

from hime_mm.apis import force_safe_loading

ROOT = Path(__file__).parents[2]


def test_checkpoints_cannot_run_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / 'ran'),))

    torch.save(dict(state_dict={}, bomb=Bomb()), tmp_path / 'bad.pth')
    code = (
        'from hime_mm.apis import force_safe_loading\n'
        'force_safe_loading()\n'
        'from mmengine.runner.checkpoint import _load_checkpoint\n'
        f'_load_checkpoint({str(tmp_path / "bad.pth")!r})'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode != 0 and 'UnpicklingError' in done.stderr
    assert not (tmp_path / 'ran').exists()


def test_nothing_inherited_weakens_loading(monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    force_safe_loading()
    assert os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] == '1'
    assert 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' not in os.environ
