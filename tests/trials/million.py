# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A folder of tiny pictures: encrypted, killed four times and resumed, verified, a sample undone

By the independent decoder. The pictures are links to a few hundred files.
"""

import json
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
import numpy as np
from owner_data import SECRET, hime_env, key_file, photo, write

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
_MEASURED = Path(__file__).with_name('measured_hime.py')


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
    run = run_killed(args, out, state.cases, KILLS, state.facts)
    for done in run:
        state.done = min(done, state.cases - 1)
        yield
    check_encrypted(state, out, state.cases)


def run_killed(args: list, out: Path, num: int, kills: int, facts: dict) -> Iterator[int]:
    """Run `hime encrypt`, killed at random moments and each time started again.

    Its ``facts``, from before on, are ``kills``, ``seconds`` and ``peak``, bytes of the largest
    process. Yields how many pictures are done.
    """
    rng = random.Random(num)
    moments = sorted(rng.uniform(0.02, 0.8) for _ in range(kills))
    while True:
        left = moments[facts['kills'] :]
        process, records, killed = Process(out, args), Records(out), False
        while process.is_running():
            done = records.count()
            if left and not killed and done >= left[0] * num:
                process.kill()
                killed = True
                facts['kills'] += 1
            facts['seconds'] += process.lap()
            yield done
        facts['seconds'] += process.lap()
        facts['peak'] = max(facts['peak'], process.peak)
        if not killed:
            return


def check_encrypted(state: State, out: Path, num: int) -> None:
    """Whether the last command has said that all pictures are encrypted."""
    said = output_of(out).read_text()[-2000:]
    found = re.search(r'(\d+) of (\d+) pictures encrypted', said)
    if not found or set(map(int, found.groups())) != {num}:
        state.add_failure(0, f'hime encrypt, {out.name}', said)


def verify(state: State, out: Path, key: Path) -> Iterator[None]:
    process = Process(out, ['verify', out, '--key', key, '-j', '1', '-q'])
    while process.is_running():
        yield
    state.facts.update(verify_seconds=process.lap(), verify_peak=process.peak)
    text = f'{state.cases} files are as they were written; manifest authenticated with the key'
    if process.status or text not in process.output():
        state.add_failure(0, 'hime verify', process.output())


def is_undone(number: int, out: Path, src: Path) -> bool:
    """Whether a file is decrypted to the original, with nothing of hime_mm."""
    path = f'{name_of(number)}.png'
    return is_original(path, (out / path).read_bytes(), src, _DATASET)


def is_original(path: str, data: bytes, src: Path, dataset_id: str) -> bool:
    """Whether the file of a path is decrypted to the original."""
    img = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if img is None:
        return False
    back = decrypt(SECRET, dataset_id, path, img.tobytes(), _SIDE // 16, 3, 16)
    return back == cv2.imread(str(src / path), cv2.IMREAD_UNCHANGED).tobytes()


class Records:
    """How many pictures an unfinished data set has, by the shards that are done."""

    def __init__(self, out: Path) -> None:
        self.work, self.size = out / '.hime-work', 0

    def count(self) -> int:
        with suppress(FileNotFoundError):
            if not self.size:
                self.size = json.loads((self.work / 'plan.json').read_text())['shard_size']
            # Others are still being written.
            names = os.listdir(self.work / 'shards')
            return self.size * sum(name.endswith('.jsonl') for name in names)
        return 0


def output_of(out: Path, name: str = 'output') -> Path:
    """The file that gets what a command about a data set says."""
    return out.with_name(f'{out.name}.{name}')


class Process:
    """A command of `hime` about a data set, which dies with this process, and its memory.

    Args:
        out (Path): The data set.
        args (list): Arguments of the command.
        name (str): Tells its output from that of others.
        **env: More of its environment.
    """

    def __init__(self, out: Path, args: list, name: str = 'output', **env: str) -> None:
        self.path = output_of(out, name)
        with open(self.path, 'w') as file:
            self.process = subprocess.Popen(
                [sys.executable, str(_MEASURED), *map(str, args)],
                env=hime_env(**env),
                cwd=out.parent,
                stdout=file,
                stderr=file,
                preexec_fn=die_with_parent,
            )
        self.start = self.last = time.monotonic()
        self.status: int | None = None
        self.peak = 0

    def is_running(self) -> bool:
        """Look after a moment, which is longer in a long run."""
        time.sleep(min(1, (time.monotonic() - self.start) / 20 + 0.01))
        if self.status is not None:
            return False
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
        return self.path.read_text()[-2000:]

    @property
    def driver(self) -> int:
        """What the process itself took at most, in bytes, without its workers."""
        found = re.search(r'^at most (\d+) bytes$', self.output(), re.M)
        return int(found[1]) if found else 0


def report(state: State) -> str:
    facts = state.facts
    return (
        f'killed {facts["kills"]} times; {state.cases / facts["seconds"]:.0f} pictures/s, '
        f'{facts["peak"] / 1e6:.0f} MB at most; verified: '
        f'{state.cases / facts["verify_seconds"]:.0f} pictures/s, '
        f'{facts["verify_peak"] / 1e6:.0f} MB'
    )
