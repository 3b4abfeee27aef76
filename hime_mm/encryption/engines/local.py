# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Processes of this machine."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import cv2

from hime_mm.images.guard import guard_process


def start_processes(workers: int, initializer: Callable[..., None], initargs: tuple) -> 'Processes':
    """Processes that each call `initializer` first, see :data:`~.tasks.StartExecutor`."""
    # Fresh interpreters: a fork would copy threads and locks of this one.
    return Processes(
        workers,
        multiprocessing.get_context('spawn'),
        initializer=_init_worker,
        initargs=(initializer, initargs),
    )


def _init_worker(initializer: Callable[..., None], initargs: tuple) -> None:
    # Ctrl-C is the main process's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    guard_process()
    parent = multiprocessing.parent_process()

    def die_with_parent() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    # A worker whose main process was killed would wait for work for ever.
    threading.Thread(target=die_with_parent, daemon=True).start()
    initializer(*initargs)


class Processes(ProcessPoolExecutor):
    """Processes whose end can be hastened."""

    def kill(self) -> None:
        """End them at once, whatever they are at."""
        for process in list((self._processes or {}).values()):
            process.kill()

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Hand out a task; a process that this starts never sees Ctrl-C.

        One that is still importing, or is told only half of what it needs, would
        print a traceback.
        """
        if (
            not hasattr(signal, 'pthread_sigmask')  # Windows
            or threading.current_thread() is not threading.main_thread()
        ):
            return super().submit(fn, *args, **kwargs)
        caught = []
        # Blocked for the new process, and caught here, since another thread, such
        # as the progress bar's, may take what this one blocks.
        handler = signal.signal(signal.SIGINT, lambda *args: caught.append(args))
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
            if caught:
                signal.raise_signal(signal.SIGINT)
