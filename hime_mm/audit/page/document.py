# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The report of an audit as a page, made of its summary and picture files alone."""

import os
from collections.abc import Sequence
from typing import Any

from hime_mm.attacks.registry import all_attacks
from hime_mm.errors import AuditError
from hime_mm.images.files import write_atomic
from hime_mm.visualization.page import render

from ..written import PAGE, check_kept
from . import charts
from .remedies import remedies
from .summary import Summary, read_summary
from .verdicts import (
    ADVERSARIES,
    LEVELS,
    READ,
    STAGES,
    THRESHOLDS,
    Row,
    of_pictures,
    of_reading,
    percent,
    plain,
    strongest,
)
from .views import View, view_of

#: Names that a page has of pictures that were not taken, and of what a summary lacks.
_NAMES = 20
#: What is said first, by measure; of whatever adversary got most.
_SHORT = (
    ('rank_1', '', 'Who has a copy finds again: {}.'),
    ('nc_component', '', 'Of neighbouring patches that were moved are put back: {}.'),
    ('ssim', '', 'Reconstructions are like the originals (SSIM, 1 is equal): {}.'),
    ('accuracy', '', 'The class is told of: {}.'),
)


def report_page(folder: str, pictures: bool = True) -> str:
    """The report of an audit as one HTML file, which needs nothing else.

    It is made of ``audit.json`` and the picture files in the folder alone. What
    is not there, or was changed, is said and not guessed.

    Args:
        folder (str): That ``hime audit`` wrote to.
        pictures (bool): Show the pictures of which most leaked. Without them it
            names none either, and may be shared. Defaults to True.

    Raises:
        AuditError: If there is no summary that this version can read.
        HimeError: If Jinja2 is not installed.
    """
    summary = read_summary(folder)
    views = [
        view_of(part, number, summary, pictures)
        for number, part in enumerate(summary.head.rows('ciphers'), 1)
    ]
    head = _head(summary)
    notices = []
    if not summary.whole:
        notices += [
            'This summary was changed after it was written, or is of an earlier version: its '
            'checksum does not fit. So there is no verdict here, no chart and no picture, and the '
            'tables show what the file says now. Run hime audit again into a new folder.'
        ]
    notices += _partial(summary, views)
    if summary.lacking:
        notices.append(
            'The summary lacks, or has in another form: '
            + _some([*dict.fromkeys(summary.lacking)])
            + '. What is said of these is "not known".'
        )
    # Where no truth is known of what was delivered, its rehearsal speaks for it.
    real = [view for view in views if view.rows and not view.rehearsal] or views
    return render(
        'report.html.j2',
        views=views,
        ciphers=sum(not view.rehearsal for view in views),
        rehearsed=any(view.rehearsal for view in views),
        head=head,
        whole=summary.whole,
        pictures=pictures,
        notices=notices,
        lines=_in_short(views) if summary.whole else [],
        adversaries=ADVERSARIES,
        levels=LEVELS,
        charts=_charts(real) if summary.whole else [],
        trades=_trades(real) if summary.whole else [],
        remedies=_remedies(real) if summary.whole else [],
        reader_names=_readers(views),
        left_out=sorted(set(all_attacks()) - set(head['attacks'])) if head['attacks'] else [],
        most=_NAMES,
        shortened=charts.shortened,
        thresholds=THRESHOLDS,
        titles={one.name: one.title for one in ADVERSARIES} | STAGES,
    )


def write_page(folder: str, out: str | None = None, pictures: bool = True) -> str:
    """Write the report of an audit as a page; gives the place.

    Args:
        folder (str): That ``hime audit`` wrote to.
        out (str, optional): The file. None is ``report.html`` in the folder, or
            without pictures ``report_shared.html``. Defaults to None.
        pictures (bool): As of :func:`report_page`; with them its owner alone
            can read the file. Defaults to True.

    Raises:
        AuditError: As :func:`report_page`, or if the file would lie in an
            encrypted data set, which is handed over.
        OSError: If it cannot be written.
    """
    place = out or os.path.join(folder, PAGE if pictures else 'report_shared.html')
    check_kept(os.path.dirname(place) or '.')
    if os.path.isdir(place):
        raise AuditError(f'{place} is a folder: name a file as `out`')
    write_atomic(place, report_page(folder, pictures) + '\n', private=pictures)
    return place


