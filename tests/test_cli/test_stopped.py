# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A command that is killed, interrupted or out of space."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from owner_data import hime, hime_command, hime_env, make_coco, tree

from hime_mm.ciphers import Key


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
    """Those of shards that are committed in an unfinished run, as they are."""
    return {
        row['path']: (os.stat(out / row['path']).st_ino, os.stat(out / row['path']).st_mtime_ns)
        for record in (out / '.hime-work' / 'shards').glob('*.jsonl')
        for line in record.read_bytes().splitlines()[1:]
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
            '--shard-size',
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

    def stopped(self, stop, folder, src, keys, pattern='val2017/*.png'):
        """The folder, status and last words of a run that `stop` was called with in the middle.

        It takes a second: on a busy machine it may be complete by then, and another is tried.
        """
        for number in range(10):
            out = folder / f'out{number}'
            process = self.start(*self.args(src, out, keys))
            while process.poll() is None and not list(out.glob(pattern)):
                time.sleep(0.005)
            if process.poll() is None:
                stop(process)
            _, errors = process.communicate(timeout=100)
            assert gone(process.pid), 'workers outlived the run'
            if process.returncode or (out / '.hime-work').exists():
                return out, process.returncode, errors
            assert (out / 'hime.json').exists()
        pytest.fail('no run was stopped')

    @pytest.mark.slow
    def test_kill_9_at_random_moments(self, src, keys, reference, tmp_path):
        most, least = 10, 20
        expected, seconds = reference
        out, rng, kills, kept = tmp_path / 'out', random.Random(3), 0, 0
        # On a busy machine more of them come before anything is done.
        while kills < most or (kept <= least and kills < 5 * most):
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
        assert kept > least, 'no kill came in the middle'
        assert hime(*self.args(src, out, keys))[0] == 0
        assert tree(out) == expected and not (out / '.hime-work').exists()

    @pytest.mark.parametrize(
        'pattern', ['val2017/*.png', pytest.param('.hime-work/plan.json', marks=pytest.mark.slow)]
    )
    @pytest.mark.slow
    def test_ctrl_c(self, src, keys, reference, tmp_path, pattern):
        def interrupt(process):
            time.sleep(0.05)
            # As a terminal does: to all processes.
            os.killpg(process.pid, signal.SIGINT)

        out, status, errors = self.stopped(interrupt, tmp_path, src, keys, pattern)
        assert status == 130
        *_, said, last = errors.splitlines()
        assert said.startswith('hime: ')
        assert f'{out} is unfinished' in last and 'handed over' in last
        assert 'Traceback' not in errors
        assert hime(*self.args(src, out, keys))[0] == 0
        assert tree(out) == reference[0]

    @staticmethod
    def kill_worker(process):
        """One of them, if there is any."""
        for pid in session_members(process.pid):
            with suppress(OSError):  # it has just ended
                if b'spawn_main' in Path(f'/proc/{pid}/cmdline').read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    return True
        return False

    @pytest.mark.slow
    def test_killed_worker(self, src, keys, reference, tmp_path):
        """Its pictures are done by another."""
        for number in range(10):
            out = tmp_path / f'out{number}'
            process = self.start(*self.args(src, out, keys))
            while process.poll() is None and not list(out.glob('val2017/*.png')):
                time.sleep(0.005)
            was_killed = self.kill_worker(process)
            _, errors = process.communicate(timeout=100)
            assert process.returncode == 0 and 'Traceback' not in errors, errors
            assert tree(out) == reference[0]
            if was_killed:
                return
        pytest.fail('no worker was killed')

    @pytest.mark.slow
    def test_every_worker_is_killed(self, src, keys, reference, tmp_path):
        def kill_workers(process):
            while process.poll() is None:
                self.kill_worker(process)
                time.sleep(0.002)

        out, status, errors = self.stopped(kill_workers, tmp_path, src, keys)
        assert status == 1
        *_, said, last = errors.splitlines()
        assert re.match('hime: .*worker', said)
        assert f'{out} is unfinished' in last and 'handed over' in last
        assert 'Traceback' not in errors
        assert hime(*self.args(src, out, keys))[0] == 0
        assert tree(out) == reference[0]

    @pytest.mark.slow
    def test_other_key_goes_on_with_nothing(self, src, keys, tmp_path):
        out, status, _ = self.stopped(subprocess.Popen.kill, tmp_path, src, keys)
        assert status == -signal.SIGKILL
        before = dict(tree(out).items())
        other = keys.with_name('other.key')
        status, _, errors = hime(*self.args(src, out, other))
        assert status == 1
        assert all(Key.from_file(path).id in errors for path in (keys, other))
        status, _, errors = hime(*self.args(src, out, keys, '--flip', '.1'))
        assert status == 1 and '(preprocess)' in errors
        assert dict(tree(out).items()) == before

    @pytest.mark.parametrize(
        'cipher', ['shuffle', pytest.param('center+shuffle', marks=pytest.mark.trial)]
    )
    @pytest.mark.slow
    def test_two_at_the_same_moment(self, src, keys, reference, tmp_path, cipher):
        out = tmp_path / 'out'
        both = [
            self.start(*self.args(src, out, keys)),
            self.start(*self.args(src, out, keys, '-c', cipher)),
        ]
        outputs = [process.communicate(timeout=100) for process in both]
        statuses = [process.returncode for process in both]
        assert 0 in statuses
        for status, (_, errors) in zip(statuses, outputs, strict=True):
            # That one is at work here, or was.
            last = errors.splitlines()[-1]
            assert status == 0 or re.match(f'hime: (.*process .*{out}|{out} .*data set)', last)
            assert 'Traceback' not in errors
        if cipher == 'shuffle':
            assert 1 in statuses
        if cipher != 'shuffle' or statuses[0] == 0:
            assert tree(out) == reference[0]
        assert hime('verify', out, '--key', keys)[0] == 0
        assert not (out / '.hime-work').exists()

    # In the other tier, without a file system: test_encryption/test_interrupted.py.
    @pytest.mark.slow
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
                timeout=100,
            )
        except FileNotFoundError:
            pytest.skip('no command unshare')
        if done.returncode in (1, 77) and 'first' not in done.stdout:
            pytest.skip(f'a small disk cannot be mounted: {done.stderr}')
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[:2] == ['first 1', '0'] and lines[-1] == 'second 0'
        error, unfinished = done.stderr.splitlines()
        assert unfinished.startswith(f'{disk} is unfinished')
        done = re.match(rf'hime: {os.strerror(errno.ENOSPC)}: {disk}/.* (\d+) of 24\b', error)
        assert int(done[1]) > 5
        assert tree(copy) == expected

    @pytest.mark.slow
    @pytest.mark.parametrize('workers', [2, pytest.param(1, marks=pytest.mark.trial)])
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
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 1 and 'Traceback' not in errors
        said = f'^hime: {os.strerror(errno.EFBIG)}: {out}/val2017/\\w+.png;'
        assert re.search(said, errors, re.M)
        assert not list(out.rglob('*.part'))
        assert hime(*args)[0] == 0
        assert tree(out) == expected
