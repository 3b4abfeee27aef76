# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Workers that die: the culprit is found, and nothing else is lost or done twice."""

import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor
from contextlib import closing

import pytest
from dying_tasks import WAYS, work
from encryption_parts import KEY, coco
from hypothesis import given, settings
from hypothesis import strategies as st
from owner_data import hime, hime_env, photo, tree, write
from picture_files import broken_apng

from hime_mm.apis import decrypt_dataset, verify_dataset
from hime_mm.datasets.manifest import Manifest
from hime_mm.encryption import driver, shard, verify
from hime_mm.encryption.engines import run_tasks
from hime_mm.errors import WorkerDied


class Death(BaseException):
    """Of a worker that is no process."""


class Fragile(Executor):
    """Threads of which a death breaks all, as of processes."""

    started = 0

    def __init__(self, workers, initializer, initargs):
        type(self).started += 1
        initializer(*initargs)
        self.threads = ThreadPoolExecutor(workers)
        self.broken = False

    def submit(self, fn, /, *args):
        if self.broken:
            raise BrokenExecutor
        return self.threads.submit(self.do, fn, args)

    def do(self, fn, args):
        if self.broken:
            raise BrokenExecutor
        try:
            result = fn(*args)
        except Death:
            self.broken = True
        if self.broken:  # perhaps by another, before this could tell
            raise BrokenExecutor
        return result

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.threads.shutdown(wait, cancel_futures=cancel_futures)


class Stillborn(Fragile):
    """The first lives; those after it are killed before they do anything."""

    def __init__(self, *args):
        super().__init__(*args)
        self.broken = type(self).started > 1


def mortal(attempts, key, task):
    number, lives = task
    attempts[number] += 1
    if attempts[number] >= lives:
        return number
    raise Death


class TestAnyExecutor:
    @settings(max_examples=60, deadline=None)
    @given(
        # At which attempt each task ends well; few of them at the first.
        st.lists(st.sampled_from([1, 1, 1, 1, 1, 2, 3, 9]), max_size=30),
        st.integers(1, 3),
    )
    def test_each_task_once(self, lives, workers):
        attempts = Counter()
        got = list(run_tasks(mortal, attempts, None, enumerate(lives), workers, Fragile))
        assert sorted(i for i, _ in got) == list(range(len(lives)))
        for i, result in got:
            # Once with others, once alone. One that was out when another died
            # had no turn, or one that does not count.
            assert result == i if not isinstance(result, WorkerDied) else attempts[i] < lives[i]
            assert attempts[i] <= 2
            assert lives[i] < 9 or isinstance(result, WorkerDied)
            assert lives[i] > 1 or result == i

    def test_the_key_reaches_all_of_them(self):
        got = list(run_tasks(lambda c, key, t: key, None, KEY, range(3), 2, Fragile))
        assert [key.id for _, key in got] == [KEY.id] * 3

    def test_tasks_are_read_as_they_are_needed(self):
        asked = []

        def tasks():
            for i in range(100):
                asked.append(i)
                yield i, 9 if i == 3 else 1

        with closing(run_tasks(mortal, Counter(), None, tasks(), 1, Fragile)) as outcomes:
            for num, _ in enumerate(outcomes, 1):
                assert len(asked) <= num + 4

    @pytest.mark.parametrize('num', [1, 4, 12])
    def test_none_is_started_for_nothing(self, num):
        """It takes a while: one for each task that is alone and ends it."""
        alone = []

        def start(workers, *args):
            alone.append(workers == 1)
            return Fragile(workers, *args)

        got = list(run_tasks(mortal, Counter(), None, enumerate([9] * num), 2, start))
        assert len(got) == num == sum(alone)

    def test_executors_that_do_not_live_are_no_fault_of_a_task(self):
        Stillborn.started = 0
        got = []
        with pytest.raises(WorkerDied, match='before it did anything'):
            for i, _ in run_tasks(mortal, Counter(), None, [(0, 1), (1, 9), (2, 1)], 1, Stillborn):
                got.append(i)
        assert got in ([], [0])


