# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""``hime verify`` and the verifier that stands alone agree on what is wrong with a folder."""

import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from owner_data import ROOT, SECRET, edit_json, key_file, photo, write
from tampered_folders import ANN, FINE, KEY, TAMPERED, double_row, make_bases, reseal, seal_shards
from trials.mutation import mutate_json
from version_1 import sealed

from hime_mm import verify_standalone
from hime_mm.apis import encrypt_folder, verify_dataset
from hime_mm.ciphers import Cipher
from hime_mm.ciphers.steps import STEPS
from hime_mm.errors import CipherError, HimeError

SCRIPT = ROOT / 'hime_mm' / 'verify_standalone.py'


@pytest.fixture(scope='module')
def bases(tmp_path_factory):
    """Read only."""
    return make_bases(tmp_path_factory.mktemp('bases'))


def package(root, key=None, workers=0):
    """Paths that are wrong for the package, and whether it warns of something."""
    try:
        report = verify_dataset(str(root), key, workers, progress=False)
    except HimeError as error:  # the manifest itself, or the key
        assert 'hime.json' in str(error) or 'key' in str(error)
        return {'hime.json'}, False
    return {path for path, _ in report.problems}, bool(report.notes)


def standalone(root, key=None):
    report = verify_standalone.verify(str(root), key and key.secret_bytes())
    return {path for path, _ in report.problems}, bool(report.warnings)


def alone(folder, *args, **kwargs):
    """Run a copy of the file as a person does who has nothing else."""
    folder.mkdir()
    script = shutil.copy(SCRIPT, folder)
    return subprocess.run(
        [sys.executable, '-I', '-S', script, *map(str, args)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        env={},
        **kwargs,
    )


@pytest.mark.parametrize(
    'name',
    [
        'coco',
        'keyless',
        'outlines',
        'one_way',
        'ids',
        'views',
        'folder',
        'shards',
        'folders',
        'tars',
    ],
)
def test_nothing_is_wrong(bases, name):
    assert package(bases[name]) == standalone(bases[name]) == (set(), False)
    if name in ('coco', 'views', 'shards', 'tars'):
        assert package(bases[name], KEY) == standalone(bases[name], KEY) == (set(), False)


@pytest.mark.parametrize('name', TAMPERED)
def test_tampered(bases, tmp_path, name):
    tampering = TAMPERED[name]
    root, paths = tampering.apply(bases[tampering.base], tmp_path)
    key = KEY if tampering.key else None
    assert package(root, key)[0] == paths
    assert standalone(root, key)[0] == paths


@pytest.mark.parametrize('name', FINE)
def test_warnings_only(bases, tmp_path, name):
    base, change, warned = FINE[name]
    root = shutil.copytree(bases[base], tmp_path / 'data')
    change(root)
    assert package(root) == standalone(root) == (set(), warned)


def test_there_are_many():
    assert len(TAMPERED) > 150


@pytest.mark.parametrize('verify', [package, standalone])
def test_path_of_many_folders_takes_little_memory(bases, tmp_path, verify):
    root, path = shutil.copytree(bases['folder'], tmp_path / 'data'), 'a/' * 10_000 + 'x.png'
    edit_json(root / 'hime.json', lambda s: (double_row(s, path=path), sealed(s)))
    tracemalloc.start()
    try:
        assert verify(root)[0] == {path}
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('name', ['key_is_handed_over', 'key_in_settings', 'bare_key'])
def test_keys_are_called_so_and_not_quoted(bases, tmp_path, name):
    tampering = TAMPERED[name]
    root, _ = tampering.apply(bases[tampering.base], tmp_path)
    ((_, one),) = verify_dataset(str(root), progress=False).problems
    ((_, two),) = verify_standalone.verify(str(root)).problems
    for said in (one, two):
        assert 'it holds a key' in said and SECRET.hex() not in said.lower()


def test_folder_that_cannot_be_listed(bases, tmp_path, monkeypatch):
    root = shutil.copytree(bases['coco'], tmp_path / 'data')
    scandir = os.scandir

    def refused(path):
        if str(path).endswith('annotations'):
            raise PermissionError(13, 'Permission denied', path)
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refused)
    paths = {'annotations', 'annotations/instances_val2017.json'}
    assert package(root)[0] == standalone(root)[0] == paths


