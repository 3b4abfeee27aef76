# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Everything at once, and as text that a person reads."""

from dataclasses import asdict

from hime_mm.version import __version__

from .diagnosis import diagnose
from .installed import ENGINEER, OWNER, PARTS, REQUIRED, collect, engineer_installed, is_there
from .probes import TIMEOUT
from .problems import Problem


def check_environment(engineer: bool = False, timeout: float = TIMEOUT) -> dict:
    """Everything at once.

    Args:
        engineer (bool): Whether the engineer's side has to work. Defaults to
            False.
        timeout (float): See :func:`collect`. Defaults to 300.

    Returns:
        dict: ``facts`` from :func:`collect`; ``problems``, a list of dicts
        with the fields of :class:`Problem`; ``owner`` and ``engineer``,
        whether the side works, the latter None where it is not installed.
    """
    facts = collect(timeout)
    problems = diagnose(facts, engineer)
    levels = {problem.level for problem in problems}
    works: bool | None = None
    if engineer or engineer_installed(facts):
        works = 'warning' not in levels and all(
            facts['packages'].get(name, {}).get('ok') for name in REQUIRED
        )
    return dict(
        facts=facts,
        problems=[asdict(problem) for problem in problems],
        owner='error' not in levels,
        engineer=works,
    )


def format_report(report: dict) -> str:
    """The report as text.

    Args:
        report (dict): From :func:`check_environment`.

    Returns:
        str: A table, the problems and a conclusion for each side.
    """
    facts = report['facts']
    lines = [
        f'hime_mm {__version__}',
        f'Python {facts["python"]} ({facts["executable"]})',
        f'{facts["platform"]}',
    ]
    for title, names in (("Owner's side", OWNER), ("Engineer's side", ENGINEER)):
        if names is ENGINEER and not any(is_there(facts['packages'].get(name)) for name in names):
            continue
        rows = [_row(name, facts['packages'].get(name)) for name in names]
        rows = [row for row in rows if row]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines += ['', title]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append('  ' + '  '.join([*cells, row[3]]).rstrip())
    problems = [Problem(**state) for state in report['problems']]
    if problems:
        lines += ['', *map(str, problems)]
    lines += [
        '',
        "The owner's side works: `hime encrypt` can be used here."
        if report['owner']
        else "The owner's side does not work here: see the errors above.",
        {
            None: "The engineer's side is not installed, and not needed to encrypt.",
            True: "The engineer's side works.",
            False: "Something of the engineer's side does not work: see above.",
        }[report['engineer']],
    ]
    return '\n'.join(lines)


def _row(name: str, package: dict | None) -> list[str] | None:
    """Name, version, state and remark of a package."""
    if package is None or not is_there(package):
        if name in PARTS or name == 'transformers':
            return None
        return [name, '-', 'missing', '']
    remarks = [package.get('remark', '')] if package['ok'] else []
    names = [dist for dist, _ in package['distributions']]
    if names and names != [name]:
        remarks.insert(0, 'from ' + ' and '.join(names))
    return [
        name,
        str(package.get('version') or '-'),
        'ok' if package['ok'] else 'FAILS',
        ', '.join(remark for remark in remarks if remark),
    ]
