# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Plan, have the shards done, finish: on this machine, or a part of it on each of several."""

import errno
import os
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from tqdm import tqdm

from hime_mm.ciphers import Key
from hime_mm.ciphers.reference import KeyLike, resolve
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.originals import name_secret
from hime_mm.datasets.stores import Store, open_store
from hime_mm.datasets.writing import MANIFEST_NAME
from hime_mm.errors import EncryptionError, WorkerDied
from hime_mm.images.files import remove_leftovers

from .engines import EngineLike, choose_engine, run_shards
from .finish import MOST_LEFT_OUT, finish, tell
from .job import Item, Job, Summary
from .lock import ALL, WORK_NAME, Part, locked
from .names import draw_secret
from .plan import BASE, Plan, forget, load_plan, shard_size_for, write_plan
from .record import read_record
from .report import check_report, write_report
from .resume import (
    check_finished,
    check_resumable,
    drop_known,
    finished_manifest,
    finished_summary,
    manifest_head,
)
from .shard import Assignment, encrypt_shard
from .source import Source


@dataclass(frozen=True)
class Way:
    """How a run is done: none of it but the size of a shard changes what is written.

    Attributes:
        workers (int): Processes of this machine, 0 for this one alone.
        engine (EngineLike): What does the shards in their place.
        progress (bool): Show a progress bar.
        strict (bool): Refuse a source of which files would be left out.
        report (str, optional): Where the report is to be written.
        shard_size (int, optional): Pictures of a shard.
        retry_failed (bool): Try all again that was left out.
        add (bool): Add what is new in the source to a finished data set.
    """

    workers: int = 0
    engine: EngineLike = None
    progress: bool = True
    strict: bool = False
    report: str | None = None
    shard_size: int | None = None
    retry_failed: bool = False
    add: bool = False

    def __post_init__(self) -> None:
        for name, low in (('workers', 0), ('shard_size', 1)):
            value = getattr(self, name)
            if (name, value) != ('shard_size', None) and (type(value) is not int or value < low):
                raise EncryptionError(
                    f'`{name}` must be a whole number, {low} or more, got {value!r}'
                )


def encrypt_source(
    source: Source, job: Job, key: KeyLike, way: Way, plan_only: bool = False
) -> Summary:
    """Encrypt a source, go on where a run was killed, or plan it only."""
    start = time.monotonic()
    with closing(source):
        run = _Run(open_store(job.out), job, key, way)
        head = manifest_head(source, job, run.secret)
        begun = load_plan(run.store) is not None
        source.check(job, way.strict, begun or run.store.size(MANIFEST_NAME) is not None)
        # Asked before anything is written, so that a folder of others stays as it is.
        there = begun or finished_manifest(run.store) is not None
        if way.report is not None:
            check_report(way.report, job.out, there)
        with run.locked():
            summary = run.whole(source, head, plan_only)
    summary.seconds = time.monotonic() - start
    return summary


def encrypt_part(out: str, key: KeyLike, part: Part, way: Way) -> Summary:
    """Do the shards of a part of a plan."""
    start = time.monotonic()
    run, plan = _planned(out, key, way)
    with run.locked(part):
        summary = run.shards(plan, plan.part(part))
        run.store.sync()  # whoever finishes may be another machine
        for number in plan.part(part):
            record = read_record(run.store, plan, number)
            if record is not None:
                tell(run.store, plan, record, summary)
    summary.seconds = time.monotonic() - start
    return summary


def finish_plan(out: str, key: KeyLike, report: str | None, progress: bool) -> Summary:
    """Merge what all shards of a plan have given."""
    start = time.monotonic()
    run, plan = _planned(out, key, Way(progress=progress, report=report))
    if report is not None:
        check_report(report, out, True)
    with run.locked():
        summary = run.finish(plan)
    summary.seconds = time.monotonic() - start
    return summary


def _planned(out: str, key: KeyLike, way: Way) -> 'tuple[_Run, Plan]':
    store = open_store(out)
    plan = load_plan(store)
    if plan is None:
        raise EncryptionError(
            f'{out} holds no plan: `hime encrypt plan` makes one; a data set that is finished '
            'has none any more'
        )
    run = _Run(store, plan.job(plan.src, out), key, way)
    plan.check_key(run.secret)
    return run, plan


