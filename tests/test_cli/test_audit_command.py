# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""`hime audit` on the command line."""

import json
import re
import subprocess
import sys

import cv2
import pytest
from attack_parts import photo
from click.testing import CliRunner

from hime_mm.apis import encrypt_folder
from hime_mm.ciphers import Key
from hime_mm.cli import main

pytestmark = pytest.mark.usefixtures('no_processes')


@pytest.fixture(autouse=True)
def little_to_learn_from(monkeypatch):
    little = [photo(name, 64, 64) for name in ('astronaut', 'rocket')]
    monkeypatch.setattr('hime_mm.audit.public._shipped', lambda: little)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / 'plain'
    folder.mkdir()
    for name in ('coffee', 'chelsea'):
        cv2.imwrite(str(folder / f'{name}.png'), photo(name, 96, 96))
    return folder


def hime(*args):
    return CliRunner().invoke(main, ['audit', '-q', '-j', '1', *map(str, args)])


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Attacks are made here: processes take seconds to begin."""
    from hime_mm.audit import work

    serial = work.run_tasks
    monkeypatch.setattr(
        work,
        'run_tasks',
        lambda function, context, key, tasks, workers: serial(function, context, key, tasks, 0),
    )


def test_report(pictures, tmp_path):
    out = tmp_path / 'audit'
    done = hime(pictures, '-c', 'shuffle', '-c', 'mix2', '--attack', 'jigsaw', '--out', out)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == 'shuffle, patches of 16 pixels: 2 of 2 pictures, 96x96'
    assert re.search(r'^  jigsaw +nc_component +\S', done.output, re.M)
    assert 'not tried: jigsaw: no patch is moved' in done.output
    assert 'lower bound' in done.output
    assert lines[:-1] == (out / 'audit.txt').read_text().splitlines()
    assert json.loads((out / 'audit.json').read_text())['settings']['attacks'] == ['jigsaw']


def test_limits_give_an_exit_status(pictures, tmp_path):
    args = (pictures, '-c', 'shuffle', '--attack', 'jigsaw', '--out', tmp_path / 'a')
    assert hime(*args, '--fail-above', 'nc=1').exit_code == 0
    done = hime(*args, '--fail-above', 'nc=0.1', '--fail-above', 'ssim=1', '--fail-above', 'nc=1')
    assert done.exit_code == 1
    assert re.search(r'^hime: shuffle: nc is \S+ by jigsaw, above 0.1$', done.output, re.M)


@pytest.mark.parametrize(
    'limit, words',
    [
        ('nc', 'no limit such as nc=0.1'),
        ('nc=x', 'no limit'),
        ('nc=nan', 'no limit'),
        ('nc=inf', 'no limit'),
        ('n=1', "called 'n'"),
    ],
)
def test_limits_that_are_none(pictures, tmp_path, limit, words):
    done = hime(pictures, '-c', 'shuffle', '--out', tmp_path / 'a', '--fail-above', limit)
    assert done.exit_code == 2
    assert words in done.output


def test_sources_and_ciphers(pictures, tmp_path):
    out, delivered = tmp_path / 'a', tmp_path / 'set'
    done = hime(pictures, '--out', out)
    assert done.exit_code == 2 and 'name ciphers with --cipher' in done.output
    done = hime(pictures, '-c', 'shuffle', '--originals', pictures, '--out', out)
    assert done.exit_code == 2 and 'leave out --originals' in done.output
    key = Key(bytes(32))
    encrypt_folder(str(pictures), str(delivered), 'shuffle', key=key, progress=False)
    for option in (('-c', 'shuffle'), ('--resize', '64x64'), ('--patch-size', '16')):
        done = hime(delivered, *option, '--out', out)
        assert done.exit_code == 2 and 'is encrypted already: leave out --' in done.output
    done = hime(pictures, '-c', 'shuffle', '--key', 'owner.key', '--out', out)
    assert done.exit_code == 2 and 'leave out the key' in done.output
    assert not out.exists()
    place = tmp_path / 'owner.key'
    key.save(str(place))
    args = ('--key', place, '--originals', pictures, '--attack', 'jigsaw', '--out', out)
    done = hime(delivered, *args)
    assert done.exit_code == 0, done.output
    assert re.search(r'^  jigsaw +ssim', done.output, re.M)


def test_key_of_another_data_set_in_the_environment(pictures, tmp_path):
    """It is no error, as long as nobody names it."""
    delivered, key = tmp_path / 'set', Key(bytes(32))
    encrypt_folder(str(pictures), str(delivered), 'shuffle', key=key, progress=False)
    for name, secret, known in (('a', bytes(range(32)), False), ('b', bytes(32), True)):
        place = tmp_path / f'{name}.key'
        Key(secret).save(str(place))
        env = dict(HIME_KEY=place.read_text().strip())
        args = ['audit', '-q', '-j', '1', str(delivered), '--attack', 'jigsaw']
        done = CliRunner(env=env).invoke(main, [*args, '--out', str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        assert ('no truth' not in done.output) == known


def test_budget(pictures, tmp_path):
    done = hime(pictures, '-c', 'shuffle', '--out', tmp_path / 'a', '--budget', '0.000001')
    assert done.exit_code == 1
    assert 'too little for one picture: give more as `--budget`' in done.output
    assert hime(pictures, '-c', 'shuffle', '--out', tmp_path / 'a', '--budget', '0').exit_code == 2


def test_wrong_words(pictures, tmp_path):
    for args, words in (
        (('-c', 'scramble'), 'scramble'),
        (('-c', 'shuffle', '--attack', 'magic'), 'no attack is called magic'),
        (
            ('-c', 'shuffle', '--public', pictures),
            'lie in each other: name other pictures as `--public`',
        ),
        (('-c', 'center+shuffle', '--fit', 'pad'), 'does not go with'),
    ):
        done = hime(pictures, *args, '--out', tmp_path / 'a')
        assert done.exit_code == 1, done.output
        assert words in done.output
        assert 'Traceback' not in done.output


@pytest.mark.parametrize('module', ['scipy', 'skimage'])
def test_packages_that_are_missing(pictures, tmp_path, module):
    """In a process of its own: they are imported when the command is."""
    code = f'import sys; sys.modules["{module}"] = None; from hime_mm.cli import main; main()'
    args = ['audit', str(pictures), '-c', 'shuffle', '--out', str(tmp_path / 'a')]
    done = subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True)
    assert done.returncode == 1
    assert f'needs {module}' in done.stderr and 'hime-mm[audit]' in done.stderr
    assert not (tmp_path / 'a').exists()


def test_report_is_made_again(pictures, tmp_path):
    out = tmp_path / 'audit'
    done = hime(pictures, '-c', 'shuffle', '--attack', 'jigsaw', '--out', out)
    assert 'report.html' in done.output.splitlines()[-1]
    before = (out / 'report.html').read_bytes()
    (out / 'report.html').unlink()

    def report(*args):
        return CliRunner().invoke(main, ['audit', 'report', *map(str, args)])

    done = report(out)
    assert done.exit_code == 0, done.output
    assert done.output == f'{out / "report.html"}: holds plain pictures, not to be handed over\n'
    assert (out / 'report.html').read_bytes() == before
    done = report(out, '--no-pictures')
    assert done.output == f'{out / "report_shared.html"}: holds no pictures\n'
    # Only what it made itself is replaced without a word.
    kept = tmp_path / 'kept.txt'
    kept.write_text('mine')
    done = report(out, '--out', kept)
    assert done.exit_code == 2 and '--force' in done.output
    assert kept.read_text() == 'mine'
    assert report(out, '--out', kept, '--force').exit_code == 0
    assert kept.read_bytes() == before
    done = report(pictures)
    assert done.exit_code == 1
    assert (
        done.output
        == f'hime: {pictures} holds no audit: name a folder that `hime audit` wrote to\n'
    )


def test_a_name_of_two_words_is_no_folder(pictures, tmp_path, monkeypatch):
    """A folder of plain pictures called `report` is named `./report`."""
    pictures.rename(tmp_path / 'report')
    monkeypatch.chdir(tmp_path)
    done = hime('./report', '-c', 'mix2', '--attack', 'mosaic', '--out', 'a')
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(main, ['audit', 'report', '-c', 'mix2', '--out', 'b'])
    assert done.exit_code == 2 and 'main audit report' in done.output
