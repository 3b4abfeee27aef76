# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Pictures, evidence with draws that are shared or not, and what is true of it."""

from dataclasses import dataclass

import cv2
import numpy as np

from hime_mm.attacks.base import Evidence
from hime_mm.ciphers import Cipher


def photos(count, size, grey=False):
    """Crops of the photographs of scikit-image, none like another."""
    import pytest

    data = pytest.importorskip('skimage.data')
    out = []
    for i in range(count):
        img = getattr(data, ('astronaut', 'chelsea', 'coffee', 'rocket')[i % 4])()[..., ::-1]
        part = min(img.shape[:2]) * 3 // 4
        y, x = ((side - part) * (i // 4 % 3) // 2 for side in img.shape[:2])
        img = np.ascontiguousarray(img[y : y + part, x : x + part])
        if i // 12:
            img = img[:, ::-1]
        img = cv2.resize(img, size[::-1], interpolation=cv2.INTER_AREA)
        out.append(cv2.cvtColor(img, cv2.COLOR_BGR2GRAY) if grey else img)
    return out


def read(folder, count, size=(224, 224), first=0):
    """The first pictures of a folder, resized."""
    paths = sorted(folder.glob('*.jpg'))[first : first + count]
    return [
        cv2.resize(cv2.imread(str(path)), size[::-1], interpolation=cv2.INTER_AREA)
        for path in paths
    ]


@dataclass
class Owner:
    """Who draws once for all pictures of a size, or anew for each, and knows the truth."""

    cipher: Cipher
    shared: bool = True
    seed: int = 0

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)
        self.kept = {}

    def encrypt(self, img):
        drawn = self.cipher.draw(img.shape, self.rng)
        kept = self.kept.setdefault(img.shape[:2], drawn)
        pixels = next(iter(self.kept.values()))
        drawn = [
            pixels[i]
            if step.scatters and self.shared
            else kept[i]
            if step.moves_patches and self.shared
            else drawn[i]
            for i, step in enumerate(self.cipher.steps)
        ]
        return self.cipher.apply(img, drawn), drawn

    def __call__(self, img):
        return self.encrypt(img)[0]

    def evidence(self, plain, **more):
        """Evidence, the true cells of each picture's slots, and the true orders of pixels."""
        images, layouts, cells, orders = [], [], [], []
        for img in plain:
            encrypted, drawn = self.encrypt(img)
            secret = self.cipher.secret_layout(img.shape[:2], drawn)
            images.append(encrypted)
            layouts.append(secret.public())
            if secret.permutation is not None:
                cells.append(np.stack(np.divmod(secret.permutation, secret.grid[1]), axis=1))
            orders += [
                value for step, value in zip(self.cipher.steps, drawn, strict=True) if step.scatters
            ]
        return Evidence(images, layouts, self.cipher, **more), cells, orders


def owner(steps, patch_size=16, **more):
    return Owner(Cipher(steps, patch_size), **more)


def order_score(order, truth):
    """The share of places whose pixel is right, in the best of the eight symmetries."""
    side = int(len(order) ** 0.5)
    square = np.arange(side * side).reshape(side, side)
    ways = [np.rot90(one, turn).ravel() for one in (square, square.T) for turn in range(4)]
    return max((way[order] == truth).mean() for way in ways)
