# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Which lists of steps make sense, told by the traits of the steps."""

from collections import Counter
from itertools import combinations
from typing import NamedTuple

from hime_mm.errors import CipherError

from .layout import PatchLayout
from .steps import STEPS, Step


class Rule(NamedTuple):
    """No step of the ``first`` trait before one of the ``second``.

    ``swap`` tells whether they may stand the other way round.
    """

    first: str
    second: str
    reason: str
    swap: bool = True

    def check(self, first: Step, second: Step) -> None:
        """Refuse the steps, in this order, and say what to do."""
        if not (getattr(first, self.first) and getattr(second, self.second)):
            return
        form, default = (getattr(owner, 'form', None) for owner in (first, type(first)))
        remedies = [f'put {second.name!r} first'] if self.swap else []
        if form != default:
            remedies.append(f'use the {default} form of {first.name!r}')
        remedy = ', or '.join(remedies or ['leave one of them out'])
        raise CipherError(
            f'{second.name!r} after {first.name!r}'
            + (f' in its {form} form' if form != default else '')
            + f' {self.reason}. {remedy[0].upper()}{remedy[1:]}'
        )


#: Orders in which one step undoes the point of another.
RULES = (
    Rule('repeats', 'drops_border', 'drops nothing: the pixels of the border are repeated inside'),
    Rule('paints_border', 'averages', 'averages the grey border into the image'),
    Rule(
        'paints_border',
        'removes_means',
        'takes the grey border into the mean, and writes the mean into the border',
    ),
    Rule('paints_border', 'scatters', 'is told by where the grey pixels go', swap=False),
    Rule(
        'scatters',
        'drops_border',
        'drops arbitrary pixels instead of the border that a jigsaw solver compares',
    ),
    Rule('scatters', 'averages', 'averages arbitrary pixels instead of sub-patches'),
    Rule('repeats', 'adds_noise', 'is averaged away over the copies'),
    Rule('drops_patches', 'adds_noise', 'adds noise to patches that are left out'),
)


def check_steps(steps: tuple[Step, ...], patch_size: int) -> None:
    """Refuse a list of steps that makes no sense.

    A step in it comes twice, does not fit the patch size of the plain image, or is useless where
    it stands.
    """
    if not steps:
        raise CipherError(
            f'a cipher needs at least one step: choose from {", ".join(sorted(STEPS))}'
        )
    name, count = Counter(step.name for step in steps).most_common(1)[0]
    if count > 1:
        raise CipherError(
            f'{name!r} stands more than once in a cipher, which adds nothing: leave one out'
        )
    layout = PatchLayout((patch_size, patch_size), patch_size, (1, 1))
    for step in steps:
        step.check(layout.patch_size)
        for other in steps:
            if other.removes_means and step.leaves_means_only(layout.patch_size):
                raise CipherError(
                    f'{str(step)!r} leaves the mean of each patch of side '
                    f'{layout.patch_size}, and {other.name!r} removes just '
                    'that. Mix with fewer splits'
                )
        layout = step.next_layout(layout)
    for rule in RULES:
        for first, second in combinations(steps, 2):
            rule.check(first, second)
