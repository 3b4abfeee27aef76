# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The command, as a person runs it."""

import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys

import mmcv
import numpy as np
import pytest
from cli_parts import invoke
from owner_data import ROOT, forms_of_key, found, hime, hime_env, photo, read, tree, write

from hime_mm.ciphers import Key
from hime_mm.ciphers.steps import STEPS
from hime_mm.datasets.manifest import Manifest
from hime_mm.images.sizing import fit_image


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
        assert output.startswith('hime: ') and str(keys) in output and output.count('\n') == 1
        assert keys.read_bytes() == before

    def test_folder_that_is_not_there(self, tmp_path):
        output = invoke('keygen', tmp_path / 'none' / 'k', status=1)
        assert output.startswith(f'hime: {os.strerror(errno.ENOENT)}')
        assert str(tmp_path / 'none') in output


class TestJourney:
    @pytest.mark.slow
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
        assert output.startswith('4 files ') and 'not authenticated' in output
        assert output.count('\n') == 1
        status, output, _ = hime('verify', 'out', '--key', 'k', '-j', 2)
        assert status == 0 and ' authenticated' in output and 'not authenticated' not in output
        status, output, _ = hime('decrypt', 'out', 'plain', '--key', 'k', '-j', 2)
        assert status == 0 and re.fullmatch(r'4 of 4 .* plain\n', output)
        for path in (coco_src / 'val2017').iterdir():
            np.testing.assert_array_equal(
                read(f'plain/val2017/{path.stem}.png'), fit_image(mmcv.imread(path), 16)[0]
            )

    def test_info(self, encrypted):
        output = invoke('info', encrypted)
        assert re.search(r'^cipher +shuffle, .*\b16\b', output, re.M)
        assert STEPS['shuffle'].leaves in output
        assert invoke('info', encrypted / 'hime.json') == output
        state = json.loads(invoke('info', encrypted, '--json'))
        full = json.loads((encrypted / 'hime.json').read_text())
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
        assert set(tree(tmp_path / 'out')) == {
            'hime.json',
            'hime-000000.json',
            'n01/a.png',
            'n02/b.png',
        }
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
        assert '`hime verify`' in output

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
        assert '3 objects' in output and '--resize' in output

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
        (entry,) = Manifest.load(tmp_path / 'out').files
        assert re.fullmatch('val/[0-9a-f]{16}.png', entry)
        assert (tmp_path / 'out/val.txt').read_text() == f'{entry[4:]} 3\n'
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
        assert re.search(r'noise90: [1-9][\d.]* %', output)
        assert re.search(r'^left out: labels\.txt: .*\.jpg', output, re.M)

    def test_checkout_that_is_not_installed(self, coco_src, tmp_path):
        done = subprocess.run(
            [
                sys.executable,
                '-m',
                'hime_mm.cli',
                'encrypt',
                'coco',
                coco_src,
                tmp_path / 'out',
                '-c',
                'paper-mi',
                '-q',
                '-j',
                '2',
            ],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={k: v for k, v in hime_env().items() if k != 'PYTHONPATH'},
        )
        assert done.returncode == 0, done.stderr
        invoke('verify', tmp_path / 'out')

    @pytest.mark.slow
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
