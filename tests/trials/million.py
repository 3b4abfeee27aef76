# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A folder of tiny pictures: encrypted, killed four times and resumed, verified, a sample undone

By the independent decoder. The pictures are links to a few hundred files.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
from owner_data import SECRET, hime_command, hime_env, key_file, photo, write

from .fuzzing import die_with_parent
from .state import ROOT, State

sys.path.append(str(ROOT / 'tests' / 'test_ciphers'))

from independent_decoder import decrypt  # noqa: E402

CASES = 1_000_000
UNIT = 'pictures'
KILLS = 4
#: Different pictures, and how many of all lie in a folder.
_DISTINCT, _PER_FOLDER = 400, 1000
_SAMPLE = 200
_SIDE, _DATASET = 32, 'million'
#: Bytes of the disk that a picture takes, with room for its names.
_BYTES = 6000


def steps(state: State, folder: Path) -> Iterator[None]:
    src, out, key = folder / 'src', folder / 'out', folder / 'key'
    if shutil.disk_usage(folder).free < _BYTES * state.cases:
        raise SystemExit(f'{folder} has no room for {state.cases} pictures')
    if not key.exists():
        key_file(key)
    make_pictures(src, state.cases)
    state.facts.update(dict(kills=0, seconds=0.0, peak=0) | state.facts)
    yield
    yield from encrypt(state, src, out, key)
    yield from verify(state, out, key)
    rng = random.Random(state.cases)
    for number in rng.sample(range(state.cases), min(_SAMPLE, state.cases)):
        if not is_undone(number, out, src):
            state.add_failure(number, 'the independent decoder gets other pixels')
    state.done = state.cases
    yield
    shutil.rmtree(src)
    shutil.rmtree(out)


def name_of(number: int) -> str:
    """The picture of a number, without its ending."""
    return f'{number // _PER_FOLDER:05d}/{number:07d}'


def make_pictures(src: Path, num: int) -> None:
    """Make them, or those that are missing."""
    first = [src.parent / 'kinds' / f'{i}.png' for i in range(_DISTINCT)]
    for i, path in enumerate(first):
        if not path.exists():  # a new time would be that of a new picture
            write(path, photo(_SIDE, _SIDE, i))
    for number in range(num):
        path = src / f'{name_of(number)}.png'
        if number % _PER_FOLDER == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.link(first[number % _DISTINCT], path)


def encrypt(state: State, src: Path, out: Path, key: Path) -> Iterator[None]:
    """Encrypt, killed at random moments, each time started again."""
    args = ['encrypt', 'folder', src, out, '-c', 'shuffle', '--key', key]
    args += ['--dataset-id', _DATASET, '-j', '1', '-q']
    rng = random.Random(state.cases)
    moments = sorted(rng.uniform(0.02, 0.8) for _ in range(KILLS))
    journal = out / '.hime-work' / 'journal'
    while True:
        left = moments[state.facts['kills'] :]
        process = Process(folder=out.parent, args=args)
        lines, killed = Lines(journal), False
        while process.is_running():
            state.done = min(lines.count(), state.cases - 1)
            if left and not killed and state.done >= left[0] * state.cases:
                process.kill()
                killed = True
                state.facts['kills'] += 1
            state.facts['seconds'] += process.lap()
            yield
        state.facts['seconds'] += process.lap()
        state.facts['peak'] = max(state.facts['peak'], process.peak)
        if not killed:
            break
    found = re.search(r'(\d+) of (\d+) pictures encrypted', process.output())
    if process.status or not found or set(map(int, found.groups())) != {state.cases}:
        state.add_failure(0, 'hime encrypt', process.output())


def verify(state: State, out: Path, key: Path) -> Iterator[None]:
    process = Process(folder=out.parent, args=['verify', out, '--key', key, '-j', '1', '-q'])
    while process.is_running():
        yield
    state.facts.update(verify_seconds=process.lap(), verify_peak=process.peak)
    text = f'{state.cases} files are as they were written; manifest authenticated with the key'
    if process.status or text not in process.output():
        state.add_failure(0, 'hime verify', process.output())


def is_undone(number: int, out: Path, src: Path) -> bool:
    """Whether a file is decrypted to the original, with nothing of hime_mm."""
    path = f'{name_of(number)}.png'
    data, plain = (cv2.imread(str(folder / path), cv2.IMREAD_UNCHANGED) for folder in (out, src))
    if data is None:
        return False
    back = decrypt(SECRET, _DATASET, path, data.tobytes(), _SIDE // 16, 3, 16)
    return back == plain.tobytes()


class Lines:
    """How many lines a growing file has; those are counted once."""

    def __init__(self, path: Path) -> None:
        self.path, self.at, self.num = path, 0, 0

    def count(self) -> int:
        with suppress(FileNotFoundError), open(self.path, 'rb') as file:
            file.seek(self.at)
            data = file.read()
            self.at += len(data)
            self.num += data.count(b'\n')
        return max(self.num - 1, 0)  # the first is a header


class Process:
    """A command of `hime`, which dies with this process, and its memory."""

    def __init__(self, folder: Path, args: list) -> None:
        self.file = open(folder / 'output', 'w+')  # noqa: SIM115
        self.process = subprocess.Popen(
            hime_command(*args),
            env=hime_env(),
            cwd=folder,
            stdout=self.file,
            stderr=self.file,
            preexec_fn=die_with_parent,
        )
        self.start = self.last = time.monotonic()
        self.status: int | None = None
        self.peak = 0

    def is_running(self) -> bool:
        """Look after a moment, which is longer in a long run."""
        time.sleep(min(1, (time.monotonic() - self.start) / 20 + 0.01))
        pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        if pid:
            self.status = self.process.returncode = os.waitstatus_to_exitcode(status)
            # Of this process before it became another one, too.
            self.peak = usage.ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
        return not pid

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)

    def lap(self) -> float:
        """Seconds since the last time."""
        last, self.last = self.last, time.monotonic()
        return self.last - last

    def output(self) -> str:
        self.file.seek(0)
        return self.file.read()[-2000:]


def report(state: State) -> str:
    facts = state.facts
    return (
        f'killed {facts["kills"]} times; {state.cases / facts["seconds"]:.0f} pictures/s, '
        f'{facts["peak"] / 1e6:.0f} MB at most; verified: '
        f'{state.cases / facts["verify_seconds"]:.0f} pictures/s, '
        f'{facts["verify_peak"] / 1e6:.0f} MB'
    )
