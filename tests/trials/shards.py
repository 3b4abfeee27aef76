# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Tar shards of tiny pictures, a tenth also killed, on Ray, in two jobs: the same bytes

The memory of the process that hands out the shards is that of a tenth.
"""

import hashlib
import random
import secrets
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from owner_data import hime_env, key_file

from .fuzzing import die_with_parent
from .million import (
    _BYTES,
    Process,
    Records,
    check_encrypted,
    is_original,
    make_pictures,
    output_of,
    run_killed,
)
from .state import State

CASES = 1_000_000
UNIT = 'pictures'
KILLS = 5
#: Bytes that the process may take that hands out the shards, and how much more of them for
#: ten times the pictures.
LIMIT, _GROWTH = 300_000_000, 1.2
_DATASET = 'shards'
#: Pictures of the tenth: with fewer nobody is killed in time.
_LEAST = 2000
_SAMPLED_TARS, _SAMPLE = 5, 40
#: A cluster of Ray in a process of its own, which ends when its input does.
_CLUSTER = """
import os, sys
os.environ['RAY_USAGE_STATS_ENABLED'] = '0'
import ray
context = ray.init(
    num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False
)
print(context.address_info['gcs_address'], flush=True)
sys.stdin.read()
"""


def steps(state: State, folder: Path) -> Iterator[None]:
    if shutil.disk_usage(folder).free < _BYTES * state.cases * 3 / 2:
        raise SystemExit(f'{folder} has no room for {state.cases} pictures')
    key = folder / 'key'
    if not key.exists():
        key_file(key)
    few = min(max(state.cases // 10, _LEAST), state.cases)
    make_pictures(folder / 'src', state.cases)
    make_pictures(folder / 'few', few)
    ends = state.facts.setdefault('ends', [])
    for stage in (whole, killed, on_ray, in_two_jobs, all_of_them):
        if stage.__name__ in ends:
            continue
        out = folder / stage.__name__
        shutil.rmtree(out, ignore_errors=True)
        for _ in stage(state, folder, out, few):
            yield
        ends.append(stage.__name__)
        state.done = min(len(ends) * state.cases // 5, state.cases - 1)
        yield
    for name in ('src', 'few', *ends):
        shutil.rmtree(folder / name)
    state.done = state.cases
    yield


def arguments(*command: str, src: Path, out: Path) -> list:
    return [
        *('encrypt', *command, 'folder', src, out, '-c', 'shuffle', '--format', 'tar'),
        *('--key', src.parent / 'key', '--dataset-id', _DATASET, '-q'),
    ]


def whole(state: State, folder: Path, out: Path, few: int) -> Iterator[None]:
    """The tenth, without an interruption: what others are compared with."""
    process = Process(out, [*arguments(src=folder / 'few', out=out), '-j', '1'])
    while process.is_running():
        yield
    check_encrypted(state, out, few)
    state.facts.update(few=few, few_driver=process.driver)


def killed(state: State, folder: Path, out: Path, few: int) -> Iterator[None]:
    args = [*arguments(src=folder / 'few', out=out), '-j', '1']
    # Of this stage, which begins anew if the trial is killed.
    facts = state.facts['killed'] = dict(kills=0, seconds=0.0, peak=0)
    for _ in run_killed(args, out, few, KILLS, facts):
        yield
    if facts['kills'] != KILLS:
        state.add_failure(0, f'killed {facts["kills"]} times in place of {KILLS}')
    check_encrypted(state, out, few)
    compare(state, out)


def on_ray(state: State, folder: Path, out: Path, few: int) -> Iterator[None]:
    """Two workers, of which one is killed while it is at a shard."""
    # Newer releases let in who knows it, and nobody else.
    env = dict(RAY_AUTH_MODE='token', RAY_AUTH_TOKEN=secrets.token_hex(32))
    with subprocess.Popen(
        [sys.executable, '-c', _CLUSTER],
        env=hime_env(**env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=die_with_parent,
    ) as cluster:
        address = cluster.stdout.readline().strip()
        process = Process(out, [*arguments(src=folder / 'few', out=out), '--ray', address], **env)
        records, victim = Records(out), None
        while process.is_running():
            if victim is None and few / 4 < records.count() < few:
                victim = kill_one(cluster.pid)
            yield
        cluster.stdin.close()
    state.facts['ray_workers'] = 0 if victim is None else 1
    if victim is None:
        state.add_failure(0, 'no worker of Ray was killed')
    check_encrypted(state, out, few)
    compare(state, out)


def kill_one(pid: int) -> int | None:
    """Kill a worker of Ray that is at a shard."""
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if 'call_shard' in ' '.join(process.cmdline()):
                process.kill()
                return process.pid
        except psutil.Error:
            continue
    return None


def in_two_jobs(state: State, folder: Path, out: Path, few: int) -> Iterator[None]:
    """The tasks of an array job, at the same time, and then the end."""
    plan = Process(out, arguments('plan', src=folder / 'few', out=out), 'plan')
    while plan.is_running():
        yield
    common = ['--key', folder / 'key', '-q']
    jobs = [
        Process(out, ['encrypt', 'run', out, '--shards', f'{i}/2', '-j', '1', *common], f'part_{i}')
        for i in (1, 2)
    ]
    while any([job.is_running() for job in jobs]):  # noqa: C419 (all are waited for)
        yield
    end = Process(out, ['encrypt', 'finish', out, *common])
    while end.is_running():
        yield
    for process in (plan, *jobs):
        if process.status:
            state.add_failure(0, f'{process.path.name} has status {process.status}')
    check_encrypted(state, out, few)
    compare(state, out)


def all_of_them(state: State, folder: Path, out: Path, few: int) -> Iterator[None]:
    process = Process(out, [*arguments(src=folder / 'src', out=out), '-j', '1'])
    records = Records(out)
    while process.is_running():
        state.done = max(state.done, min((4 * state.cases + records.count()) // 5, state.cases - 1))
        yield
    driver = process.driver
    state.facts.update(driver=driver, seconds=process.lap())
    check_encrypted(state, out, state.cases)
    if not driver or driver > LIMIT:
        state.add_failure(0, f'more than {LIMIT} bytes', str(driver))
    if driver > _GROWTH * state.facts['few_driver']:
        state.add_failure(0, 'memory grows with the pictures', f'{state.facts}')
    for path in sample(state.cases, out, folder / 'src'):
        state.add_failure(0, f'the independent decoder gets other pixels of {path}')


def sample(seed: int, out: Path, src: Path) -> list[str]:
    """Some pictures of some tars that are not those of the source."""
    rng, wrong = random.Random(seed), []
    tars = sorted(out.glob('hime-*.tar'))
    for path in rng.sample(tars, min(_SAMPLED_TARS, len(tars))):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for member in rng.sample(members, min(_SAMPLE, len(members))):
                data = tar.extractfile(member).read()
                if not is_original(member.name, data, src, _DATASET):
                    wrong.append(member.name)
    return wrong if tars else ['all, since there are none']


def compare(state: State, out: Path) -> None:
    """Keep it as a failure if a data set has other bytes than that of :func:`whole`."""
    one, other = digests(out.with_name('whole')), digests(out)
    names = sorted(name for name in one | other if one.get(name) != other.get(name))
    if names or not one:
        text = f'{len(names)} files, such as {names[:5]}; {output_of(out).read_text()[-1000:]}'
        state.add_failure(0, f'other bytes: {out.name}', text)


def digests(out: Path) -> dict[str, str]:
    found = {}
    for path in sorted(path for path in out.rglob('*') if path.is_file()):
        found[str(path.relative_to(out))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def report(state: State) -> str:
    facts = state.facts
    return (
        f'{state.cases / facts["seconds"]:.0f} pictures/s, {facts["driver"] / 1e6:.0f} MB, of '
        f'{facts["few"]:,} {facts["few_driver"] / 1e6:.0f} MB; killed {facts["killed"]["kills"]} '
        f'times, {facts["ray_workers"]} of 2 workers of Ray killed, two jobs: compared'
    )
