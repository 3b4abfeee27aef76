# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How fast the ciphers are, as ratios measured in one run.

RS is timed with its index and the check of the permutation, the random draw
aside.  Times depend on the machine; quote the ratios.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from skimage.data import astronaut

import hime_mm
from hime_mm.ciphers import draw_permutation, mix_patches, shuffle_patches


class Timing(NamedTuple):
    name: str
    best: float
    median: float


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Time the ciphers against references in one run')
    parser.add_argument('--height', type=int, default=800)
    parser.add_argument('--width', type=int, default=1328)
    parser.add_argument('--patch-size', type=int, default=16)
    parser.add_argument('--repeats', type=int, default=100, help='timed calls of each row')
    parser.add_argument('--image', help="photograph to use instead of scikit-image's")
    parser.add_argument('--quality', type=int, default=90, help='of the JPEG to decode')
    args = parser.parse_args()
    if min(args.height, args.width, args.patch_size, args.repeats) < 1:
        parser.error('all numbers must be positive')
    if args.height % args.patch_size or args.width % args.patch_size:
        parser.error(
            f'{args.height}x{args.width} is no multiple of the patch size {args.patch_size}'
        )
    if args.patch_size % 2:
        parser.error('mixing 2x2 needs an even patch size')
    return args


def photograph(height: int, width: int, path: str | None = None) -> np.ndarray:
    """A photograph of this size: tiled, so that its detail stays fine."""
    img = astronaut()[..., ::-1] if path is None else cv2.imread(path)
    if img is None:
        raise SystemExit(f'cannot read the image {path!r}')
    tiles = (-(-height // img.shape[0]), -(-width // img.shape[1]), 1)
    return np.ascontiguousarray(np.tile(img, tiles)[:height, :width])


def shuffle_by_loop(img: np.ndarray, perm: np.ndarray, p: int) -> np.ndarray:
    """As one writes it down from the definition."""
    cols = img.shape[1] // p
    out = np.empty_like(img)
    for slot in range(len(perm)):
        row, col = divmod(slot, cols)
        v, u = divmod(perm[slot], cols)
        out[row * p : (row + 1) * p, col * p : (col + 1) * p] = img[
            v * p : (v + 1) * p, u * p : (u + 1) * p
        ]
    return out


def shuffle_by_tuned_loop(img: np.ndarray, perm: np.ndarray, p: int) -> np.ndarray:
    """The same loop without NumPy's integers, which are slow one by one."""
    cols = img.shape[1] // p
    out = np.empty_like(img)
    for slot, patch in enumerate(perm.tolist()):
        y, x = slot // cols * p, slot % cols * p
        v, u = patch // cols * p, patch % cols * p
        out[y : y + p, x : x + p] = img[v : v + p, u : u + p]
    return out


def shuffle_by_reshape(img: np.ndarray, perm: np.ndarray, p: int) -> np.ndarray:
    rows, cols = img.shape[0] // p, img.shape[1] // p
    patches = img.reshape(rows, p, cols, p, -1).transpose(0, 2, 1, 3, 4)
    patches = patches.reshape(rows * cols, p, p, -1)[perm]
    patches = patches.reshape(rows, cols, p, p, -1).transpose(0, 2, 1, 3, 4)
    return patches.reshape(img.shape)


def mix_by_float_mean(img: np.ndarray, p: int) -> np.ndarray:
    rows, cols, s = img.shape[0] // p, img.shape[1] // p, p // 2
    parts = img.reshape(rows, 2, s, cols, 2, s, -1).astype(np.float32)
    mixed = np.floor(parts.mean((1, 4)) + 0.5).astype(img.dtype)
    return mixed.reshape(img.shape[0] // 2, img.shape[1] // 2, -1)


def time_all(calls: dict, repeats: int) -> list[Timing]:
    """Time the calls in turn, so that a busy moment hits all of them.

    Each one runs twice untimed before: caches and the allocator are warm as
    they are inside a loop over a data set.
    """
    seconds = {name: [] for name in calls}
    rounds = max(repeats // 10, 1)
    for _ in range(-(-repeats // rounds)):
        for name, call in calls.items():
            call()
            call()
            for _ in range(rounds):
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    return [Timing(name, min(values), float(np.median(values))) for name, values in seconds.items()]


def print_table(timings: list[Timing], reference: Timing) -> None:
    print(f'{"":<30}{"best ms":>9}{"median ms":>11}{"x " + reference.name:>24}')
    for name, best, median in timings:
        ratios = (best / reference.best, median / reference.median)
        print(
            f'{name:<30}{best * 1e3:>9.3f}{median * 1e3:>11.3f}'
            f'{ratios[0]:>13.2f} /{ratios[1]:>9.2f}'
        )
    print()


def print_target(
    text: str, best: float, median: float, reached: Callable[[float], bool], unit: str
) -> None:
    verdict = 'reached' if reached(best) and reached(median) else 'not reached'
    print(f'{text:<44} best {best:6.2f} {unit}, median {median:6.2f} {unit}: {verdict}')


def main() -> None:
    args = parse_args()
    # Compared on one core; what OpenCV decodes with as well.
    cv2.setNumThreads(1)
    p = args.patch_size
    img = photograph(args.height, args.width, args.image)
    perm = draw_permutation(args.height * args.width // p**2)
    out = np.empty_like(img)
    quality = [cv2.IMWRITE_JPEG_QUALITY, args.quality]
    jpeg = cv2.imencode('.jpg', img, quality)[1]

    shuffled = shuffle_patches(img, perm, p)
    mixed = mix_patches(img, p, 2)
    np.testing.assert_array_equal(shuffled, shuffle_by_loop(img, perm, p))
    for other in (shuffle_by_tuned_loop, shuffle_by_reshape):
        np.testing.assert_array_equal(shuffled, other(img, perm, p))
    np.testing.assert_array_equal(mixed, mix_by_float_mean(img, p))

    print(
        f'hime_mm {hime_mm.__version__}, numpy {np.__version__}, opencv '
        f'{cv2.__version__}, Python {platform.python_version()}, '
        f'{os.cpu_count()} CPUs'
    )
    print(
        f'{args.height}x{args.width}x3 uint8, patches of {p}, '
        f'{args.repeats} repeats, JPEG of quality {args.quality} with '
        f'{8 * jpeg.size / (args.height * args.width):.1f} bits a pixel; '
        'ratios are best / median\n'
    )

    shuffles = time_all(
        {
            'copy': lambda: np.copyto(out, img),
            'img.copy()': img.copy,
            'RS': lambda: shuffle_patches(img, perm, p),
            'RS, out=': lambda: shuffle_patches(img, perm, p, out=out),
            'RS, per-patch loop': lambda: shuffle_by_loop(img, perm, p),
            'RS, per-patch loop, tuned': lambda: shuffle_by_tuned_loop(img, perm, p),
            'RS, reshape and transpose': lambda: shuffle_by_reshape(img, perm, p),
        },
        args.repeats,
    )
    mixes = time_all(
        {
            'JPEG decode': lambda: cv2.imdecode(jpeg, cv2.IMREAD_COLOR),
            'MI, g = 2': lambda: mix_patches(img, p, 2),
            'MI, float mean': lambda: mix_by_float_mean(img, p),
        },
        args.repeats,
    )
    print_table(shuffles, shuffles[0])
    print_table(mixes, mixes[0])

    copy, _, rs, rs_out, loop, _, _ = shuffles
    decode, mix, _ = mixes
    for timing in (rs, rs_out):
        print_target(
            f'{timing.name} <= 4 x copy',
            timing.best / copy.best,
            timing.median / copy.median,
            lambda x: x <= 4,
            'x',
        )
    print_target(
        'RS >= 15 x faster than the loop',
        loop.best / rs.best,
        loop.median / rs.median,
        lambda x: x >= 15,
        'x',
    )
    print_target(
        'MI <= 12 % of the JPEG decode',
        100 * mix.best / decode.best,
        100 * mix.median / decode.median,
        lambda x: x <= 12,
        '%',
    )


if __name__ == '__main__':
    main()