def test_several_processes(bases, tmp_path):
    tampering = TAMPERED['png_tEXt']
    root, paths = tampering.apply(bases[tampering.base], tmp_path)
    assert package(root, workers=2)[0] == paths


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cipher=st.sampled_from(['shuffle', 'mix2', 'mix4:tiled', 'erode2+shuffle', 'center', 'drop50']),
    shapes=st.lists(st.tuples(st.integers(8, 50), st.integers(8, 50)), min_size=1, max_size=3),
    channels=st.sampled_from([1, 3, 4]),
    deep=st.booleans(),
    color_type=st.sampled_from(['color', 'grayscale', 'unchanged']),
    compression=st.sampled_from([None, 0, 9]),
    names=st.sampled_from(['keep', 'ids']),
    views=st.integers(1, 2),
    webp=st.booleans(),
)
def test_whatever_is_encrypted_is_right(
    tmp_path_factory, cipher, shapes, channels, deep, color_type, compression, names, views, webp
):
    folder = tmp_path_factory.mktemp('any')
    for i, shape in enumerate(shapes):
        dtype = 'uint16' if deep else 'uint8'
        write(folder / 'src' / f'class {i % 2}' / f'é{i}.png', photo(*shape, i, channels, dtype))
    webp = webp and color_type == 'color'
    encrypt_folder(
        str(folder / 'src'),
        str(folder / 'out'),
        cipher,
        key=KEY,
        views=views if 'shuffle' in cipher else 1,
        names=names,
        fmt='webp' if webp else 'png',
        compression=None if webp else compression,
        preprocess=dict(color_type=color_type, fit='resize'),
        progress=False,
    )
    assert package(folder / 'out', KEY)[0] == standalone(folder / 'out', KEY)[0] == set()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    base=st.sampled_from(['coco', 'keyless', 'outlines', 'views', 'folder', 'shards', 'tars']),
    name=st.sampled_from(['hime.json', 'hime-000000.json', ANN]),
    seed=st.integers(0, 2**32),
)
def test_mutated_texts(bases, tmp_path_factory, base, name, seed):
    """Whatever the manifest or the annotations say, both refuse it or none."""
    root = shutil.copytree(bases[base], tmp_path_factory.mktemp('any') / 'data')
    rng = random.Random(seed)
    path = root / name if (root / name).exists() else root / 'hime.json'
    state = mutate_json(json.loads(path.read_text()), rng)
    if path.name == 'hime.json' and isinstance(state, dict):
        sealed(state)
    path.write_text(json.dumps(state))
    if path.name != 'hime.json':
        seal_shards(root, counts=False) if base in ('shards', 'tars') else reseal(root)
    (one, _), (two, _) = package(root), standalone(root)
    assert bool(one) == bool(two)
    if 'hime.json' not in one | two:
        assert one == two


@st.composite
def steps(draw):
    """The JSON form of any step, whether its parameters make sense or not."""
    kind = STEPS[draw(st.sampled_from(sorted(STEPS)))]
    numbers = st.sampled_from([0, 1, 2, 8, 16, 99, 100, 255, 256, 4096, 4097])
    return {'type': kind.name} | {
        field.name: draw(st.sampled_from([*kind.forms, 'x']) if field.name == 'form' else numbers)
        for field in fields(kind)
    }


