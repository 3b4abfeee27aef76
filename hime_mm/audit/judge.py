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
    turned = guess.turns is not None
    how: dict = dict(empty=blank, symmetries=subject.mirrored or turned)
    in_parts, in_cells = (
        {**how, **(_left_wrong(turns, case, subject) if turned else {})}
        for turns in (guess.part_turns, guess.turns)
    )
    by_part = [score_puzzle(guess.spots, one, guess.parts, **in_parts) for one in (truth, wrong)]
    whole = [score_puzzle(guess.cells, one, **in_cells) for one in (truth, wrong)]
    base = chance(grid, truth if blank is None else truth[~blank])
    if how['symmetries']:
        # As a whole it may be turned: chance, too, has eight tries.
        draws = [
            score_puzzle(random_arrangement(grid, rng), truth, **in_cells) for _ in range(DRAWS)
        ]
        means: list[Any] = [_mean([getattr(one, name) for one in draws]) for name in vars(base)]
        base = PuzzleScores(*means)
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
    if case.drawn is None:
        return {}, {}
    scattered = zip(subject.cipher.steps, case.drawn, strict=True)
    (truth,) = (drawn for step, drawn in scattered if step.scatters)
    # All pictures share both: the control is another one altogether.
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


def _mean(values: list) -> float | None:
    """Their mean; None of what is not defined."""
    return None if None in values else float(np.mean(values))


def _left_wrong(turns: Any, case: Case, subject: Subject) -> dict[str, Any]:
    """How each patch is still turned after it was, and whether its colours are wrong.

    Returns:
        dict: Arguments of :func:`score_puzzle`: symmetries as ``turns``, and as ``colors``
        numbers of which 0 is no change.
    """
    channels = (*case.encrypted.shape[2:], 1)[0]
    changes = Changes(subject.cipher, case.layout.patch_size, channels)
    drawn = by_slot(case, subject, 'choices')
    known = {tuple(map(_equal, choice)): i for i, choice in enumerate(changes.choices)}
    true = [known[tuple(_equal(one[slot]) for one in drawn)] for slot in range(len(turns))]
    left = changes.products[turns, true]
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
    turned = np.array(codes)[left]
    colors = np.array([hues.index(hue) for hue in hues])[left]
    return dict(turns=(turned, np.zeros_like(turned)), colors=colors)


def _equal(choice: Any) -> tuple:
    """A choice such that equal ones are equal, whatever they are made of."""
    return tuple(np.ravel(choice).tolist())
