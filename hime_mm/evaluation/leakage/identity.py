# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Whether an attack knows which one it is: of pictures in a gallery, or of classes."""

from dataclasses import dataclass

import numpy as np

from hime_mm.errors import HimeError


@dataclass(frozen=True)
class RankScores:
    """Where the true candidate stands among all, candidates of equal score in random order.

    Attributes:
        rank (float): 1 is first. Of equal scores the middle, which is the mean
            over their orders: who scores all alike is in the middle of all.
        rank_1 (float): Probability of being first: 0 or 1 but for equal scores.
        rank_5 (float): Of being among the first five.
    """

    rank: float
    rank_1: float
    rank_5: float


def score_ranking(scores: np.ndarray, true: int) -> RankScores:
    """Judge the scores of candidates.

    Args:
        scores (np.ndarray): Shape (m, ), the larger, the likelier.
        true (int): Index of the true candidate.

    Raises:
        HimeError: If there is no such candidate, or a score is NaN.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or not 0 <= true < scores.size:
        raise HimeError(f'there is no candidate {true} among scores of shape {scores.shape}')
    if np.isnan(scores).any():
        raise HimeError('the score of a candidate is no number: give it -inf to put it last')
    before = int((scores > scores[true]).sum())
    equal = int((scores == scores[true]).sum())
    return RankScores(before + (equal + 1) / 2, *(_within(k, before, equal) for k in (1, 5)))


def _within(k: int, before: int, equal: int) -> float:
    return min(max((k - before) / equal, 0.0), 1.0)


def relative_accuracy(accuracy: float, plain: float, chance: float) -> float | None:
    """What is left of what a probe knows about plain pictures, beyond chance.

    Args:
        accuracy (float): Of a classifier on encrypted or reconstructed
            pictures, from 0 to 1.
        plain (float): Of the same kind of classifier on plain ones.
        chance (float): Of who knows the classes only, such as the share of the
            most frequent one.

    Returns:
        float | None: 0 at chance, 1 as on plain pictures; None where the probe
        knows nothing about plain pictures either, so that it says nothing.
    """
    return (accuracy - chance) / (plain - chance) if plain > chance else None
