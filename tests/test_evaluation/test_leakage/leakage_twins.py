# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The metrics once more, slow and obviously right: loops over Python's own numbers."""

import numpy as np


def flood(n, links):
    """The size of the largest set of pieces that links connect."""
    todo, largest = set(range(n)), 0
    while todo:
        front, size = [todo.pop()], 0
        while front:
            here = front.pop()
            size += 1
            for link in links:
                if here in link:
                    for other in link & todo:
                        todo.remove(other)
                        front.append(other)
        largest = max(largest, size)
    return largest


def puzzle_twin(guess, truth, parts=None, empty=None):
    """Dc, Nc and Lc, piece by piece and pair by pair."""
    pieces = [i for i in range(len(truth)) if empty is None or not empty[i]]
    guess = [tuple(int(x) for x in guess[i]) for i in pieces]
    truth = [tuple(int(x) for x in truth[i]) for i in pieces]
    part = [0 if parts is None else int(parts[i]) for i in pieces]
    n, borders, links, in_cell = len(pieces), 0, [], 0
    for i in range(n):
        if guess[i] == truth[i]:
            in_cell += 1
        for j in range(n):
            for dy, dx in ((0, 1), (1, 0)):
                if truth[j] == (truth[i][0] + dy, truth[i][1] + dx):
                    borders += 1
                    if guess[j] == (guess[i][0] + dy, guess[i][1] + dx) and part[i] == part[j]:
                        links.append({i, j})
    return (
        in_cell / n if parts is None else None,
        len(links) / borders if borders else None,
        flood(n, links) / n,
    )


def turned(img, code):
    """A picture mirrored and turned as the step ``orient`` does it."""
    return np.rot90(img[:, ::-1] if code & 4 else img, code & 3)


def touching(patches, cells):
    """Which pixels of which two pieces face each other across each border."""
    faces = {}
    for i, one in enumerate(patches):
        for j, other in enumerate(patches):
            if tuple(cells[j]) == (cells[i][0], cells[i][1] + 1):
                pairs = zip(one[:, -1], other[:, 0], strict=True)
            elif tuple(cells[j]) == (cells[i][0] + 1, cells[i][1]):
                pairs = zip(one[-1], other[0], strict=True)
            else:
                continue
            faces[frozenset((i, j))] = {frozenset(map(int, pair)) for pair in pairs}
    return faces


def ssim_twin(one, other):
    """SSIM of two grey pictures, window by window."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    height, width = one.shape
    total, windows = 0.0, 0
    for y in range(height - 6):
        for x in range(width - 6):
            a = [float(v) for v in one[y : y + 7, x : x + 7].ravel()]
            b = [float(v) for v in other[y : y + 7, x : x + 7].ravel()]
            mean_a, mean_b = sum(a) / 49, sum(b) / 49
            var_a = sum((v - mean_a) ** 2 for v in a) / 48
            var_b = sum((v - mean_b) ** 2 for v in b) / 48
            cov = sum((v - mean_a) * (w - mean_b) for v, w in zip(a, b, strict=True)) / 48
            total += ((2 * mean_a * mean_b + c1) * (2 * cov + c2)) / (
                (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
            )
            windows += 1
    return total / windows


def edges_twin(img):
    """Magnitudes of Sobel's gradients of a grey picture, pixel by pixel."""
    height, width = img.shape

    def at(y, x):
        # Beyond the border lies its mirror image.
        y = -1 - y if y < 0 else 2 * height - 1 - y if y >= height else y
        x = -1 - x if x < 0 else 2 * width - 1 - x if x >= width else x
        return float(img[y, x])

    out = np.empty(img.shape)
    for y in range(height):
        for x in range(width):
            down = sum(
                w * (at(y + 1, x + d) - at(y - 1, x + d)) for d, w in ((-1, 1), (0, 2), (1, 1))
            )
            right = sum(
                w * (at(y + d, x + 1) - at(y + d, x - 1)) for d, w in ((-1, 1), (0, 2), (1, 1))
            )
            out[y, x] = ((down / 4) ** 2 + (right / 4) ** 2) ** 0.5 / 2**0.5
    return out
