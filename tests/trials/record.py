# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What came of the trials, in the table of docs/trials.md."""

import hashlib
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from types import ModuleType

from .state import ROOT, State

PAGE = ROOT / 'docs' / 'trials.md'
_HEAD = '| trial | what | cases | outcome | time | date | commit | with |'
_PACKAGES = ('numpy', 'opencv-python', 'hypothesis', 'torch')


def commit() -> tuple[str, str]:
    """What is tried, for people and exactly: with what is not committed."""
    here = _git('rev-parse', '--short', 'HEAD')
    if not here:
        return 'unknown', 'unknown'
    # The package alone: the same after a rebase, or a commit of something else.
    name = f'`{here}`, `hime_mm` `{_git("rev-parse", "--short", "HEAD:hime_mm")}`'
    others = ('--', '.', f':!{PAGE.relative_to(ROOT)}')
    changed = _git('status', '--porcelain', *others)
    if not changed:
        return name, name
    digest = hashlib.sha256((changed + _git('diff', 'HEAD', *others)).encode()).hexdigest()
    return f'{name} + changes', f'{name} + {digest}'


def _git(*args: str) -> str:
    try:
        return subprocess.run(
            ['git', *args], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ''


def what(trial: ModuleType) -> str:
    return (trial.__doc__ or '').splitlines()[0]


def write_row(page: Path, names: dict[str, ModuleType], name: str, state: State) -> None:
    """Put what came of a trial into the table; the others stay."""
    text = page.read_text()
    before, _, after = text.partition(_HEAD)
    rest = re.sub(r'\A\n(\|.*\n)*', '', after)
    rows = read_rows(page)
    rows[name] = _row(name, names[name], state)
    table = [_HEAD, re.sub(r'[^|]+', ' --- ', _HEAD)]
    table += [rows.get(other) or not_run(other, trial) for other, trial in names.items()]
    new = page.with_suffix('.part')
    new.write_text(before + '\n'.join(table) + '\n' + rest)
    os.replace(new, page)


def read_rows(page: Path) -> dict[str, str]:
    """The lines of the table by the names of their trials."""
    found = re.finditer(r'^(\| `(\w+)` \|.*\|)$', page.read_text(), re.M)
    return {match[2]: match[1] for match in found}


def not_run(name: str, trial: ModuleType) -> str:
    return f'| `{name}` | {what(trial)} | {trial.CASES:,} {trial.UNIT} | not run | | | | |'


def _row(name: str, trial: ModuleType, state: State) -> str:
    cases = f'{state.done:,}' + (f' of {trial.CASES:,}' if state.done != trial.CASES else '')
    cells = (
        f'`{name}`',
        what(trial),
        f'{cases} {trial.UNIT}',
        outcome(trial, state),
        f'{state.seconds / 60:.0f} min' if state.seconds > 99 else f'{state.seconds:.0f} s',
        state.ended,
        state.commit,
        _setting(),
    )
    return f'| {" | ".join(cell.replace("|", "/") for cell in cells)} |'


def outcome(trial: ModuleType, state: State) -> str:
    counts = state.facts.get('counts', {})
    said = [f'{num:,} {what}' for what, num in sorted(counts.items())]
    if hasattr(trial, 'report'):
        said.append(trial.report(state))
    said += [
        f'**{kind["count"]:,} {name}** (case {kind["first"][0]["case"]})'
        for name, kind in sorted(state.failures.items())
    ]
    return '; '.join([*said, f'{state.num_failures or "no"} failures'])


def _setting() -> str:
    versions = [f'Python {platform.python_version()}']
    for package in _PACKAGES:
        try:
            versions.append(f'{package} {metadata.version(package)}')
        except metadata.PackageNotFoundError:
            continue
    cpuinfo = Path('/proc/cpuinfo')
    model = re.search(r'model name\s*: (.*)', cpuinfo.read_text()) if cpuinfo.exists() else None
    processor = model[1] if model else platform.machine()
    return f'{", ".join(versions)}; {platform.system()}, {processor}, {os.cpu_count()} cores'
