# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Many cases of one check, in processes that may crash or hang."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from .state import State, kind_of

#: Cases of a process.
BATCH = 1000
#: Seconds that a case may take.
PATIENCE = 60
#: What a process may take.
MEMORY = 4 << 30


def fuzz(
    check: Callable, state: State, folder: Path, name: Callable = lambda case: ''
) -> Iterator[None]:
    """Check all cases, a batch of them at a time.

    Args:
        check (Callable): Called with the number of a case and a folder to
            write to; gives a word for what came of it, which is counted. What
            it raises is kept as a failure.
        name (Callable): Says of a case what it is about, for crashes.
    """
    while not state.is_complete:
        stop = min(state.done + BATCH, state.cases)
        start = state.done
        while start < stop:
            start = _run(check, folder, start, stop, state, name)
        state.done = stop
        yield


def _run(check: Callable, folder: Path, start: int, stop: int, state: State, name: Callable) -> int:
    """Check some cases in a process; the first that it did not come to."""
    results, at, end = _in_a_process(check, folder, start, stop)
    counts = state.facts.setdefault('counts', {})
    for case, what, text in results:
        if text is None:
            counts[what] = counts.get(what, 0) + 1
        else:
            state.add_failure(case, what, text)
    if not end:
        return stop
    # What was broken before may crash later.
    alone = _in_a_process(check, folder, at, at + 1)[2]
    text = '' if alone == end else f'not alone, only after the cases from {start} on'
    state.add_failure(at, f'{end} {name(at)}'.strip(), text)
    return at + 1


def _in_a_process(check: Callable, folder: Path, start: int, stop: int) -> tuple[list, int, str]:
    """What came of each case, the one it came to, and how it died there."""
    context = multiprocessing.get_context('fork')
    current = context.Value('q', start, lock=False)
    read, write = context.Pipe(duplex=False)
    worker = context.Process(
        target=_work, args=(check, folder, start, stop, current, write), daemon=True
    )
    worker.start()
    write.close()
    results, seen, since = [], start, time.monotonic()
    try:
        with read:
            while True:
                if read.poll(1):
                    try:
                        results.append(read.recv())
                    except EOFError:
                        break
                if current.value != seen:
                    seen, since = current.value, time.monotonic()
                elif time.monotonic() - since > PATIENCE:
                    return results, seen, f'no end after {PATIENCE} s'
        worker.join()
    finally:
        worker.kill()
        worker.join()
    code = worker.exitcode
    if code < 0:
        return results, current.value, f'killed by {signal.Signals(-code).name}'
    return results, current.value, f'exit with status {code}' if code else ''


def _work(check: Callable, folder: Path, start: int, stop: int, current, write) -> None:
    die_with_parent()
    be_quiet()
    be_small()
    for case in range(start, stop):
        current.value = case
        try:
            result = (case, check(case, folder), None)
        except Exception as error:
            result = (case, kind_of(error), traceback.format_exc(limit=-3))
        write.send(result)


def die_with_parent() -> None:
    """On Linux: what nobody waits for would keep a processor, or a lock."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def be_quiet() -> None:
    """What decoders print of each broken file is not shown."""
    with open(os.devnull, 'w') as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)


def be_small() -> None:
    """A bomb is refused, and the machine lives on; no core dumps."""
    with contextlib.suppress(ImportError):  # Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
