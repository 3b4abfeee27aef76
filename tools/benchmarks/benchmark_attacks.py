# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How long attacks take on one picture, as ratios to decoding it, measured in one run.

Learning is done before, on the pictures of scikit-image, and told apart. Times
depend on the machine; quote the ratios.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import scipy
from skimage import data

import hime_mm
from hime_mm.attacks.base import Evidence
from hime_mm.attacks.registry import all_attacks
from hime_mm.ciphers import Cipher

#: Attack, cipher that it is timed on.
ROWS = (
    ('jigsaw', 'shuffle'),
    ('jigsaw', 'center+erode2+shuffle'),
    ('paikin-tal', 'shuffle'),
    ('mosaic', 'mix2'),
    ('lmmse', 'mix2'),
    ('tv', 'mix2'),
    ('seams', 'center'),
    ('histogram', 'shuffle'),
    ('patch-hash', 'shuffle'),
    ('texture', 'shuffle'),
)
PUBLIC = ('chelsea', 'coffee', 'rocket')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Time attacks against decoding, in one run')
    parser.add_argument(
        '--sizes', nargs='+', default=['224x224', '640x480', '1328x800'], help='WIDTHxHEIGHT'
    )
    parser.add_argument('--repeats', type=int, default=3, help='timed calls of each row')
    parser.add_argument('--attacks', nargs='+', help='only these')
    parser.add_argument('--quality', type=int, default=90, help='of the JPEG to decode')
    return parser.parse_args()


def photograph(height: int, width: int) -> np.ndarray:
    """One photo, sized as a whole: tiles would fit each other."""
    img = np.ascontiguousarray(data.astronaut()[..., ::-1])
    return cv2.resize(img, (width, height), interpolation=cv2.INTER_AREA)


def seconds(call: Callable, repeats: int) -> float:
    """Median of some calls."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def main() -> None:
    args = parse_args()
    public = [np.ascontiguousarray(getattr(data, name)()[..., ::-1]) for name in PUBLIC]
    print(
        f'hime_mm {hime_mm.__version__}, numpy {np.__version__}, scipy {scipy.__version__}, '
        f'opencv {cv2.__version__}, Python {platform.python_version()}, {os.cpu_count()} CPUs'
    )
    for size in args.sizes:
        width, height = map(int, size.split('x'))
        img = photograph(height, width)
        _, jpeg = cv2.imencode('.jpg', img, [cv2.IMWRITE_JPEG_QUALITY, args.quality])
        decode = seconds(lambda: cv2.imdecode(jpeg, cv2.IMREAD_COLOR), 20)  # noqa: B023
        print(f'\n{size}, {width // 16 * (height // 16)} patches; decoding {1000 * decode:.2f} ms')
        print(f'{"":40} {"learn s":>9} {"guess s":>9} {"x decoding":>11}')
        for name, cipher in ROWS:
            if args.attacks and name not in args.attacks:
                continue
            cut = np.ascontiguousarray(img[: height // 16 * 16, : width // 16 * 16])
            encrypted, layout, _ = Cipher(cipher).encrypt(cut, np.random.default_rng(0))
            evidence = Evidence(
                [encrypted], [layout.public()], Cipher(cipher), public, gallery=[cut, *public]
            )
            attack = all_attacks()[name]()
            learn = seconds(lambda: attack.prepare(evidence), 1)  # noqa: B023
            guess = seconds(lambda: attack.guess(0), args.repeats)  # noqa: B023
            row = f'{name} on {cipher}'
            print(f'{row:40} {learn:9.2f} {guess:9.3f} {guess / decode:11.0f}', flush=True)


if __name__ == '__main__':
    main()
