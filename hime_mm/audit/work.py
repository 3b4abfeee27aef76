# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is done of an audit: picture by picture, so that it can be taken up again."""

import json
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from hime_mm.attacks.readers import Reader
from hime_mm.ciphers import Key
from hime_mm.encryption.engines import run_tasks
from hime_mm.errors import AuditError, WorkerDied
from hime_mm.images.codec import encode_image, read_image
from hime_mm.images.files import read_json, write_atomic

from .journal import Journal
from .panel import STAGES, Panel
from .session import Result, Session, read_as
from .settings import AuditSettings
from .subject import Subject

#: Folder of an unfinished audit that says what is done.
WORK_NAME = '.audit-work'
#: Folder of an audit that holds reconstructions: plain pictures, if an attack worked.
PICTURES = 'reconstructions'


class Work:
    """What is done of the attacks on one subject, on disk.

    Args:
        out (str): Folder of the audit.
        folder (str): Of the subject in it.
        subject (Subject): The pictures.
        settings (AuditSettings): How they are attacked.
        readers (Sequence[Reader]): What reads them. Defaults to ().

    Attributes:
        about (dict): ``not_tried``, reasons by attack, ``learnt``, seconds by attack, ``readers``,
            title and source by name, and ``not_read``, reasons by reader.
    """

    def __init__(
        self,
        out: str,
        folder: str,
        subject: Subject,
        settings: AuditSettings,
        readers: Sequence[Reader] = (),
    ) -> None:
        self.out, self.folder = out, folder
        self.subject, self.settings, self.readers = subject, settings, readers
        self.journal = Journal(os.path.join(out, WORK_NAME, f'{folder}.jsonl'), len(subject.cases))
        self._head = dict(folder=folder, cases=[case.name for case in subject.cases])
        self.about: dict[str, Any] = dict(not_tried={}, learnt={}, readers={}, not_read={})

    @property
    def _about_place(self) -> str:
        return os.path.join(self.out, WORK_NAME, f'{self.folder}.json')

    def go_on(self, until: float | None) -> None:
        """Attack the pictures that are left, until this time."""
        self.journal.open(self._head, self._check)
        try:
            if os.path.exists(self._about_place):
                self.about = read_json(self._about_place, 'notes', AuditError)
            todo = [i for i in range(len(self.subject.cases)) if not self._is_done(i)]
            if todo:
                self._attack(todo, until)
        finally:
            self.journal.close()

    def _is_done(self, index: int) -> bool:
        """Whether a picture was attacked, and what was made of it is there."""
        row = self.journal[index]
        return row is not None and all(
            os.path.isfile(self._picture_place(name, index))
            for name, one in row.items()
            if name != 'i' and one['pictured']
        )

    def _check(self, old: dict) -> None:
        if old != self._head:
            raise AuditError(
                f'pictures of {self.out} have become readable, or unreadable, since it was begun: '
                'choose a new folder'
            )

    def _attack(self, todo: list[int], until: float | None) -> None:
        quiet, title = not self.settings.progress, self.folder
        panel = Panel(self.subject, self.readers, self.settings.people)
        session = Session(self.subject, self.settings.attacks, panel)
        with tqdm(desc=f'{title}: learn', unit='attack', disable=quiet) as bar:
            for name in session.prepare():
                bar.set_postfix_str(name)
                bar.update()
                if _late(until):
                    return
        # What an earlier run could try stays in the report, if it cannot be tried any more.
        learnt = {**self.about['learnt'], **session.learnt}
        not_tried = {k: v for k, v in session.not_tried.items() if k not in learnt}
        reads = {name: [one.title, one.source] for name, one in panel.readers.items()}
        readers = {**self.about['readers'], **reads}
        not_read = {k: v for k, v in panel.not_read.items() if k not in readers}
        self.about = dict(not_tried=not_tried, learnt=learnt, readers=readers, not_read=not_read)
        write_atomic(self._about_place, json.dumps(self.about))
        tasks = (i for i in todo if not _late(until))
        done = run_tasks(_run_one, session, None, tasks, self.settings.workers)
        for number, found in tqdm(done, f'{title}: attack', len(todo), unit='image', disable=quiet):
            index = todo[number]
            if isinstance(found, WorkerDied):
                names = [*session.attacks]
                names += [read_as(name, stage) for name in panel.readers for stage in STAGES]
                found = {name: Result(failed=str(found)) for name in names}
            for name, result in found.items():
                if result.picture is not None:
                    data = encode_image(result.picture)
                    write_atomic(self._picture_place(name, index), data, sync=False, private=True)
            self.journal.append(index, {name: one.to_dict() for name, one in found.items()})

    def results(self) -> dict[int, dict[str, Result]]:
        """By number of the picture and name of the attack."""
        self.journal.open(self._head, lambda old: None)
        try:
            rows = {i: self.journal[i] for i in range(len(self.subject.cases))}
        finally:
            self.journal.close()
        return {
            i: {name: Result.from_dict(one) for name, one in row.items() if name != 'i'}
            for i, row in rows.items()
            if row is not None
        }

    def picture(self, name: str, index: int) -> np.ndarray:
        """What an attack made of a picture."""
        return read_image(self._picture_place(name, index), 'unchanged')

    def _picture_place(self, name: str, index: int) -> str:
        return os.path.join(self.out, self.folder, PICTURES, name, f'{index:04}.png')


def _late(until: float | None) -> bool:
    return until is not None and time.monotonic() > until


def _run_one(session: Session, key: Key | None, index: int) -> dict[str, Result]:
    return session.run(index)
