# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the command says of pictures that surprise, with the option that changes it."""

import pytest
from cli_parts import invoke
from owner_data import make_large_boxes
from picture_files import turned_file, write_surprising

pytestmark = pytest.mark.usefixtures('no_processes')


@pytest.fixture
def src(tmp_path):
    src = write_surprising(tmp_path / 'src')
    (src / 'n2/broken.png').unlink()
    return src


@pytest.fixture
def command(src, tmp_path, keys):
    def run(*args, kind='folder'):
        out = tmp_path / f'out{len(args)}{kind}'
        return invoke(
            'encrypt', kind, src, out, '-c', 'shuffle', '--key', keys, '-q', '-j', 1, *args
        )

    return run


def test_each_names_its_option(command):
    output = command()
    for num, option in (
        (3, '--color-type color_ignore_orientation'),
        (1, '--color-type unchanged'),
        (2, '--transparent black'),
        (1, '--frames refuse'),
    ):
        assert any(
            line.startswith(f'{num} picture') and option in line for line in output.splitlines()
        ), option
    assert 'oxes' not in output


def test_options(command, src):
    (src / 'n2/pages.tiff').unlink()
    output = command('--transparent', 'black', '--frames', 'refuse')
    assert '--transparent' not in output and '--frames' not in output


def test_of_boxes(src, command):
    make_large_boxes(src)
    (src / 'val2017/a.png').write_bytes(turned_file('png', 3, size=(64, 96)))
    output = command(kind='coco')
    assert 'Boxes were not turned' in output and 'color_ignore_orientation' in output
    assert '3 boxes' in output and 'two places' in output
