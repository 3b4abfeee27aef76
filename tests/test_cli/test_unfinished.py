# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What the command says of what is left out, and of an output that is not to be handed over."""

import errno
import os
import shutil

import pytest
from cli_parts import invoke
from click.testing import CliRunner
from owner_data import make_coco, photo, write

from hime_mm.cli import main
from hime_mm.encryption import driver, finish

pytestmark = pytest.mark.usefixtures('no_processes')


@pytest.fixture(params=['folder', 'coco'])
def kind(request):
    return request.param


@pytest.fixture
def src(tmp_path, kind):
    src = make_coco(tmp_path / 'src')
    return src if kind == 'coco' else src / 'val2017'


def picture(src, name='000002.jpg'):
    return src / 'val2017' / name if (src / 'val2017').exists() else src / name


def encrypt(kind, src, out, *args, status=0):
    args = ('encrypt', kind, src, out, '-c', 'mix2', '-q', '-j', 1, *args)
    result = CliRunner().invoke(main, list(map(str, args)))
    assert result.exit_code == status, result.output
    return result


class TestUnfinished:
    @pytest.mark.parametrize(
        'args', [(), ('--names', 'ids'), ('--one-way', '--views', 2, '--flip', '.5')]
    )
    def test_missing_pictures(self, kind, src, tmp_path, args):
        out = tmp_path / 'out'
        good = picture(src).read_bytes()
        picture(src).write_bytes(good[:300])
        for _ in range(2):
            last = encrypt(kind, src, out, *args, status=1).stderr.splitlines()[-1]
            assert f'{out} is unfinished and must not be handed over' in last
            assert f'{out}/.hime-work' in last and 'names, sizes and times' in last
            assert 'repair' in last and 'delete' in last
        picture(src).write_bytes(good)
        assert encrypt(kind, src, out, *args).stderr == ''

    def test_delete_the_work_folder_to_go_without(self, kind, src, tmp_path):
        picture(src).write_bytes(b'')
        encrypt(kind, src, tmp_path / 'out', status=1)
        shutil.rmtree(tmp_path / 'out' / '.hime-work')
        assert 'unfinished' not in invoke('info', tmp_path / 'out')

    @pytest.mark.parametrize(
        'error, status, said',
        [
            (KeyboardInterrupt(), 130, 'hime: interrupted'),
            (OSError(errno.ENOSPC, 'No space left on device'), 1, 'No space left'),
        ],
    )
    @pytest.mark.parametrize('where', ['picture', 'finish'])
    def test_stopped(self, kind, src, tmp_path, monkeypatch, error, status, said, where):
        def stop(*args, **kwargs):
            raise error

        out = tmp_path / 'out'
        with monkeypatch.context() as patch:
            if where == 'picture':
                patch.setattr(driver, 'run_shards', stop)  # what a worker raises comes from there
            else:
                patch.setattr(finish, 'write_manifest', stop)
            before, last = encrypt(kind, src, out, status=status).stderr.splitlines()[-2:]
        assert said in before
        assert f'{out} is unfinished and must not be handed over' in last
        assert 'start again' in last and 'repair' not in last
        assert encrypt(kind, src, out).stderr == ''

    def test_nothing_was_begun(self, kind, src, tmp_path, monkeypatch):
        def stop(*args, **kwargs):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(os, 'makedirs', stop)
        assert 'unfinished' not in encrypt(kind, src, tmp_path / 'out', status=1).stderr


class TestLeftOut:
    def test_is_printed_and_no_error(self, kind, src, tmp_path):
        (picture(src, 'notes.txt')).write_text('x')
        write(picture(src, '.hidden.png'), photo(16, 16))
        result = encrypt(kind, src, tmp_path / 'out')
        lines = [line for line in result.stderr.splitlines() if line.startswith('left out: ')]
        assert len(lines) == 2 and 'more' not in result.stderr
        assert 'notes.txt' in lines[1] and 'hidden' in lines[0]
        # With a report the same, and the report says it, too.
        report = tmp_path / 'report.csv'
        encrypt(kind, src, tmp_path / 'two', '--report', report)
        assert 'notes.txt,,left out,' in report.read_text()
        result = encrypt(kind, src, tmp_path / 'three', '--strict', status=1)
        assert result.stderr.startswith('hime: 2 files') and result.stderr.count('\n') == 1
        assert not (tmp_path / 'three').exists()

    @pytest.mark.parametrize('args', [(), ('--report', 'r.csv')])
    def test_are_many(self, kind, src, tmp_path, monkeypatch, args):
        monkeypatch.chdir(tmp_path)
        for number in range(25):
            picture(src, f'{number}.txt').write_text('x')
        lines = encrypt(kind, src, tmp_path / 'out', *args).stderr.splitlines()
        assert len(lines) == 21
        assert 'and 5 more' in lines[-1] and (args or ('--report FILE',))[-1] in lines[-1]
