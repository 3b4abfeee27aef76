# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Many tasks in several processes, only some of them in memory."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2

from hime_mm.ciphers import Key
from hime_mm.errors import WorkerDied

# Tasks handed out at a time per worker: enough that none waits.
_TASKS_PER_WORKER = 4
_worker: dict[str, Any] = {}


def _init_worker(function: Callable, context: Any, secret: bytes | None) -> None:
    # Ctrl-C is the main process's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()

    def die_with_parent() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    # A worker whose main process was killed would wait for work for ever.
    threading.Thread(target=die_with_parent, daemon=True).start()
    _worker.update(
        function=function, context=context, key=Key(secret) if secret is not None else None
    )


def _run_task(task: Any) -> Any:
    return _worker['function'](_worker['context'], _worker['key'], task)


def _submit(pool: ProcessPoolExecutor, task: Any) -> Future:
    """Hand out a task; a process that this starts never sees Ctrl-C.

    One that is still importing, or is told only half of what it needs, would
    print a traceback.
    """
    if (
        not hasattr(signal, 'pthread_sigmask')  # Windows
        or threading.current_thread() is not threading.main_thread()
    ):
        return pool.submit(_run_task, task)
    caught = []
    # Blocked for the new process, and caught here, since another thread, such
    # as the progress bar's, may take what this one blocks.
    handler = signal.signal(signal.SIGINT, lambda *args: caught.append(args))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_run_task, task)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
        if caught:
            signal.raise_signal(signal.SIGINT)


def run_tasks(
    function: Callable[[Any, Key | None, Any], Any],
    context: Any,
    key: Key | None,
    tasks: Iterable,
    workers: int,
) -> Generator[tuple[int, Any], None, None]:
    """Call a function with each task, in any order.

    Args:
        function (Callable): Of a module, called with ``context``, ``key`` and
            a task.
        context: What all tasks share; is pickled, so it holds no key.
        key (Key, optional): The key, handed to the workers in memory.
        tasks (Iterable): Read as they are needed.
        workers (int): Number of processes; with 1, all is done in this one.

    Yields:
        tuple[int, Any]: Number of a task, and what the function returned.

    Raises:
        WorkerDied: If a process was killed.
        Exception: What the function raises; the other tasks are called off.
    """
    if workers == 1:
        for i, task in enumerate(tasks):
            yield i, function(context, key, task)
        return
    # Fresh interpreters: a fork would copy threads and locks of this one.
    pool = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context('spawn'),
        initializer=_init_worker,
        initargs=(function, context, None if key is None else key.secret_bytes()),
    )
    running: dict[Future, int] = {}
    pending = enumerate(tasks)
    try:
        while True:
            for i, task in pending:
                running[_submit(pool, task)] = i
                if len(running) >= workers * _TASKS_PER_WORKER:
                    break
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool:
        raise WorkerDied(
            'a worker process was killed, perhaps for want of memory: start '
            'again with fewer workers'
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
