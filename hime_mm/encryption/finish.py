# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The end of a run, when all its shards are done."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from tqdm import tqdm

from hime_mm.ciphers import Key
from hime_mm.datasets.stores import Store, open_store
from hime_mm.datasets.writing import write_manifest
from hime_mm.errors import EncryptionError
from hime_mm.images.levels import NO_LEVELS, add_levels, levels_of, statistics_of
from hime_mm.images.reading import NOTICES

from .job import Job, Summary, add_counts
from .plan import BASE, Plan, read_items, read_left_out, read_lines
from .record import Record, read_record
from .report import write_report
from .texts import write_texts

#: Files that are left out which a summary names.
MOST_LEFT_OUT = 100


def finish(
    job: Job, store: Store, plan: Plan, key: Key | None, report: str | None, progress: bool
) -> Summary:
    """Write the texts, the report and then the manifest: it is there when all else is.

    Args:
        job (Job): The run.
        store (Store): The output.
        plan (Plan): The plan.
        key (Key, optional): The owner's key.
        report (str, optional): Where the report is to be written.
        progress (bool): Show how far it is.

    Returns:
        Summary: Without what only the run itself knows.

    Raises:
        EncryptionError: If a shard is not done.
    """
    show = partial(tqdm, disable=not progress, leave=False)
    summary = Summary(
        job.out, plan.dataset_id, plan.images, dropped=plan.dropped, num_left_out=plan.left_out
    )
    shards, noticed, size = [], Counter[str](), 0
    levels = NO_LEVELS
    for record in show(_records(store, plan), 'count', len(plan.shards), unit='shard'):
        shards.append(record.row)
        size += record.row['bytes']
        summary.files += record.row['files']
        add_counts(summary.clipped, record.counts['clipped'])
        noticed.update(record.counts['noticed'])
        more = record.counts.get('levels')  # not of a run that an earlier release began
        levels = add_levels(levels, more) if levels and more else ()
        summary.telling += record.counts['telling']
        summary.tiny += record.counts['tiny']
        tell(store, plan, record, summary)
    summary.skipped.sort()
    summary.warnings.sort()
    summary.noticed = {name: noticed[name] for name in NOTICES if noticed[name]}
    for path, reason in read_left_out(store):
        if len(summary.left_out) < MOST_LEFT_OUT:
            summary.left_out.append((path, reason))

    def done(title: str) -> Iterator[tuple[int, Any, dict]]:
        return iter(show(_done(store, plan), title, plan.images, unit='image'))

    def outcomes() -> Iterator[tuple[int, str, dict]]:
        return ((i, item.target, outcome) for i, item, outcome in done('annotations'))

    annotations = write_texts(
        store,
        job,
        plan.texts,
        outcomes,
        partial(read_lines, store),
        open_store(store.place(BASE)) if plan.base is not None else None,
    )
    if job.recipe.storage == 'files':  # in tars there are none
        for folder in plan.folders:
            store.make_folder(folder)
    head = dict(
        plan.head,
        dataset_id=plan.dataset_id,
        counts=dict(
            images=plan.images,
            files=summary.files,
            bytes=size,
            skipped=sum(row['skipped'] for row in shards),
            left_out=plan.left_out,
        ),
        clipped={k: list(v) for k, v in summary.clipped.items()},
        annotations=annotations,
        **({} if plan.classes is None else dict(classes=plan.classes)),
        **(dict(noticed=summary.noticed) if summary.noticed else {}),
        **_statistics(levels),
    )
    if plan.base is not None:
        head, shards = _added(plan.base, head, shards)
        summary.added = plan.images
    if report is not None:  # before the manifest: what random names were of is known here only
        write_report(
            report,
            [text['path'] for text in plan.texts],
            ((item, outcome) for _, item, outcome in done('report')),
            read_left_out(store),
        )
    with show(desc='sync: waiting for the disk', bar_format='{desc}'):
        store.sync()  # images were not waited for one by one
    write_manifest(store, head, show(shards, 'manifest', unit='shard', leave=True), key)
    return summary


def _records(store: Store, plan: Plan, known: bool = False) -> Iterator[Record]:
    """What became of all shards; whether their manifests are there is asked unless it is known."""
    missing = []
    for shard in plan.shards:
        record = read_record(store, plan, shard)
        if record is None or not (known or record.is_whole):
            missing.append(shard)
        else:
            yield record
    if missing:
        few = ', '.join(map(str, missing[:5])) + (', …' if len(missing) > 5 else '')
        raise EncryptionError(
            f'{len(missing)} of {len(plan.shards)} shards of {store.url} are not done ({few}): '
            f'`hime encrypt run {store.url}` does them'
        )


def _done(store: Store, plan: Plan) -> Iterator[tuple[int, Any, dict]]:
    """Number, picture and outcome of all, in their order."""
    number = 0
    for record in _records(store, plan, known=True):
        items = read_items(store, plan, record.number)
        for item, outcome in zip(items, record.outcomes, strict=True):
            yield number, item, outcome
            number += 1


def tell(store: Store, plan: Plan, record: Record, summary: Summary) -> None:
    """Put what was left out of a shard, and what decoders said, on a summary."""
    if record.silent:
        return
    items = read_items(store, plan, record.number)
    for item, outcome in zip(items, record.outcomes, strict=True):
        if 'error' in outcome:
            summary.skipped.append((item.path, outcome['error']))
        if 'said' in outcome:
            summary.warnings.append((item.path, outcome['said']))


def _statistics(levels: Sequence[int]) -> dict:
    found = statistics_of(levels) if levels else {}
    return dict(statistics=found) if found else {}


def _added(base: dict, head: dict, shards: Iterable[dict]) -> tuple[dict, list[dict]]:
    """The head and the shards of a data set that pictures were added to."""
    clipped = {name: tuple(pair) for name, pair in base['clipped'].items()}
    add_counts(clipped, {name: tuple(pair) for name, pair in head['clipped'].items()})
    counts = {
        name: number + base['counts'].get(name, 0)
        for name, number in head['counts'].items()
        if name != 'left_out'
    }
    noticed = Counter(base.get('noticed', {})) + Counter(head.get('noticed', {}))
    new = dict(
        head,
        counts=dict(counts, left_out=head['counts']['left_out']),
        clipped={name: list(pair) for name, pair in clipped.items()},
        **(dict(noticed=dict(noticed)) if noticed else {}),
    )
    new.pop('statistics', None)
    # A part without pictures has none, and changes nothing.
    parts = [one for one in (base, head) if one['counts']['files']]
    known = [one['statistics'] for one in parts if 'statistics' in one]
    if len(known) == len(parts) == 1:
        new['statistics'] = known[0]
    elif len(known) == len(parts):
        new |= _statistics(add_levels(*map(levels_of, known)))
    return new, [*base['shards'], *shards]
