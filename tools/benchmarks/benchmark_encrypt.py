# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What encrypting a data set costs, and how much memory it takes.

Throughput of one core is compared, picture by picture in one run, with
reading the same files and writing them as PNG without any cipher.  Times
depend on the machine; quote the ratios.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np
from tqdm import tqdm

import hime_mm
from hime_mm.ciphers import Key
from hime_mm.encryption.job import Item, Job
from hime_mm.encryption.worker import encrypt_item
from hime_mm.images import Recipe, seal
from hime_mm.images.codec import EXTENSIONS, encode_image, read_image
from hime_mm.images.sizing import fit_image

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
    parser.add_argument('--measure', help=argparse.SUPPRESS)
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
    with open(os.path.join(out, f'{name}.png'), 'wb') as file:
        file.write(data)
    return len(data)


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
                    done = encrypt_item(jobs[cipher], key, (Item(name, name), None))
                    size = done['rows'][0]['size']
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


def memory(args: argparse.Namespace) -> None:
    """Peak memory against the number of pictures, each in a new process."""
    names = pictures(args.folder, args.number)
    print(
        f'\nresize 64x64, paper-rs, two worker processes\n'
        f'{"pictures":>10}{"main MiB":>10}{"worker MiB":>12}'
        f'{"images/s":>10}'
    )
    for number in args.memory:
        with tempfile.TemporaryDirectory() as folder:
            src = os.path.join(folder, 'src')
            os.mkdir(src)
            for i in range(number):
                name = names[i % len(names)]
                os.symlink(
                    os.path.abspath(os.path.join(args.folder, name)),
                    os.path.join(src, f'{i:08d}{os.path.splitext(name)[1]}'),
                )
            text = subprocess.run(
                [sys.executable, __file__, src, '--measure', folder],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        main, worker, rate = text.split()
        print(f'{number:10d}{float(main):10.1f}{float(worker):12.1f}{float(rate):10.1f}')


def measure(src: str, folder: str) -> None:
    """Encrypt in two processes, and print what they took at most."""
    from hime_mm.apis import encrypt_folder

    summary = encrypt_folder(
        src,
        os.path.join(folder, 'out'),
        'paper-rs',
        key=Key.generate(),
        preprocess=dict(resize=(64, 64)),
        workers=2,
        progress=False,
    )
    usage = [
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(*usage, summary.files / summary.seconds)


def main() -> None:
    args = parse_args()
    if args.measure:
        measure(args.folder, args.measure)
        return
    cv2.setNumThreads(1)
    print(
        f'hime_mm {hime_mm.__version__}, numpy {np.__version__}, opencv '
        f'{cv2.__version__}, Python {platform.python_version()}, '
        f'{os.cpu_count()} CPUs'
    )
    throughput(args)
    if args.memory:
        memory(args)


if __name__ == '__main__':
    main()
