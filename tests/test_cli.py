# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The command, as a person runs it."""

import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import mmcv
import numpy as np
import pytest
from click.testing import CliRunner
from owner_data import (
    ROOT,
    SECRET,
    forms_of_key,
    forms_of_permutation,
    found,
    hime,
    hime_command,
    hime_env,
    key_file,
    make_coco,
    photo,
    read,
    tree,
    write,
)

from hime_mm.ciphers import Key
from hime_mm.cli import main
from hime_mm.datasets.manifest import Manifest
from hime_mm.images.sizing import fit_image

KEY = Key(SECRET)
ANN = 'annotations/instances_val2017.json'


@pytest.fixture(scope='module')
def coco_src(tmp_path_factory):
    """Read only."""
    return make_coco(tmp_path_factory.mktemp('coco') / 'src')


@pytest.fixture(scope='module')
def keys(tmp_path_factory):
    """A key file; another one lies beside it."""
    folder = tmp_path_factory.mktemp('keys')
    key_file(folder / 'other.key', bytes(range(32)))
    return key_file(folder / 'owner.key')


@pytest.fixture(scope='module')
def encrypted(coco_src, keys, tmp_path_factory):
    """Read only."""
    out = tmp_path_factory.mktemp('encrypted') / 'out'
    invoke(
        'encrypt',
        'coco',
        coco_src,
        out,
        '-c',
        'shuffle',
        '--key',
        keys,
        '--dataset-id',
        'd',
        '-j',
        1,
        '-q',
    )
    return out


def invoke(*args, status=0, env=None):
    """Run a command in this process, which is faster; its output."""
    result = CliRunner(env=dict({'HIME_KEY': None}, **(env or {}))).invoke(
        main, list(map(str, args))
    )
    assert result.exit_code == status, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


