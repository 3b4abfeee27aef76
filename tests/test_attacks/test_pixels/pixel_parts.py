# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Small pictures that were encrypted, others to learn from, and how near a guess came."""

from functools import cache

import cv2
import numpy as np
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from hime_mm.attacks.base import Evidence
from hime_mm.ciphers import Cipher

#: Forms in which the steps that stay in place come, alone and together.
IN_PLACE = (
    'mix2',
    'mix2:tiled',
    'mix4',
    'erode1',
    'erode1:filled',
    'mix2+erode1',
    'erode1+mix2',
    'mix2+erode1:filled',
)


#: Side of a patch of the small pictures, how many there are in a row, and the side of a picture.
PATCH, ROW = 8, 10
SIDE = PATCH * ROW


@cache
def scenes() -> tuple[np.ndarray, ...]:
    """Two pictures to attack."""
    cuts = data.astronaut()[:448, :448, ::-1], data.coffee()[:, 100:500, ::-1]
    return tuple(cv2.resize(cut, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for cut in cuts)


@cache
def others() -> tuple[np.ndarray, ...]:
    """Pictures of other things."""
    names = ('chelsea', 'rocket', 'cat')
    return tuple(np.ascontiguousarray(getattr(data, name)()[..., ::-1]) for name in names)


def evidence(steps, plain=None, public=None, patch_size=PATCH, seed=0) -> Evidence:
    """Encrypted pictures, and others in the plain."""
    plain = scenes() if plain is None else plain
    cipher, rng = Cipher(steps, patch_size), np.random.default_rng(3)
    images, layouts, _ = zip(*(cipher.encrypt(img, rng) for img in plain), strict=True)
    layouts = [layout.public() for layout in layouts]
    return Evidence(
        images, layouts, cipher, public=others() if public is None else public, seed=seed
    )


def guesses(attack, evidence) -> list[np.ndarray]:
    attack.prepare(evidence)
    return [attack.guess(i).img for i in range(len(evidence.images))]


def psnr(plain, guessed) -> float:
    """The mean over pictures, in dB."""
    pairs = zip(plain, guessed, strict=True)
    return float(np.mean([peak_signal_noise_ratio(x, y, data_range=255) for x, y in pairs]))


def ssim(plain, guessed) -> float:
    """The mean over pictures in colours."""
    pairs = zip(plain, guessed, strict=True)
    return float(
        np.mean([structural_similarity(x, y, channel_axis=-1, data_range=255) for x, y in pairs])
    )


def real(folder, number: int | None, size: tuple[int, int] | None = None) -> list[np.ndarray]:
    """Real pictures in the order of their names, resized where a size is given."""
    found = [cv2.imread(str(path)) for path in sorted(folder.glob('*.jpg'))[:number]]
    if size is None:
        return found
    return [cv2.resize(img, size, interpolation=cv2.INTER_AREA) for img in found]
