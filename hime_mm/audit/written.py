# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A report as files; docs/leakage.md describes them."""

import hashlib
import json
import os
from typing import Any

from hime_mm.attacks.registry import all_attacks
from hime_mm.datasets.stores import LocalStore
from hime_mm.datasets.writing import compact
from hime_mm.encryption.door import is_encrypted
from hime_mm.errors import AuditError
from hime_mm.images.files import write_atomic
from hime_mm.version import __version__

from .report import Attacked, AuditReport, Measured, Read
from .table import BOUND, table

SUMMARY, TABLE, SHEET, PAGE = 'audit.json', 'audit.txt', 'worst.png', 'report.html'
#: What is published of a challenge, beside its encrypted data sets.
CHALLENGE = 'challenge.json'
#: What every file begins with.
HEAD = dict(format='hime-audit', format_version=1, tool_version=__version__)
#: Of each risk, what the summary has.
BRIEF = ('counts', 'pictures', 'pictures_failed', 'main', 'control', 'baseline')


def write_report(out: str, report: AuditReport) -> None:
    """Write the summary, the table, and a file for each attack."""
    for one in report.subjects:
        for attack in one.attacks:
            what = dict(
                attack=attack.name,
                cipher=one.cipher,
                patch_size=one.patch_size,
                sizes=one.sizes,
                rehearsal=one.rehearsal,
                lower_bound=True,
            )
            found = dict(
                risks=[risk.to_dict() for risk in attack.risks.values()],
                failed=attack.failed,
                said=attack.said,
            )
            _write(out, _place(one, attack), {**HEAD, **what, **_said(attack), **found})
        for reader in one.readers:
            _write(out, _reader_place(one, reader), {**HEAD, **_read(one, reader, brief=False)})
    ciphers = [_cipher(one) for one in report.subjects]
    summary = {**HEAD, **report.head, 'lower_bounds': BOUND, 'ciphers': ciphers}
    _write(out, SUMMARY, {**summary, 'checksum': checksum(summary)})
    write_atomic(os.path.join(out, TABLE), '\n'.join(table(report)) + '\n')


def check_kept(out: str) -> None:
    """Refuse a place in what is handed over.

    Raises:
        AuditError: If it is an encrypted data set, or lies in one.
    """
    folder, above = '', os.path.realpath(out)
    while folder != above:
        folder, above = above, os.path.dirname(above)
        published = os.path.isfile(os.path.join(folder, CHALLENGE))
        if published or is_encrypted(LocalStore(folder)):
            what = 'published challenge' if published else 'encrypted data set'
            raise AuditError(
                f'{out} lies in the {what} {folder}: an audit holds plain pictures, which must not '
                'be handed over with it'
            )


def checksum(summary: dict[str, Any]) -> str:
    """SHA-256 of a summary's content without its own, as canonical JSON, in hexadecimal."""
    rest = {key: value for key, value in summary.items() if key != 'checksum'}
    return hashlib.sha256(compact(rest).encode()).hexdigest()


def _write(out: str, place: str, state: dict[str, Any]) -> None:
    write_atomic(os.path.join(out, place), json.dumps(state, indent=1) + '\n')


def _place(one: Measured, attack: Attacked) -> str:
    return f'{one.folder}/{attack.name}.json'


def _said(attack: Attacked) -> dict[str, Any]:
    """What is said of an attack everywhere."""
    kind = all_attacks()[attack.name]
    return dict(
        title=kind.title,
        source=kind.source,
        setting=kind.setting,
        confidence=attack.confidence,
        seconds_to_learn=attack.seconds,
        seconds_each=attack.seconds_each,
        pictures_failed=len(attack.failed),
        grades=attack.grades,
    )


def _reader_place(one: Measured, reader: Read) -> str:
    return f'{one.folder}/reader_{reader.name}.json'


def _read(one: Measured, reader: Read, brief: bool = True) -> dict[str, Any]:
    """What is said of a reader: of each picture, or in brief."""
    stages = {}
    for stage, risks in reader.stages.items():
        said = {name: risk.to_dict() for name, risk in risks.items()}
        if brief:
            said = {name: {key: risk[key] for key in BRIEF} for name, risk in said.items()}
        stages[stage] = said
    failed: dict[str, Any] = dict(reader.failed)
    if brief:
        failed = {stage: len(names) for stage, names in reader.failed.items()}
    return dict(
        reader=reader.name,
        cipher=one.cipher,
        patch_size=one.patch_size,
        title=reader.title,
        source=reader.source,
        file=_reader_place(one, reader),
        stages=stages,
        failed=failed,
    )


def _cipher(one: Measured) -> dict[str, Any]:
    """What the summary says of a cipher."""
    attacks = {}
    for attack in one.attacks:
        risks = {name: risk.to_dict() for name, risk in attack.risks.items()}
        metrics = {name: {key: risk[key] for key in BRIEF} for name, risk in risks.items()}
        attacks[attack.name] = dict(_said(attack), file=_place(one, attack), metrics=metrics)
    worst = [row._asdict() for row in one.worst]
    readers = {reader.name: _read(one, reader) for reader in one.readers}
    return {**vars(one), 'attacks': attacks, 'worst': worst, 'readers': readers}
