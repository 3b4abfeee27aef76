# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The summary of an audit as it is found: what it lacks is noted, and never guessed."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hime_mm.errors import AuditError, printable
from hime_mm.images.files import read_json

from ..written import HEAD, SUMMARY, checksum


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # whole numbers have no end
        return False


class Part:
    """A part of a summary, read key by key.

    Args:
        state (Any): A dict, if nobody changed it.
        place (str): Where it is, in words.
        lacking (list[str]): Gets the places of what is missing or of another kind.
    """

    def __init__(self, state: Any, place: str, lacking: list[str]) -> None:
        self.lacking, self.place = lacking, place
        self.state: dict[str, Any] = state if isinstance(state, dict) else {}
        if not isinstance(state, dict):
            lacking.append(place)

    def _take(self, key: str, fits: Callable[[Any], bool], default: Any, need: bool) -> Any:
        if key in self.state and fits(self.state[key]):
            return self.state[key]
        if need or key in self.state:
            self.lacking.append(self.at(key))
        return default

    def at(self, key: str) -> str:
        """Where a key is, in words."""
        return f'{self.place}, {printable(key)}' if self.place else printable(key)

    def text(self, key: str, need: bool = True) -> str:
        """A text, in which all can be seen; empty if there is none."""
        return printable(self._take(key, lambda one: isinstance(one, str), '', need))

    def number(self, key: str, need: bool = True) -> float | None:
        """A finite number; None if there is none, or it was not measured."""
        return self._take(key, lambda one: one is None or _is_number(one), None, need)

    def count(self, key: str, need: bool = True) -> int | None:
        """A number of things."""
        return self._take(key, lambda one: type(one) is int and one >= 0, None, need)

    def flag(self, key: str, need: bool = True) -> bool | None:
        """True, False, or None for neither."""
        return self._take(key, lambda one: one is None or isinstance(one, bool), None, need)

    def part(self, key: str, need: bool = True) -> 'Part':
        """What is below a key."""
        state = self._take(key, lambda one: isinstance(one, dict), {}, need)
        return Part(state, self.at(key), self.lacking)

    def parts(self, key: str, need: bool = True) -> dict[str, 'Part']:
        """What is below a key, by name."""
        whole = self.part(key, need)
        return {
            printable(name): Part(one, whole.at(name), self.lacking)
            for name, one in whole.state.items()
        }

    def texts(self, key: str, need: bool = True) -> dict[str, str]:
        """Texts by name."""
        whole = self.part(key, need)
        return {printable(name): whole.text(name) for name in whole.state}

    def rows(self, key: str, need: bool = True) -> list['Part']:
        """A list of parts."""
        rows = self._take(key, lambda one: isinstance(one, list), [], need)
        return [Part(row, f'{self.at(key)} {i}', self.lacking) for i, row in enumerate(rows, 1)]

    def words(self, key: str, need: bool = True) -> list[str]:
        """A list of texts."""

        def fits(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(one, str) for one in value)

        return [printable(one) for one in self._take(key, fits, [], need)]


@dataclass
class Summary:
    """A summary as it was found.

    Attributes:
        folder (str): Of the audit.
        head (Part): All of it.
        whole (bool): Whether its checksum fits.
        lacking (list[str]): What was missing, or of another kind, where it was asked for.
    """

    folder: str
    head: Part
    whole: bool
    lacking: list[str] = field(default_factory=list)


def read_summary(folder: str) -> Summary:
    """Read ``audit.json`` of an audit.

    Args:
        folder (str): Of the audit.

    Raises:
        AuditError: If there is none, or it is no summary that this version knows.
    """
    place = os.path.join(folder, SUMMARY)
    if not os.path.lexists(place):
        raise AuditError(f'{folder} holds no audit: name a folder that `hime audit` wrote to')
    again = 'run `hime audit` again, which goes on where it was'
    try:
        state = read_json(place, 'summary', AuditError, unique=True)
    except AuditError as error:
        raise AuditError(f'{error}: {again}') from None
    if not isinstance(state, dict) or state.get('format') != HEAD['format']:
        raise AuditError(f'{place} is no summary of an audit: {again}')
    version = state.get('format_version')
    if version != HEAD['format_version']:
        raise AuditError(
            f'{place} has the format version {version!r}, and this hime_mm knows '
            f'{HEAD["format_version"]}: use the one that wrote it, or {again}'
        )
    lacking: list[str] = []
    try:
        whole = state.get('checksum') == checksum(state)
    except RecursionError:
        raise AuditError(f'{place} is nested too deeply: {again}') from None
    return Summary(folder, Part(state, '', lacking), whole, lacking)
