# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a run is to do, written once, so that any number of machines can do it.

A plan lies in the folder ``.hime-work`` of the output: ``plan.json``, and beside it the pictures of
each shard, a line each. A shard is a part of the sorted list of pictures, and the unit of the
work: it is done by nobody else's help, and its completion record says that it is done.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from itertools import islice

from hime_mm.ciphers import Key
from hime_mm.datasets.stores import Store, open_store
from hime_mm.datasets.writing import compact
from hime_mm.errors import EncryptionError, InvalidKey
from hime_mm.images import Recipe

from .job import Item, Job
from .lock import WORK_NAME, Part
from .source import Source

_PLAN = f'{WORK_NAME}/plan.json'
_LEFT_OUT = f'{WORK_NAME}/left_out.jsonl'
#: Annotation files and lists of a data set that is being added to, as they were.
BASE = f'{WORK_NAME}/base'
#: Pictures of a shard where nobody says: all processes get some, and none is too large to do again.
_LEAST, _MOST, _PARTS = 16, 1000, 64


@dataclass(frozen=True)
class Plan:
    """What a run is to do. No secret is in it, but names of originals are.

    Attributes:
        head (dict): What the manifest says of the settings.
        src (str): The source, a path or an URL.
        dataset_id (str): Id of the data set.
        sources (str): SHA-256 of all that tells the source from another.
        images (int): Pictures.
        shard_size (int): Pictures of a shard; the last one may have fewer.
        first (int): Number of the first shard: others are there where
            pictures are added.
        texts (list[dict]): Annotation files and lists.
        classes (dict, optional): Of each folder that has any, its folders.
        dropped (list[str]): Fields of annotations that are not handed over.
        left_out (int): Files and folders that are no part of it.
        base (dict, optional): The head of the data set that is added to.
    """

    head: dict
    src: str
    dataset_id: str
    sources: str
    images: int
    shard_size: int
    first: int = 0
    texts: list[dict] = field(default_factory=list)
    classes: dict[str, list[str]] | None = None
    dropped: list[str] = field(default_factory=list)
    left_out: int = 0
    base: dict | None = None

    @cached_property
    def id(self) -> str:
        """str: Tells it from all other plans, and what belongs to it."""
        return hashlib.sha256(compact(asdict(self)).encode()).hexdigest()

    @property
    def shards(self) -> range:
        """range: Numbers of its shards."""
        return range(self.first, self.first - (-self.images // self.shard_size))

    def size(self, shard: int) -> int:
        """Pictures of a shard."""
        return min(self.shard_size, self.images - (shard - self.first) * self.shard_size)

    def part(self, part: Part) -> list[int] | range:
        """Numbers of the shards of one of several parts."""
        return self.shards[part[0] :: part[1]]

    def job(self, src: str, out: str) -> Job:
        """What a worker has to know."""
        recipe = Recipe.from_dict(self.head)
        return Job(src, out, recipe, self.dataset_id, self.head['options'])

    def check_key(self, key: Key | None) -> None:
        """Refuse another key than that of the plan.

        Raises:
            InvalidKey: If it is missing, another one, or one too many.
        """
        asked, found = self.head['key_id'], None if key is None else key.id
        if asked != found:
            raise InvalidKey(
                f'the plan has {_named(asked)}, and there is {_named(found)}: give the key that '
                'it was made with'
            )

    @property
    def folders(self) -> list[str]:
        """list[str]: All folders that the result has, whatever is in them."""
        return [
            name if parent == '.' else f'{parent}/{name}'
            for parent, names in (self.classes or {}).items()
            for name in names
        ]


def _named(key_id: str | None) -> str:
    return 'no key' if key_id is None else f'the key {key_id}'


def shard_size_for(images: int) -> int:
    """Pictures of a shard, from the number of all pictures and nothing else."""
    return min(max(-(-images // _PARTS), _LEAST), _MOST)


def items_name(shard: int) -> str:
    """Path of a shard's list of pictures."""
    return f'{WORK_NAME}/items/{shard:06d}.jsonl'


def _lines_name(text: int) -> str:
    return f'{WORK_NAME}/lists/{text}.jsonl'


def write_plan(
    store: Store, plan: Plan, source: Source, show: Callable[[Iterable, str], Iterable]
) -> None:
    """Write a plan and all that belongs to it; where it is cut short, there is none.

    Args:
        store (Store): The output.
        plan (Plan): The plan.
        source (Source): What its pictures are of, with the names that they get.
        show (Callable): Shows how far an iterable is, under a title.
    """
    for rest in ('items', 'lists', 'shards'):  # of a plan that was cut short
        store.remove_tree(f'{WORK_NAME}/{rest}')
    items = iter(show(source.items(), 'plan'))
    for shard in plan.shards:
        _write_lines(
            store, items_name(shard), (one.to_json() for one in islice(items, plan.shard_size))
        )
    for number, text in enumerate(plan.texts):
        if text['kind'] == 'list':
            _write_lines(store, _lines_name(number), map(json.dumps, source.lines(number)))
    _write_lines(store, _LEFT_OUT, map(json.dumps, source.left_out()))
    store.write(_PLAN, json.dumps(asdict(plan), indent=1).encode())


def load_plan(store: Store) -> Plan | None:
    """The plan of an unfinished data set, None if there is none.

    Raises:
        EncryptionError: If it is damaged.
    """
    try:
        data = store.read(_PLAN)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Plan(**json.loads(data))
    except (TypeError, ValueError):
        raise EncryptionError(
            f'{store.place(_PLAN)} is damaged, or of another release: delete '
            f'{store.place(WORK_NAME)} and start again'
        ) from None


@lru_cache(maxsize=2)
def known_plan(out: str, plan_id: str) -> Plan:
    """The plan of a worker's shards, read once.

    Raises:
        EncryptionError: If the output has another one by now.
    """
    store = open_store(out)
    plan = load_plan(store)
    if plan is None or plan.id != plan_id:
        raise EncryptionError(
            f'{store.place(_PLAN)} is not the plan that this run began with: another run has '
            'planned anew'
        )
    return plan


def read_items(store: Store, plan: Plan, shard: int) -> list[Item]:
    """The pictures of a shard.

    Raises:
        EncryptionError: If the list is damaged or gone.
    """
    name = items_name(shard)
    try:
        items = [Item.from_json(line) for line in store.read(name).splitlines()]
    except FileNotFoundError:
        items = []
    except (TypeError, ValueError):
        raise EncryptionError(f'{store.place(name)} is damaged: plan again') from None
    if len(items) != plan.size(shard):
        raise EncryptionError(f'{store.place(name)} is not whole: plan again')
    return items


def read_lines(store: Store, text: int) -> Iterator[tuple[int, str, str]]:
    """The lines of a list: number of the picture, its target, what stands behind its name."""
    yield from map(tuple, _read_lines(store, _lines_name(text)))


def read_left_out(store: Store) -> Iterator[tuple[str, str]]:
    """Files and folders of the source that are no part of the result, and why."""
    yield from map(tuple, _read_lines(store, _LEFT_OUT))


def forget(store: Store) -> None:
    """Delete a plan, and then all that belongs to it: what is half deleted has no plan."""
    store.remove(_PLAN)
    store.remove_tree(WORK_NAME)


def _write_lines(store: Store, path: str, lines: Iterable[str]) -> None:
    with store.writing(path, sync=False) as file:
        for line in lines:
            file.write(line.encode() + b'\n')


def _read_lines(store: Store, path: str) -> Iterator[list]:
    with store.open(path) as file:
        for line in file:
            yield json.loads(line)
