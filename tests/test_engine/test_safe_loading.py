# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import os
import pickle
from unittest import mock

import pytest
import torch
from mmengine.runner.checkpoint import _load_checkpoint

from hime_mm.apis import force_safe_loading


def test_checkpoints_cannot_run_code(tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / 'ran'),))

    torch.save(dict(state_dict={}, bomb=Bomb()), tmp_path / 'bad.pth')
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', raising=False)
    with mock.patch.dict(os.environ):
        force_safe_loading()
        with pytest.raises(pickle.UnpicklingError):
            _load_checkpoint(str(tmp_path / 'bad.pth'))
    assert not (tmp_path / 'ran').exists()


def test_nothing_inherited_weakens_loading(monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    force_safe_loading()
    assert os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] == '1'
    assert 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' not in os.environ
