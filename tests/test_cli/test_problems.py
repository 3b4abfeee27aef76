# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the command says of what goes wrong."""

import errno
import os
import re
import shutil
import subprocess
import sys

import pytest
from cli_parts import ANN, invoke
from owner_data import ROOT, hime, photo, tree, write

pytestmark = pytest.mark.usefixtures('no_processes')


class TestBrokenInstallation:
    @pytest.fixture
    def call(self, tmp_path):
        (tmp_path / 'cv2.py').write_text('raise ImportError("no libGL.so.1")')

        def call(*args):
            return subprocess.run(
                [sys.executable, '-m', 'hime_mm.cli', *args],
                capture_output=True,
                text=True,
                env={**os.environ, 'PYTHONPATH': f'{tmp_path}:{ROOT}'},
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
        assert args[0] in done.stderr and 'no libGL.so.1' in done.stderr
        assert '`hime doctor`' in done.stderr
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
        assert re.search('^missing: 00.jpg: .*truncated$', errors, re.M)
        assert 'missing: 19.jpg' in errors and '20.jpg' not in errors
        assert 'missing: and 5 more\n' in errors
        status, _, errors = hime('verify', out)
        assert status == 1
        assert re.search('^wrong: 00.png: .*truncated$', errors, re.M)
        assert 'wrong: .hime-work: ' in errors
        assert re.search(f'^hime: 26 .*{out}$', errors, re.M)
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
        assert not output
        assert re.match('wrong: notes.txt: .*\nwrong: val2017/000001.png: .*1 bytes', errors)
        output = invoke('decrypt', out, tmp_path / 'plain', '--key', keys, '-j', 1, status=1)
        assert '3 of 4 files decrypted' in output
        assert 'missing: val2017/000001.png' in output

    def test_changed_manifest(self, encrypted, tmp_path):
        out = shutil.copytree(encrypted, tmp_path / 'out')
        path = out / 'hime.json'
        path.write_text(path.read_text().replace('"views": 1', '"views": 2', 1))
        for command in ('verify', 'info'):
            output = invoke(command, out, status=1)
            assert str(path) in output and 'checksum' in output

    def test_other_settings(self, coco_src, encrypted, keys, tmp_path):
        out = shutil.copytree(encrypted, tmp_path / 'out')
        output = invoke('encrypt', 'coco', coco_src, out, '-c', 'mix2', '--key', keys, status=1)
        assert output.startswith('hime: ') and str(out) in output
        assert tree(out) == tree(encrypted)

    @pytest.mark.parametrize('name', ['mix2', 'center+shuffle'])
    def test_what_cannot_be_undone(self, coco_src, keys, tmp_path, name):
        out = tmp_path / 'out'
        invoke('encrypt', 'coco', coco_src, out, '-c', name, '--key', keys, '-j', 1)
        output = invoke('decrypt', out, tmp_path / 'plain', '--key', keys, status=1)
        assert f'{name!r}' in output and ('partial' in output) == ('shuffle' in name)
        if 'shuffle' in name:
            invoke('decrypt', out, tmp_path / 'plain', '--key', keys, '--partial', '-j', 1)
            assert len(tree(tmp_path / 'plain')) == 4

    @pytest.mark.parametrize(
        'content, thing', [('{"images": [', 'JSON'), ('[]', 'object'), ('{}', '`images`')]
    )
    def test_annotations(self, coco_src, tmp_path, content, thing):
        src = shutil.copytree(coco_src, tmp_path / 'src')
        (src / ANN).write_text(content)
        output = invoke('encrypt', 'coco', src, tmp_path / 'out', '-c', 'mix2', status=1)
        assert str(src / ANN) in output and thing in output and output.count('\n') == 1

    def test_output_that_cannot_be_written(self, coco_src, tmp_path):
        (tmp_path / 'file').write_text('x')
        output = invoke(
            'encrypt', 'coco', coco_src, tmp_path / 'file' / 'o', '-c', 'mix2', status=1
        )
        assert os.strerror(errno.ENOTDIR) in output and str(tmp_path / 'file') in output
