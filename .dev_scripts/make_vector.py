# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Print a test vector of a cipher for docs/format.md.

By the loops of the tests, without hime_mm: a new step is compared with it.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / 'tests' / 'test_ciphers'), str(ROOT)]

import loops  # noqa: E402
from test_format import NAMES, SECRET, image, raw, sha256, shown  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('cipher', help='with its patch size: negate/16')
    parser.add_argument('--shape', type=int, nargs='+', default=[48, 64, 3], metavar='N')
    parser.add_argument('--dtype', default='uint8', choices=['uint8', 'uint16'])
    return parser.parse_args()


def make_vector(cipher: str, shape: list[int], dtype: str) -> dict:
    """A vector as the document has it; its numbers come from the loops."""
    case = dict(cipher=cipher, dtype=dtype, shape=shape)
    text, patch_size = cipher.split('/')
    img, stats = image(case), {}
    drawn = loops.draw(text, int(patch_size), img.shape, SECRET, *NAMES)
    encrypted = loops.apply(img, text, int(patch_size), drawn, stats)
    names = [name for name, _, _ in loops.parse(text)]
    case['drawn'] = list(map(shown, names, drawn))
    if stats:
        case['clipped'] = {step: clipped for step, (clipped, _) in stats.items()}
    return case | dict(
        plain_sha256=sha256(raw(img)),
        encrypted_shape=list(encrypted.shape),
        encrypted_sha256=sha256(raw(encrypted)),
    )


def main() -> None:
    args = parse_args()
    fields = make_vector(args.cipher, args.shape, args.dtype).items()
    rows = [f'      {json.dumps(name)}: {json.dumps(value)}' for name, value in fields]
    print('    {\n' + ',\n'.join(rows) + '\n    }')


if __name__ == '__main__':
    main()
