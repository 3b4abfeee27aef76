# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The figures that we quote, and the deletions that are no steps."""

import json
import sys
from unittest import mock

import cv2
import numpy as np
import pytest
from attack_parts import photo
from scripts import ROOT, load_script, run_script

from hime_mm.apis import encrypt_folder
from hime_mm.ciphers import STEPS, Cipher, split_patches
from hime_mm.ciphers.figures import FIGURES, UNKNOWN, figure, figures, quoted, whole
from hime_mm.datasets.manifest import Manifest
from hime_mm.encryption.describe import describe_dataset

SCRIPT = 'tools/experiments/leakage.py'
PAGE = 'tools/experiments/leakage_page.py'


@pytest.fixture
def deletions(monkeypatch):
    """The steps that are tried, known for one test."""
    with mock.patch.dict(STEPS):
        module = load_script('tools/experiments/deletions.py')
        monkeypatch.setitem(sys.modules, 'deletions', module)
        yield module


def test_page_has_the_tables_of_the_figures():
    script = load_script(PAGE)
    page = (ROOT / 'docs' / 'leakage.md').read_text()
    inside = page.split(script.BEGIN)[1].split(script.END)[0]
    assert inside == '\n' + script.tables(json.loads(FIGURES.read_text()))


@pytest.mark.parametrize('name', sorted(STEPS))
def test_steps_quote_figures_that_are_there(name):
    assert UNKNOWN not in STEPS[name].leaves
    assert '{' not in STEPS[name].leaves


def test_figures_are_plausible():
    state = figures()
    assert {'coco', 'photos', 'faces', 'large', 'chess'} == set(state['sets'])
    assert state['environment']['hime_mm']
    assert state['commits'] and not any('dirty' in commit for commit in state['commits'])
    for one in state['sets'].values():
        for row in one['ciphers'].values():
            for metric, risk in row.items():
                assert risk['pictures'] >= 10
                assert risk['low'] <= risk['mean'] <= risk['high']
                assert metric == 'psnr' or 0 <= risk['mean'] <= 1
                # What counts beats the control.
                assert not risk['counts'] or risk['mean'] > risk['control']


@pytest.mark.parametrize(
    'cipher, least',
    [
        ('orient+shuffle', 0.85),
        ('negate+permute_channels+shuffle', 0.94),
        ('shuffle', 0.95),
        ('erode1+shuffle', 0.58),
        ('erode2+shuffle', 0.31),
        ('center+shuffle', 0.83),
        ('center+erode2+shuffle', 0.10),
        ('mix2+shuffle', 0.26),
    ],
)
def test_figures_that_are_made_again_are_no_lower(cipher, least):
    assert figure(cipher, 'nc_component') >= least


def test_quotes():
    share = figure('shuffle', 'nc_component')
    assert quoted('put {shuffle nc_component} back') == f'put {100 * share:.1f} % back'
    large = figure('mix2', 'psnr', 'large')
    assert quoted('{mix2 psnr in large}') == f'{large:.1f} dB'
    assert quoted('{nothing nc}') == UNKNOWN
    assert quoted('no figure') == 'no figure'


def test_whole_ciphers_are_quoted(tmp_path):
    share = figure('center+erode2+shuffle', 'nc_component')
    text = whole('center+erode2+shuffle', 16)
    assert f'put {100 * share:.1f} % of the neighbouring patches back' in text
    # What does not count is not said.
    assert 'dB' not in text
    assert f'{figure("mix2", "psnr"):.1f} dB' in whole('mix2', 16)
    assert f'{100 * figure("shuffle/32", "nc_component"):.1f} %' in whole('shuffle', 32)
    assert whole('mix2', 8) == whole('noise99', 16) == ''
    plain = tmp_path / 'plain'
    plain.mkdir()
    cv2.imwrite(str(plain / 'one.png'), photo('coffee', 64, 64))
    encrypt_folder(str(plain), str(tmp_path / 'set'), 'mix2', patch_size=16, progress=False)
    assert whole('mix2', 16) in describe_dataset(Manifest.load(str(tmp_path / 'set')))


