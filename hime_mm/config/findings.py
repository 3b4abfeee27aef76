# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is found in a config, and the register of what finds it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plan import Plan


@dataclass(frozen=True)
class Finding:
    """One thing in a config that is wrong, or odd.

    Attributes:
        level (str): ``'error'`` or ``'warning'``.
        place (str): Dotted path.
        text (str): What is the matter, as it follows the place in a sentence:
            ``'does not fit …'``, or from a colon on.
        remedy (str): What to do about it, as a clause or, with a capital, as
            a sentence of its own. Defaults to ''.
    """

    level: str
    place: str
    text: str
    remedy: str = ''

    def __str__(self) -> str:
        gap = '' if self.text.startswith(':') else ' '
        separator = '. ' if self.remedy[:1].isupper() else ': ' if self.remedy else ''
        return f'`{self.place}`{gap}{self.text}{separator}{self.remedy}'


def error(place: str, text: str, remedy: str = '') -> Finding:
    """A :class:`Finding` that keeps a config from being run."""
    return Finding('error', place, text, remedy)


def warning(place: str, text: str, remedy: str = '') -> Finding:
    """A :class:`Finding` that a user should know of."""
    return Finding('warning', place, text, remedy)


Validator = Callable[['Plan'], Iterator[Finding]]
VALIDATORS: list[Validator] = []


def validator(check: Validator) -> Validator:
    """Register a check of plans, as a decorator; it yields findings."""
    VALIDATORS.append(check)
    return check


def validate(plan: 'Plan') -> list[Finding]:
    """All that reading a config and the registered validators found."""
    return [*plan.findings, *(finding for check in VALIDATORS for finding in check(plan))]
