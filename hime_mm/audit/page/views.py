# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a page shows of one cipher, taken from the summary and the picture files."""

import os
from dataclasses import dataclass, field

from hime_mm.ciphers import Cipher
from hime_mm.encryption.walk import lies_in
from hime_mm.errors import HimeError
from hime_mm.images.codec import read_image
from hime_mm.images.files import file_sha256
from hime_mm.visualization.page import embedded

from ..session import FAILED
from ..table import SHOWN
from .summary import Part, Summary
from .verdicts import (
    ADVERSARIES,
    READ,
    STAGES,
    Row,
    Verdict,
    adversary_of,
    annotator,
    of_readers,
    row_of,
    verdict_of,
)

#: Height or width of a picture in a page, in pixels.
_SIDE = 256
#: Pictures of one cipher, whatever a summary names.
_PICTURES = 10


@dataclass
class Cell:
    """A picture of a page, or why it is not there."""

    stage: str
    source: str = ''
    why: str = ''


@dataclass
class Worst:
    """A picture of which much leaked."""

    number: int
    name: str
    said: str
    cells: list[Cell]


@dataclass
class View:
    """What a page shows of one cipher."""

    id: str
    name: str
    cipher: str
    patch_size: int | None
    folder: str
    sizes: list[str]
    pictures: int | None
    sampled: int | None
    done: int | None
    rehearsal: bool
    rows: list[Row]
    verdicts: list[Verdict]
    failed: dict[str, str]
    not_tried: dict[str, list[str]]
    attacks_failed: dict[str, int]
    worst: list[Worst] = field(default_factory=list)

    @property
    def not_reached(self) -> int:
        """int: Pictures that were drawn, and neither attacked nor refused."""
        if self.sampled is None or self.done is None:
            return 0
        return max(self.sampled - self.done - len(self.failed), 0)

    @property
    def shown(self) -> list[Row]:
        """list[Row]: Those of the table."""
        return [row for row in self.rows if row.metric in SHOWN]

    @property
    def others(self) -> list[Row]:
        """list[Row]: All others."""
        return [row for row in self.rows if row.metric not in SHOWN]


def view_of(part: Part, number: int, summary: Summary, pictures: bool) -> View:
    """What a page shows of one cipher.

    Args:
        part (Part): Of the summary.
        number (int): From 1.
        summary (Summary): All of it. If it was changed there are no verdicts and no pictures.
        pictures (bool): Show the pictures of which most leaked.
    """
    cipher, side = part.text('cipher'), part.count('patch_size')
    rehearsal = bool(part.flag('rehearsal'))
    name = cipher or f'cipher {number}, not known'
    name += '' if side in (16, None) else f', patches of {side}'
    name += ' (rehearsal)' if rehearsal else ''
    rows, grades, failed, tried = [], {}, {}, set()
    for attack, said in part.parts('attacks').items():
        who = adversary_of(attack, said.text('setting'))
        tried.add(who)
        found = said.parts('metrics')
        rows += [row_of(attack, who, metric, risk) for metric, risk in found.items()]
        # Of one attack one measure has a grade.
        for grade in said.rows('grades'):
            grades[attack] = grade
        if count := said.count('pictures_failed'):
            failed[attack] = count
    read = _read_rows(part, failed)
    reasons = part.texts('not_tried') | part.texts('not_read', need=False)
    why_not = _grouped(reasons, pictures)
    verdicts = [
        annotator(_moves(cipher), pictures),
        *(verdict_of(who, rows, grades, who.name in tried, why_not) for who in ADVERSARIES[1:-1]),
        of_readers(read, bool(part.state.get('readers'))),
    ]
    view = View(
        id=f'cipher-{number}',
        name=name,
        cipher=cipher,
        patch_size=side,
        folder=part.text('folder'),
        sizes=part.words('sizes'),
        pictures=part.count('pictures'),
        sampled=part.count('sampled'),
        done=part.count('done'),
        rehearsal=rehearsal,
        rows=[*rows, *read],
        verdicts=verdicts if summary.whole else [],
        failed=_failed(part, pictures),
        not_tried=why_not,
        attacks_failed=failed,
    )
    worst = part.rows('worst')
    if pictures and summary.whole:
        view.worst = [_worst(row, summary.folder) for row in worst[:_PICTURES]]
    return view


def _read_rows(part: Part, failed: dict[str, int]) -> list[Row]:
    """What readers read, a row for each stage; the stage stands where the adversary would."""
    rows = []
    for reader, said in part.parts('readers', need=False).items():
        for stage, metrics in said.part('stages').state.items():
            of = Part(metrics, f'{said.place}, stages, {stage}', part.lacking)
            if stage not in STAGES:
                continue
            rows += [
                row_of(reader, stage, metric, of.part(metric))
                for metric in of.state
                if metric in READ
            ]
        counts = said.part('failed', need=False)
        if several := sum(counts.count(stage) or 0 for stage in counts.state):
            failed[reader] = several
    return rows


def _moves(cipher: str) -> bool | None:
    try:
        return Cipher(cipher).shuffles if cipher else None
    except HimeError:
        return None


def _grouped(reasons: dict[str, str], pictures: bool) -> dict[str, list[str]]:
    """Attacks by the reason why they were not made."""
    found: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        # What an error says may name a file.
        if not pictures and reason.startswith(FAILED):
            reason = FAILED
        found.setdefault(reason or 'no reason is given', []).append(name)
    return found


def _failed(part: Part, pictures: bool) -> dict[str, str]:
    """Pictures that were not taken, and why; what lacks there names them, too."""
    known = len(part.lacking)
    found = part.texts('failed')
    if not pictures and len(part.lacking) > known:
        part.lacking[known:] = [part.at('failed')]
    return found


def _worst(row: Part, folder: str) -> Worst:
    """A picture of which much leaked, with what is there of it."""
    number = row.count('number')
    said = f'{row.text("attack")}: {row.text("score")}'
    files = row.part('files')
    cells = []
    for stage in STAGES:
        if stage not in files.state:
            # Without the originals of what was delivered there is none.
            why = 'no original was given' if stage == 'original' else 'it is not in the summary'
            cells.append(Cell(stage, '', '' if stage == 'original' else why))
            continue
        one = files.part(stage)
        cells.append(_cell(stage, folder, one.text('file'), one.text('sha256')))
    return Worst(-1 if number is None else number, row.text('name'), said, cells)


def _cell(stage: str, folder: str, name: str, sha256: str) -> Cell:
    place = os.path.realpath(os.path.join(folder, name))
    if not name or not lies_in(place, os.path.realpath(folder)):
        return Cell(stage, '', 'a file is not of this audit')
    try:
        if file_sha256(place) != sha256:
            return Cell(stage, '', 'a file was changed since the audit')
        return Cell(stage, embedded(read_image(place, 'unchanged'), _SIDE))
    except OSError:
        return Cell(stage, '', 'a file is missing, or cannot be read')
    except HimeError:
        return Cell(stage, '', 'a file is no picture')
