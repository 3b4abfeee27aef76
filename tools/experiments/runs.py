# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What experiments share: runs of many configs, kept in a folder, and their table."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]


def environment(*hosts: str) -> dict:
    """What the numbers depend on; `hosts` are packages, beside those of every run."""
    import numpy
    import torch

    import hime_mm

    commit = subprocess.run(
        ['git', 'describe', '--always', '--dirty'], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    device = platform.processor() or platform.machine()
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    elif Path('/proc/cpuinfo').is_file():
        device = next(
            (
                line.split(':')[1].strip()
                for line in Path('/proc/cpuinfo').read_text().splitlines()
                if line.startswith('model name')
            ),
            device,
        )
    return dict(
        hime_mm=hime_mm.__version__,
        commit=commit,
        python=platform.python_version(),
        torch=torch.__version__,
        **{name: import_module(name).__version__ for name in (*hosts, 'mmengine')},
        numpy=numpy.__version__,
        device=device,
    )


def call(tool: str, *args: str, log: Path) -> None:
    """Run one of our tools; its output goes to a file."""
    with open(log, 'a') as out:
        code = subprocess.run(
            [sys.executable, str(ROOT / tool), *args],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        ).returncode
    if code:
        raise RuntimeError(f'{tool} failed with exit status {code}: see {log}')


def scalars(folder: Path, key: str) -> list[dict]:
    """All validations that the runner logged, oldest file first."""
    lines = []
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            if f'"{key}"' in line:
                lines.append(json.loads(line))
    return lines


def train(config: Path, folder: Path, key: str, epochs: int) -> tuple[dict, list]:
    """Train, or go on with it.

    Args:
        config (Path): The config.
        folder (Path): Its work directory.
        key (str): The metric whose curve is wanted.
        epochs (int): The last epoch, which is validated.

    Returns:
        tuple[dict, list]: The last validation, and [epoch, metric] of each.

    Raises:
        RuntimeError: If the training fails, or its end has no such metric.
    """
    log = folder / 'output.txt'
    call('tools/train.py', str(config), '--work-dir', str(folder), '--resume', log=log)
    lines = scalars(folder, key)
    # CocoMetric gives none where nothing was detected.
    if not lines or lines[-1]['step'] != epochs:
        raise RuntimeError(f'epoch {epochs} has no {key}: see {log}')
    # A resumed run logs an epoch again at most.
    return lines[-1], sorted({line['step']: line[key] for line in lines}.items())


def test(config: Path, folder: Path, weights: Path) -> dict:
    """Test a checkpoint; the metrics."""
    log = folder / 'output.txt'
    call('tools/test.py', str(config), str(weights), '--work-dir', str(folder), log=log)
    # Where MMEngine leaves the metrics of a test.
    newest = max(path for path in folder.glob('2*') if path.is_dir())
    return json.loads((newest / f'{newest.name}.json').read_text())


def run_one(
    cfg: Config, folder: Path, work: Callable[[Path], dict], hosts: Sequence[str] = ()
) -> None:
    """Do one run, or go on with it, unless its result is there.

    Args:
        cfg (Config): Written beside the folder: the runner writes its own there.
        folder (Path): Gets all else, ``result.json`` last.
        work (Callable): Gets the path of the config, gives the result.
        hosts (Sequence[str]): Packages to name in the result.

    Raises:
        RuntimeError: If what is there is of other settings, or a tool fails.
    """
    done = folder / 'result.json'
    config = folder.with_suffix('.py')
    if config.is_file() and config.read_text() != cfg.pretty_text:
        raise RuntimeError(
            f'{config} is of other settings than those of now: delete it and '
            f'{folder}, or name another --work-dir'
        )
    if done.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(cfg.pretty_text)
    start = time.time()
    spent = folder / 'seconds.txt'
    if spent.is_file():
        # Of the parts before.
        start -= float(spent.read_text())
    try:
        result = work(config)
        result |= dict(seconds=round(time.time() - start, 1), environment=environment(*hosts))
        part = done.with_suffix('.part')
        part.write_text(json.dumps(result, indent=1))
        os.replace(part, done)
    finally:
        spent.write_text(str(round(time.time() - start, 1)))


def run_all(tasks: Sequence[Callable[[], None]], jobs: int) -> None:
    """Do all of them, some at a time; the first that fails ends it."""
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            for future in tqdm(futures, desc='runs'):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def choose(rows: Sequence[Any], names: Sequence[str] | None) -> list:
    """The rows of these names, in their own order; None are all."""
    unknown = sorted(set(names or ()) - {row.name for row in rows})
    if unknown:
        raise SystemExit(f'unknown rows {unknown}: choose from {[row.name for row in rows]}')
    return [row for row in rows if not names or row.name in names]


def load_results(work_dir: Path, rows: Sequence[Any]) -> dict[str, list[dict]]:
    """The results of each row that has one."""
    found = {}
    for row in rows:
        runs = [
            json.loads(path.read_text())
            for path in sorted((work_dir / row.name).glob('seed*/result.json'))
        ]
        if runs:
            found[row.name] = runs
    if not found:
        raise SystemExit(f'no results in {work_dir}: use `run` first')
    return found


def mean_std(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation of the seeds, for a table."""
    mean = f'{statistics.mean(values):.{digits}f}'
    return mean if len(values) == 1 else f'{mean} ± {statistics.stdev(values):.{digits}f}'


def gap(runs: Sequence[dict], base: Sequence[dict] | None, key: str, digits: int = 1) -> str:
    """How much more than other runs, for a table; nothing without them."""
    if base is None or base is runs:
        return ''
    means = [statistics.mean(one[key] for one in some) for some in (runs, base)]
    return f'{means[0] - means[1]:+.{digits}f}'


def print_environment(results: dict[str, list[dict]]) -> None:
    """One line on what the runs depend on, and how long they took."""
    runs = [one for some in results.values() for one in some]
    for key in runs[0]['environment']:
        # More than one where runs were made at several times.
        values = sorted({str(one['environment'][key]) for one in runs})
        print(f'{key} {" / ".join(values)}', end=', ')
    print(f'{sum(one["seconds"] for one in runs) / 3600:.1f} hours of runs in all')


def make_parser(
    doc: str, profiles: dict, data_root: str, work_dir: str
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser, argparse.ArgumentParser]:
    """The commands `run` and `report`, with the options that all experiments have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    sub = parser.add_subparsers(dest='command', required=True)
    run = sub.add_parser('run', help='train and test the rows')
    run.add_argument('--data-root', default=data_root, help=f'default: {data_root}')
    run.add_argument('--rows', nargs='+', help='default: all')
    run.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    run.add_argument('--jobs', type=int, default=1, help='runs at a time (default: 1)')
    report = sub.add_parser('report', help='print the table')
    for command in (run, report):
        command.add_argument(
            '--profile',
            choices=sorted(profiles),
            default='gpu',
            help='; '.join(f'{k}: {v.about}' for k, v in profiles.items()),
        )
        command.add_argument('--work-dir', help=f'default: {work_dir}')
    return parser, run, report
