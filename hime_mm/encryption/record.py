# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What became of a shard: its commit marker."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hime_mm.datasets.stores import Store
from hime_mm.datasets.writing import shard_name
from hime_mm.errors import EncryptionError
from hime_mm.images.levels import add_levels

from .job import add_counts
from .lock import WORK_NAME
from .plan import Plan


@dataclass(frozen=True)
class Record:
    """What became of a shard.

    Attributes:
        store (Store): The output.
        name (str): Path of the record in it.
        number (int): Of the shard.
        row (dict): What ``hime.json`` says of it.
        size (int): Bytes of its manifest.
        images (int): How many pictures the shard has.
        counts (dict): ``levels`` of grey, ``clipped`` values, how often what was ``noticed``,
            ``telling`` boxes and ``tiny`` objects, and decoders that ``said``
            something.
    """

    store: Store
    name: str
    number: int
    row: dict
    size: int
    images: int
    counts: dict

    @property
    def outcomes(self) -> Iterator[dict]:
        """Iterator[dict]: What became of each of its pictures.

        Raises:
            EncryptionError: If something of it is missing, as after a power cut.
        """
        left = self.images
        try:
            with self.store.open(self.name) as file:
                file.readline()
                for line in file:
                    yield json.loads(line)
                    left -= 1
        except ValueError:
            left = -1
        if left:
            raise EncryptionError(
                f'{self.store.place(self.name)} is damaged: delete it, and the shard is done again'
            )

    @property
    def is_whole(self) -> bool:
        """bool: Whether the shard's manifest is there as it was written."""
        return self.store.is_whole(self.row['path'], self.size, self.row['sha256'])

    @property
    def silent(self) -> bool:
        """bool: Whether nothing was left out, and no decoder said anything."""
        return not (self.row['skipped'] or self.counts['said'])


def record_name(shard: int) -> str:
    """Path of a shard's record."""
    return f'{WORK_NAME}/shards/{shard:06d}.jsonl'


def write_record(store: Store, plan: Plan, shard: int, row: dict, outcomes: Sequence[dict]) -> None:
    """Say that a shard is done: all that belongs to it is there.

    Nothing waits for the disk, neither for this: whoever goes on compares what is there.

    Args:
        store (Store): The output.
        plan (Plan): The plan.
        shard (int): Number of the shard.
        row (dict): What ``hime.json`` is to say of it.
        outcomes (Sequence[dict]): What became of each of its pictures.
    """
    clipped: dict[str, tuple[int, int]] = {}
    noticed = Counter[str]()
    for outcome in outcomes:
        add_counts(clipped, outcome.get('clipped', {}))
        noticed.update(outcome.get('noticed', ()))
    head = dict(
        plan=plan.id,
        shard=shard,
        row=row,
        size=store.size(shard_name(shard)),
        images=len(outcomes),
        counts=dict(
            levels=add_levels(*(one['levels'] for one in outcomes if 'levels' in one)),
            clipped=clipped,
            noticed=noticed,
            telling=sum(outcome.get('telling', 0) for outcome in outcomes),
            tiny=sum(outcome.get('tiny', 0) for outcome in outcomes),
            said=sum('said' in outcome for outcome in outcomes),
        ),
    )
    lines = (json.dumps(line).encode() + b'\n' for line in (head, *outcomes))
    store.write(record_name(shard), b''.join(lines), sync=False)


def read_record(store: Store, plan: Plan, shard: int) -> Record | None:
    """What became of a shard, None if it is not done, or its record was cut off.

    Raises:
        EncryptionError: If the record is of another plan.
    """
    name = record_name(shard)
    try:
        with store.open(name) as file:
            line = file.readline()
    except FileNotFoundError:
        return None
    try:
        head = json.loads(line)
        fields = (head[name] for name in ('shard', 'row', 'size', 'images', 'counts'))
        record, known = Record(store, name, *fields), head['plan']
    except (LookupError, TypeError, ValueError):
        return None
    if (known, record.number) != (plan.id, shard):
        raise EncryptionError(
            f'{store.place(name)} is of another plan or shard, and nothing of it is trusted: '
            'delete it, and the shard is done again'
        )
    return record
