# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is finished of an audit that goes on."""

import json
import os
from array import array
from collections.abc import Callable
from contextlib import suppress

from hime_mm.errors import AuditError
from hime_mm.images.files import write_atomic


class Journal:
    """What is finished, one line per picture, on disk.

    Only where a line starts is held in memory. Its length is the number of
    pictures that it tells of.
    """

    def __init__(self, path: str, num: int) -> None:
        self.path = path
        self._offsets = array('q', [-1] * num)

    def open(self, header: dict, check: Callable[[dict], None]) -> dict:
        """Start a journal, or go on with the one that is there; its header.

        ``check`` raises where the header is of another run; nothing is
        changed then.
        """
        if not os.path.exists(self.path):
            write_atomic(self.path, json.dumps(header) + '\n')
        self._file = open(self.path, 'r+b')  # noqa: SIM115
        try:
            try:
                old = json.loads(self._file.readline())
            except ValueError:
                raise AuditError(
                    f'{self.path} is damaged: delete the folder of the audit and start again'
                ) from None
            check(old)
            self._scan()
        except BaseException:
            self._file.close()
            raise
        return old

    def _scan(self) -> None:
        while True:
            start = self._file.tell()
            line = self._file.readline()
            # A line without its end is torn, whatever it holds.
            complete = line if line.endswith(b'\n') else b''
            try:
                outcome = json.loads(complete)
                # What was left out is tried again.
                self._offsets[outcome['i']] = -1 if 'error' in outcome else start
            except (ValueError, LookupError, TypeError):
                # What was being written when the run was killed, or what a
                # power cut left of it.
                self._file.seek(start)
                self._file.truncate()
                return

    def __len__(self) -> int:
        return sum(start >= 0 for start in self._offsets)

    def __getitem__(self, i: int) -> dict | None:
        if self._offsets[i] < 0:
            return None
        self._file.seek(self._offsets[i])
        return json.loads(self._file.readline())

    def append(self, i: int, outcome: dict) -> None:
        self._file.seek(0, os.SEEK_END)
        start = self._file.tell()
        self._file.write(json.dumps(dict(i=i, **outcome)).encode() + b'\n')
        self._file.flush()
        self._offsets[i] = start

    def close(self) -> None:
        with suppress(OSError):  # a full disk: the lost line is done again
            self._file.close()
