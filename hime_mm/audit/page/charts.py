# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Where the marks of a report's charts are; the template draws them.

Each chart is as wide as a phone shows without scaling, so that texts stay readable.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from hime_mm.ciphers.figures import figures

from .verdicts import Row

WIDTH = 340
#: Pixels beside the axis.
_LEFT, _RIGHT = 12, 12
#: Height of a row of bars, and of its bar.
_STEP, _BAR = 48, 16
_NAMES = 40
MEASURES = {
    'nc_component': 'Neighbouring patches put back',
    'ssim': 'Likeness of the reconstruction (SSIM)',
    'rank_1': 'Pictures found again',
}


def _at(value: float, low: float = 0.0, high: float = 1.0, left: int = _LEFT) -> float:
    """Where a value is on the axis; what is beyond its ends is at them."""
    share = (min(max(value, low), high) - low) / (high - low)
    return round(left + share * (WIDTH - left - _RIGHT), 1)


def shortened(text: str, most: int = _NAMES) -> str:
    """Beginning and end of a text."""
    if len(text) <= most:
        return text
    return f'{text[: most // 2]}…{text[len(text) - most + most // 2 + 1 :]}'


@dataclass(frozen=True)
class Bar:
    """A cipher in a chart of bars; what is not known is None."""

    name: str
    label: str
    top: int
    value: str
    end: float
    low: float | None
    high: float | None
    control: float | None
    chance: float | None
    said: str


@dataclass(frozen=True)
class Bars:
    """What the strongest attack got of each cipher."""

    title: str
    bars: list[Bar]
    height: int
    ticks: list[tuple[float, str]]
    width: int = WIDTH
    bar: int = _BAR


def bars(metric: str, found: Sequence[tuple[str, Row | None]]) -> Bars | None:
    """A bar for each cipher that was measured; None where none was."""
    made: list[Bar] = []
    for name, row in found:
        if row is None or row.mean is None:
            continue
        ends = (row.low, row.high, row.control, row.chance)
        value = f'{row.mean:.3g}' if row.leaks else f'({row.mean:.3g})'
        words = ('95 % from', 'to', 'control', 'chance')
        said = f'{name}: {row.mean:.3g} by {row.attack}' + ''.join(
            f', {what} {one:.3g}' for what, one in zip(words, ends, strict=True) if one is not None
        )
        # Names of ciphers are in small letters, and capitals are wider.
        most = _NAMES - len(value)
        low, high, control, chance = (None if one is None else _at(one) for one in ends)
        bar = Bar(
            name=name,
            label=shortened(name, most if name == name.lower() else most * 2 // 3),
            top=6 + len(made) * _STEP,
            value=value,
            end=_at(row.mean),
            low=low,
            high=high,
            control=control,
            chance=chance,
            said=said,
        )
        made.append(bar)
    if not made:
        return None
    ticks = [(_at(value), f'{value:g}') for value in (0, 0.25, 0.5, 0.75, 1)]
    return Bars(MEASURES[metric], made, len(made) * _STEP + 30, ticks)


@dataclass(frozen=True)
class Mark:
    """A cipher between accuracy and leakage."""

    x: float
    y: float
    letter: str
    label_y: float
    said: str


@dataclass(frozen=True)
class Trade:
    """What ciphers leave to models and to attacks, of other pictures than these."""

    title: str
    others: list[Mark]
    marks: list[Mark]
    rows: list[tuple[str, str, str, str]]
    plain: float
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    width: int = WIDTH
    height: int = 300
    left: int = 44
    bottom: int = 252


def trade(metric: str, ciphers: Sequence[str]) -> Trade | None:
    """Known ciphers by what attacks get and what a classifier learns.

    Args:
        metric (str): What attacks get, ``'nc_component'`` or ``'ssim'``.
        ciphers (Sequence[str]): Those of an audit, as ``figures.json`` calls them; they get a
            letter each.

    Returns:
        Trade | None: None where no cipher has both figures.
    """
    learnt = figures()['recognition']
    leaked = figures()['sets']['coco']['ciphers']
    known = {
        name: (leaked[name][metric]['mean'], row['ciphertexts']['accuracy'])
        for name, row in learnt['rows'].items()
        if metric in leaked.get(name, {}) and 'ciphertexts' in row
    }
    if not known:
        return None
    heights = [learnt['plain'], *(accuracy for _, accuracy in known.values())]
    low, high = math.floor(min(heights) * 20) / 20, math.ceil(max(heights) * 20) / 20
    top, bottom, left = 12, Trade.bottom, Trade.left

    def across(value: float) -> float:
        return _at(value, left=left)

    def up(value: float) -> float:
        return round(bottom - (value - low) / (high - low) * (bottom - top), 1)

    others: list[Mark] = []
    marks: list[Mark] = []
    rows = []
    letters = dict(zip(dict.fromkeys(ciphers), _letters(), strict=False))
    for name, (leak, accuracy) in known.items():
        said = f'{name}: {MEASURES[metric]} {leak:.3g}, accuracy {accuracy:.3g}'
        x, y = across(leak), up(accuracy)
        if name not in letters:
            others.append(Mark(x, y, '', y, said))
            continue
        near = sorted(one.label_y for one in marks if abs(one.x - x) < 16)
        label = y
        for taken in near:
            label = taken + 14 if abs(taken - label) < 14 else label
        marks.append(Mark(x, y, letters[name], label, said))
    for name, letter in letters.items():
        leak = leaked.get(name, {}).get(metric, {}).get('mean')
        accuracy = learnt['rows'].get(name, {}).get('ciphertexts', {}).get('accuracy')
        rows.append((letter, name, _figure(leak), _figure(accuracy)))
    steps = [low + i * 0.05 for i in range(round((high - low) / 0.05) + 1)]
    return Trade(
        f'Accuracy and {MEASURES[metric][0].lower()}{MEASURES[metric][1:]}',
        others,
        marks,
        rows,
        up(learnt['plain']),
        [(across(value), f'{value:g}') for value in (0, 0.25, 0.5, 0.75, 1)],
        [(up(value), f'{value:.2f}') for value in steps],
    )


def _figure(value: float | None) -> str:
    return 'no figure' if value is None else f'{value:.3g}'


def _letters() -> Iterator[str]:
    """A, B, ..., Z, A1, B1, ..."""
    number = 0
    while True:
        yield from (f'{letter}{number or ""}' for letter in ascii_uppercase)
        number += 1
