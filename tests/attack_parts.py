# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Photos that come with scikit-image, encrypted for an adversary."""

from functools import lru_cache

import cv2
import numpy as np
from skimage import data

from hime_mm.attacks.base import Evidence
from hime_mm.ciphers import Cipher

PHOTOS = ('astronaut', 'chelsea', 'coffee', 'rocket')


@lru_cache(maxsize=64)
def photo(name, height=224, width=224):
    """BGR, uint8."""
    img = np.ascontiguousarray(getattr(data, name)()[..., ::-1])
    return cv2.resize(img, (width, height), interpolation=cv2.INTER_AREA)


def public(*without):
    """Photos of others, of any size."""
    return [
        np.ascontiguousarray(getattr(data, name)()[..., ::-1])
        for name in PHOTOS
        if name not in without
    ]


def encrypted(cipher, pictures, seed=0, patch_size=16, learn=()):
    """What an adversary gets, and the layouts with the truth."""
    cipher, rng = Cipher(cipher, patch_size), np.random.default_rng(seed)
    done = [cipher.encrypt(one, rng) for one in pictures]
    layouts = [layout for _, layout, _ in done]
    evidence = Evidence(
        [img for img, *_ in done], [layout.public() for layout in layouts], cipher, learn
    )
    return evidence, layouts


def true_cells(layout):
    """Row and column of the patch in each slot."""
    return np.array([divmod(int(patch), layout.grid[1]) for patch in layout.permutation])


def neighbors_found(spots, cells, parts=None, there=None):
    """The share of true neighbours that are neighbours, counted one by one."""
    n = len(cells)
    parts = [0] * n if parts is None else [int(part) for part in parts]
    at = {tuple(map(int, cells[i])): i for i in range(n) if there is None or there[i]}
    found = total = 0
    for (y, x), i in at.items():
        for dy, dx in ((0, 1), (1, 0)):
            j = at.get((y + dy, x + dx))
            if j is None:
                continue
            total += 1
            same = parts[i] == parts[j]
            found += int(same and tuple(map(int, spots[j] - spots[i])) == (dy, dx))
    return found / total
