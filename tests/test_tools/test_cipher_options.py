# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Options by which the tools have a config encrypt."""

import pytest
from mmengine.config import Config
from scripts import run_script

from hime_mm.errors import ConfigError

NAME = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
pytestmark = pytest.mark.usefixtures('quick_dumps')


class TestWriting:
    def test_a_config(self, tmp_path, capsys):
        out = tmp_path / 'folder' / 'encrypted.py'
        size = 'train_dataloader.batch_size=3'
        run_script('tools/encrypt_config.py', NAME, out, '--cipher', 'mix2', '--cfg-options', size)
        printed = capsys.readouterr().out
        added = (
            "+ train_dataloader.dataset.pipeline.2 = dict(type='hime_mm.Encrypt', cipher='mix2')"
        )
        assert added in printed.splitlines() and printed.endswith(f'wrote {out}\n')
        assert 'batch_size' not in printed
        cfg = Config.fromfile(out)
        assert cfg.train_dataloader.batch_size == 3
        assert cfg.test_dataloader.dataset.pipeline[0].type == 'hime_mm.Encrypt'
        assert out.read_text().startswith(f"# Made of {NAME} with the cipher 'mix2'.")

    def test_what_is_there_stays(self, tmp_path, capsys):
        out = tmp_path / 'mine.py'
        out.write_text('mine = 1')
        args = ('tools/encrypt_config.py', NAME, out, '--cipher', 'mix2')
        with pytest.raises(SystemExit):
            run_script(*args)
        assert 'is there already' in capsys.readouterr().err and out.read_text() == 'mine = 1'
        run_script(*args, '--force')
        assert 'hime_mm.Encrypt' in out.read_text()

    def test_a_refusal_leaves_nothing(self, tmp_path):
        out = tmp_path / 'out' / 'a.py'
        with pytest.raises(ConfigError, match='--backbone pevit-small'):
            run_script('tools/encrypt_config.py', NAME, out, '--cipher', 'shuffle')
        assert list(tmp_path.iterdir()) == []

    def test_another_ending(self, tmp_path, capsys):
        with pytest.raises(SystemExit):
            run_script('tools/encrypt_config.py', NAME, tmp_path / 'a.yaml', '--cipher', 'mix2')
        assert 'configs end with .py' in capsys.readouterr().err


@pytest.mark.parametrize('option', [('--backbone', 'pevit-tiny'), ('--patch-size', '8')])
@pytest.mark.parametrize('tool', [('train.py',), ('test.py', 'none.pth')])
def test_what_needs_a_cipher(tool, option):
    with pytest.raises(SystemExit, match=f'{option[0]} needs --cipher'):
        run_script(f'tools/{tool[0]}', NAME, *tool[1:], *option)


def test_processes_but_the_first_print_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('RANK', '1')
    run_script('tools/encrypt_config.py', NAME, tmp_path / 'a.py', '--cipher', 'mix2')
    assert 'hime_mm.Encrypt' not in capsys.readouterr().out
