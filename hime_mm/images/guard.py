# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Decoders in a worker process: ended where they take too long, and heard.

Nothing of this happens in a process that was not told so.
"""

import os
import re
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, NamedTuple

#: Seconds of computing that a file may take, and more for each of its bytes and pixels:
#: several times what decoders take.
_SECONDS, _SECONDS_PER_BYTE, _SECONDS_PER_PIXEL = 2.0, 10e-6, 40e-9
#: So many times as long by the clock: a broken heap can make a decoder wait for ever.
_PATIENCE = 2
#: Bytes that are kept of what a decoder says at a time.
_MOST = 1000
# When and in which thread OpenCV said it.
_LOG_PREFIX = re.compile(r'^\[[^\]]*\] (global )?')


class _Ear(NamedTuple):
    """Standard error, and the file that stands in for it."""

    stderr: int
    file: BinaryIO


_ear: _Ear | None = None
_is_guarded = False
_said: dict[str, None] = {}


def guard_process() -> None:
    """From now on decoding may end this process, and is kept from standard error.

    To be called in the main thread.
    """
    global _ear, _is_guarded
    if hasattr(signal, 'setitimer'):
        for number in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)  # which ends it, also inside of a decoder
    # Without a standard error, or room for files, there is nothing to hear.
    with suppress(OSError):
        _ear = _Ear(os.dup(2), tempfile.TemporaryFile())  # noqa: SIM115
    _is_guarded = True


@contextmanager
def guarded(size: int, pixels: int) -> Iterator[None]:
    """Decode a file of so many bytes, under limits if the process is guarded.

    Few bytes can be many pixels, where the file says so: 0 if that is not known.
    """
    if not _is_guarded:
        yield
        return
    with _limited(_SECONDS + size * _SECONDS_PER_BYTE + pixels * _SECONDS_PER_PIXEL), _heard():
        yield


def take_said() -> str:
    """What decoders wrote to standard error since this was last asked, in one line.

    A picture may be decoded several times.
    """
    said = '; '.join(_said)
    _said.clear()
    return said


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    if not hasattr(signal, 'setitimer'):  # Windows
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def _heard() -> Iterator[None]:
    """Keep what is written to standard error, by C code too."""
    if _ear is None:
        yield
        return
    fd = _ear.file.fileno()
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(_ear.stderr, 2)
        if os.lseek(fd, 0, os.SEEK_CUR):
            os.lseek(fd, 0, os.SEEK_SET)
            lines = os.read(fd, _MOST).decode(errors='replace').splitlines()
            os.lseek(fd, 0, os.SEEK_SET)
            os.ftruncate(fd, 0)
            if sum(map(len, _said)) < _MOST:  # of those that nobody asks for
                _said.update((_LOG_PREFIX.sub('', line), None) for line in lines if line)
