# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Many tasks on any executor, only some of them in memory, and none that stops the others."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from itertools import islice
from typing import Any

from hime_mm.ciphers import Key
from hime_mm.errors import WorkerDied

from .local import start_processes

#: Makes an executor: called with the number of workers, and with what each of
#: them calls first and its arguments, as :class:`ProcessPoolExecutor` is.
StartExecutor = Callable[[int, Callable[..., None], tuple], Executor]
# Tasks handed out at a time per worker: enough that none waits.
_TASKS_PER_WORKER = 4
_Numbered = tuple[int, Any]
_worker: dict[str, Any] = {}


def _begin(function: Callable, context: Any, secret: bytes | None) -> None:
    _worker.update(
        function=function, context=context, key=Key(secret) if secret is not None else None
    )


def _call(task: Any) -> Any:
    return _worker['function'](_worker['context'], _worker['key'], task)


def _nothing() -> None:
    pass


def run_tasks(
    function: Callable[[Any, Key | None, Any], Any],
    context: Any,
    key: Key | None,
    tasks: Iterable,
    workers: int,
    start: StartExecutor = start_processes,
) -> Generator[tuple[int, Any], None, None]:
    """Call a function with each task, in any order.

    Where a worker dies, the tasks that were out are done once more, one at a
    time. One whose worker dies again is given up, and the others go on.

    Args:
        function (Callable): Of a module, called with ``context``, ``key`` and
            a task.
        context: What all tasks share; is pickled, so it holds no key.
        key (Key, optional): The key, handed to the workers in memory.
        tasks (Iterable): Read as they are needed.
        workers (int): Number of workers; with 0, all is done in this process,
            and dies with it.
        start (StartExecutor): What they are. Defaults to local processes.

    Yields:
        tuple[int, Any]: Number of a task, and what the function returned, or
        a :class:`~hime_mm.errors.WorkerDied` where it ended its worker twice.

    Raises:
        WorkerDied: If workers die before they do anything.
        Exception: What the function raises; the other tasks are called off.
    """
    numbered = enumerate(tasks)
    if workers == 0:
        for i, task in numbered:
            yield i, function(context, key, task)
        return
    first = (function, context, None if key is None else key.secret_bytes())
    while True:
        with _open(start, workers, first) as executor:
            lost = yield from _run_together(executor, numbered, workers * _TASKS_PER_WORKER)
        if not lost:
            return
        yield from _run_alone(start, first, lost)


@contextmanager
def _open(start: StartExecutor, workers: int, first: tuple) -> Iterator[Executor]:
    executor = start(workers, _begin, first)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _run_together(
    executor: Executor, numbered: Iterator[_Numbered], most: int
) -> Generator[tuple[int, Any], None, list[_Numbered]]:
    """Results until all is done or a worker dies; returns the tasks that were out then."""
    running: dict[Future, _Numbered] = {}
    lost: list[_Numbered] = []
    while True:
        for i, task in islice(numbered, 0 if lost else most - len(running)):
            try:
                running[executor.submit(_call, task)] = i, task
            except BrokenExecutor:
                lost.append((i, task))
                break
        if not running:
            return lost
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            i, task = running.pop(future)
            try:
                result = future.result()
            except BrokenExecutor:
                lost.append((i, task))
            else:
                yield i, result


def _run_alone(
    start: StartExecutor, first: tuple, tasks: Iterable[_Numbered]
) -> Generator[tuple[int, Any], None, None]:
    """Results of tasks that have an executor for themselves, a new one after a death."""
    remaining = deque(tasks)
    while remaining:
        died = False
        with _open(start, 1, first) as executor:
            try:
                executor.submit(_nothing).result()
            except BrokenExecutor:
                raise WorkerDied(
                    'a worker process was killed before it did anything, perhaps for want of memory'
                ) from None
            while remaining and not died:
                i, task = remaining.popleft()
                try:
                    result = executor.submit(_call, task).result()
                except BrokenExecutor:
                    died = True
                    result = WorkerDied(
                        'the process that read it ended twice: its decoder crashed, '
                        'ran out of memory or took too long'
                    )
                yield i, result
