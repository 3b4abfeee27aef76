# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a large data set will take: hours, bytes, and what one process does alone.

Some pictures of yours are encrypted on one core; as many tiny ones as
``--list`` says are planned, encrypted and merged, which is what does not get
faster with more cores.  The table multiplies these: it knows nothing of disks
and networks, and cores that share a machine get less each.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import cv2
import numpy as np
from benchmark_encrypt import link, pictures

from hime_mm.apis import Recipe, encrypt_shards, finish_dataset, plan_coco, plan_folder
from hime_mm.ciphers import Key
from hime_mm.images.codec import encode_image


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='What encrypting a large data set will take')
    parser.add_argument('folder', help='pictures such as those of the data set')
    parser.add_argument('--cipher', default='paper-rs')
    parser.add_argument('--resize', nargs=2, type=int, metavar=('W', 'H'))
    parser.add_argument('--format', choices=('png', 'webp'), default='png')
    parser.add_argument('--number', type=int, default=500, help='of pictures that are encrypted')
    parser.add_argument('--list', type=int, default=20000, help='of tiny ones that are merged')
    parser.add_argument(
        '--coco', type=int, default=0, metavar='N', help='also N tiny ones with 7 N boxes, as COCO'
    )
    parser.add_argument('--images', type=int, nargs='+', default=[1_331_167, 100_000_000])
    parser.add_argument('--cores', type=int, nargs='+', default=[1, 16, 256])
    return parser.parse_args()


def timed(function: Callable, *args: Any, **options: Any) -> float:
    start = time.perf_counter()
    function(*args, progress=False, **options)
    return time.perf_counter() - start


def in_stages(
    src: str, out: str, cipher: str, key: Key, planned: Callable = plan_folder, **options: Any
) -> dict:
    """Seconds of plan, shards and merging, and bytes of what is left."""
    found = dict(
        plan=timed(planned, src, out, cipher, key=key, storage='tar', **options),
        shards=timed(encrypt_shards, out, key=key),
        work=folder_size(os.path.join(out, '.hime-work')),
        finish=timed(finish_dataset, out, key=key),
        head=os.path.getsize(os.path.join(out, 'hime.json')),
    )
    names = os.listdir(out)
    for extension in ('.tar', '.json'):
        sizes = [
            os.path.getsize(os.path.join(out, name)) for name in names if name.endswith(extension)
        ]
        found[extension] = sum(sizes)
    found['shard_files'] = sum(name.endswith('.tar') for name in names)
    return found


def folder_size(folder: str) -> int:
    return sum(
        os.path.getsize(os.path.join(inside, name))
        for inside, _, names in os.walk(folder)
        for name in names
    )


def tiny(folder: str, number: int) -> str:
    """A folder of so many links to one picture of 16x16."""
    os.mkdir(folder)
    img = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    with open(os.path.join(folder, 'tiny.png'), 'wb') as file:
        file.write(encode_image(img))
    return link(folder, ['tiny.png'], os.path.join(folder, 'src'), number)


def annotated(folder: str, number: int) -> str:
    """A COCO data set of so many links to one picture, with seven boxes for each."""
    src = tiny(folder, number)
    names = sorted(os.listdir(src))
    images = [dict(id=i, file_name=name, height=16, width=16) for i, name in enumerate(names)]
    boxes = [
        dict(id=i, image_id=i // 7, category_id=1, bbox=[i % 7, 2.5, 4.25, 6.125], area=26.0)
        for i in range(7 * number)
    ]
    os.mkdir(os.path.join(folder, 'coco'))
    os.rename(src, os.path.join(folder, 'coco', 'val2017'))
    os.mkdir(os.path.join(folder, 'coco', 'annotations'))
    path = os.path.join(folder, 'coco', 'annotations', 'instances_val2017.json')
    with open(path, 'w', encoding='utf-8') as file:
        json.dump(dict(images=images, annotations=boxes, categories=[dict(id=1, name='a')]), file)
    return os.path.join(folder, 'coco')


def show_coco(number: int, cipher: str) -> None:
    """Rates of a COCO data set, and the memory of a process that does nothing else."""
    context = multiprocessing.get_context('spawn')
    with tempfile.TemporaryDirectory() as folder:
        src, out = annotated(os.path.join(folder, 'tiny'), number), os.path.join(folder, 'out')
        with ProcessPoolExecutor(1, context) as pool:
            found, peak = pool.submit(_with_peak, src, out, cipher).result()
    print(
        f'{number} tiny ones with {7 * number} boxes, as COCO: planned '
        f'{number / found["plan"]:.0f}, merged {number / found["finish"]:.0f} a second; '
        f'{peak:.0f} MiB at most'
    )


def _with_peak(src: str, out: str, cipher: str) -> tuple[dict, float]:
    found = in_stages(src, out, cipher, Key.generate(), plan_coco, shard_size=1000)
    return found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    args = parse_args()
    cv2.setNumThreads(1)
    key, options = Key.generate(), {} if args.resize is None else dict(resize=tuple(args.resize))
    Recipe.build(args.cipher, preprocess=options)
    with tempfile.TemporaryDirectory() as folder:
        src = link(
            args.folder, pictures(args.folder, 10**6), os.path.join(folder, 'src'), args.number
        )
        some = in_stages(
            src,
            os.path.join(folder, 'out'),
            args.cipher,
            key,
            preprocess=options,
            fmt=args.format,
        )
        many = in_stages(
            tiny(os.path.join(folder, 'tiny'), args.list),
            os.path.join(folder, 'merged'),
            args.cipher,
            key,
            shard_size=1000,
        )
    rate = args.number / some['shards']
    size = 'as they are' if args.resize is None else 'x'.join(map(str, args.resize))
    print(
        f'{args.cipher}, {args.format} in tars, {size}: {args.number} pictures, {rate:.1f} a '
        f'second on one core, {some[".tar"] / args.number / 1000:.1f} kB each'
    )
    print(
        f'{args.list} tiny ones in shards of 1000: planned {args.list / many["plan"]:.0f}, merged '
        f'{args.list / many["finish"]:.0f} a second; a picture takes '
        f'{(many[".json"] - many["head"]) / args.list:.0f} bytes of shard manifests and '
        f'{many["work"] / args.list:.0f} of the work folder, a shard '
        f'{many["head"] / many["shard_files"]:.0f} of hime.json'
    )
    print(
        f'\n{"pictures":>12}{"cores":>7}{"shards h":>11}{"plan h":>8}{"merge h":>9}{"TB":>9}',
        end='',
    )
    print(f'{"tars":>9}{"hime.json MB":>14}{"manifests GB":>14}{"work GB":>9}')
    for images in args.images:
        shards = -(-images // 1000)
        for cores in args.cores:
            print(
                f'{images:12d}{cores:7d}{images / rate / cores / 3600:11.2f}'
                f'{images * many["plan"] / args.list / 3600:8.2f}'
                f'{images * many["finish"] / args.list / 3600:9.2f}'
                f'{images * some[".tar"] / args.number / 1e12:9.3f}{shards:9d}'
                f'{shards * many["head"] / many["shard_files"] / 1e6:14.1f}'
                f'{images * (many[".json"] - many["head"]) / args.list / 1e9:14.2f}'
                f'{images * many["work"] / args.list / 1e9:9.2f}'
            )
    if args.coco:
        show_coco(args.coco, args.cipher)
    print(f'\nPython {platform.python_version()}, numpy {np.__version__}, opencv {cv2.__version__}')


if __name__ == '__main__':
    main()
