# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What encrypting a data set costs, and how much memory it takes.

Throughput of one core is compared, picture by picture in one run, with
reading the same files and writing them as PNG without any cipher; with
``--whole`` that of a whole run with a loop that seals, encodes and writes and
does nothing else, two workers with one, beside what two such loops get at once
on this machine, and with ``--before`` this checkout with another.  Times depend
on the machine; quote the ratios.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

import hime_mm
from hime_mm.ciphers import Key
from hime_mm.encryption.job import Item, Job
from hime_mm.encryption.run import encrypt_folder
from hime_mm.encryption.worker import seal_item
from hime_mm.images import Recipe, seal
from hime_mm.images.codec import EXTENSIONS, encode_image, read_image
from hime_mm.images.sizing import fit_image

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CIPHERS = (
    'paper-rs',
    'paper-mi',
    'mix2+shuffle',
    'center+shuffle',
    'center+erode2+shuffle',
    'drop50+shuffle',
    'noise25+shuffle',
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Throughput and memory of `hime encrypt`')
    parser.add_argument('folder', help='pictures to encrypt')
    parser.add_argument('--ciphers', nargs='+', default=CIPHERS)
    parser.add_argument('--number', type=int, default=80, help='of pictures')
    parser.add_argument('--repeats', type=int, default=3, help='the best of them counts')
    parser.add_argument('--compression', type=int, help="PNG level, 0 to 9, else OpenCV's")
    parser.add_argument(
        '--memory',
        type=int,
        nargs='*',
        default=[],
        metavar='N',
        help='also encrypt data sets of N pictures (links to these) and show '
        'the peak memory of the main process and of a worker',
    )
    parser.add_argument(
        '--whole',
        type=int,
        default=0,
        metavar='N',
        help='also time whole runs of N pictures (links to these), in turns, as often as --repeats',
    )
    parser.add_argument(
        '--before',
        metavar='FOLDER',
        help='with --whole: another checkout, whose hime_mm encrypts the same pictures',
    )
    return parser.parse_args()


def pictures(folder: str, number: int) -> list[str]:
    names = sorted(
        name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in EXTENSIONS
    )
    if not names:
        raise SystemExit(f'no pictures in {folder}')
    return names[:number]


def without_cipher(src: str, out: str, name: str, compression: int | None) -> int:
    """Read, fit and write one picture; bytes that were written."""
    img, _ = fit_image(read_image(os.path.join(src, name)), 16)
    data = encode_image(img, 'png', compression)
    write(os.path.join(out, f'{name}.png'), data)
    return len(data)


def write(path: str, data: bytes) -> None:
    with open(path, 'wb') as file:
        file.write(data)


def throughput(args: argparse.Namespace) -> None:
    names, key = pictures(args.folder, args.number), Key.generate()
    seconds: dict[str | None, float] = dict.fromkeys([None, *args.ciphers], 0.0)
    sizes, alone = dict.fromkeys(seconds, 0), dict.fromkeys(seconds, 0.0)
    with tempfile.TemporaryDirectory() as out:
        jobs = {
            cipher: Job(
                args.folder,
                os.path.join(out, str(i)),
                Recipe.build(cipher, compression=args.compression),
                'benchmark',
            )
            for i, cipher in enumerate(args.ciphers)
        }
        for n, name in enumerate(tqdm(names, desc='throughput')):
            # Another one goes first each time.
            order = list(seconds)
            order = order[n % len(order) :] + order[: n % len(order)]
            best, written = dict.fromkeys(order, float('inf')), {}
            cheapest: dict[str | None, float] = {}
            img, _ = fit_image(read_image(os.path.join(args.folder, name)), 16)
            for cipher in order * args.repeats:
                start = time.process_time()
                if cipher is None:
                    size = without_cipher(args.folder, out, name, args.compression)
                else:
                    sealed = seal_item(jobs[cipher], key, (Item(name, name), None))
                    (data,) = sealed.files
                    write(os.path.join(out, f'{name}.png'), data)
                    size = len(data)
                best[cipher] = min(best[cipher], time.process_time() - start)
                written[cipher] = size
                if cipher is not None:
                    start = time.process_time()
                    rng = key.image_rng('benchmark', name)
                    seal(img, jobs[cipher].recipe, rng)
                    spent = time.process_time() - start
                    cheapest[cipher] = min(cheapest.get(cipher, spent), spent)
            for cipher in order:
                seconds[cipher] += best[cipher]
                sizes[cipher] += written[cipher]
                alone[cipher] += cheapest.get(cipher, 0)
    level = args.compression
    print(f'{len(names)} pictures, PNG level {"default" if level is None else level}, one core')
    print(f'{"":28}{"ms/image":>10}{"images/s":>10}{"x time":>8}{"cipher":>8}{"x size":>8}')
    for cipher, spent in seconds.items():
        print(
            f'{cipher or "no cipher":28}{1e3 * spent / len(names):10.1f}'
            f'{len(names) / spent:10.1f}{spent / seconds[None]:8.2f}'
            f'{alone[cipher] / seconds[None]:8.1%}{sizes[cipher] / sizes[None]:8.2f}'
        )


class Fixed:
    """Bytes that cost nothing."""

    def __init__(self) -> None:
        self.data, self.at = os.urandom(1 << 22), 0

    def read(self, num: int) -> bytes:
        if self.at + num > len(self.data):
            self.at = 0
        self.at += num
        return self.data[self.at - num : self.at]


def loop(src: str, out: str, cipher: str, part: int = 0, parts: int = 1) -> None:
    """Read, seal, encode and write; no keys, hashes and records."""
    cv2.setNumThreads(1)
    recipe, rng = Recipe.build(cipher), Fixed()
    os.makedirs(out, exist_ok=True)
    for name in sorted(os.listdir(src))[part::parts]:
        sealed = seal(read_image(os.path.join(src, name)), recipe, rng)
        path = os.path.join(out, f'{os.path.splitext(name)[0]}.png')
        write(path, encode_image(sealed.img, recipe.fmt, recipe.compression))


def loops(src: str, out: str, cipher: str, number: int) -> dict:
    """So many loops at once, each over a part of the pictures; without what their start takes."""
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(number, context) as pool:
        list(pool.map(time.sleep, [2] * number))  # until all have started
        start = time.perf_counter()
        list(
            pool.map(
                loop, [src] * number, [out] * number, [cipher] * number, range(number),
                [number] * number,
            )
        )  # fmt: skip
        wall = time.perf_counter() - start
    return dict(wall=wall, cpu=wall)


def run(src: str, out: str, cipher: str, storage: str) -> None:
    encrypt_folder(src, out, cipher, key=Key.generate(), storage=storage, workers=0, progress=False)


#: What both checkouts and all numbers of workers are measured with, in a process of its own.
_RUN = """
import json, os, re, resource, sys, time

def peak(usage):
    return usage.ru_maxrss / 1024

def main():
    import cv2
    import hime_mm
    from hime_mm.apis import encrypt_folder
    from hime_mm.ciphers import Key

    src, out, cipher, options = sys.argv[1:]
    cv2.setNumThreads(1)
    wall, cpu = time.perf_counter(), time.process_time()
    summary = encrypt_folder(
        src, out, cipher, key=Key.generate(), progress=False, **json.loads(options)
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    main = peak(resource.getrusage(resource.RUSAGE_SELF))
    if os.path.exists('/proc/self/status'):  # of this program alone
        main = int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]) / 1024
    print(json.dumps(dict(
        place=os.path.dirname(os.path.dirname(os.path.abspath(hime_mm.__file__))),
        wall=wall, cpu=cpu, files=summary.files, main=main,
        worker=peak(resource.getrusage(resource.RUSAGE_CHILDREN)),
    )))

if __name__ == '__main__':
    main()
"""


def measure(checkout: str, src: str, out: str, cipher: str, **options: Any) -> dict:
    """Encrypt in a process of its own, with the package of a checkout."""
    checkout = os.path.abspath(checkout)
    done = subprocess.run(
        [sys.executable, '-c', _RUN, os.path.abspath(src), out, cipher, json.dumps(options)],
        cwd=checkout,
        env=dict(os.environ, PYTHONPATH=checkout, OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    if os.path.realpath(found['place']) != os.path.realpath(checkout):
        raise SystemExit(f'hime_mm was taken from {found["place"]} in place of {checkout}')
    return found


def link(folder: str, names: list[str], src: str, number: int) -> str:
    """A folder of so many links to pictures."""
    os.mkdir(src)
    for i in range(number):
        name = names[i % len(names)]
        os.symlink(
            os.path.abspath(os.path.join(folder, name)),
            os.path.join(src, f'{i:08d}{os.path.splitext(name)[1]}'),
        )
    return src


def in_turns(ways: dict[str, Callable[[str], dict]], repeats: int, folder: str) -> dict:
    """Do all ways, another one first each time; of each the times of all rounds."""
    found: dict[str, list[dict]] = {name: [] for name in ways}
    order = list(ways)
    for n in tqdm(range(repeats), desc='rounds'):
        for name in order[n % len(order) :] + order[: n % len(order)]:
            out = os.path.join(folder, 'out')
            found[name].append(ways[name](out))
            shutil.rmtree(out)
    return found


def timed(function: Callable, *args: Any) -> dict:
    wall, cpu = time.perf_counter(), time.process_time()
    function(*args)
    return dict(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def show(title: str, found: dict, number: int) -> None:
    """Times of all ways beside those of the first."""
    print(f'\n{title}; ratios are best / median of the rounds')
    print(f'{"":28}{"images/s":>10}{"x CPU":>16}{"x wall":>16}')
    first = next(iter(found))
    for name, rounds in found.items():
        ratios = []
        for clock in ('cpu', 'wall'):
            times, others = ([r[clock] for r in some] for some in (rounds, found[first]))
            middle = statistics.median(a / b for a, b in zip(times, others, strict=True))
            ratios.append(f'{min(times) / min(others):8.3f} /{middle:6.3f}')
        print(f'{name:28}{number / min(r["wall"] for r in rounds):10.1f}{"".join(ratios)}')


def whole(args: argparse.Namespace) -> None:
    """Whole runs: against a loop, with more workers, and of another checkout."""
    cipher, number = args.ciphers[0], args.whole
    with tempfile.TemporaryDirectory() as folder:
        src = link(
            args.folder, pictures(args.folder, args.number), os.path.join(folder, 'src'), number
        )
        found = in_turns(
            {
                'loop': lambda out: timed(loop, src, out, cipher),
                'encrypt_folder, files': lambda out: timed(run, src, out, cipher, 'files'),
                'encrypt_folder, tar': lambda out: timed(run, src, out, cipher, 'tar'),
            },
            args.repeats,
            folder,
        )
        show(f'{cipher}, {number} pictures, one core', found, number)
        found = in_turns(
            {
                f'{storage}, {workers} worker{"s"[: workers - 1]}': partial(
                    _measured, src, cipher, workers=workers, storage=storage
                )
                for storage in ('files', 'tar')
                for workers in (1, 2)
            },
            args.repeats,
            folder,
        )
        for storage in ('files', 'tar'):
            some = {name: rounds for name, rounds in found.items() if name.startswith(storage)}
            show(f'{cipher}, {number} pictures, CPU of the main process', some, number)
        found = in_turns(
            {
                f'{n} loop{"s"[: n - 1]}': partial(loops, src, cipher=cipher, number=n)
                for n in (1, 2)
            },
            args.repeats,
            folder,
        )
        show(f'{cipher}, {number} pictures, what this machine allows; no CPU', found, number)
        if args.before:
            found = in_turns(
                {
                    'before': lambda out: measure(args.before, src, out, cipher, workers=0),
                    'now': lambda out: measure(_ROOT, src, out, cipher, workers=0),
                    'now, tar': lambda out: measure(
                        _ROOT, src, out, cipher, workers=0, storage='tar'
                    ),
                },
                args.repeats,
                folder,
            )
            show(f'{cipher}, {number} pictures, against {args.before}', found, number)


def _measured(src: str, cipher: str, out: str, **options: Any) -> dict:
    return measure(_ROOT, src, out, cipher, **options)


def memory(args: argparse.Namespace) -> None:
    """Peak memory against the number of pictures, each in a new process."""
    names = pictures(args.folder, args.number)
    print('\nresize 64x64, paper-rs, two worker processes')
    print(f'{"pictures":>10}{"":>8}{"main MiB":>10}{"worker MiB":>12}{"images/s":>10}')
    for number in args.memory:
        for storage in ('files', 'tar'):
            with tempfile.TemporaryDirectory() as folder:
                src = link(args.folder, names, os.path.join(folder, 'src'), number)
                found = measure(
                    _ROOT,
                    src,
                    os.path.join(folder, 'out'),
                    'paper-rs',
                    preprocess=dict(resize=(64, 64)),
                    workers=2,
                    storage=storage,
                )
            print(
                f'{number:10d}{storage:>8}{found["main"]:10.1f}{found["worker"]:12.1f}'
                f'{found["files"] / found["wall"]:10.1f}'
            )


def main() -> None:
    args = parse_args()
    cv2.setNumThreads(1)
    print(
        f'hime_mm {hime_mm.__version__}, numpy {np.__version__}, opencv '
        f'{cv2.__version__}, Python {platform.python_version()}, '
        f'{os.cpu_count()} CPUs'
    )
    throughput(args)
    if args.whole:
        whole(args)
    if args.memory:
        memory(args)


if __name__ == '__main__':
    main()
