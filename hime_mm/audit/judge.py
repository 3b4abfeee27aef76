# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A guess beside the truth: main, control and baseline of each metric."""

from functools import singledispatch
from typing import Any

import cv2
import numpy as np

from hime_mm.attacks.base import Arrangement, Labels, Picture, PixelOrder, Ranking
from hime_mm.attacks.jigsaw.changes import Changes
from hime_mm.ciphers.grid import cells_of
from hime_mm.evaluation.leakage import (
    Judged,
    PuzzleScores,
    chance,
    random_arrangement,
    score_picture,
    score_pixel_order,
    score_puzzle,
    score_ranking,
    seam_energy,
)
from hime_mm.evaluation.leakage.symmetries import MATRICES

from .subject import Case, Subject

Scores = dict[str, Judged]
#: Random arrangements that chance is measured on where it is not known.
DRAWS = 8


def judge(guess: Any, subject: Subject, index: int) -> tuple[Scores, dict]:
    """Judge the guess at one picture.

    Args:
        guess (Guess): What the attack said.
        subject (Subject): The pictures and their truth.
        index (int): Which of them it is about.

    Returns:
        tuple[dict[str, Judged], dict]: By metric; and what else there is to
        say, such as the seam energy. Empty where the truth is not known, and
        without a metric that is not defined for a picture, such as Nc where no
        two patches are neighbours.
    """
    rng = np.random.default_rng((subject.evidence.seed, index))
    return _judge(guess, subject, index, subject.others[index], rng)


@singledispatch
def _judge(guess, subject, index, other, rng):
    raise TypeError(f'no truth to judge a {type(guess).__name__} by')


@_judge.register
def _(guess: Arrangement, subject: Subject, index: int, other: int, rng: np.random.Generator):
    case, control = subject.cases[index], subject.cases[other]
    if case.permutation is None:
        return {}, {}
    grid = case.layout.grid
    truth = cells_of(case.permutation, grid)
    # Of another size, or under a permutation that all share, the other picture says nothing.
    wrong = random_arrangement(grid, rng)
    if control.permutation is not None and control.layout.grid == grid:
        cells = cells_of(control.permutation, grid)
        wrong = wrong if (cells == truth).all() else cells
    blank = dropped(case, subject)
    how: dict = dict(empty=blank, symmetries=subject.mirrored or guess.turns is not None)
    if guess.turns is not None:
        turns, how['colors'] = _left_wrong(guess, case, subject)
        how['turns'] = (turns, np.zeros_like(turns))
    by_part = [score_puzzle(guess.spots, one, guess.parts, **how) for one in (truth, wrong)]
    whole = [score_puzzle(guess.cells, one, **how) for one in (truth, wrong)]
    base = chance(grid, truth if blank is None else truth[~blank])
    if how['symmetries']:
        # As a whole it may be turned: chance, too, has eight tries.
        draws = [score_puzzle(random_arrangement(grid, rng), truth, **how) for _ in range(DRAWS)]
        base = PuzzleScores(
            *(np.mean([getattr(one, name) for one in draws]) for name in vars(base))
        )
    scores: dict[str, list[Any]] = {
        'dc': [*(one.direct for one in whole), base.direct],
        'nc': [*(one.neighbor for one in whole), base.neighbor],
        'lc': [*(one.largest for one in whole), base.largest],
        'nc_component': [*(one.neighbor for one in by_part), base.neighbor],
        'lc_component': [*(one.largest for one in by_part), base.largest],
    }
    seams = seam_energy(guess.costs, guess.cells, truth, blank)
    found = {
        name: Judged(*row) for name, row in scores.items() if all(one is not None for one in row)
    }
    return found, {} if seams is None else {'seam_energy': seams.to_dict()}


@_judge.register
def _(guess: PixelOrder, subject: Subject, index: int, other: int, rng: np.random.Generator):
    case = subject.cases[index]
    # It is one guess for all pictures, and judged once.
    if case.drawn is None or index:
        return {}, {}
    scattered = zip(subject.cipher.steps, case.drawn, strict=True)
    (truth,) = (drawn for step, drawn in scattered if step.scatters)
    # All pictures share it: the control is another one altogether.
    orders = [guess.order, guess.order, rng.permutation(len(truth))]
    truths = [truth, rng.permutation(len(truth)), truth]
    row = [score_pixel_order(*pair) for pair in zip(orders, truths, strict=True)]
    return {'pixel_order': Judged(*row)}, {}


