# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The demo's detectors, trained on encrypted pictures with one seed after the other: lower AP50"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .state import ROOT, State

CASES = 3
UNIT = 'seeds'
#: What it has to reach.
LEAST = 0.7


def steps(state: State, folder: Path) -> Iterator[None]:
    scores = state.facts.setdefault('AP50', [])
    while not state.is_complete:
        score, text = run_demo(folder / f'seed_{state.done}', state.done)
        scores.append(score)
        if score is None:
            state.add_failure(state.done, 'no score', text)
        elif score < LEAST:
            state.add_failure(state.done, f'AP50 below {LEAST}')
        state.done += 1
        yield


def run_demo(
    folder: Path, seed: int, *options: str, script: str = 'tools/demo.py'
) -> tuple[float | None, str]:
    """Run it, or go on where it was; the lower AP50 of its acts, and the end of what it printed."""
    command = [sys.executable, script, '--work-dir', str(folder), '--cfg-options']
    done = subprocess.run(
        [*command, f'randomness.seed={seed}', *options],
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    found = re.findall(r'AP50 (\d\.\d+) on held-out', done.stdout)
    score = min(map(float, found)) if len(found) == 2 else None
    return score, (done.stdout + done.stderr)[-2000:]


def report(state: State) -> str:
    scores = [score for score in state.facts['AP50'] if score is not None]
    each = ', '.join(f'{score:.3f}' for score in scores)
    return f'AP50 {each}, least {min(scores, default=0):.3f}'