class _Run:
    def __init__(self, store: Store, job: Job, key: KeyLike, way: Way) -> None:
        self.store, self.job, self.key, self.way = store, job, key, way
        self.secret: Key | None = resolve(key)
        self.show = partial(tqdm, disable=not way.progress)
        self.done = 0  # pictures that are there

    @contextmanager
    def locked(self, part: Part = ALL) -> Iterator[None]:
        with locked(self.store, part):
            try:
                yield
            finally:
                # Nothing to go on with: all is complete, or nothing was begun.
                if load_plan(self.store) is None:
                    self.store.remove_tree(WORK_NAME)

    def whole(self, source: Source, head: dict, plan_only: bool) -> Summary:
        plan = load_plan(self.store)
        if plan is not None:
            check_resumable(self.job, plan, head, source.digest())
        else:
            # Another run may just have ended.
            manifest = finished_manifest(self.store)
            if manifest is None:
                plan = self._new_plan(source, head)
            else:
                return self._go_on(source, head, manifest, plan_only)
        return self._carry_out(plan, plan_only)

    def _carry_out(self, plan: Plan, plan_only: bool) -> Summary:
        if plan_only:
            return self._summary(plan)
        self.job = plan.job(self.job.src, self.job.out)
        if self.store.local is not None:
            remove_leftovers(self.store.local)
        done = self.shards(plan, plan.shards)
        summary = self.finish(plan)
        summary.reused = done.reused
        return summary

    def _summary(self, plan: Plan) -> Summary:
        return Summary(
            self.job.out,
            plan.dataset_id,
            plan.images,
            num_left_out=plan.left_out,
            dropped=plan.dropped,
        )

    def _new_plan(self, source: Source, head: dict) -> Plan:
        dataset_id = self.job.dataset_id or secrets.token_hex(8)
        sources = source.digest()
        if source.renames:
            secret = name_secret(self.secret, dataset_id, draw_secret())
            assert secret is not None  # a key's, or drawn
            source.rename(secret)
        return self._write_plan(source, head, dataset_id, sources)

    def _write_plan(
        self,
        source: Source,
        head: dict,
        dataset_id: str,
        sources: str,
        base: Manifest | None = None,
    ) -> Plan:
        plan = Plan(
            head,
            source.url,
            dataset_id,
            sources,
            source.num,
            self.way.shard_size or shard_size_for(source.num),
            0 if base is None else len(base.shards),
            source.texts,
            source.classes,
            source.dropped,
            source.num_left_out,
            None if base is None else base.state,
        )
        show = partial(self.show, unit='image', total=source.num, leave=False)
        write_plan(self.store, plan, source, lambda items, title: show(items, title))
        return plan

    def _go_on(self, source: Source, head: dict, manifest: Manifest, plan_only: bool) -> Summary:
        """Add what is new in the source of a finished data set, if anything is."""
        sources = source.digest()
        check_finished(self.store, manifest, self.job, head, source, self.secret)
        with self._reporting_again(source):
            known = drop_known(self.store, manifest, self.job, source, self.secret)
            if not source.num:
                return self._finished(source, manifest, known)
        self._check_more(source, manifest, known)
        for row in manifest.annotations:
            self.store.write(f'{BASE}/{row["path"]}', self.store.read(row['path']))
        plan = self._write_plan(source, head, manifest.dataset_id, sources, manifest)
        return self._carry_out(plan, plan_only)

    def _check_more(self, source: Source, manifest: Manifest, known: int) -> None:
        out, num = self.job.out, known + source.num
        if not self.way.add:
            raise EncryptionError(
                f'{out} was finished with {known} of the {num} pictures that the source has now: '
                'add the others with `add=True`, or encrypt into a new folder'
            )
        if manifest.version == 1:
            raise EncryptionError(
                f'{out} has the format version 1, which nothing is added to: encrypt the '
                'source into a new folder'
            )
        if manifest.key_id is not None:
            assert self.secret is not None  # the settings are the same
            manifest.check_key(self.secret)

    def _finished(self, source: Source, manifest: Manifest, known: int) -> Summary:
        summary = finished_summary(manifest, self.job, known)
        summary.num_left_out = source.num_left_out
        summary.left_out = list(islice(source.left_out(), MOST_LEFT_OUT))
        return summary

    @contextmanager
    def _reporting_again(self, source: Source) -> Iterator[None]:
        """Write a report that is gone of a data set that is finished.

        One that is there has what was noticed of each picture, which went with the records.
        """
        report = self.way.report
        if report is None or os.path.exists(report):
            yield
            return
        if source.renames and self.secret is None:
            raise EncryptionError(
                f'{self.job.out} was finished with random names, and which they are of was not '
                'kept: there can be no report any more'
            )
        with tempfile.TemporaryFile() as file:
            for item in source.items():
                file.write(item.to_json().encode() + b'\n')
            yield
            file.seek(0)
            items = map(Item.from_json, file)
            write_report(
                report,
                [text['path'] for text in source.texts],
                (
                    (item, dict(rows=[dict(path=path) for path in self.job.targets(item)]))
                    for item in items
                ),
                source.left_out(),
            )

    def shards(self, plan: Plan, numbers: Iterable[int]) -> Summary:
        """Have some shards done."""
        numbers = list(numbers)
        # Workers may be at home in another folder.
        places = (
            store.local or store.url for store in map(open_store, (self.job.src, self.job.out))
        )
        src, out = (place if '://' in place else os.path.abspath(place) for place in places)
        assignment = Assignment(src, out, plan.id, self.way.retry_failed)
        engine = choose_engine(self.way.workers, self.way.engine)
        total = sum(plan.size(number) for number in numbers)
        summary, missing = replace(self._summary(plan), images=total), 0
        results = run_shards(encrypt_shard, assignment, self.key, numbers, engine)
        with (
            self.show(total=total, desc='encrypt', unit='image', smoothing=0.1) as bar,
            closing(results),
            self._saying_how_far(total),
        ):
            for _, done in results:
                self.done += done.images - done.missing
                summary.reused += done.reused
                missing += done.missing
                if missing:
                    bar.set_postfix(missing=missing)
                bar.update(done.images)
        return summary

    @contextmanager
    def _saying_how_far(self, total: int) -> Iterator[None]:
        try:
            yield
        except WorkerDied:
            raise
        except OSError as error:
            raise OSError(
                error.errno or errno.EIO,
                f'{error.strerror or error}: {error.filename or self.job.out}; {self.done} of '
                f'{total} pictures are finished and stay: mend it and start again',
            ) from None

    def finish(self, plan: Plan) -> Summary:
        """Merge the shards; what takes to go on goes when nothing is missing."""
        if self.store.local is not None:
            remove_leftovers(self.store.local)  # of a worker that died
        with self._saying_how_far(plan.images):
            summary = finish(
                self.job, self.store, plan, self.secret, self.way.report, self.way.progress
            )
        # What is missing can be repaired, and then it goes on.
        if summary.complete:
            forget(self.store)
        return summary
