# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A shard: what a plan, a number and a key give, on whatever machine.

Its completion record is written last. With a key, a shard that is done twice has the same bytes,
so it does no harm if one is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hime_mm.ciphers import Key
from hime_mm.datasets.stores import Store, open_store
from hime_mm.datasets.writing import tar_name, write_shard
from hime_mm.errors import EncryptionError, WorkerDied

from .engines import run_tasks
from .job import Item, Job
from .plan import known_plan, read_items
from .record import Record, read_record, write_record
from .sinks import FileSink, Sink, TarSink
from .worker import Sealed, seal_item

#: Pictures that are read from a server at the same time.
_AT_ONCE = 16


@dataclass(frozen=True)
class Assignment:
    """What all shards of a run share; holds no secret.

    Attributes:
        src (str): The source.
        out (str): The output.
        plan_id (str): Of its plan.
        retry_failed (bool): Whether what was left out is tried again though
            nothing tells that it has changed.
    """

    src: str
    out: str
    plan_id: str
    retry_failed: bool = False


@dataclass(frozen=True)
class Done:
    """What became of a shard.

    Attributes:
        images (int): Its pictures.
        reused (int): Pictures of which an earlier run had made what is there.
        missing (int): Pictures that were left out.
    """

    images: int
    reused: int
    missing: int


def encrypt_shard(assignment: Assignment, key: Key | None, task: tuple[int, bool]) -> Done:
    """Do a shard, or what is left to do of it.

    Args:
        assignment (Assignment): The run.
        key (Key, optional): The owner's key.
        task (tuple[int, bool]): Number of the shard, and whether each picture
            is read in a process of its own, since one of them ended a worker.

    Raises:
        InvalidKey: If it is not the key of the plan.
        OSError: If the output, or a server that has the source, fails.
    """
    number, apart = task
    plan = known_plan(assignment.out, assignment.plan_id)
    plan.check_key(key)
    job = plan.job(assignment.src, assignment.out)
    source, out = open_store(job.src), open_store(job.out)
    items = read_items(out, plan, number)
    record = read_record(out, plan, number)
    kept = _kept(assignment, source, out, items, record)
    reused = sum('rows' in outcome for outcome in kept if outcome is not None)
    if None not in kept and record is not None and record.is_whole:
        return Done(len(items), reused, len(items) - reused)
    with _sink(job, out, number, record) as sink:
        todo = [item for item, outcome in zip(items, kept, strict=True) if outcome is None]
        sealed = iter(_sealed(job, key, source, todo, apart))
        outcomes = [
            sink.put(item, *next(sealed)) if old is None else sink.keep(item, old)
            for item, old in zip(items, kept, strict=True)
        ]
    rows = [row for outcome in outcomes for row in outcome.get('rows', ())]
    skipped = [
        dict(path=job.target(item, 0), reason=outcome['error'])
        for item, outcome in zip(items, outcomes, strict=True)
        if 'error' in outcome
    ]
    row = write_shard(out, number, plan.dataset_id, rows, skipped, sink.tar)
    write_record(out, plan, number, row, outcomes)
    return Done(len(items), reused, len(skipped))


def _kept(
    assignment: Assignment,
    source: Store,
    out: Store,
    items: Sequence[Item],
    record: Record | None,
) -> list[dict | None]:
    """What an earlier run made and stands; None for what is to be done."""
    if record is None:
        return [None] * len(items)
    tar = record.row.get('tar')
    # Pictures of a tar hang on all of it.
    if tar is not None and not out.is_whole(tar['path'], tar['size'], tar['sha256']):
        return [None] * len(items)

    def stands(item: Item, outcome: dict) -> bool:
        stamp = source.stamp(item.path)
        if 'error' in outcome:
            return stamp == outcome['source'] and not assignment.retry_failed
        # Of a source that is gone by now, what was made of it stays.
        return stamp in (None, outcome['source']) and (
            tar is not None
            or all(out.is_whole(row['path'], row['size'], row['sha256']) for row in outcome['rows'])
        )

    try:
        outcomes = list(record.outcomes)
    except EncryptionError:
        return [None] * len(items)
    return [old if stands(item, old) else None for item, old in zip(items, outcomes, strict=True)]


def _sink(job: Job, out: Store, number: int, record: Record | None) -> Sink:
    if job.recipe.storage == 'files':
        return FileSink(job, out)
    old = None if record is None else record.row.get('tar')
    return TarSink(job, out, tar_name(number), old)


def _sealed(
    job: Job, key: Key | None, source: Store, items: Sequence[Item], apart: bool
) -> Iterator[Sealed]:
    """Encrypted pictures, in their order."""
    if apart:
        tasks = ((item, None) for item in items)
        yield from _in_order(run_tasks(seal_item, job, key, tasks, workers=1))
        return
    if source.local is not None:
        yield from (seal_item(job, key, (item, None)) for item in items)
        return
    rest = iter(items)
    while some := list(islice(rest, _AT_ONCE)):
        read = source.read_many([item.path for item in some])
        for item, data in zip(some, read, strict=True):
            yield seal_item(job, key, (item, data))


def _in_order(numbered: Iterable[tuple[int, Any]]) -> Iterator[Sealed]:
    waiting: dict[int, Sealed] = {}
    next_one = 0
    for i, result in numbered:
        if isinstance(result, WorkerDied):
            result = Sealed(dict(error=str(result), source=None), [])
        waiting[i] = result
        while next_one in waiting:
            yield waiting.pop(next_one)
            next_one += 1
