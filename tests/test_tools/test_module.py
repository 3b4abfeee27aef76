# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""`python -m hime_mm.tools`, in this process; that of a wheel is in test_packaging."""

import json
import re
import sys
from pathlib import Path

import pytest
from scripts import ROOT

from hime_mm import tools
from hime_mm.errors import ConfigError

CONFIGS = sorted((ROOT / 'configs').rglob('*.py'))
ECHO = """
import json, sys
from neighbour import NAME
if __name__ == '__main__':
    print(json.dumps([NAME, __file__, sys.argv]))
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package as a wheel installs it, in place of ours."""
    files = {
        'tools/benchmarks/echo.py': ECHO,
        'tools/benchmarks/neighbour.py': "NAME = 'beside'",
        'configs/a/same.py': '',
        'configs/b/same.py': '',
        'configs/b/other.py': '',
    }
    for name, text in files.items():
        path = tmp_path / 'hime_mm' / '.mim' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(tools, 'PACKAGE', tmp_path / 'hime_mm')
    monkeypatch.setattr(sys, 'argv', sys.argv)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    (tmp_path / 'cwd').mkdir()
    monkeypatch.chdir(tmp_path / 'cwd')
    yield tmp_path / 'hime_mm' / '.mim'
    sys.modules.pop('neighbour', None)


def test_names_every_script_and_no_other_file():
    assert tools.find_tools().keys() == {
        path.stem
        for path in (ROOT / 'tools').rglob('*.py')
        if re.search(r'^def main\(', path.read_text(), re.M)
    }
    assert 'demo_scenes' not in tools.find_tools() and 'train' in tools.find_tools()


def test_every_config_is_found_by_each_end_of_its_path_that_is_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ends = [
        Path(*path.parts[-n:])
        for path in CONFIGS
        for n in range(1, len(path.relative_to(ROOT).parts) + 1)
    ]
    assert Path('hime_vit_coco.py') in ends and Path('configs/hime_vit_coco.py') in ends
    for end in ends:
        (owner,) = [path for path in CONFIGS if path.parts[-len(end.parts) :] == end.parts]
        assert Path(tools.find_config(str(end))).samefile(owner)
        assert Path(tools.find_config(f'./{end}')).samefile(owner)


@pytest.mark.parametrize(
    'name', ['nothing.py', 'coco.py', 'tools/train.py', '../configs/hime_vit_coco.py', '*.py', '']
)
def test_what_is_no_config_of_ours_stays_as_it_was_written(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tools.find_config(name) == name


def test_a_file_that_is_there_comes_first(package):
    assert tools.find_config('other.py') == str(package / 'configs/b/other.py')
    Path('other.py').touch()
    assert tools.find_config('other.py') == 'other.py'


def test_a_name_of_several_configs(package, capsys):
    with pytest.raises(ConfigError, match='a/same.py, .*b/same.py: write more'):
        tools.find_config('same.py')
    assert tools.find_config('b/same.py') == str(package / 'configs/b/same.py')
    with pytest.raises(SystemExit):
        tools.main(['echo', 'same.py'])
    assert 'write more of its path' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('args', 'expected'),
    [
        ([], []),
        (['-h', '--help'], ['-h', '--help']),
        (['other.py', 'other.py'], ['{}/b/other.py', 'other.py']),
        (['--amp', 'b/other.py', '--cfg-options', 'a=b c'], None),
        (['mine.py', 'other.py'], ['mine.py', 'other.py']),
        (['--', 'x.pth'], ['--', 'x.pth']),
    ],
)
def test_runs_a_script_as_its_path_would(package, capsys, args, expected):
    Path('mine.py').touch()
    tools.main(['echo', *args])
    name, file, argv = json.loads(capsys.readouterr().out)
    script = package / 'tools/benchmarks/echo.py'
    assert name == 'beside' and [file, argv[0]] == [str(script)] * 2
    if expected is None:
        expected = ['--amp', '{}/b/other.py', '--cfg-options', 'a=b c']
    assert argv[1:] == [arg.format(package / 'configs') for arg in expected]


@pytest.mark.parametrize('args', [['nothing'], ['neighbour'], ['benchmarks/echo']])
def test_other_names_are_refused_with_those_that_there_are(package, capsys, args):
    with pytest.raises(SystemExit) as stopped:
        tools.main(args)
    assert stopped.value.code == 2 and 'echo' in capsys.readouterr().err


@pytest.mark.parametrize('args', [[], ['-h']])
def test_help_says_what_there_is_and_where_the_configs_are(package, capsys, args):
    with pytest.raises(SystemExit):
        tools.main(args)
    text = ''.join(capsys.readouterr().out.split())
    assert 'echo' in text and str(package / 'configs') in text