@_judge.register
def _(guess: Picture, subject: Subject, index: int, other: int, rng: np.random.Generator):
    case, control = subject.cases[index], subject.cases[other]
    if case.plain is None or control.plain is None:
        return {}, {}
    # One picture alone has no other.
    wrong = control.plain if other != index else 255 - case.plain[::-1]
    wrong = cv2.resize(wrong, case.plain.shape[1::-1], interpolation=cv2.INTER_AREA)
    blind = np.full_like(case.plain, 128)
    # As a whole it may be turned: whoever looks at it sees that.
    views = [guess.img, *(turned(guess.img, code) for code in range(1, 8) if subject.turned)]
    views = [view for view in views if view.shape == case.plain.shape]
    rows = [
        max((score_picture(view, truth) for view in views), key=lambda one: one.ssim)
        for truth in (case.plain, wrong)
    ]
    rows.append(score_picture(blind, case.plain))
    names = ('psnr', 'ssim', 'gradient_ssim')
    return {name: Judged(*(getattr(row, name) for row in rows)) for name in names}, {}


@_judge.register
def _(guess: Ranking, subject: Subject, index: int, other: int, rng: np.random.Generator):
    if index not in subject.places or other not in subject.places:
        return {}, {}
    places = [subject.places[index], subject.places[other]]
    if other == index:
        places[1] = (places[0] + 1) % len(guess.scores)
    rows = [score_ranking(guess.scores, place) for place in places]
    rows.append(score_ranking(np.zeros(len(guess.scores)), places[0]))
    return {
        name: Judged(*(getattr(row, name) for row in rows)) for name in ('rank_1', 'rank_5')
    }, {}


@_judge.register
def _(guess: Labels, subject: Subject, index: int, other: int, rng: np.random.Generator):
    case, control = subject.cases[index], subject.cases[other]
    if case.label is None or control.label is None or other == index:
        return {}, {}
    said = int(guess.scores.argmax())
    counts = np.bincount([one.label for one in subject.cases if one.label is not None])
    row = (said == case.label, said == control.label, counts.argmax() == case.label)
    return {'accuracy': Judged(*map(float, row))}, {}


def by_slot(case: Case, subject: Subject, wanted: str) -> list[np.ndarray]:
    """What steps with this trait drew for each patch, by the slot that it is in at last."""
    values: list[np.ndarray] = []
    for step, drawn in zip(subject.cipher.steps, case.drawn or (), strict=True):
        if step.moves_patches:
            values = [one[drawn] for one in values]
        trait = getattr(step, wanted)
        if trait(case.encrypted.shape[2:]) if callable(trait) else trait:
            values.append(drawn)
    return values


def dropped(case: Case, subject: Subject) -> np.ndarray | None:
    """Slots that hold nothing, since their patch was left out."""
    flags = by_slot(case, subject, 'drops_patches') if case.drawn else []
    return np.any(flags, axis=0) if flags else None


def turned(img: np.ndarray, code: int) -> np.ndarray:
    """A picture in one of the eight symmetries, numbered as by the step `orient`."""
    return np.rot90(img[:, ::-1] if code & 4 else img, code & 3)


def _left_wrong(guess: Arrangement, case: Case, subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """How each patch is still turned after the guess, and whether its colours are wrong.

    Returns:
        tuple[np.ndarray, np.ndarray]: Symmetries, and numbers of which 0 is
        no change of colours, both int64 of shape (n, ).
    """
    channels = (*case.encrypted.shape[2:], 1)[0]
    changes = Changes(subject.cipher, case.layout.patch_size, channels)
    drawn = by_slot(case, subject, 'choices')
    known = {tuple(map(_equal, choice)): i for i, choice in enumerate(changes.choices)}
    true = [known[tuple(_equal(one[slot]) for one in drawn)] for slot in range(len(guess.cells))]
    left = changes.products[guess.turns, true]
    codes = [
        next(code for code, matrix in enumerate(MATRICES) if (matrix == turn).all())
        for turn in changes.turns
    ]
    hues = [
        tuple(
            _equal(one)
            for step, one in zip(changes.steps, choice, strict=True)
            if not step.moves_pixels
        )
        for choice in changes.choices
    ]
    return np.array(codes)[left], np.array([hues.index(hue) for hue in hues])[left]


def _equal(choice: Any) -> tuple:
    """A choice such that equal ones are equal, whatever they are made of."""
    return tuple(np.ravel(choice).tolist())
