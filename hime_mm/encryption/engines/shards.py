# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The shards of a run, on this machine or wherever an executor of somebody else puts them."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any, Protocol

from hime_mm.ciphers import Key
from hime_mm.ciphers.reference import KeyLike, KeyReference, resolve
from hime_mm.errors import EncryptionError, WorkerDied

from .local import start_processes

#: Calls a function with what all shards share, the key, and a shard.
ShardFunction = Callable[[Any, Key | None, tuple[int, bool]], Any]
#: Shards that are handed out at a time per worker, so that none waits for the next.
_AHEAD = 2
_worker: dict[str, Any] = {}


class Engine(Protocol):
    """Who does shards."""

    @property
    def ahead(self) -> int:
        """int: Shards that are handed out at a time."""

    def open(self, function: ShardFunction, context: Any, key: KeyLike) -> Any:
        """A context manager that gives an executor, and what to submit for a shard."""


EngineLike = Engine | Executor | None
#: A shard and whether it is alone; None for nothing, which shows whether a worker lives.
Task = tuple[int, bool] | None
_Submit = Callable[[Task], Future]


@dataclass(frozen=True)
class InProcess:
    """This process, one shard after the other; it dies with a picture that ends it."""

    ahead: int = 1

    @contextmanager
    def open(self, function: ShardFunction, context: Any, key: KeyLike) -> Iterator[_Submit]:
        """See :class:`Engine`."""
        secret = resolve(key)

        def submit(task: Task) -> Future:
            future: Future = Future()
            future.set_result(None if task is None else function(context, secret, task))
            return future

        yield submit


@dataclass(frozen=True)
class Local:
    """Processes of this machine; each gets the key through a pipe when it starts.

    Attributes:
        workers (int): How many.
    """

    workers: int

    @property
    def ahead(self) -> int:
        """int: See :class:`Engine`."""
        return self.workers * _AHEAD

    @contextmanager
    def open(self, function: ShardFunction, context: Any, key: KeyLike) -> Iterator[_Submit]:
        """See :class:`Engine`."""
        secret = resolve(key)
        first = (function, context, None if secret is None else secret.secret_bytes())
        executor = start_processes(self.workers, _begin, first)
        try:
            yield lambda task: executor.submit(_call, task)
        except BaseException:
            # A shard takes seconds, and what is half done of it counts for nothing.
            executor.kill()
            raise
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _begin(function: ShardFunction, context: Any, secret: bytes | None) -> None:
    _worker.update(
        function=function, context=context, key=Key(secret) if secret is not None else None
    )


def _call(task: Task) -> Any:
    return None if task is None else _worker['function'](_worker['context'], _worker['key'], task)


@dataclass(frozen=True)
class Foreign:
    """Any executor, such as Dask's ``client.get_executor()`` or mpi4py's ``MPIPoolExecutor``.

    It is not shut down. A task holds where the key is, and never the key.

    Attributes:
        executor (Executor): What does the shards.
        ahead (int): Shards that are handed out at a time; more than it has
            workers.
    """

    executor: Executor
    ahead: int = 64

    @contextmanager
    def open(self, function: ShardFunction, context: Any, key: KeyLike) -> Iterator[_Submit]:
        """See :class:`Engine`."""
        reference = _referred(key)
        running: set[Future] = set()

        def submit(task: Task) -> Future:
            future = self.executor.submit(call_shard, function, context, reference, task)
            running.add(future)
            future.add_done_callback(running.discard)
            return future

        try:
            yield submit
        finally:
            # What is at work would write on when the output is free for another run.
            wait([future for future in list(running) if not future.cancel()])


@dataclass(frozen=True)
class OnRay:
    """Workers of Ray, which does failed shards again and has a dashboard.

    Attributes:
        address (str): Of a cluster, ``'auto'`` for the one of this machine,
            ``'local'`` to start one here.
        ahead (int): Shards that are handed out at a time.
    """

    address: str = 'auto'
    ahead: int = 256

    @contextmanager
    def open(self, function: ShardFunction, context: Any, key: KeyLike) -> Iterator[_Submit]:
        """See :class:`Engine`."""
        from .ray import RayExecutor

        reference = _referred(key)
        with RayExecutor(self.address) as executor:
            yield lambda task: executor.submit(call_shard, function, context, reference, task)