class TestKeygen:
    def test_writes_a_key_that_only_the_owner_reads(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        old = os.umask(0)
        try:
            output = invoke('keygen')
        finally:
            os.umask(old)
        path = tmp_path / 'hime.key'
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        key = Key.from_file(str(path))
        assert output == f'wrote hime.key, key id {key.id}\n'
        assert not found(forms_of_key(key.secret_bytes()), [output.encode()])
        invoke('keygen', 'two.key')
        assert Key.from_file('two.key') != key

    def test_never_overwrites(self, keys):
        before = keys.read_bytes()
        output = invoke('keygen', keys, status=1)
        assert 'never overwritten' in output and output.count('\n') == 1
        assert keys.read_bytes() == before

    def test_folder_that_is_not_there(self, tmp_path):
        output = invoke('keygen', tmp_path / 'none' / 'k', status=1)
        assert output.startswith('hime: No such file or directory')
        assert str(tmp_path / 'none') in output


class TestJourney:
    def test_coco(self, coco_src, keys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        shutil.copy(keys, 'k')
        status, output, errors = hime(
            'encrypt',
            'coco',
            os.path.relpath(coco_src),
            'out',
            '-c',
            'shuffle',
            '--key',
            'k',
            '--dataset-id',
            'd',
            '-j',
            2,
        )
        assert status == 0
        assert re.match(
            r'4 of 4 pictures encrypted: 4 files in out \([\d.]+ '
            r's\), data set id d\n',
            output,
        )
        assert 'not handed over: annotations.caption' in output
        assert '`hime info out`' in output
        # The bar tells speed and time left.
        assert re.search(
            r'encrypt: 100%.* 4/4 \[\d\d:\d\d<\d\d:\d\d, .*'
            r'image/s\]',
            errors,
        )
        status, output, errors = hime('verify', 'out', '-j', 1, '-q')
        assert (status, errors) == (0, '')
        assert output == (
            '4 files are as they were written; manifest '
            'unchanged by accident, but not authenticated: no '
            'key\n'
        )
        status, output, _ = hime('verify', 'out', '--key', 'k', '-j', 2)
        assert status == 0 and 'authenticated with the key' in output
        status, output, _ = hime('decrypt', 'out', 'plain', '--key', 'k', '-j', 2)
        assert (status, output) == (0, '4 of 4 files decrypted to plain\n')
        for path in (coco_src / 'val2017').iterdir():
            np.testing.assert_array_equal(
                read(f'plain/val2017/{path.stem}.png'), fit_image(mmcv.imread(path), 16)[0]
            )

    def test_info(self, encrypted):
        output = invoke('info', encrypted)
        assert 'cipher       shuffle, patches of 16 pixels' in output
        assert 'a jigsaw solver without the key' in output
        assert invoke('info', encrypted / 'hime.json') == output
        state = json.loads(invoke('info', encrypted, '--json'))
        full = json.loads((encrypted / 'hime.json').read_text())
        del full['files']
        assert state == full

    def test_folder(self, keys, tmp_path):
        for name in ('n01/a.JPEG', 'n02/b.jpg'):
            write(tmp_path / 'src' / name, photo(40, 60))
        output = invoke(
            'encrypt',
            'folder',
            tmp_path / 'src',
            tmp_path / 'out',
            '-c',
            'paper-rs',
            '--key',
            keys,
            '-j',
            1,
        )
        assert '2 of 2 pictures encrypted' in output
        assert set(tree(tmp_path / 'out')) == {'hime.json', 'n01/a.png', 'n02/b.png'}
        output = invoke(
            'encrypt',
            'folder',
            tmp_path / 'src',
            tmp_path / 'out',
            '-c',
            'paper-rs',
            '--key',
            keys,
            '-j',
            1,
        )
        assert '2 of 2 pictures encrypted, 2 of them before' in output
        assert 'nothing was done, and the source was not looked at' in output

    def test_quiet(self, coco_src, tmp_path):
        status, output, errors = hime(
            'encrypt', 'coco', coco_src, tmp_path / 'out', '-c', 'paper-mi', '-q', '-j', 1
        )
        assert (status, errors) == (0, '') and '4 of 4' in output

    def test_objects_that_shrink_to_nothing(self, coco_src, tmp_path):
        output = invoke(
            'encrypt',
            'coco',
            coco_src,
            tmp_path / 'out',
            '-c',
            'mix16',
            '--patch-size',
            32,
            '--resize',
            32,
            '-j',
            1,
        )
        assert '3 objects are below 1x1 pixel now' in output

    def test_lists(self, tmp_path):
        write(tmp_path / 'src' / 'val' / 'a.jpg', photo(32, 32))
        (tmp_path / 'src' / 'val.txt').write_text('a.jpg 3\n')
        output = invoke(
            'encrypt',
            'folder',
            tmp_path / 'src',
            tmp_path / 'out',
            '-c',
            'mix2',
            '--names',
            'ids',
            '--list',
            'val.txt',
            '-j',
            1,
        )
        assert 'left out' not in output
        assert (tmp_path / 'out/val.txt').read_text() == '00000001.png 3\n'
        assert 'val.txt: 1 images\n' in invoke('info', tmp_path / 'out')

    def test_clipped_values_and_other_files(self, keys, tmp_path):
        write(tmp_path / 'src' / 'a.png', photo(64, 64))
        (tmp_path / 'src' / 'labels.txt').write_text('a')
        output = invoke(
            'encrypt',
            'folder',
            tmp_path / 'src',
            tmp_path / 'out',
            '-c',
            'noise90',
            '--key',
            keys,
            '-j',
            1,
        )
        assert re.search(r'noise90: [1-9][\d.]* % of the values were clipped', output)
        assert '1 files were left out: they are not .jpg' in output

    def test_script_of_a_checkout(self, coco_src, tmp_path):
        done = subprocess.run(
            [
                sys.executable,
                ROOT / 'tools/dataset_converters/encrypt_dataset.py',
                'coco',
                coco_src,
                'out',
                '-c',
                'paper-mi',
                '-q',
                '-j',
                '2',
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={k: v for k, v in hime_env().items() if k != 'PYTHONPATH'},
        )
        assert done.returncode == 0, done.stderr
        invoke('verify', tmp_path / 'out')

    def test_needs_no_model_code(self, coco_src, keys, tmp_path):
        code = (
            'import sys\n'
            'from hime_mm.cli import main\n'
            'sys.argv[1:] = sys.argv[1:]\n'
            'try:\n    main()\nfinally:\n'
            '    heavy = {m.split(".")[0] for m in sys.modules} & {"torch", '
            '"mmengine", "mmcv", "mmdet", "mmpretrain", "pycocotools"}\n'
            '    print("loaded:", heavy)'
        )
        for args in (
            (
                'encrypt',
                'coco',
                coco_src,
                tmp_path / 'out',
                '-c',
                'shuffle',
                '--key',
                keys,
                '-j',
                1,
            ),
            ('verify', tmp_path / 'out'),
            ('info', tmp_path / 'out'),
            ('decrypt', tmp_path / 'out', tmp_path / 'p', '--key', keys),
        ):
            done = subprocess.run(
                [sys.executable, '-c', code, *map(str, args)],
                text=True,
                capture_output=True,
                env=hime_env(),
            )
            assert done.stdout.endswith('loaded: set()\n'), done


class TestKeys:
    def test_from_anywhere_the_same(self, coco_src, keys, encrypted, tmp_path):
        text = keys.read_text()
        common = ('encrypt', 'coco', coco_src)
        more = ('-c', 'shuffle', '--dataset-id', 'd', '-j', 1, '-q')
        invoke(*common, tmp_path / '1', *more, env=dict(HIME_KEY=text))
        invoke(
            *common,
            tmp_path / '2',
            *more,
            '--key-env',
            'MINE',
            env=dict(MINE=text, HIME_KEY='broken'),
        )
        fd = os.open(keys, os.O_RDONLY)
        try:
            invoke(*common, tmp_path / '3', *more, '--key-fd', fd)
        finally:
            os.close(fd)
        with open(keys) as file:
            status, _, _ = hime(*common, tmp_path / '4', *more, '--key-fd', 0, stdin=file)
        assert status == 0
        for name in '1234':
            assert tree(tmp_path / name) == tree(encrypted)

    def test_two(self, coco_src, keys, tmp_path):
        output = invoke(
            'encrypt',
            'coco',
            coco_src,
            tmp_path / 'out',
            '-c',
            'shuffle',
            '--key',
            keys,
            '--key-env',
            'X',
            status=2,
        )
        assert 'give one of --key' in output

    @pytest.mark.parametrize(
        'args, reason',
        [
            ((), 'give a key, or choose one-way'),
            (('--key', 'none.key'), 'cannot read the key file none.key'),
            (('--key-env', 'NONE'), 'NONE is not set'),
            (('--key-fd', '99'), 'file descriptor 99'),
            (('--key', '/dev/null'), 'no regular file'),
        ],
    )
    def test_none(self, coco_src, tmp_path, args, reason):
        output = invoke(
            'encrypt', 'coco', coco_src, tmp_path / 'out', '-c', 'shuffle', *args, status=1
        )
        assert output.startswith('hime: ') and reason in output
        assert not (tmp_path / 'out').exists()

    def test_one_way_takes_no_key_from_the_environment(self, coco_src, keys, tmp_path):
        invoke(
            'encrypt',
            'coco',
            coco_src,
            tmp_path / 'out',
            '-c',
            'shuffle',
            '--one-way',
            '-j',
            1,
            env=dict(HIME_KEY=keys.read_text()),
        )
        assert Manifest.load(tmp_path / 'out').key_id is None
        output = invoke(
            'encrypt',
            'coco',
            coco_src,
            tmp_path / 'b',
            '-c',
            'shuffle',
            '--one-way',
            '--key',
            keys,
            status=1,
        )
        assert 'not both' in output

    def test_wrong(self, encrypted, keys, tmp_path):
        other = keys.with_name('other.key')
        for args in (('verify', encrypted), ('decrypt', encrypted, tmp_path / 'plain')):
            output = invoke(*args, '--key', other, status=1)
            assert output.startswith('hime: wrong key') and KEY.id in output
        output = invoke('decrypt', encrypted, tmp_path / 'plain', status=1)
        assert 'needs the key' in output
        assert not (tmp_path / 'plain').exists()

    def test_readable_by_others(self, encrypted, tmp_path):
        path = key_file(tmp_path / 'k')
        path.chmod(0o644)
        output = invoke('verify', encrypted, '--key', path, status=1)
        assert 'chmod 600' in output


class TestOptions:
    @pytest.mark.parametrize(
        'args, expected',
        [
            ((), {}),
            (('--resize', '64x48'), dict(resize=[64, 48])),
            (('--resize', '64'), dict(resize=[64, 64])),
            (('--resize', '64X48', '--keep-ratio'), dict(resize=[64, 48], keep_ratio=True)),
            (('--short-side', '64'), dict(short_side=[64])),
            (('--short-side', '48,64', '--max-side', '99'), dict(short_side=[48, 64], max_side=99)),
            (('--center-crop', '48x32'), dict(center_crop=[48, 32])),
            (('--fit', 'pad', '--pad-val', '114'), dict(fit='pad', pad_val=114)),
            (('--fit', 'pad', '--pad-val', '1,2.5,3'), dict(fit='pad', pad_val=[1, 2.5, 3])),
            (('--interpolation', 'bicubic'), dict(interpolation='bicubic')),
            (('--color-type', 'grayscale'), dict(color_type='grayscale')),
            (
                ('--flip', '.5', '--crop', '.3,1', '--jitter', '.2', '--views', 2),
                dict(augment=dict(flip=0.5, crop=[0.3, 1], jitter=0.2)),
            ),
        ],
    )
    def test_preprocessing(self, keys, tmp_path, args, expected):
        write(tmp_path / 'src' / 'a.png', photo(64, 80))
        invoke(
            'encrypt',
            'folder',
            tmp_path / 'src',
            tmp_path / 'out',
            '-c',
            'shuffle',
            '--key',
            keys,
            '-j',
            1,
            *args,
        )
        manifest = Manifest.load(tmp_path / 'out')
        assert manifest.preprocess == expected
        assert manifest.state['views'] == (2 if 'augment' in expected else 1)

    @pytest.mark.parametrize(
        'args, expected',
        [
            (('--names', 'ids'), dict(names='ids')),
            (('--format', 'webp'), dict(image_format=dict(format='webp', compression=None))),
            (('--compression', 7), dict(image_format=dict(format='png', compression=7))),
            (('--licenses', 'drop'), dict(options=dict(licenses=False, segmentation=False))),
            (('--segmentation', 'keep'), dict(options=dict(licenses=True, segmentation=True))),
            (('--dataset-id', 'x'), dict(dataset_id='x')),
        ],
    )
    def test_others(self, coco_src, tmp_path, args, expected):
        invoke('encrypt', 'coco', coco_src, tmp_path / 'out', '-c', 'paper-mi', '-j', 1, *args)
        state = Manifest.load(tmp_path / 'out').state
        assert {k: state[k] for k in expected} == expected

    def test_patch_size(self, coco_src, tmp_path):
        invoke(
            'encrypt', 'coco', coco_src, tmp_path / 'out', '-c', 'mix4', '--patch-size', 32, '-j', 1
        )
        assert Manifest.load(tmp_path / 'out').cipher.patch_size == 32

    def test_annotation_files(self, coco_src, tmp_path):
        src = shutil.copytree(coco_src, tmp_path / 'src')
        (src / ANN).rename(src / 'boxes.json')
        invoke(
            'encrypt',
            'coco',
            src,
            tmp_path / 'out',
            '-c',
            'mix2',
            '-j',
            1,
            '--ann',
            'boxes.json',
            '--images',
            'val2017',
        )
        assert 'boxes.json' in tree(tmp_path / 'out')

    @pytest.mark.parametrize(
        'args, reason',
        [
            (('--resize', '64x'), 'no size'),
            (('--resize', '1x2x3'), 'no size'),
            (('--resize', '0'), 'no size'),
            (('--resize', 'big'), 'no size'),
            (('--resize', '\N{SUPERSCRIPT TWO}'), 'no size'),
            (('--short-side', 'a,b'), 'no list'),
            (('--crop', '.5'), '--crop'),
            (('--crop', '1,2,3'), '--crop'),
            (('--flip', '2'), '--flip'),
            (('--jitter', '1'), '--jitter'),
            (('--views', '0'), '--views'),
            (('--fit', 'cut'), '--fit'),
            (('--format', 'jpg'), '--format'),
            (('--compression', '10'), '--compression'),
            (('-j', '0'), '-j'),
            (('--names', 'x'), '--names'),
        ],
    )
    def test_wrong_usage(self, coco_src, tmp_path, args, reason):
        output = invoke(
            'encrypt', 'coco', coco_src, tmp_path / 'out', '-c', 'mix2', *args, status=2
        )
        assert reason in output and 'Usage' in output
        assert not (tmp_path / 'out').exists()

    def test_no_cipher(self, coco_src, tmp_path):
        assert '--cipher' in invoke('encrypt', 'coco', coco_src, tmp_path / 'out', status=2)

    @pytest.mark.parametrize(
        'args, reason',
        [
            (('-c', 'shufle'), 'unknown cipher step'),
            (('-c', 'mix2', '--crop', '.9,.1', '--one-way'), '`crop`'),
            (('-c', 'mix2', '--keep-ratio'), '`keep_ratio` needs `resize`'),
            (('-c', 'mix2', '--views', '2'), 'would be equal'),
            (('-c', 'mix2', '--format', 'webp', '--compression', '2'), 'WebP'),
            (('-c', 'shuffle', '--one-way', '--segmentation', 'keep'), 'leave'),
            (('-c', 'mix2', '--ann', 'x.json'), 'folder x'),
        ],
    )
    def test_contradictions(self, coco_src, tmp_path, args, reason):
        output = invoke('encrypt', 'coco', coco_src, tmp_path / 'out', *args, status=1)
        assert output.startswith('hime: ') and output.count('\n') == 1
        assert reason in output
        assert not (tmp_path / 'out').exists()

    @pytest.mark.parametrize(
        'args',
        [
            ('encrypt', 'coco', 'none', 'out', '-c', 'mix2'),
            ('encrypt', 'folder', 'none', 'out', '-c', 'mix2'),
            ('decrypt', 'none', 'out'),
            ('verify', 'none'),
            ('info', 'none'),
        ],
    )
    def test_missing_data(self, tmp_path, monkeypatch, args):
        monkeypatch.chdir(tmp_path)
        assert "'none' does not exist" in invoke(*args, status=2)
        assert not os.listdir(tmp_path)

    @pytest.mark.parametrize('command', ['verify', 'info'])
    def test_no_data_set(self, tmp_path, command):
        output = invoke(command, tmp_path, status=1)
        assert output.startswith('hime: cannot read the manifest')

    @pytest.mark.parametrize(
        'command',
        [
            (),
            ('keygen',),
            ('encrypt',),
            ('encrypt', 'coco'),
            ('encrypt', 'folder'),
            ('decrypt',),
            ('verify',),
            ('info',),
        ],
    )
    def test_help(self, command):
        output = invoke(*command, '-h')
        assert 'Usage' in output
        for word in ('secure', 'intractable', ' safe'):
            assert word not in output.lower()


class TestBrokenInstallation:
    @pytest.fixture
    def call(self, tmp_path):
        (tmp_path / 'cv2.py').write_text('raise ImportError("no libGL.so.1")')
        root = Path(__file__).parents[1]

        def call(*args):
            return subprocess.run(
                [sys.executable, '-m', 'hime_mm.cli', *args],
                capture_output=True,
                text=True,
                env={**os.environ, 'PYTHONPATH': f'{tmp_path}:{root}'},
            )

        return call

    def test_help_is_shown(self, call):
        done = call('--help')
        assert done.returncode == 0
        for name in ('keygen', 'encrypt', 'boxes', 'doctor'):
            assert f'\n  {name} ' in done.stdout

    @pytest.mark.parametrize(
        'args', [('encrypt', 'coco', 'a', 'b', '-c', 'mix2'), ('info', 'data', '--json')]
    )
    def test_commands_say_what_is_wrong(self, call, args):
        done = call(*args)
        assert done.returncode == 1
        assert f'{args[0]} does not work here (no libGL.so.1)' in done.stderr
        assert 'hime doctor' in done.stderr
        assert 'Traceback' not in done.stderr


class TestProblems:
    def test_pictures_that_cannot_be_read(self, keys, tmp_path):
        src, out = tmp_path / 'src', tmp_path / 'out'
        for i in range(27):
            write(src / f'{i:02d}.jpg', photo(32, 32, i))
            if i < 25:
                (src / f'{i:02d}.jpg').write_bytes(b'\xff\xd8')
        args = (
            'encrypt',
            'folder',
            src,
            out,
            '-c',
            'shuffle',
            '--key',
            keys,
            '--dataset-id',
            'd',
            '-j',
            1,
        )
        status, output, errors = hime(*args)
        assert status == 1 and '2 of 27 pictures encrypted' in output
        assert 'missing: 00.jpg: the JPEG file is truncated\n' in errors
        assert 'missing: 19.jpg' in errors and '20.jpg' not in errors
        assert 'missing: and 5 more\nRepair the missing pictures' in errors
        status, _, errors = hime('verify', out)
        assert status == 1
        assert 'wrong: 00.png: left out when encrypting: the JPEG' in errors
        assert 'hime: 25 problems in' in errors
        for i in range(25):
            write(src / f'{i:02d}.jpg', photo(32, 32, i))
        output = invoke(*args)
        assert '27 of 27 pictures encrypted, 2 of them before' in output
        invoke('encrypt', 'folder', src, tmp_path / 'new', *args[4:])
        assert tree(out) == tree(tmp_path / 'new')
        assert not (out / '.hime-work').exists()

    def test_damage(self, encrypted, keys, tmp_path):
        out = shutil.copytree(encrypted, tmp_path / 'out')
        (out / 'val2017/000001.png').write_bytes(b'x')
        (out / 'notes.txt').write_text('x')
        status, output, errors = hime('verify', out, '--key', keys, '-q', '-j', 1)
        assert status == 1
        assert output == '1 further files are not part of it\n'
        assert errors.startswith('wrong: val2017/000001.png: it has 1 bytes')
        output = invoke('decrypt', out, tmp_path / 'plain', '--key', keys, '-j', 1, status=1)
        assert '3 of 4 files decrypted' in output
        assert 'missing: val2017/000001.png' in output

    def test_changed_manifest(self, encrypted, tmp_path):
        out = shutil.copytree(encrypted, tmp_path / 'out')
        path = out / 'hime.json'
        path.write_text(path.read_text().replace('"scale": [1.0', '"scale": [2.0', 1))
        for command in ('verify', 'info'):
            assert 'was changed' in invoke(command, out, status=1)

    def test_other_settings(self, coco_src, encrypted, keys, tmp_path):
        out = shutil.copytree(encrypted, tmp_path / 'out')
        output = invoke('encrypt', 'coco', coco_src, out, '-c', 'mix2', '--key', keys, status=1)
        assert 'holds another encrypted data set' in output
        assert tree(out) == tree(encrypted)

    @pytest.mark.parametrize('name', ['mix2', 'center+shuffle'])
    def test_what_cannot_be_undone(self, coco_src, keys, tmp_path, name):
        out = tmp_path / 'out'
        invoke('encrypt', 'coco', coco_src, out, '-c', name, '--key', keys, '-j', 1)
        output = invoke('decrypt', out, tmp_path / 'plain', '--key', keys, status=1)
        assert 'deletes data' in output
        if 'shuffle' in name:
            invoke('decrypt', out, tmp_path / 'plain', '--key', keys, '--partial', '-j', 1)
            assert len(tree(tmp_path / 'plain')) == 4

    @pytest.mark.parametrize(
        'content, reason',
        [
            ('{"images": [', 'is no JSON file'),
            ('[]', 'holds no object'),
            ('{}', 'no list `images`'),
        ],
    )
    def test_annotations(self, coco_src, tmp_path, content, reason):
        src = shutil.copytree(coco_src, tmp_path / 'src')
        (src / ANN).write_text(content)
        output = invoke('encrypt', 'coco', src, tmp_path / 'out', '-c', 'mix2', status=1)
        assert reason in output and output.count('\n') == 1

    def test_output_that_cannot_be_written(self, coco_src, tmp_path):
        (tmp_path / 'file').write_text('x')
        output = invoke(
            'encrypt', 'coco', coco_src, tmp_path / 'file' / 'o', '-c', 'mix2', status=1
        )
        assert 'Not a directory' in output and str(tmp_path) in output


def session_members(number):
    """Processes of a session that are alive, but for the first."""
    alive = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            text = path.read_text()
        except OSError:
            continue
        # Behind the name, which may hold anything: state, parent, group,
        # session.
        state, _, _, session = text.rpartition(')')[2].split()[:4]
        if int(session) == number and state != 'Z':
            alive.append(int(path.parent.name))
    return [pid for pid in alive if pid != number]


def gone(number, seconds=10):
    """Wait until no process of a session is left."""
    end = time.monotonic() + seconds
    while session_members(number):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def finished_files(out):
    """Those that the journal of an unfinished run lists, as they are."""
    journal = out / '.hime-work' / 'journal'
    lines = journal.read_bytes().splitlines(True) if journal.exists() else []
    return {
        row['path']: (os.stat(out / row['path']).st_ino, os.stat(out / row['path']).st_mtime_ns)
        for line in lines[1:]
        if line.endswith(b'\n')
        for row in json.loads(line)['rows']
    }


@pytest.mark.skipif(sys.platform != 'linux', reason='looks into /proc')
class TestInterrupted:
    """A run of about a second, in two processes."""

    @pytest.fixture(scope='class')
    @classmethod
    def src(cls, tmp_path_factory):
        return make_coco(tmp_path_factory.mktemp('many') / 'src', [(240, 321)] * 24)

    @staticmethod
    def args(src, out, keys, *more):
        return (
            'encrypt',
            'coco',
            src,
            out,
            '-c',
            'center+shuffle',
            '--key',
            keys,
            '--dataset-id',
            'd',
            '-j',
            2,
            '--views',
            3,
            '--crop',
            '.4,1',
            '--flip',
            '.5',
            *more,
        )

    @pytest.fixture(scope='class')
    @classmethod
    def reference(cls, src, keys, tmp_path_factory):
        """Bytes of an uninterrupted run, and its time."""
        out = tmp_path_factory.mktemp('reference') / 'out'
        start = time.monotonic()
        assert hime(*cls.args(src, out, keys))[0] == 0
        return tree(out), time.monotonic() - start

    @staticmethod
    def start(*args, **kwargs):
        # A shell's background jobs do not hear Ctrl-C; a person's do.
        kwargs.setdefault('preexec_fn', lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        return subprocess.Popen(
            hime_command(*args),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=hime_env(),
            start_new_session=True,
            **kwargs,
        )

    @staticmethod
    def kill(process):
        process.kill()
        process.wait()
        alone = gone(process.pid)
        if not alone:
            os.killpg(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
        assert alone, 'workers outlived the run'
        return errors

    @staticmethod
    def wait_for(pattern, out, process):
        while not list(out.glob(pattern)):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)

    def test_kill_9_at_random_moments(self, src, keys, reference, tmp_path):
        expected, seconds = reference
        out, rng, kills, kept = tmp_path / 'out', random.Random(3), 0, 0
        while kills < 20:
            before = finished_files(out)
            process = self.start(*self.args(src, out, keys))
            if kills % 2:
                # By the clock: also while it starts, and at its end.
                end = time.monotonic() + rng.uniform(0.05, 1) * seconds
                while time.monotonic() < end and process.poll() is None:
                    time.sleep(0.002)
            else:
                # By what it did, however busy the machine is.
                files = len(before) + rng.randrange(1, 14)
                while process.poll() is None and files > len(list(out.glob('val2017/*.png'))):
                    time.sleep(0.002)
                time.sleep(rng.uniform(0, 0.02))
            errors = self.kill(process)
            assert process.returncode in (0, -signal.SIGKILL), errors
            # Finished files are as they were.
            kept += len(before)
            for name, old in before.items():
                info = os.stat(out / name)
                assert (info.st_ino, info.st_mtime_ns) == old, name
            # No file is there in part.
            for name, data in tree(out).items() if out.exists() else ():
                if not name.startswith('.hime-work/') and not (name.endswith('.part')):
                    assert data == expected[name], name
            if process.returncode == 0:  # it ended before
                assert tree(out) == expected
                shutil.rmtree(out)
            else:
                kills += 1
        assert kept > 50, 'no kill came in the middle'
        assert hime(*self.args(src, out, keys))[0] == 0
        assert tree(out) == expected and not (out / '.hime-work').exists()

    @pytest.mark.parametrize('pattern', ['.hime-work/journal', 'val2017/*.png'])
    def test_ctrl_c(self, src, keys, reference, tmp_path, pattern):
        out = tmp_path / 'out'
        process = self.start(*self.args(src, out, keys))
        self.wait_for(pattern, out, process)
        time.sleep(0.05)
        # As a terminal does: to all processes.
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 130
        assert errors.endswith('\nhime: interrupted\n')
        assert 'Traceback' not in errors
        assert gone(process.pid)
        assert hime(*self.args(src, out, keys))[0] == 0
        assert tree(out) == reference[0]

    def test_killed_worker(self, src, keys, reference, tmp_path):
        out = tmp_path / 'out'
        process = self.start(*self.args(src, out, keys))
        self.wait_for('val2017/*.png', out, process)
        workers = [
            pid
            for pid in session_members(process.pid)
            if b'spawn_main' in Path(f'/proc/{pid}/cmdline').read_bytes()
        ]
        os.kill(workers[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 1
        assert '\nhime: a worker process was killed' in errors
        assert 'Traceback' not in errors and gone(process.pid)
        assert hime(*self.args(src, out, keys))[0] == 0
        assert tree(out) == reference[0]

    def test_other_key_goes_on_with_nothing(self, src, keys, tmp_path):
        out = tmp_path / 'out'
        process = self.start(*self.args(src, out, keys))
        self.wait_for('val2017/*.png', out, process)
        self.kill(process)
        before = dict(tree(out).items())
        other = keys.with_name('other.key')
        status, _, errors = hime(*self.args(src, out, other))
        assert status == 1 and 'use the same key' in errors
        status, _, errors = hime(*self.args(src, out, keys, '--flip', '.1'))
        assert status == 1 and 'other settings (preprocess)' in errors
        assert dict(tree(out).items()) == before

    @pytest.mark.parametrize('cipher', ['shuffle', 'center+shuffle'])
    def test_two_at_the_same_moment(self, src, keys, reference, tmp_path, cipher):
        out = tmp_path / 'out'
        both = [
            self.start(*self.args(src, out, keys)),
            self.start(*self.args(src, out, keys, '-c', cipher)),
        ]
        outputs = [process.communicate(timeout=30) for process in both]
        statuses = [process.returncode for process in both]
        assert 0 in statuses
        for status, (_, errors) in zip(statuses, outputs, strict=True):
            assert (
                status == 0
                or 'another process is encrypting' in errors
                or 'another encrypted data set' in errors
            )
            assert 'Traceback' not in errors
        if cipher == 'shuffle':
            assert 1 in statuses
        if cipher != 'shuffle' or statuses[0] == 0:
            assert tree(out) == reference[0]
        assert hime('verify', out, '--key', keys)[0] == 0
        assert not (out / '.hime-work').exists()

    def test_full_disk(self, src, keys, reference, tmp_path):
        expected, _ = reference
        disk, copy = tmp_path / 'disk', tmp_path / 'copy'
        disk.mkdir()
        script = """
            mount -t tmpfs -o size=$1 tmpfs "$2" || exit 77
            shift; disk=$1; shift; copy=$1; shift
            "$@"; echo first $?
            find "$disk" -name '*.part' | wc -l
            mount -o remount,size=99m "$disk"
            "$@"; echo second $?
            cp -r "$disk" "$copy"
        """
        size = sum(map(len, expected.values())) // 2
        command = hime_command(*self.args(src, disk, keys, '-q'))
        try:
            done = subprocess.run(
                [
                    'unshare',
                    '--user',
                    '--map-root-user',
                    '--mount',
                    'sh',
                    '-c',
                    script,
                    'sh',
                    str(size),
                    disk,
                    copy,
                    *command,
                ],
                capture_output=True,
                text=True,
                env=hime_env(),
                timeout=60,
            )
        except FileNotFoundError:
            pytest.skip('no command unshare')
        if done.returncode in (1, 77) and 'first' not in done.stdout:
            pytest.skip(f'a small disk cannot be mounted: {done.stderr}')
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[:2] == ['first 1', '0'] and lines[-1] == 'second 0'
        (error,) = done.stderr.splitlines()
        assert re.fullmatch(
            rf'hime: No space left on device in {disk}; \d+ of 24 pictures '
            'are finished and stay: .* start again',
            error,
        )
        assert int(error.split(';')[1].split()[0]) > 5
        assert tree(copy) == expected

    @pytest.mark.parametrize('workers', [1, 2])
    def test_file_size_limit(self, src, keys, reference, tmp_path, workers):
        import resource

        out = tmp_path / 'out'
        expected, _ = reference
        sizes = sorted(len(d) for n, d in expected.items() if 'png' in n)
        args = self.args(src, out, keys, '-j', workers)

        def limit():
            most = sizes[len(sizes) * 3 // 4]
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        process = self.start(*args, preexec_fn=limit)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1 and 'Traceback' not in errors
        assert f'hime: File too large in {out}; ' in errors
        assert not list(out.rglob('*.part'))
        assert hime(*args)[0] == 0
        assert tree(out) == expected


class TestKeysInTheWrongPlace:
    @pytest.mark.parametrize(
        'text',
        [SECRET.hex(), SECRET.hex()[:60].upper(), f'hime-key-v1:{SECRET.hex()}', 'hime-key-v1:12'],
    )
    @pytest.mark.parametrize(
        'args',
        [
            ('verify', '.', '--key-fd'),
            ('verify', '.', '--key'),
            ('verify', '.', '--key-env'),
            ('keygen',),
            ('encrypt', 'folder', '.', 'out', '-c'),
            ('encrypt', 'folder', '.', 'out', '-c', 'mix2', '--dataset-id'),
        ],
    )
    def test_are_not_repeated(self, tmp_path, args, text):
        for given in ([*args, text], [*args[:-1], f'{args[-1]}={text}']):
            if given[0] == f'keygen={text}' or '-c=' in given[-1]:
                continue
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path)
                result = CliRunner().invoke(main, given)
            assert result.exit_code == 1
            assert 'make a new one' in result.output
            assert text not in result.output
            assert not list(tmp_path.iterdir())

    def test_ids_and_hashes_are_no_keys(self, coco_src, tmp_path):
        for number, name in enumerate(('0' * 32, 'a' * 40)):
            result = CliRunner().invoke(
                main,
                [
                    'encrypt',
                    'coco',
                    str(coco_src),
                    str(tmp_path / str(number)),
                    '-c',
                    'mix2',
                    '--dataset-id',
                    name,
                    '-q',
                    '-j',
                    '1',
                ],
            )
            assert result.exit_code == 0, result.output

    def test_key_of_the_environment_is_not_asked_of_other_data(self, coco_src, tmp_path, keys):
        out = str(tmp_path / 'out')
        assert (
            CliRunner()
            .invoke(main, ['encrypt', 'coco', str(coco_src), out, '-c', 'mix2', '-q', '-j', '1'])
            .exit_code
            == 0
        )
        env = dict(HIME_KEY=SECRET.hex())
        result = CliRunner().invoke(main, ['verify', out, '-q', '-j', '1'], env=env)
        assert result.exit_code == 0 and 'not authenticated' in result.output
        # One that is named is: nobody may take its mark away.
        result = CliRunner().invoke(main, ['verify', out, '-q', '-j', '1', '--key', str(keys)])
        assert result.exit_code == 1


class TestSecrets:
    def test_nothing_is_told(self, coco_src, keys, tmp_path):
        """Neither in what is handed over nor in what is printed."""
        src = shutil.copytree(coco_src, tmp_path / 'src')
        bad = src / 'val2017' / '000002.jpg'
        good = bad.read_bytes()
        bad.write_bytes(b'')
        out, told = tmp_path / 'out', []

        def run(*args, status=0, **env):
            done = hime(*args, env=hime_env(**env))
            assert done[0] == status, done
            told.extend(part.encode() for part in done[1:])

        text = SECRET.hex()
        encrypt = (
            'encrypt',
            'coco',
            src,
            out,
            '-c',
            'center+shuffle',
            '--views',
            2,
            '-j',
            2,
            '--dataset-id',
            'd',
        )
        run(*encrypt, '--key', keys, status=1)
        contents = list(tree(out).values())
        bad.write_bytes(good)
        run(*encrypt, '--key', keys)
        run(*encrypt, HIME_KEY=text)
        run('verify', out, '--key', keys)
        run('info', out)
        run('info', out, '--json')
        run('decrypt', out, tmp_path / 'plain', '--key', keys, '--partial')
        # A key in the wrong place, or a broken one.
        for wrong in (text, f'hime-key-v1:{text}', text.upper()):
            run('verify', out, '--key', wrong, status=1)
            run('verify', out, '--key-env', wrong, status=1)
            run('keygen', wrong, status=1)
        run('verify', out, status=1, HIME_KEY=f'{text}0')
        run('verify', out, status=1, HIME_KEY=f'key={text}')
        (tmp_path / 'broken').write_text(f'{text}\n{text}')
        (tmp_path / 'broken').chmod(0o600)
        run('decrypt', out, tmp_path / 'p2', '--key', tmp_path / 'broken', status=1)
        (tmp_path / 'broken').chmod(0o644)
        run('verify', out, '--key', tmp_path / 'broken', status=1)
        run('verify', out, '--key', keys.with_name('other.key'), status=1)

        contents += [*tree(out).values(), *told]
        assert sum(map(len, told)) > 3000
        assert not found(forms_of_key(SECRET), contents)
        manifest = Manifest.load(out)
        assert len(manifest.files) == 8
        for entry in manifest.files.values():
            permutation = manifest.secret_layout(entry, KEY).permutation
            assert not found(forms_of_permutation(permutation), contents)