def test_strongest_attack_that_counts(tmp_path, deletions):
    script = load_script(SCRIPT)

    def risk(mean, counts):
        sides = dict(mean=mean, low=0.0, high=1.0)
        zero = dict(mean=0.0, low=0.0, high=0.0)
        return dict(main=sides, control=zero, baseline=zero, pictures=40, counts=counts)

    place = tmp_path / 'coco' / 'shuffle_p16'
    place.mkdir(parents=True)
    attacks = dict(
        loud=dict(metrics=dict(ssim=risk(0.9, False))),
        true=dict(metrics=dict(ssim=risk(0.4, True))),
        weak=dict(metrics=dict(ssim=risk(0.2, True), psnr=risk(9.0, None), nc=risk(-0.1, True))),
        told=dict(metrics=dict(ssim=risk(0.95, True)), setting='known-plaintext'),
    )
    attacks = {name: {'setting': 'ciphertext-only', **one} for name, one in attacks.items()}
    (place / 'audit.json').write_text(json.dumps(dict(ciphers=[dict(attacks=attacks)])))
    best = script.found(tmp_path, 'coco', 'shuffle')
    assert script.found(tmp_path, 'coco', 'mix2') is None
    assert best['ssim']['attack'] == 'true'
    assert best['psnr']['mean'] == 9
    # It beats the control, but no random guess.
    assert best['nc']['counts'] is False
    page = load_script(PAGE)
    assert page.cell('ssim', best['ssim']) == '0.40'
    assert page.cell('psnr', best['psnr']) == '(9.0)'


def test_every_cipher_of_the_experiment_is_one(deletions):
    script = load_script(SCRIPT)
    for text in [*script.CIPHERS, *script.TRIED]:
        assert script.cipher_of(text).patch_size in (16, 32)
    assert len(set(script.CIPHERS)) == len(script.CIPHERS)


def test_deletions(deletions):
    img = photo('coffee', 64, 96)

    def change(cipher):
        return Cipher(cipher).encrypt(img)[0]

    assert len(np.unique(change('quantize4'))) <= 4
    assert np.abs(change('quantize16').astype(int) - img).max() <= 8
    smooth = split_patches(change('lowpass2'), 16).astype(float)
    plain = split_patches(img, 16).astype(float)
    assert np.abs(smooth.mean(axis=(1, 2)) - plain.mean(axis=(1, 2))).max() < 12
    assert np.abs(np.diff(smooth, axis=1)).mean() < 0.5 * np.abs(np.diff(plain, axis=1)).mean()
    even = split_patches(change('contrast'), 16).astype(float)
    spread = (even - even.mean(axis=(1, 2), keepdims=True)).std(axis=(1, 2, 3))
    assert spread.std() < plain.std(axis=(1, 2, 3)).std()
    flat = change('equalize')
    counts = [np.histogram(flat[..., k], 8, (0, 256))[0] for k in range(3)]
    assert np.max(counts) < 0.2 * 64 * 96
    # A patch is changed by itself, but for what is of the whole picture.
    for cipher in ('lowpass2', 'contrast32', 'quantize16'):
        part = Cipher(cipher).encrypt(np.ascontiguousarray(img[:16, 16:32]))[0]
        assert (change(cipher)[:16, 16:32] == part).all()


@pytest.fixture
def coco_folder(tmp_path):
    """Three photos to attack, and three to learn from."""
    for folder, names in (
        ('val2017', ('astronaut', 'chelsea', 'coffee')),
        ('train2017', ('rocket', 'chelsea', 'coffee')),
    ):
        (tmp_path / 'coco' / folder).mkdir(parents=True)
        for name in names:
            size = 128 if folder == 'train2017' else 160
            cv2.imwrite(str(tmp_path / 'coco' / folder / f'{name}.png'), photo(name, size, size))
    return tmp_path / 'coco'


def test_linkage_keeps_what_was_found(tmp_path, coco_folder, deletions):
    script, place = 'tools/experiments/linkage.py', tmp_path / 'linkage.json'
    for cipher in ('shuffle', 'mix2+shuffle'):
        given = ('--coco', str(coco_folder), '--work-dir', str(tmp_path), '--cipher', cipher)
        run_script(script, *given)
    state = json.loads(place.read_text())
    assert (state['pictures'], state['gallery']) == (3, 6)
    assert list(state['rows']) == ['shuffle', 'mix2+shuffle']
    assert all(share == 1 for row in state['rows'].values() for share in row.values())
    assert len(state['made_by']) == 2 and state['made_by'][0]['commit']
    lines = load_script(PAGE).linkage_table(state)
    assert '| `shuffle` | 100.0 % | 100.0 % | 100.0 % |' in lines