class TestProcesses:
    @pytest.mark.parametrize(
        'num, culprits, workers',
        [
            pytest.param(12, {0: 'kill', 11: 'exit'}, 2, id='the first and the last'),
            pytest.param(2, {0: 'abort', 1: 'loop'}, 1, id='all, of one worker'),
            pytest.param(6, dict(enumerate(WAYS)), 2, id='all, of two', marks=pytest.mark.slow),
            pytest.param(20, {3: 'loop', 4: 'kill'}, 2, id='neighbours'),
            pytest.param(10, {4: 'wait'}, 1, marks=pytest.mark.slow),
            pytest.param(20, {19: 'abort'}, 1, marks=pytest.mark.slow),
        ],
    )
    def test_each_task_once(self, num, culprits, workers):
        ways = {task: (way, None) for task, way in culprits.items()}
        got = list(run_tasks(work, ways, None, iter(range(num)), workers))
        assert sorted(i for i, _ in got) == list(range(num))
        for i, result in got:
            if i in culprits:
                assert isinstance(result, WorkerDied)
                assert 'ended twice' in str(result)
            else:
                assert result == 2 * i

    def test_killed_once_from_outside(self, tmp_path):
        """Such as for want of memory: alone there is enough."""
        ways = {2: ('kill', str(tmp_path / 'mark'))}
        got = run_tasks(work, ways, None, range(6), 2)
        assert sorted(got) == [(i, 2 * i) for i in range(6)]

    @pytest.mark.slow
    def test_a_script_that_cannot_be_imported_again(self, tmp_path):
        """It lacks `if __name__`: no worker can start, and it does not try for ever."""
        script = tmp_path / 'script.py'
        write(tmp_path / 'src' / 'a.png', photo(32, 32))
        script.write_text(
            'from hime_mm.apis import encrypt_folder\n'
            "encrypt_folder('src', 'out', 'mix2', workers=1, progress=False)\n"
        )
        done = subprocess.run(
            [sys.executable, script],
            cwd=tmp_path,
            env=hime_env(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert 'WorkerDied: a worker process was killed before' in done.stderr
        assert not (tmp_path / 'out' / 'hime.json').exists()


def deadly(culprits, leftover):
    """`run_tasks`, in this process; a few paths end their workers, and one leaves a file."""

    def tasks_run(function, context, key, tasks, workers):
        for i, task in enumerate(tasks):
            path = getattr(task, 'path', None) or task[0].path
            if path in culprits:
                leftover.parent.mkdir(parents=True, exist_ok=True)
                leftover.write_bytes(b'half')
                yield i, WorkerDied('it ended twice')
            else:
                yield i, function(context, key, task)

    return tasks_run


def apart(function, context, key, numbers, engine):
    """`run_shards`, in this process; the worker of every shard has ended once."""
    for number in numbers:
        yield number, function(context, key, (number, True))


class TestConsumers:
    @pytest.mark.parametrize('storage', ['files', 'tar'])
    @pytest.mark.parametrize('names', [('000002',), ('000001', '000004')])
    def test_encrypt(self, own_src, tmp_path, monkeypatch, names, storage):
        out, missing = tmp_path / 'out', own_src / 'val2017' / '000003.jpg'
        options = dict(storage=storage, shard_size=1)
        missing.rename(own_src / 'away')
        for path in (own_src / 'val2017').iterdir():
            os.utime(path, (1, 1))
        coco(own_src, out, **options)  # with a file of each of the others
        (own_src / 'away').rename(missing)
        for path in (own_src / 'val2017').iterdir():
            os.utime(path, (2, 2))
        culprits = [f'val2017/{name}.jpg' for name in names]
        leftover = out / 'val2017' / '.hime-x.part'
        monkeypatch.setattr(driver, 'run_shards', apart)
        monkeypatch.setattr(shard, 'run_tasks', deadly(culprits, leftover))
        summary = coco(own_src, out, **options)
        assert summary.skipped == [(path, 'it ended twice') for path in culprits]
        manifest = Manifest.load(out)
        left = {f'val2017/{i:06d}.png' for i in range(1, 5)} - {f'val2017/{n}.png' for n in names}
        assert set(manifest.files) == left
        if storage == 'files':
            files = {path.name for path in out.rglob('*') if path.suffix in ('.png', '.part')}
            assert {f'val2017/{name}' for name in files} == left
        skipped = [row['path'] for row in manifest.skipped]
        assert skipped == [f'val2017/{name}.png' for name in names]
        monkeypatch.undo()
        again = coco(own_src, out, retry_failed=True, **options)
        assert again.complete and again.reused == 4 - len(names)
        coco(own_src, tmp_path / 'new', **options)
        assert tree(out) == tree(tmp_path / 'new')

    def test_verify_and_decrypt(self, coco_src, tmp_path, monkeypatch):
        out, plain = tmp_path / 'out', tmp_path / 'plain'
        coco(coco_src, out)
        path = 'val2017/000002.png'
        leftover = plain / '.hime-x.part'
        monkeypatch.setattr(verify, 'run_tasks', deadly([path], leftover))
        problems = [(path, 'it ended twice')]
        assert verify_dataset(str(out), KEY, progress=False).problems == problems
        leftover.unlink()
        leftover.parent.rmdir()
        report = decrypt_dataset(str(out), str(plain), KEY, progress=False)
        assert report.problems == problems and report.files == 4
        assert set(tree(plain)) == {f'val2017/{i:06d}.png' for i in (1, 3, 4)}


def crashes(data):
    """Whether this release of OpenCV crashes there."""
    code = (
        'import sys, cv2, numpy as np\n'
        'cv2.imdecode(np.frombuffer(sys.stdin.buffer.read(), np.uint8), 1)'
    )
    return subprocess.run([sys.executable, '-c', code], input=data).returncode < 0


class TestDecoderThatCrashes:
    @pytest.mark.parametrize('workers', [pytest.param(1, marks=pytest.mark.slow), 2])
    def test_is_left_out_and_named(self, tmp_path, workers):
        if not crashes(broken_apng()):
            pytest.skip('OpenCV reads it without a crash')
        for i in range(6):
            write(tmp_path / 'src' / f'{i}.png', photo(32, 48, i))
        (tmp_path / 'src' / '3.png').write_bytes(broken_apng())
        status, output, errors = hime(
            'encrypt',
            'folder',
            tmp_path / 'src',
            tmp_path / 'out',
            '-c',
            'mix2',
            '-j',
            workers,
            '-q',
        )
        assert status == 1 and '5 of 6 pictures' in output
        (line,) = [line for line in errors.splitlines() if line.startswith('missing: ')]
        assert line.startswith('missing: 3.png: the process that read it ended twice')
        assert sorted(Manifest.load(tmp_path / 'out').files) == [
            f'{i}.png' for i in (0, 1, 2, 4, 5)
        ]
