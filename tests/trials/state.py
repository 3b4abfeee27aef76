# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How far a trial has come, in a file."""

import json
import os
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Of each kind of failure that many cases are kept.
KEPT = 5


class NotAtHand(Exception):
    """What a trial needs and does not make: the message says how to get it."""


@dataclass
class State:
    """How far a trial has come.

    Attributes:
        commit (str): What is tried, see :func:`~trials.record.commit`.
        code (str): The same with every change that is not committed.
        cases (int): How many there are to do.
        done (int): How many are done.
        seconds (float): How long that took.
        ended (str): The day on which all were done.
        facts (dict): What was measured, for the table.
        failures (dict): Of each kind how often, and the first cases.
    """

    commit: str
    code: str
    cases: int
    done: int = 0
    seconds: float = 0
    ended: str = ''
    facts: dict = field(default_factory=dict)
    failures: dict = field(default_factory=dict)

    def add_failure(self, case: int, kind: str, text: str = '') -> None:
        """Keep a case that failed, and do not mind."""
        known = self.failures.setdefault(kind, dict(count=0, first=[]))
        known['count'] += 1
        if len(known['first']) < KEPT:
            known['first'].append(dict(case=case, text=text))

    @property
    def num_failures(self) -> int:
        return sum(kind['count'] for kind in self.failures.values())

    @property
    def is_complete(self) -> bool:
        return self.done >= self.cases

    def save(self, path: Path) -> None:
        new = path.with_suffix('.part')
        with open(new, 'w') as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)

    @classmethod
    def load(cls, path: Path) -> 'State | None':
        try:
            return cls(**json.loads(path.read_text()))
        except (FileNotFoundError, TypeError):  # none, or that of an older runner
            return None


def kind_of(error: BaseException) -> str:
    """What is the same of all cases that an error stands for.

    Its type, and where in the package it was raised, or else where at all.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f'{ROOT}/hime_mm' in frame.filename] or frames
    return f'{type(error).__name__} in {Path(ours[-1].filename).stem}.{ours[-1].name}'