def _referred(key: KeyLike) -> KeyReference | None:
    if isinstance(key, Key):
        raise EncryptionError(
            'a key is not sent to workers elsewhere: say where each of them finds it, by '
            "`key=KeyReference.env('HIME_KEY')` or `KeyReference.file(...)`"
        )
    if key is None:
        return None
    if key.kind == 'fd':
        raise EncryptionError(
            f'{key.where} is one of this process, which workers elsewhere do not have: name an '
            'environment variable or a file that each of them has'
        )
    return replace(key, key_id=key.resolve().id)


@lru_cache(maxsize=8)
def _resolved(reference: KeyReference) -> Key:
    return reference.resolve()


def call_shard(
    function: ShardFunction, context: Any, reference: KeyReference | None, task: Task
) -> Any:
    """What a worker elsewhere does: it finds the key by itself."""
    if task is None:
        return None
    return function(context, None if reference is None else _resolved(reference), task)


def choose_engine(workers: int, engine: EngineLike) -> Engine:
    """Who does the shards: what was given, or processes, or this one."""
    if engine is None:
        return Local(workers) if workers else InProcess()
    return Foreign(engine) if isinstance(engine, Executor) else engine


def run_shards(
    function: ShardFunction,
    context: Any,
    key: KeyLike,
    numbers: Iterable[int],
    engine: Engine,
) -> Generator[tuple[int, Any], None, None]:
    """Have shards done, in any order.

    Where a worker dies, the shards that were out are done again, each alone
    and told to read every picture in a process of its own, so that the one
    that ends it is found.

    Args:
        function (Callable): Of a module, called with ``context``, the key, and
            a shard's number and whether it has ended a worker.
        context: What all shards share; is pickled, so it holds no key.
        key (Key | KeyReference, optional): The key, or where workers find it.
        numbers (Iterable[int]): Read as they are needed.
        engine (Engine): Who does them.

    Yields:
        tuple[int, Any]: Number of a shard, and what the function returned.

    Raises:
        WorkerDied: If a shard that is alone ends its worker, too.
        EncryptionError: If workers elsewhere cannot find the key.
        Exception: What the function raises; the other shards are called off.
    """
    waiting = iter(numbers)
    while True:
        with engine.open(function, context, key) as submit:
            lost = yield from _run_together(submit, waiting, engine.ahead)
        if not lost:
            return
        yield from _run_alone(function, context, key, lost, engine)


def _run_together(
    submit: _Submit, numbers: Iterator[int], most: int
) -> Generator[tuple[int, Any], None, list[int]]:
    """Results until all is done or a worker dies; returns the shards that were out then."""
    running: dict[Future, int] = {}
    lost: list[int] = []
    try:
        while True:
            for number in islice(numbers, 0 if lost else most - len(running)):
                try:
                    running[submit((number, False))] = number
                except BrokenExecutor:
                    lost.append(number)
                    break
            if not running:
                return sorted(lost)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(future)
                try:
                    result = future.result()
                except BrokenExecutor:
                    lost.append(number)
                else:
                    yield number, result
    finally:
        for future in running:
            future.cancel()


def _run_alone(
    function: ShardFunction, context: Any, key: KeyLike, numbers: list[int], engine: Engine
) -> Generator[tuple[int, Any], None, None]:
    """Results of shards of which one may have ended its worker."""
    remaining = deque(numbers)
    alone = replace(engine, workers=1) if isinstance(engine, Local) else engine
    while remaining:
        with alone.open(function, context, key) as submit:
            try:
                submit(None).result()
            except BrokenExecutor:
                raise WorkerDied(
                    'a worker process was killed before it did anything, perhaps for want of memory'
                ) from None
            while remaining:
                number = remaining.popleft()
                try:
                    yield number, submit((number, True)).result()
                except BrokenExecutor:
                    raise WorkerDied(
                        f'the worker of shard {number} was killed twice, perhaps for want of '
                        'memory: have fewer workers, or a smaller shard'
                    ) from None
