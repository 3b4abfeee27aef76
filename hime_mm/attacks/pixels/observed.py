# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is seen of each patch: a linear map, as the public steps make it."""

from dataclasses import replace

import numpy as np
from scipy.fft import dct

from hime_mm.ciphers import Cipher, PatchLayout, split_patches
from hime_mm.ciphers.pixels import mid_grey

from ..base import Evidence, Practice, cut

#: Patches below which public pictures are turned and mirrored, too.
FEW = 10000
#: How often patches are clipped and projected in turn.
SETTLING = 4


def hindrance(evidence: Evidence, learns: bool = False) -> str:
    """What keeps pixels from being guessed; empty if nothing does.

    Args:
        evidence (Evidence): What there is.
        learns (bool): Whether public pictures are needed. Defaults to False.
    """
    for step in evidence.cipher.steps:
        if step.invertible:
            return f'{str(step)!r} has to be undone first'
    return 'needs public pictures, at least two' if learns and len(evidence.public) < 2 else ''


def turned_practice(evidence: Evidence) -> list[list[Practice]]:
    """Each public picture encrypted, and if there are few also turned and mirrored."""
    if len(evidence.public) * evidence.layouts[0].num_patches >= FEW:
        return [[one] for one in evidence.practice]
    turned = [
        np.ascontiguousarray(np.rot90(side, turns))
        for picture in evidence.public
        for side in (picture, picture[:, ::-1])
        for turns in range(4)
    ]
    practice = replace(evidence, public=turned).practice
    return [practice[start : start + 8] for start in range(0, len(practice), 8)]


class Observed:
    """What the averaging and eroding steps of a cipher show of a patch.

    It is the same for each patch and channel, y = A x, with rows of A that
    are orthogonal and of one length. What is painted shows nothing, and what
    is repeated is seen once.

    Attributes:
        side (int): q, of what is seen of a patch.
        patch_size (int): P, of the plain patch.
        matrix (np.ndarray): A, float32 of shape (q², P²).
    """

    def __init__(self, cipher: Cipher) -> None:
        self.patch_size = size = cipher.patch_size
        steps = [step for step in cipher.steps if step.averages or step.drops_border]
        # Each picture has one white pixel; the last has none, and tells what is painted.
        units = np.eye(size**2 + 1, size**2, dtype=np.float32).reshape(-1, size, size, 1)
        if steps:
            units = Cipher(steps, size).apply(units, [None] * len(steps))
        matrix = (units[:-1] - units[-1]).reshape(size**2, -1).T
        _, first = np.unique(matrix, axis=0, return_index=True)
        self._seen = np.sort(first[matrix[first].any(axis=1)])
        self.matrix = matrix[self._seen]
        self.side = round(len(self._seen) ** 0.5)
        self._drops = any(step.drops_patches for step in cipher.steps)

    def pieces(self, img: np.ndarray, layout: PatchLayout) -> np.ndarray:
        """What is seen of each patch of a picture, float32 of shape (n, q, q, C)."""
        patches = cut(img, layout).astype(np.float32)
        n, *_, channels = patches.shape
        seen = patches.reshape(n, -1, channels)[:, self._seen]
        return seen.reshape(n, self.side, self.side, channels)

    def plain(self, img: np.ndarray) -> np.ndarray:
        """The patches of a plain picture, float32 of shape (n, P, P, C)."""
        return split_patches(img if img.ndim == 3 else img[..., None], self.patch_size).astype(
            np.float32
        )

    def exact(self, evidence: Evidence) -> bool:
        """Whether A x is what is seen, up to rounding, as pictures of the adversary's tell.

        It is not under noise, nor under steps that are no part of A.
        """
        for one in evidence.practice[:3]:
            pieces = self.pieces(one.encrypted, one.layout)
            off = np.abs(self.apply(self.plain(one.plain)) - pieces)[self.there(pieces)]
            if off.size and off.mean() > 1:
                return False
        return True

    def there(self, pieces: np.ndarray) -> np.ndarray:
        """Which of the pieces were not left out, bool of shape (n, )."""
        if not self._drops:
            return np.ones(len(pieces), bool)
        return (pieces != mid_grey(np.dtype(np.uint8))).any(axis=(1, 2, 3))

    def apply(self, patches: np.ndarray) -> np.ndarray:
        """A x, of shape (n, q, q, C), for patches of shape (n, P, P, C)."""
        return _each(self.matrix, patches, self.side)

    def project(self, patches: np.ndarray, pieces: np.ndarray) -> np.ndarray:
        """The patches nearest to these that show these pieces: x + A⁺(y - A x)."""
        # A Aᵀ is a multiple of the identity.
        inverse = self.matrix.T / (self.matrix[0] @ self.matrix[0])
        return patches + _each(inverse, pieces - self.apply(patches), self.patch_size)

    def settle(self, patches: np.ndarray, pieces: np.ndarray) -> np.ndarray:
        """Patches near to these that show these pieces and hardly leave the range of pixels."""
        for _ in range(SETTLING):
            patches = self.project(np.clip(patches, 0, 255), pieces)
        return patches


def _each(matrix: np.ndarray, patches: np.ndarray, side: int) -> np.ndarray:
    """A matrix times each channel of each patch, as patches of this side."""
    n, *_, channels = patches.shape
    flat = patches.reshape(n, -1, channels).transpose(1, 0, 2).reshape(matrix.shape[1], -1)
    result = (matrix @ flat).reshape(len(matrix), n, channels)
    return result.transpose(1, 0, 2).reshape(n, side, side, channels)


def opponents(channels: int) -> np.ndarray:
    """Brightness and differences of colours, which hardly correlate.

    Returns:
        np.ndarray: float32 of shape (C, C), orthonormal columns.
    """
    return dct(np.eye(channels, dtype=np.float32), axis=1, norm='ortho')
