# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The picture with the least total variation that looks like this when encrypted."""

from collections.abc import Callable

import numpy as np

from hime_mm.ciphers import join_patches

from ..base import Attack, Evidence, Picture, register_attack
from .mosaic import as_picture, filled_means, spread_of, thumbnail
from .observed import Observed, hindrance

#: Strength of each denoising, in the units of the picture, and how many of its iterations.
WEIGHT, INNER = 40.0, 10
#: How often a picture is denoised.
ROUNDS = 20


@register_attack
class TotalVariation(Attack):
    """min TV(x) over all x that the public steps turn into what is seen.

    Nothing is learnt: pictures are taken to be smooth but for edges.
    """

    name = 'tv'
    title = 'least total variation that agrees with what is seen'
    source = (
        'Rudin, Osher and Fatemi, Physica D 60, 1992, by ADMM with a denoiser: '
        'Venkatakrishnan and others, "Plug-and-play priors", GlobalSIP 2013'
    )
    requires = ('skimage',)
    guesses = Picture

    @classmethod
    def why_not(cls, evidence: Evidence) -> str:
        for step in evidence.cipher.steps:
            if step.removes_means:
                return f'{str(step)!r} removes the means of patches'
            if step.adds_noise:
                return f'what is seen is not exact after {str(step)!r}'
        if obstacle := hindrance(evidence):
            return obstacle
        if not Observed(evidence.cipher).exact(evidence):
            return 'what is seen is not only averaged and eroded'
        return ''

    def prepare(self, evidence: Evidence) -> None:
        self.evidence, self.observed = evidence, Observed(evidence.cipher)

    def guess(self, index: int) -> Picture:
        img, layout = self.evidence.images[index], self.evidence.layouts[index]
        pieces = self.observed.pieces(img, layout)
        values = least_variation(self.observed, pieces, layout.grid)
        return Picture(-spread_of(pieces), as_picture(values, img.ndim))


def least_variation(
    observed: Observed, pieces: np.ndarray, grid: tuple[int, int], rounds: int = ROUNDS
) -> np.ndarray:
    """Lower the total variation among all pictures that show these pieces.

    Args:
        observed (Observed): What is seen of a patch.
        pieces (np.ndarray): Shape (n, q, q, C).
        grid (tuple[int, int]): Rows and columns of patches.
        rounds (int): Of ADMM. Defaults to 20.

    Returns:
        np.ndarray: float32 of shape (rows·P, cols·P, C).
    """
    from skimage.restoration import denoise_tv_chambolle

    there = observed.there(pieces)

    def agreeing(values: np.ndarray, how: Callable[..., np.ndarray]) -> np.ndarray:
        patches = observed.plain(values)
        patches[there] = how(patches[there], pieces[there])
        return join_patches(patches, grid)

    start = thumbnail(filled_means(pieces, there, grid), observed.patch_size)
    found = agreeing(start, observed.project)
    dual = np.zeros_like(found)
    for _ in range(rounds):
        smooth = denoise_tv_chambolle(
            found + dual, WEIGHT, eps=1e-6, max_num_iter=INNER, channel_axis=-1
        )
        found = agreeing(smooth - dual, observed.project)
        dual += found - smooth
    return agreeing(found, observed.settle)
