# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Tests that are too long for each change: more configs of the hosts, exports and photos"""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from .state import ROOT, State

MARK = 'trial'
FILES = sorted(
    path
    for path in (ROOT / 'tests').rglob('test_*.py')
    if any(mark in path.read_text(encoding='utf-8') for mark in (f'mark.{MARK}', 'trials_but('))
)
CASES = len(FILES)
UNIT = 'test files'


def steps(state: State, folder: Path) -> Iterator[None]:
    counts = state.facts.setdefault('counts', {})
    for number in range(state.done, state.cases):
        for name, outcome, text in run_tests(FILES[number], folder):
            if outcome == 'failed':
                state.add_failure(number, name, text)
            else:
                counts[outcome] = counts.get(outcome, 0) + 1
        state.done = number + 1
        yield


def run_tests(file: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Each test's name, whether it passed, failed or was skipped, and what was printed of it."""
    report = folder / 'report.xml'
    report.unlink(missing_ok=True)
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', MARK]
    done = subprocess.run(
        [*command, f'--junitxml={report}', str(file)],
        cwd=ROOT,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
    )
    cases = list(ElementTree.parse(report).iter('testcase')) if report.exists() else []
    if not cases:
        yield f'{file.name} has no test', 'failed', (done.stdout + done.stderr)[-2000:]
    for case in cases:
        kinds = {child.tag: child for child in case if child.tag in ('failure', 'error', 'skipped')}
        skipped = 'skipped' in kinds and len(kinds) == 1
        outcome = 'skipped' if skipped else 'failed' if kinds else 'passed'
        text = '\n'.join(f'{child.get("message")}\n{child.text}' for child in kinds.values())
        yield f'{file.stem}.{case.get("name")}', outcome, text[-2000:]
