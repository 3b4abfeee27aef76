# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a patch looked like before its border went or it was mixed: the best linear guess."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

#: Pixels over which the correlation of photos falls to 1/e. The covariance that was measured on
#: 225 photos predicted others no better (patches of 16 pixels, 2 eroded).
CORRELATION_LENGTH = 30.0


def correlations(side: int) -> np.ndarray:
    """Those of the pixels of a patch, row-major: float64, shape (P², P²)."""
    y, x = np.indices((side, side)).reshape(2, -1)
    return np.exp(-np.hypot(y[:, None] - y, x[:, None] - x) / CORRELATION_LENGTH)


@lru_cache(maxsize=8)
def predict_patch(side: int, border: int, centred: bool) -> np.ndarray:
    """The matrix that predicts a patch from its inside.

    Args:
        side (int): Side P of the patch in pixels.
        border (int): Pixels k that are missing at each side.
        centred (bool): Whether the mean of the whole patch was taken off
            before, which tells something about the border.

    Returns:
        np.ndarray: float64, shape (P², (P-2k)²), row-major.
    """
    y, x = np.indices((side, side)).reshape(2, -1)
    inside = np.minimum.reduce([y, x, side - 1 - y, side - 1 - x]) >= border
    return _predict(np.eye(side**2)[inside], side, centred)


@lru_cache(maxsize=8)
def predict_mixed(side: int, num_splits: int, centred: bool) -> np.ndarray:
    """The matrix that predicts a patch from the mean of its sub-patches.

    Args:
        side (int): Side P of the patch in pixels.
        num_splits (int): Sub-patches g along each side.
        centred (bool): Whether the mean of the whole patch was taken off before.

    Returns:
        np.ndarray: float64, shape (P², (P/g)²), row-major.
    """
    inner = side // num_splits
    y, x = np.indices((side, side)).reshape(2, -1) % inner
    observe = np.zeros((inner**2, side**2))
    observe[y * inner + x, np.arange(side**2)] = 1 / num_splits**2
    return _predict(observe, side, centred)


def compose(weight: Tensor, prediction: np.ndarray) -> Tensor:
    """A kernel for plain patches, (D, C, P, P), as one for what they are predicted from."""
    found = (weight.double().flatten(2) @ torch.from_numpy(prediction)).to(weight.dtype)
    return found.unflatten(2, (round(found.shape[-1] ** 0.5),) * 2)


def _predict(observe: np.ndarray, side: int, centred: bool) -> np.ndarray:
    """Predict a patch from what is linear in it: universal kriging.

    Pixels are correlated as exp(-d/30) at a distance of d pixels, and lie on
    a plane of unknown height and slopes: of all linear predictions that are
    exact for such planes it has the least mean squared error (Matheron,
    "Le krigeage universel", 1969).
    """
    y, x = np.indices((side, side)).reshape(2, -1).astype(np.float64)
    covariance = correlations(side)
    trends = [y - y.mean(), x - x.mean()]
    if centred:
        # Of what is left once the mean of all pixels is gone.
        covariance -= covariance.mean(axis=0)
        covariance -= covariance.mean(axis=1, keepdims=True)
    else:
        trends.append(np.ones_like(y))
    trend = np.stack(trends, axis=1)
    seen = observe @ trend
    # Singular where what is seen has no mean either.
    precision = np.linalg.pinv(observe @ covariance @ observe.T, rcond=1e-10, hermitian=True)
    weights = covariance @ observe.T @ precision
    # The plane by generalized least squares, the rest by correlation. A single pixel has no slope.
    plane = np.linalg.pinv(seen.T @ precision @ seen, hermitian=True) @ seen.T @ precision
    return weights + (trend - weights @ seen) @ plane
