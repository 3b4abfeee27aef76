# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the summary of an audit says of how it was made, and of its pictures."""

import hashlib
import json
import re
import shlex
import stat
from dataclasses import replace

import cv2
import numpy as np
import pytest

from hime_mm.apis import AuditSettings, Recipe, audit_dataset, audit_pictures
from hime_mm.audit.command import pictures_command, versions
from hime_mm.datasets.manifest import Manifest

QUICK = AuditSettings(attacks=('jigsaw',), num_pictures=7, seed=5, progress=False)


def canonical(state):
    rest = {key: value for key, value in state.items() if key != 'checksum'}
    text = json.dumps(rest, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


def summary(folder):
    return json.loads((folder / 'audit.json').read_text())


def test_of_plain_pictures(pictures, tmp_path):
    recipe = Recipe.build('center+shuffle', preprocess=dict(resize=(96, 80)))
    audit_pictures(str(pictures), str(tmp_path / 'a'), [recipe], QUICK)
    state = summary(tmp_path / 'a')
    assert state['checksum'] == canonical(state)
    assert state['command'] == (
        'hime audit PICTURES -c center+shuffle --patch-size 16 --resize 96x80 -n 7 --seed 5 '
        '--num-public 80 --attack jigsaw --out AUDIT'
    )
    assert state['versions']['numpy'] == np.__version__
    assert set(state['versions']) == {
        'hime_mm',
        'python',
        'numpy',
        'opencv',
        'scipy',
        'scikit-image',
        'dlib',
        'rapidocr',
        'onnxruntime',
    }
    assert 'unknown' not in state['versions'].values()
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00', state['started'])


def test_what_readers_were_given_is_in_the_command(pictures, tmp_path):
    settings = replace(QUICK, people='/secret/people', onnx=('/secret/model.onnx',))
    text = pictures_command([Recipe.build('shuffle')], settings)
    assert '--people PEOPLE --onnx model.onnx' in text
    assert 'secret' not in text
    assert 'dlib' in versions()


def test_pictures_of_the_worst(pictures, tmp_path):
    recipe = Recipe.build('shuffle', preprocess=dict(resize=(96, 80)))
    audit_pictures(str(pictures), str(tmp_path / 'a'), [recipe], QUICK)
    (one,) = summary(tmp_path / 'a')['ciphers']
    assert len(one['worst']) == 7
    for row in one['worst']:
        assert [*row['files']] == ['original', 'encrypted', 'reconstructed']
        shown = {}
        for stage, told in row['files'].items():
            place = tmp_path / 'a' / told['file']
            assert hashlib.sha256(place.read_bytes()).hexdigest() == told['sha256']
            assert stat.S_IMODE(place.stat().st_mode) == 0o600
            shown[stage] = cv2.imread(str(place))
        plain = cv2.imread(str(pictures / row['name']))
        plain = cv2.resize(plain, (96, 80), interpolation=cv2.INTER_LINEAR)
        assert np.abs(plain.astype(int) - shown['original']).max() <= 1
        # Shuffled: the same pixels, elsewhere.
        assert (shown['encrypted'] != shown['original']).any()
        flat = [np.sort(img.reshape(-1, 3), axis=0) for img in shown.values()]
        assert (flat[0] == flat[1]).all()
        assert f'{row["attack"]}/{row["number"]:04}.png' in row['files']['reconstructed']['file']


def test_of_a_delivered_data_set(delivered, pictures, owner_key, tmp_path):
    audit_dataset(str(delivered), str(tmp_path / 'a'), owner_key, str(pictures), QUICK)
    state = summary(tmp_path / 'a')
    manifest = Manifest.load(str(delivered))
    assert state['data_checksum'] == manifest.state['checksum'] != state['checksum']
    assert state['checksum'] == canonical(state)
    assert state['command'] == (
        'hime audit DATA --key OWNER.KEY --originals PICTURES -n 7 --seed 5 --num-public 80 '
        '--attack jigsaw --out AUDIT'
    )
    audit_dataset(str(delivered), str(tmp_path / 'b'), None, None, QUICK)
    state = summary(tmp_path / 'b')
    assert '--key' not in state['command'] and 'PICTURES' not in state['command']
    # Nothing is known of the originals of what was delivered.
    first, second = state['ciphers']
    assert all('original' not in row['files'] for row in first['worst'])
    assert all('original' in row['files'] for row in second['worst'])
    assert (tmp_path / 'b' / 'report.html').is_file()


@pytest.mark.parametrize(
    'preprocess',
    [
        {},
        dict(resize=(640, 480), keep_ratio=True, interpolation='area'),
        dict(short_side=(32, 48), max_side=64),
        dict(center_crop=(48, 32), fit='pad', pad_val=(1, 2, 3)),
        dict(color_type='grayscale', pad_val=7.5, fit='pad'),
        dict(augment=dict(flip=0.5, crop=(0.25, 1.0), jitter=0.1)),
    ],
)
@pytest.mark.parametrize('public', [None, '/home/some body/photos'])
def test_command_gives_the_same_settings(preprocess, public, tmp_path, monkeypatch):
    """What the command line makes of the command is what it was made of."""
    from click.testing import CliRunner

    from hime_mm.cli import main
    from hime_mm.errors import AuditError

    recipes = [
        Recipe.build(cipher, 8, preprocess) for cipher in ('paper-rs', 'noise25+shuffle', 'mix2')
    ]
    settings = AuditSettings(9, 3, public, 11, ('jigsaw', 'histogram'))
    words = shlex.split(pictures_command(recipes, settings))
    assert words[:3] == ['hime', 'audit', 'PICTURES']
    assert '/home/some body/photos' not in words
    seen = []

    def audit(src, out, recipes, settings):
        seen.append((src, out, [*recipes], settings.what))
        raise AuditError('seen')

    monkeypatch.setattr('hime_mm.cli.audit.audit_pictures', audit)
    monkeypatch.chdir(tmp_path)
    for name in ('PICTURES', 'PUBLIC'):
        (tmp_path / name).mkdir()
    done = CliRunner().invoke(main, words[1:])
    assert 'seen' in done.output, done.output
    (found,) = seen
    assert found[:3] == ('PICTURES', 'AUDIT', recipes)
    assert found[3] == {**settings.what, 'public': None if public is None else 'PUBLIC'}


def test_command_of_recipes_that_one_command_cannot_have():
    recipes = [Recipe.build('shuffle', 8), Recipe.build('shuffle', 16), Recipe.build('mix2', 8)]
    lines = pictures_command(recipes, AuditSettings()).split('\n')
    assert [line.split(' -n ')[0] for line in lines] == [
        'hime audit PICTURES -c shuffle -c mix2 --patch-size 8',
        'hime audit PICTURES -c shuffle --patch-size 16',
    ]
    assert [line.split()[-1] for line in lines] == ['AUDIT_1', 'AUDIT_2']