class TestStandalone:
    @settings(max_examples=300)
    @given(
        steps=st.lists(steps(), min_size=1, max_size=3),
        patch_size=st.sampled_from([1, 2, 8, 16, 4096, 8194]),
    )
    def test_knows_the_ciphers(self, steps, patch_size):
        cipher = dict(version=1, steps=steps, patch_size=patch_size)
        try:
            side = Cipher.build(cipher).encrypted_patch_size
        except CipherError:
            with pytest.raises(verify_standalone.Fault):
                verify_standalone.check(cipher, verify_standalone.HEAD['cipher'], 'it')
                verify_standalone.encrypted_patch_size(cipher)
        else:
            verify_standalone.check(cipher, verify_standalone.HEAD['cipher'], 'it')
            assert verify_standalone.encrypted_patch_size(cipher) == side

    def test_imports_the_standard_library_only(self):
        names = set()
        for node in ast.walk(ast.parse(SCRIPT.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names.add(node.module)
        assert names and {name.split('.')[0] for name in names} <= sys.stdlib_module_names

    def test_nothing_imports_it(self):
        for path in (ROOT / 'hime_mm').rglob('*.py'):
            assert path == SCRIPT or 'verify_standalone' not in path.read_text(), path

    def test_fine(self, bases, tmp_path):
        key = key_file(tmp_path / 'key')
        done = alone(tmp_path / 'a', bases['coco'], '--key', key)
        assert (done.returncode, done.stderr) == (0, '')
        assert done.stdout == (
            '4 files are as they were written; the manifest is authenticated with the key\n'
        )
        with open(key) as file:
            done = alone(
                tmp_path / 'b',
                bases['coco'],
                '--key-fd',
                file.fileno(),
                '--json',
                pass_fds=[file.fileno()],
            )
        assert json.loads(done.stdout) == dict(
            files=4, authenticated=True, problems=[], warnings=[], ok=True
        )

    def test_problems(self, bases, tmp_path):
        root = shutil.copytree(bases['keyless'], tmp_path / 'data')
        for name in ('a\n\x1b[31m.png', 'é', os.fsdecode(b'\xff\xfe')):
            (root / name).write_bytes(b'')
        done = alone(tmp_path / 'a', root)
        assert done.returncode == 1
        lines = done.stdout.splitlines()
        assert len(lines) == 3 and all(': ' in line for line in lines)
        assert done.stdout.replace('\n', '').isprintable()
        assert r'a\n\x1b[31m.png' in done.stdout and r'\udcff' in done.stdout
        state = json.loads(alone(tmp_path / 'b', root, '--json').stdout)
        assert not state['ok'] and len(state['problems']) == 3

    def test_nobody_reads_on(self, bases, tmp_path):
        root = shutil.copytree(bases['keyless'], tmp_path / 'data')
        for i in range(3000):
            (root / f'{i}').touch()
        process = subprocess.Popen(
            [sys.executable, '-I', '-S', SCRIPT, root],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b'' and process.wait(50) == 130
        process.stderr.close()

    def test_usage(self, bases, tmp_path, capsys, monkeypatch):
        key = key_file(tmp_path / 'key')
        (tmp_path / 'link').symlink_to(key)
        wrong = key_file(tmp_path / 'open')
        wrong.chmod(0o640)
        (tmp_path / 'none').write_text('hime-key-v1:12')
        (tmp_path / 'none').chmod(0o600)
        os.mkfifo(tmp_path / 'pipe')
        monkeypatch.setenv('NAMED', key.read_text())
        for args, status in [
            (['--key-env', 'NAMED'], 0),
            (['--key', tmp_path / 'link'], 0),
            (['--key-env', 'GONE'], 2),
            (['--key', wrong], 2),
            (['--key', tmp_path / 'none'], 2),
            (['--key', tmp_path / 'pipe'], 2),
            (['--key', key.read_text().strip()], 2),
            (['--key-fd', key.read_text().strip()], 2),
            (['--key-fd', '-1'], 2),
        ]:
            found = verify_standalone.main([str(bases['coco']), *map(str, args)])
            output = ''.join(capsys.readouterr())
            assert found == status, args
            assert SECRET.hex() not in output
        assert verify_standalone.main([str(tmp_path / 'gone')]) == 2
        with pytest.raises(SystemExit, match='2'):
            verify_standalone.main([])

    def test_only_regular_files_are_opened(self, tmp_path):
        os.mkfifo(tmp_path / 'pipe')
        with pytest.raises(verify_standalone.Fault):
            verify_standalone.open_regular(tmp_path / 'pipe')
        (tmp_path / 'link').symlink_to(SCRIPT)
        with pytest.raises(OSError, match='link'):
            verify_standalone.open_regular(tmp_path / 'link')

    def test_key_of_another_data_set(self, bases):
        report = verify_standalone.verify(str(bases['coco']), bytes(32))
        assert [path for path, _ in report.problems] == ['hime.json']
        report = verify_standalone.verify(str(bases['keyless']), SECRET)
        assert [path for path, _ in report.problems] == ['hime.json']
        assert not report.authenticated

    def test_progress_on_a_terminal(self, bases, capsys, monkeypatch):
        monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
        ticks = iter(range(100))
        monkeypatch.setattr(verify_standalone.time, 'monotonic', lambda: next(ticks))
        assert verify_standalone.main([str(bases['coco'])]) == 0
        assert '2 of 4 files' in capsys.readouterr().err


def test_real_pictures(coco_tiny, tmp_path):
    names = sorted((coco_tiny / 'val2017').iterdir())[:3]
    for path in names:
        shutil.copy(path, Path(tmp_path, path.name))
    encrypt_folder(str(tmp_path), str(tmp_path) + '.out', 'mix2+shuffle', key=KEY, progress=False)
    root = str(tmp_path) + '.out'
    assert package(root, KEY)[0] == standalone(root, KEY)[0] == set()
