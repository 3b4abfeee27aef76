# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Grades that somebody else has published; no thresholds are made up here.

For all other metrics the chance level is the yardstick.
"""

from dataclasses import dataclass

from .risk import Risk

SOURCE = (
    'NeuraCrypt Challenge (Yala and others, 2021): re-identification under 5 % is good privacy, '
    '5 to 20 % moderate, above bad'
)


@dataclass(frozen=True)
class Grade:
    """Of how many pictures were re-identified.

    Attributes:
        grade (str): 'good', 'moderate' or 'bad'.
        share (float): Of pictures that were re-identified.
        low (float): Lower end of the 95 % interval of that share (Wilson).
            Unlike the bootstrap's it has a width where none or all were.
        high (float): Upper end.
        sure (bool): Whether the whole interval has the same grade. None of 40
            is good, but not surely: it may be 9 %.
        chance (float): What random guesses got: in a small gallery many.
        pictures (int): How many were tried.
        source (str): Of the grades.
    """

    grade: str
    share: float
    low: float
    high: float
    sure: bool
    chance: float
    pictures: int
    source: str = SOURCE


def grade_risk(risk: Risk) -> Grade | None:
    """Grade a risk; None where nobody has published grades, or nothing was tried."""
    share, chance = risk.main.mean, risk.baseline.mean
    if risk.metric != 'rank_1' or share is None or chance is None:
        return None
    pictures = len(risk.values)
    low, high = _wilson(share, pictures)
    sure = _name(low) == _name(high)
    return Grade(_name(share), share, low, high, sure, chance, pictures)


def _name(share: float) -> str:
    if share < 0.05:
        return 'good'
    return 'moderate' if share <= 0.2 else 'bad'


def _wilson(share: float, n: int) -> tuple[float, float]:
    z2 = 1.959964**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)
