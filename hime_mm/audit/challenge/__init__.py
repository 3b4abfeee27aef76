# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A challenge: ciphertexts for everybody to break, and the scores of who tried."""

from .making import CIPHERS, PUBLIC, SECRET, make_challenge
from .scoring import check_place, score_lines, score_submission

__all__ = [
    'CIPHERS',
    'PUBLIC',
    'SECRET',
    'check_place',
    'make_challenge',
    'score_lines',
    'score_submission',
]
