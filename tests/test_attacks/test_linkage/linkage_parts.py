# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A gallery of pieces of scikit-image's pictures, and how far down the originals are."""

from functools import cache

import cv2
import numpy as np
from skimage import data

from hime_mm.attacks.base import Evidence
from hime_mm.ciphers import Cipher

SIDE = 96


@cache
def gallery() -> tuple[np.ndarray, ...]:
    """Sixteen pictures of 96x96, several of each scene."""
    cuts = []
    for name in ('astronaut', 'chelsea', 'coffee', 'rocket'):
        img = getattr(data, name)()[..., ::-1]
        height, width = img.shape[0] // 2, img.shape[1] // 2
        for y in (0, height):
            for x in (0, width):
                quarter = np.ascontiguousarray(img[y : y + height, x : x + width])
                cuts.append(cv2.resize(quarter, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    return tuple(cuts)


def grey(pictures):
    return [cv2.cvtColor(one, cv2.COLOR_BGR2GRAY) for one in pictures]


def recoded(img: np.ndarray, quality: int = 75) -> np.ndarray:
    """A picture after a trip through JPEG."""
    _, code = cv2.imencode('.jpg', img, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(code, cv2.IMREAD_UNCHANGED)


def evidence(steps, plain=None, shown=None, seed=0, patch_size=16) -> Evidence:
    """Encrypted pictures, and the gallery that is shown for them."""
    plain = gallery() if plain is None else plain
    cipher, rng = Cipher(steps, patch_size), np.random.default_rng(77)
    images, layouts, _ = zip(*(cipher.encrypt(img, rng) for img in plain), strict=True)
    return Evidence(
        images,
        [layout.public() for layout in layouts],
        cipher,
        gallery=plain if shown is None else shown,
        seed=seed,
    )


def ranks(attack, evidence, truth=None) -> np.ndarray:
    """How many of the gallery score as high as the original or higher; 0 is found."""
    attack.prepare(evidence)
    truth = range(len(evidence.images)) if truth is None else truth
    scores = [attack.guess(i).scores for i in range(len(evidence.images))]
    return np.array([(s >= s[t]).sum() - 1 for s, t in zip(scores, truth, strict=True)])


def photos(coco_tiny) -> tuple[list, list]:
    """80 photos as they are, and at 224x224."""
    files = sorted((coco_tiny / 'val2017').glob('*.jpg'))
    originals = [cv2.imread(str(file)) for file in files]
    return originals, [cv2.resize(img, (224, 224)) for img in originals]
