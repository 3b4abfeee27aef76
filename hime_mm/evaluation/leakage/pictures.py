# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How much a reconstructed picture looks like the original."""

from dataclasses import dataclass

import numpy as np

from hime_mm.errors import HimeError

from .extra import needed

#: Side of the windows of SSIM.
_WINDOW = 7


@dataclass(frozen=True)
class PictureScores:
    """Of one picture; larger is more alike.

    Attributes:
        psnr (float): Peak signal-to-noise ratio in dB. At most 58.9, where the
            error is that of rounding to whole numbers: also of equal pictures.
        ssim (float): Structural similarity, at most 1 (Wang and others, 2004;
            windows of 7x7 pixels of equal weight, mean of the channels).
        gradient_ssim (float): That of the magnitudes of gradients (Sobel),
            which looks at edges only: what is left of shapes once colours and
            brightness are wrong.
    """

    psnr: float
    ssim: float
    gradient_ssim: float


def score_picture(guess: np.ndarray, truth: np.ndarray) -> PictureScores:
    """Compare a reconstruction with the original.

    Args:
        guess (np.ndarray): uint8 of shape (H, W) or (H, W, C).
        truth (np.ndarray): Likewise, of the same size and number of channels.
            Their order does not matter.

    Raises:
        HimeError: If sizes or types differ, or a side is shorter than 7
            pixels; also if scikit-image is missing.
    """
    guess, truth = np.asarray(guess), np.asarray(truth)
    for name, img in (('reconstruction', guess), ('original', truth)):
        if img.dtype != np.uint8 or img.ndim not in (2, 3):
            raise HimeError(
                f'the {name} is {img.dtype} of shape {img.shape}: give uint8 of (H, W) or (H, W, C)'
            )
    guess, truth = (img[..., None] if img.ndim == 2 else img for img in (guess, truth))
    if guess.shape != truth.shape:
        raise HimeError(
            f'the reconstruction is {_words(guess)}, the original {_words(truth)}: bring one to '
            'the size of the other before'
        )
    if min(truth.shape[:2]) < _WINDOW:
        raise HimeError(f'a picture of {_words(truth)} is too small: SSIM needs {_WINDOW} a side')
    return PictureScores(
        _psnr(guess, truth), _ssim(guess, truth), _ssim(_edges(guess), _edges(truth))
    )


def _psnr(guess: np.ndarray, truth: np.ndarray) -> float:
    error = np.mean((guess.astype(np.float64) - truth) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1 / 12)))


def _ssim(guess: np.ndarray, truth: np.ndarray) -> float:
    ssim = needed('skimage.metrics').structural_similarity
    return float(ssim(guess, truth, win_size=_WINDOW, data_range=255, channel_axis=2))


def _edges(img: np.ndarray) -> np.ndarray:
    """Magnitudes of the gradients of each channel, from 0 to 255."""
    sobel = needed('skimage.filters').sobel
    channels = img.astype(np.float64).transpose(2, 0, 1)
    return np.stack([sobel(channel) for channel in channels], axis=2)


def _words(img: np.ndarray) -> str:
    return f'{img.shape[0]}x{img.shape[1]} (height x width) with {img.shape[2]} channels'
