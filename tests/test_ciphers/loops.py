# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Every cipher step as a loop over pixels, written from docs/format.md.

Slow, in Python's own numbers, and sharing nothing with ``hime_mm``: an image
is a list of rows of pixels, and a pixel is a list of channels.
"""

import re
from bisect import bisect_right
from functools import lru_cache
from math import erfc, sqrt

import numpy as np
from independent_decoder import chacha20, permutation, sub_key


class Pixels:
    """An image as nested lists, with what its dtype means."""

    def __init__(self, img: np.ndarray) -> None:
        self.shape, self.dtype = img.shape, img.dtype
        self.integer = img.dtype.kind == 'u'
        self.white = 65535 if img.dtype == np.uint16 else 255
        self.grey = 32768 if img.dtype == np.uint16 else 128
        self.rows = img.reshape(*img.shape[:2], -1).tolist()
        self.clipped = 0

    def array(self) -> np.ndarray:
        out = np.array(self.rows, self.dtype)
        return out if len(self.shape) == 3 else out[..., 0]

    def size(self) -> tuple:
        return len(self.rows), len(self.rows[0])

    def blank(self, h: int, w: int) -> list:
        depth = len(self.rows[0][0])
        return [[[None] * depth for _ in range(w)] for _ in range(h)]

    def clip(self, value):
        if self.integer and not 0 <= value <= self.white:
            self.clipped += 1
            return 0 if value < 0 else self.white
        return value


def cells(px: Pixels, p: int):
    """The number and the origin of every patch, row-major."""
    h, w = px.size()
    return enumerate((y, x) for y in range(0, h, p) for x in range(0, w, p))


def shuffle(px: Pixels, p: int, perm) -> None:
    out = px.blank(*px.size())
    origins = dict(cells(px, p))
    for slot, (top, left) in origins.items():
        y0, x0 = origins[perm[slot]]
        for y in range(p):
            for x in range(p):
                out[top + y][left + x] = px.rows[y0 + y][x0 + x]
    px.rows = out


def mix(px: Pixels, p: int, g: int, form: str = 'compact') -> None:
    h, w = px.size()
    side = p // g
    small = px.blank(h // g, w // g)
    for top in range(0, h, p):
        for left in range(0, w, p):
            for y in range(side):
                for x in range(side):
                    for c in range(len(px.rows[0][0])):
                        total = sum(
                            px.rows[top + i * side + y][left + j * side + x][c]
                            for i in range(g)
                            for j in range(g)
                        )
                        if px.integer:
                            # Halves upwards: floor(total / g² + 1/2).
                            value = (2 * total + g * g) // (2 * g * g)
                        else:
                            value = total / (g * g)
                        small[top // g + y][left // g + x][c] = value
    if form == 'tiled':
        px.rows = [
            [list(small[y // p * side + y % side][x // p * side + x % side]) for x in range(w)]
            for y in range(h)
        ]
    else:
        px.rows = small


def erode(px: Pixels, p: int, k: int, form: str = 'compact') -> None:
    h, w = px.size()
    kept = range(k, p - k)
    depth = len(px.rows[0][0])
    if form == 'filled':
        px.rows = [
            [
                px.rows[y][x] if y % p in kept and x % p in kept else [px.grey] * depth
                for x in range(w)
            ]
            for y in range(h)
        ]
    else:
        px.rows = [
            [px.rows[y][x] for x in range(w) if x % p in kept] for y in range(h) if y % p in kept
        ]


def drop(px: Pixels, p: int, dropped) -> None:
    for number, (top, left) in cells(px, p):
        if dropped[number]:
            for y in range(top, top + p):
                for x in range(left, left + p):
                    px.rows[y][x] = [px.grey] * len(px.rows[y][x])


def center(px: Pixels, p: int) -> None:
    for _, (top, left) in cells(px, p):
        for c in range(len(px.rows[0][0])):
            total = sum(px.rows[top + y][left + x][c] for y in range(p) for x in range(p))
            mean = (2 * total + p * p) // (2 * p * p) if px.integer else total / (p * p)
            for y in range(top, top + p):
                for x in range(left, left + p):
                    px.rows[y][x][c] = px.clip(px.rows[y][x][c] - mean + px.grey)


def noise(px: Pixels, values) -> None:
    """``values``: one for each number of the image, channels last."""
    values = iter(values)
    step = 257 if px.white == 65535 else 1
    px.rows = [
        [[px.clip(v + step * next(values)) for v in pixel] for pixel in row] for row in px.rows
    ]


def orient(px: Pixels, p: int, codes) -> None:
    out = px.blank(*px.size())
    for number, (top, left) in cells(px, p):
        for y in range(p):
            for x in range(p):
                to_y, to_x = y, x
                if codes[number] >= 4:
                    to_x = p - 1 - x
                for _ in range(codes[number] % 4):
                    # Counter-clockwise: the right column becomes the top row.
                    to_y, to_x = p - 1 - to_x, to_y
                out[top + to_y][left + to_x] = px.rows[top + y][left + x]
    px.rows = out


def negate(px: Pixels, p: int, flags) -> None:
    for number, (top, left) in cells(px, p):
        if flags[number]:
            for y in range(top, top + p):
                for x in range(left, left + p):
                    px.rows[y][x] = [px.white - v for v in px.rows[y][x]]


def permute_channels(px: Pixels, p: int, perms) -> None:
    for number, (top, left) in cells(px, p):
        for y in range(top, top + p):
            for x in range(left, left + p):
                px.rows[y][x] = [px.rows[y][x][c] for c in perms[number]]


def permute_pixels(px: Pixels, p: int, perm) -> None:
    out = px.blank(*px.size())
    for _, (top, left) in cells(px, p):
        for k in range(p * p):
            out[top + k // p][left + k % p] = px.rows[top + perm[k] // p][left + perm[k] % p]
    px.rows = out


STEP = re.compile(r'([a-z_]+)([0-9]*)(?::([a-z]+))?')


def parse(text: str) -> list:
    """Name, number and option of each step of a full short form."""
    found = [STEP.fullmatch(part).groups() for part in text.split('+')]
    return [
        (name, int(number) if number else None, option or 'compact')
        for name, number, option in found
    ]


def next_patch(p: int, name: str, number: int, option: str) -> int:
    """Side of a patch after a step."""
    if name == 'mix' and option == 'compact':
        return p // number
    if name == 'erode' and option == 'compact':
        return p - 2 * number
    return p


def apply(img: np.ndarray, text: str, p: int, drawn, stats=None) -> np.ndarray:
    """Encrypt one image with the draws of its steps, any of them iterable."""
    px = Pixels(img)
    for part, (name, number, option), value in zip(
        text.split('+'), parse(text), drawn, strict=True
    ):
        px.clipped = 0
        if name in ('mix', 'erode'):
            globals()[name](px, p, number, option)
        elif name == 'noise':
            noise(px, value)
        elif name == 'center':
            center(px, p)
        else:
            globals()[name](px, p, value)
        if stats is not None and name in ('center', 'noise'):
            h, w = px.size()
            before = stats.get(part, (0, 0))
            stats[part] = (before[0] + px.clipped, before[1] + h * w * len(px.rows[0][0]))
        p = next_patch(p, name, number, option)
    return px.array()


@lru_cache
def noise_thresholds(std: int) -> list:
    """At (2w + 1) / 2^17 above how many of these the word w is the noise.

    The cumulative distribution instead of its inverse: the noise of a word is
    n where its quantile lies between those of n - 1/2 and of n + 1/2.
    """
    return [erfc(-(n - 0.5) / (std * sqrt(2))) / 2 for n in range(-5 * std + 1, 5 * std + 1)]


def noise_of(word: int, std: int) -> int:
    """The noise that a 16-bit word stands for."""
    return bisect_right(noise_thresholds(std), (2 * word + 1) / 131072) - 5 * std


def draw(text: str, p: int, shape: tuple, key: bytes, dataset: str, image: str) -> list:
    """What each step draws for an image of a shape, from the 32 bytes."""
    names, drawn = [dataset, f'{text}/{p}'], []
    depth = shape[2] if len(shape) == 3 else 1
    num = shape[0] // p * (shape[1] // p)
    for i, (name, number, option) in enumerate(parse(text)):
        if name == 'permute_pixels':
            secret = sub_key(key, 'dataset', *names)
        else:
            secret = sub_key(key, 'image', *names, image)

        def read(size, secret=secret, i=i):
            return chacha20(secret, i, size)

        if name == 'shuffle':
            drawn.append(permutation(read(8 * num), num))
        elif name == 'drop':
            first = permutation(read(8 * num), num)[: num * number // 100]
            drawn.append([patch in first for patch in range(num)])
        elif name == 'noise':
            size = 2 * num * p * p * depth
            drawn.append(
                [
                    noise_of(int.from_bytes(pair, 'little'), number)
                    for pair in zip(*[iter(read(size))] * 2, strict=True)
                ]
            )
        elif name == 'orient':
            drawn.append([byte % 8 for byte in read(num)])
        elif name == 'negate':
            drawn.append([byte % 2 for byte in read(num)])
        elif name == 'permute_channels':
            words, size = read(8 * num * depth), 8 * depth
            drawn.append([permutation(words[size * k : size * (k + 1)], depth) for k in range(num)])
        elif name == 'permute_pixels':
            drawn.append(permutation(read(8 * p * p), p * p))
        else:
            drawn.append(None)
        p = next_patch(p, name, number, option)
    return drawn


def refused(text: str, p: int, channels: int = 3) -> bool:
    """Whether a list of steps makes no sense, by the rules of the format."""
    steps = parse(text)
    at = {name: i for i, (name, _, _) in enumerate(steps)}
    option = {name: option for name, _, option in steps}
    if len(at) < len(steps):
        return True
    for name, number, form in steps:
        if name == 'mix' and (p % number or (number == p and 'center' in at)):
            return True
        if name == 'erode' and 2 * number >= p:
            return True
        if name in ('center', 'orient', 'permute_pixels') and p == 1:
            return True
        p = next_patch(p, name, number, form)
    orders = [
        ('mix', 'erode', option.get('mix') == 'tiled'),
        ('erode', 'mix', option.get('erode') == 'filled'),
        ('erode', 'center', option.get('erode') == 'filled'),
        ('erode', 'permute_pixels', option.get('erode') == 'filled'),
        ('permute_pixels', 'erode', True),
        ('permute_pixels', 'mix', True),
        ('mix', 'noise', option.get('mix') == 'tiled'),
        ('drop', 'noise', True),
    ]
    return any(
        wrong and first in at and second in at and at[first] < at[second]
        for first, second, wrong in orders
    )


def travel_of(box, targets, p: int, grid: tuple[int, int]) -> list[float]:
    """One box with its centre in the image, moved from its cell k to the cell targets[k]."""
    x1, y1, x2, y2 = map(float, box)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    rows, cols = grid
    # A border that rounding has missed is hit.
    row, col = (int((v + 1e-8) // p) for v in (y, x))
    row, col = min(row, rows - 1), min(col, cols - 1)
    new_row, new_col = divmod(int(targets[row * cols + col]), cols)
    dx, dy = (new_col - col) * p, (new_row - row) * p
    return [x1 + dx, y1 + dy, x2 + dx, y2 + dy]
