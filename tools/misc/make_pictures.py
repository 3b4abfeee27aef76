# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Make the README's pictures from a public-domain photo."""

import argparse
import os

import cv2
import numpy as np

from hime_mm.ciphers import Cipher, split_patches
from hime_mm.visualization import side_by_side, stack_rows


def parse_args():
    parser = argparse.ArgumentParser(description='Show what each cipher leaves of a photo')
    parser.add_argument('--image', help="an image file (default: scikit-image's astronaut)")
    parser.add_argument('--height', type=int, default=480, help='height in pixels to encrypt')
    parser.add_argument(
        '--ciphers',
        nargs='+',
        default=('shuffle', 'mix2', 'mix4', 'mix2+shuffle'),
        help='what to show beside the original',
    )
    parser.add_argument('--columns', type=int, default=3)
    parser.add_argument('--panel', type=int, default=320, help='height of a panel in pixels')
    parser.add_argument(
        '--no-means', action='store_true', help='without the patch means as the last panel'
    )
    parser.add_argument('--output', '-o', default='docs/images/ciphers.jpg')
    return parser.parse_args()


def save(picture: np.ndarray, place: str) -> None:
    """Write an RGB picture, and say where."""
    os.makedirs(os.path.dirname(place) or '.', exist_ok=True)
    if not cv2.imwrite(place, picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88]):
        raise SystemExit(f'could not write {place}')
    print(place)


def main():
    args = parse_args()
    if args.image is None:
        from skimage.data import astronaut

        image = astronaut()
    else:
        image = cv2.imread(args.image, cv2.IMREAD_COLOR)
        if image is None:
            raise SystemExit(f'cannot read {args.image} as an image')
        image = image[..., ::-1]
    rows = max(args.height // 16, 1)
    cols = max(round(image.shape[1] * args.height / image.shape[0]) // 16, 1)
    image = cv2.resize(
        np.ascontiguousarray(image), (cols * 16, rows * 16), interpolation=cv2.INTER_AREA
    )
    rng = np.random.default_rng(0)
    parts = {'original': image}
    for text in args.ciphers:
        parts[f'"{text}"'] = Cipher(text).encrypt(image, rng)[0]
    if not args.no_means:
        means = split_patches(image, 16).mean((1, 2)).reshape(rows, cols, 3)
        parts['the patch means that mix leaves'] = means
    names = list(parts)
    picture = stack_rows(
        [
            side_by_side([parts[n] for n in row], row, height=args.panel)
            for row in (names[i : i + args.columns] for i in range(0, len(names), args.columns))
        ]
    )
    save(picture, args.output)


if __name__ == '__main__':
    main()