def test_table_of_readers():
    def read(mean, low, counts):
        one = dict(mean=mean, low=low, high=low and 0.75, control=0.1, chance=0, pictures=8)
        return dict(one, counts=counts)

    stages = dict(
        original=dict(face_found=read(1.0, None, True), face_recognised=read(0.875, 0.5, True)),
        encrypted=dict(face_found=read(0.0, 0.0, False), face_recognised=read(0.5, 0.25, True)),
        reconstructed=dict(face_found=read(0.5, None, None)),
    )
    rows = {'mix2@448': stages, 'shuffle': stages}
    lines = load_script(PAGE).readers_table(dict(title='faces', rows=rows))
    assert 'faces** (8 attacked; plain: found 100.0 %, recognised 87.5 %;' in lines[1]
    header = '| cipher | encrypted: found | encrypted: recognised | reconstructed: found |'
    row = '| (0.0 % [0.0, 0.0] / 10.0) | 50.0 % [25.0, 75.0] / 10.0 | 50.0 % / 10.0 |'
    assert lines[3] == header
    assert lines[5:] == [f'| `mix2`, 448x448 {row}', f'| `shuffle` {row}']


def test_plates_are_painted_alike_each_time():
    plate = load_script('tools/experiments/readers.py').plate
    first, second = (plate(np.random.default_rng(seed)) for seed in (3, 3))
    assert (first == second).all()
    assert (first.shape, first.dtype) == ((128, 384, 3), np.uint8)
    assert (plate(np.random.default_rng(4)) != first).mean() > 0.5


@pytest.mark.slow
def test_readers_read_a_page(tmp_path, monkeypatch):
    script = 'tools/experiments/readers.py'
    given = ('--work-dir', str(tmp_path), '--set', 'page', '--cipher', 'mix2')
    run_script(script, 'run', *given)
    (row,) = json.loads((tmp_path / 'page.json').read_text())['rows'].values()
    assert row['original']['text_read']['mean'] == 1
    assert row['encrypted']['text_read']['mean'] < 0.5
    module = load_script(script)
    place = tmp_path / 'figures.json'
    place.write_text('{"sets": {}}')
    monkeypatch.setattr(module, 'FIGURES', place)
    module.figures(mock.Mock(work_dir=tmp_path))
    state = json.loads(place.read_text())
    assert state['sets'] == {}
    assert [*state['readers']] == ['page']
    assert state['readers']['page']['rows'] == {'mix2': row}
    assert state['readers']['page']['commits'] and state['readers']['page']['environment']


@pytest.mark.slow
def test_recognition_trains_on_what_it_says(tmp_path, coco_folder, deletions):
    rng = np.random.default_rng(0)
    for part, number in (('train', 6), ('test', 3)):
        for level, name in ((60, 'dark'), (200, 'light')):
            (tmp_path / 'caltech' / part / name).mkdir(parents=True)
            for i in range(number):
                img = np.clip(rng.normal(level, 10, (144, 144, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(tmp_path / 'caltech' / part / name / f'{i}.png'), img)
    given = ('--caltech', str(tmp_path / 'caltech'), '--public', str(coco_folder / 'train2017'))
    more = ('--work-dir', str(tmp_path), '--cipher', 'mix2', 'center+erode3+shuffle')
    run_script('tools/experiments/recognition.py', *given, *more, '--epochs', '8')
    state = json.loads((tmp_path / 'recognition.json').read_text())
    assert (state['trained_on'], state['pictures'], state['chance']) == (12, 6, 0.5)
    row = state['rows']['mix2']
    assert row['attack'] == 'tv' and row['ciphertexts']['accuracy'] > 0.5
    *_, line, other = load_script(PAGE).recognition_table(state)
    assert '`mix2`' in line and line.count('%') == 3
    assert other.count('%') == 1 and other.count('|') == line.count('|')


def test_benchmark_prints_its_table(capsys):
    attacks = ('jigsaw', 'mosaic', 'histogram')
    run_script(
        'tools/benchmarks/benchmark_attacks.py',
        '--sizes',
        '96x64',
        '--repeats',
        '1',
        '--attacks',
        *attacks,
    )
    text = capsys.readouterr().out
    assert '96x64, 24 patches; decoding' in text
    for name in attacks:
        assert f'\n{name} on ' in text
    assert 'tv on' not in text
