# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A report as a table for people to read."""

import math

from hime_mm.errors import printable
from hime_mm.evaluation.leakage import Risk
from hime_mm.evaluation.leakage.grades import SOURCE as GRADES

from .panel import STAGES
from .report import AuditReport, Measured

#: What is shown; files have all.
SHOWN = (
    *('nc_component', 'nc', 'pixel_order', 'ssim', 'psnr', 'rank_1', 'accuracy'),
    *('face_found', 'face_recognised', 'text_read', 'object_found', 'class_named'),
)
BOUND = (
    'Every figure is a lower bound: what these attacks got, not what can be got. '
    'This is perceptual obfuscation, not encryption in the cryptographic sense.'
)
#: What the columns mean.
LEGEND = (
    'mean: over the pictures, with its 95 % bootstrap interval; max: of the picture of which most '
    'leaked.',
    'control: the same guess, judged against another picture. counts: whether the mean beats it, '
    'which fewer than six pictures are too few to tell.',
    'chance: a random guess; of ssim and psnr, a grey picture.',
    'of readers: control, the same picture with its squares of 8 pixels mixed up, or another '
    'person, text or class; chance, noise, or a guess.',
    "confidence: the attack's own, to compare pictures of one attack by, and nothing else.",
)


def table(report: AuditReport) -> list[str]:
    """The report in lines for people to read."""
    lines: list[str] = []
    for one in report.subjects:
        lines += _lines(one)
    if report.head.get('originals') and not report.head['originals_checked']:
        lines += ['The originals were found by their names, and not checked: that takes the key.']
        lines += ['']
    if any(one.attacks or one.readers for one in report.subjects):
        lines += [*LEGEND, '']
    graded = any(attack.grades for one in report.subjects for attack in one.attacks)
    grades = [f'Grades: {GRADES}.'] if graded else []
    bound = [f'{text}.' for text in BOUND.rstrip('.').split('. ')]
    # Names of files may hold anything.
    return [printable(line) for line in (*lines, *grades, *bound)]


def _lines(one: Measured) -> list[str]:
    what = 'public pictures in the place of the delivered ones' if one.rehearsal else 'pictures'
    lines = [
        f'{one.cipher}, patches of {one.patch_size} pixels: {one.done} of {one.pictures} {what}, '
        + (one.sizes[0] if len(one.sizes) == 1 else f'{len(one.sizes)} sizes')
    ]
    if not one.attacks and not one.readers:
        lines.append('  nothing was measured')
    elif best := _strongest(one):
        lines.append(f'  strongest: {best}')
    header = ('attack', 'measure', 'mean', '95 %', 'max', 'control', 'chance', 'counts')
    rows: list[tuple[str, ...]] = [header]
    for attack in one.attacks:
        shown = [risk for name, risk in attack.risks.items() if name in SHOWN]
        rows += [_row(attack.name, risk) for risk in shown]
        if not shown or one.rehearsal:
            confidence = '-' if attack.confidence is None else f'{attack.confidence:.3g}'
            truth = '' if shown else 'no truth'
            rows.append((attack.name, 'confidence', confidence, '', '', '', '', truth))
    for reader in one.readers:
        for stage, risks in reader.stages.items():
            rows += [_row(f'{reader.name}: {stage}', risk) for risk in risks.values()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines += [
        '  '
        + '  '.join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
        if len(rows) > 1
    ]
    for attack in one.attacks:
        if attack.failed:
            name, reason = next(iter(attack.failed.items()))
            lines.append(
                f'  {attack.name} failed on {len(attack.failed)}, such as {name}: {reason}'
            )
        lines += [
            f'  {attack.name}: {grade["grade"]}{"" if grade["sure"] else ", though not surely"}, '
            'by the grades below'
            for grade in attack.grades
        ]
    for reader in one.readers:
        for stage, failed in reader.failed.items():
            for name, reason in [*failed.items()][:1]:
                lines.append(
                    f'  {reader.name}: {stage} failed on {len(failed)}, such as {name}: {reason}'
                )
    lines += [f'  not taken: {name}: {reason}' for name, reason in one.failed.items()]
    if left := one.sampled - one.done - len(one.failed):
        lines.append(f'  not reached: {left} pictures; run it again to go on')
    lines += [f'  not tried: {name}: {reason}' for name, reason in one.not_tried.items()]
    lines += [f'  not read: {name}: {reason}' for name, reason in one.not_read.items()]
    return [*lines, '']


def _row(by: str, risk: Risk) -> tuple[str, ...]:
    main, other, base = risk.main, risk.control, risk.baseline
    between = '' if main.low is None else f'{main.low:.3g} to {main.high:.3g}'
    counts = {True: 'yes', False: 'no', None: 'too few'}[risk.counts]
    mean, most, control, chance = (
        _number(value) for value in (main.mean, main.max, other.mean, base.mean)
    )
    return (by, risk.metric, mean, between, most, control, chance, counts)


def _strongest(one: Measured) -> str:
    """Of each measure the attack that got most, of what counts and is more than chance."""
    best: dict[str, tuple[float, str]] = {}
    said = [(attack.name, attack.risks) for attack in one.attacks]
    said += [
        (f'{reader.name}: {stage}', reader.stages[stage])
        for reader in one.readers
        for stage in STAGES[1:]
    ]
    for by, risks in said:
        for name, risk in risks.items():
            mean, chance = risk.main.mean or 0.0, risk.baseline.mean or 0.0
            if risk.counts and mean > chance:
                best[name] = max(best.get(name, (-math.inf, '')), (mean, by))
    found = [f'{name} {best[name][0]:.3g} ({best[name][1]})' for name in SHOWN if name in best]
    return ', '.join(found)


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.3g}'