def _head(summary: Summary) -> dict[str, Any]:
    """What a page says of the whole audit."""
    head = summary.head
    kind = head.text('kind')
    settings = head.part('settings')
    delivered = kind == 'encrypted data set'
    hashes = ('dataset_id', 'data_checksum') if delivered else ('digest',)
    return dict(
        kind=kind,
        names=head.count('names'),
        data={name: head.text(name) for name in hashes},
        originals=head.state.get('originals') is not None,
        originals_checked=head.flag('originals_checked') if delivered else None,
        key=head.flag('key') if delivered else None,
        seed=settings.number('seed'),
        attacks=settings.words('attacks'),
        public=head.state.get('public') is not None,
        num_public=settings.number('num_public'),
        command=head.text('command'),
        versions=head.texts('versions'),
        started=head.text('started').replace('T', ' ').replace('+00:00', ' UTC'),
    )


def _partial(summary: Summary, views: Sequence[View]) -> list[str]:
    """What is said of an audit that is not done."""
    said = []
    recipes = summary.head.state.get('recipes')
    if isinstance(recipes, list) and len(recipes) > len(views):
        said.append(
            f'Of {len(recipes)} ciphers {len(views)} are here: the audit was stopped, or runs '
            'still. Run it again, and it goes on.'
        )
    if not views:
        said.append('There is no cipher in the summary.')
    for view in views:
        if view.not_reached:
            said.append(
                f'{view.name}: of {view.sampled} pictures {view.not_reached} not reached. '
                'Run the audit again, and it goes on.'
            )
        gone = [cell.why for one in view.worst for cell in one.cells if cell.why]
        if gone:
            why = '; '.join(dict.fromkeys(gone))
            said.append(f'{view.name}: of its pictures {len(gone)} cannot be shown: {why}.')
    return said


def _in_short(views: Sequence[View]) -> list[str]:
    """The audit in a few sentences."""
    known = [view for view in views if view.rows]
    read = [
        (metric, stage, f'{what[0].upper()}{what[1:]} on {STAGES[stage]}: {{}}.')
        for stage in ('encrypted', 'reconstructed')
        for metric, what in READ.items()
    ]
    lines = []
    for metric, who, text in (*_SHORT, *read):
        found = [(view.name, strongest(view.rows, metric, who)) for view in known]
        rows = [(name, row) for name, row in found if row is not None and row.leaks]
        if rows:
            rows.sort(key=lambda one: one[1].mean or 0, reverse=True)
            lines.append(text.format(_range(rows, len(known))))
    untried = [
        who.title
        for number, who in enumerate(ADVERSARIES)
        if views and all(view.verdicts[number].level == 'untried' for view in views)
    ]
    return lines + [f'Not tried under any cipher: {", ".join(untried)}.' for _ in untried[:1]]


def _range(rows: Sequence[tuple[str, Row]], of: int) -> str:
    """What was got, from the cipher of which most was to that of which least."""
    ends = [*dict.fromkeys(_said(row) for _, row in (rows[0], rows[-1]))]
    if len(ends) == 1 and len(rows) > 1:
        many = 'every cipher' if len(rows) == of else f'{len(rows)} of {of} ciphers'
        return f'{ends[0]} under {many}'
    names = [charts.shortened(name) for name, _ in (rows[0], rows[-1])]
    words = [f'{said} ({name})' for said, name in zip(ends, names, strict=False)]
    return (' to ' if len(rows) > 2 else ', ').join(words)


def _said(row: Row) -> str:
    if row.metric in READ:
        return of_reading(row)
    if row.metric in ('rank_1', 'accuracy'):
        return of_pictures(row)
    return percent(row.mean) if row.metric == 'nc_component' else plain(row.mean)


def _charts(views: Sequence[View]) -> list[charts.Bars]:
    made = [
        charts.bars(metric, [(view.name, strongest(view.rows, metric)) for view in views])
        for metric in charts.MEASURES
    ]
    return [one for one in made if one is not None]


def _trades(views: Sequence[View]) -> list[charts.Trade]:
    names = [
        view.cipher if view.patch_size == 16 else f'{view.cipher}/{view.patch_size}'
        for view in views
        if view.cipher
    ]
    made = [charts.trade(metric, names) for metric in ('nc_component', 'ssim')]
    return [one for one in made if one is not None]


def _remedies(views: Sequence[View]) -> list[tuple[str, str, list[str]]]:
    leaks = []
    for view in views:
        for row in view.rows:
            if not row.leaks:
                continue
            leaks.append((row.metric, view.name))
            if row.adversary in ('known-plaintext', 'chosen-plaintext'):
                leaks.append(('shared', view.name))
            if row.adversary in STAGES and row.adversary != 'original':
                leaks.append(('read', view.name))
    return remedies(leaks)


def _readers(views: Sequence[View]) -> list[str]:
    return sorted({row.attack for view in views for row in view.rows if row.adversary in STAGES})


def _some(texts: Sequence[str]) -> str:
    shown = [charts.shortened(text, 120) for text in texts[:_NAMES]]
    more = [f'and {len(texts) - _NAMES} more'] if len(texts) > _NAMES else []
    return '; '.join([*shown, *more])
