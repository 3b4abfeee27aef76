# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How much of the originals an attack got, with the truth beside its guesses.

In the order of a report: a guess at one picture is judged by ``puzzle``,
with ``baseline`` and ``seams`` beside it, ``pictures`` or ``identity``; ``risk``
says what an attack got over all of them, beside a control and chance;
``grades`` puts published words to it.
"""

from .baseline import chance, random_arrangement
from .grades import Grade, grade_risk
from .identity import RankScores, relative_accuracy, score_ranking
from .pictures import PictureScores, score_picture
from .puzzle import PuzzleScores, score_pixel_order, score_puzzle
from .risk import METRICS, Estimate, Judged, Risk, estimate
from .seams import SeamEnergy, seam_energy

__all__ = [
    'METRICS',
    'Grade',
    'Judged',
    'PictureScores',
    'PuzzleScores',
    'RankScores',
    'Risk',
    'SeamEnergy',
    'Estimate',
    'chance',
    'grade_risk',
    'random_arrangement',
    'relative_accuracy',
    'score_picture',
    'score_pixel_order',
    'score_puzzle',
    'score_ranking',
    'seam_energy',
    'estimate',
]
