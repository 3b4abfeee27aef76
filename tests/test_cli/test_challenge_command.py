# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""`hime audit challenge` and `hime audit score` on the command line."""

import json
import re
import subprocess
import sys

import pytest
from cli_parts import invoke

from hime_mm.audit.challenge import CIPHERS
from hime_mm.audit.challenge import making as challenge_module

pytestmark = pytest.mark.usefixtures('no_processes')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Read only."""
    out = tmp_path_factory.mktemp('challenge') / 'made'
    args = ('-c', 'shuffle', '-c', 'mix2', '--patch-size', 32, '-n', 2, '--size', 96, '-q')
    text = invoke('audit', 'challenge', out, *args)
    return out, text


def score(made, submission, *args, status=0):
    out, _ = made
    folders = ('--challenge', out / 'public', '--secret', out / 'secret')
    return invoke('audit', 'score', submission, *folders, *args, status=status)


def test_make(made):
    out, text = made
    assert sorted(path.name for path in out.iterdir()) == ['public', 'secret']
    state = json.loads((out / 'public' / 'challenge.json').read_text())
    assert [one['folder'] for one in state['ciphers']] == ['shuffle_p32', 'mix2_p32']
    assert (state['painted'], state['height']) == (2, 96)
    kept = json.loads((out / 'secret' / 'truth.json').read_text())
    assert f'challenge {kept["challenge"]}' in text.splitlines()
    assert 'holds something' in invoke('audit', 'challenge', out, status=1)


def test_ciphers_unless_others_are_named(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(
        'hime_mm.cli.challenge.make_challenge', lambda *args, **kwargs: given.append(kwargs) or ''
    )
    invoke('audit', 'challenge', tmp_path / 'a')
    assert tuple(given[0]['ciphers']) == CIPHERS
    assert given[0]['progress'] is True
    text = ' '.join(invoke('audit', 'challenge', '--help').split())
    assert all(cipher in text for cipher in CIPHERS)


@pytest.mark.slow
def test_score(made, tmp_path):
    (tmp_path / 'empty').mkdir()
    text = score(made, tmp_path / 'empty', '--out', tmp_path / 'score.json')
    assert len(re.findall(r'^  measure +handed in +mean', text, re.M)) == 4
    assert re.search(r'^  nc +0 of 8 .* no$', text, re.M)
    # Two scenes are too few.
    assert re.search(r'^  psnr +0 of 2 .* too few$', text, re.M)
    state = json.loads((tmp_path / 'score.json').read_text())
    assert state == json.loads(score(made, tmp_path / 'empty', '--json'))
    assert state['challenge'] in text
    # What is there is replaced on demand only.
    place = tmp_path / 'score.json'
    place.write_text('mine')
    assert '`--force`' in score(made, tmp_path / 'empty', '--out', place, status=1)
    assert place.read_text() == 'mine'
    score(made, tmp_path / 'empty', '--out', place, '--force')
    assert json.loads(place.read_text()) == state


def test_errors_are_one_line(made, tmp_path):
    out, _ = made
    root = tmp_path / 'a'
    root.mkdir()
    (root / 'line\n\x1b[2J').write_text('')
    text = score(made, root, status=1)
    assert text.startswith('hime: ')
    assert text.count('\n') == 1
    assert '\x1b' not in text
    (root / 'line\n\x1b[2J').unlink()
    for folder in (out / 'public', out / 'secret', root):
        assert '`--out`' in score(made, root, '--out', folder / 'score.json', status=1)
    folders = ('--challenge', out / 'secret', '--secret', out / 'public')
    text = invoke('audit', 'score', root, *folders, status=1)
    assert 'challenge.json' in text
    assert "give the folder 'public' of a challenge" in text
    assert 'size=72' not in invoke('audit', 'challenge', tmp_path / 'b', '--size', 72, status=1)
    assert '--size 72' in invoke('audit', 'challenge', tmp_path / 'b', '--size', 72, status=1)
    invoke('audit', 'score', root, status=2)
    invoke('audit', 'challenge', tmp_path / 'b', '-n', 0, status=2)


def test_interrupted(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(challenge_module, 'make_scene', interrupted)
    assert 'interrupted' in invoke('audit', 'challenge', tmp_path / 'a', '-q', status=130)


def test_audit_stays_a_command(tmp_path, monkeypatch):
    """Of folders, too, that are called like the second word of another one."""
    (tmp_path / 'score').mkdir()
    monkeypatch.chdir(tmp_path)
    assert 'SRC' in invoke('audit', '--help')
    assert 'SUBMISSION' in invoke('audit', 'score', '--help')
    text = invoke('audit', './score', '--out', 'a', '-c', 'shuffle', '-q', '-j', 1, status=1)
    assert 'no pictures in ./score' in text
    assert {'audit', 'audit challenge', 'audit score'} <= {
        re.sub('  .*', '', line.strip()) for line in invoke('--help').splitlines()
    }


def test_without_scikit_image(tmp_path):
    """In a process of its own: it is imported when the command is."""
    code = 'import sys; sys.modules["skimage"] = None; from hime_mm.cli import main; main()'
    args = ['audit', 'challenge', str(tmp_path / 'a')]
    done = subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'hime-mm[audit]' in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'a').exists()
