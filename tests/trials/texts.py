# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Damaged and crafted manifests, COCO files, keys, lists and results: read, or refused by name

Refused is a `HimeError` or an `OSError`, which commands show as one line.
"""

import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from owner_data import SECRET, annotation, coco_file, key_file, photo, write
from version_1 import as_version_1

from hime_mm.ciphers import Key
from hime_mm.datasets.manifest import Manifest, load_manifest
from hime_mm.datasets.segmentation import compress_rle
from hime_mm.datasets.stores import LocalStore
from hime_mm.datasets.writing import checksum
from hime_mm.encryption.decrypt import decrypt_dataset
from hime_mm.encryption.describe import describe_dataset
from hime_mm.encryption.folder import FolderSource
from hime_mm.encryption.run import encrypt_coco
from hime_mm.encryption.verify import verify_dataset
from hime_mm.errors import HimeError
from hime_mm.mapping.results import map_coco_results

from .fuzzing import fuzz
from .mutation import json_file, mutate_bytes, mutate_json
from .state import State

CASES = 100_000
UNIT = 'cases'
#: What a case may take of a processor.
SECONDS = 5
_KEY = Key(SECRET)
_ANNOTATIONS = 'annotations/instances_val.json'
_LIST = 'meta/val.txt'
_RESULTS = [
    dict(image_id=7, category_id=3, bbox=[1.5, 2, 9, 8], score=0.5, area=60.0),
    dict(
        image_id=8,
        category_id=90,
        bbox=[0, 0, 16, 16],
        score=0.25,
        segmentation=[[1, 2, 9, 2, 9, 8.5]],
    ),
    dict(
        image_id=8,
        category_id=90,
        bbox=[0, 0, 16, 16],
        score=0.125,
        segmentation=dict(counts=[4, 10, 370], size=[16, 24]),
    ),
]


@dataclass(frozen=True)
class Base:
    """What is damaged: the files of an owner, and data sets of both versions of them."""

    folder: Path
    coco: dict
    manifests: dict[str, dict]


def make_base(folder: Path) -> Base:
    """Make it, or take what is there."""
    base, src = folder / 'base', folder / 'base' / 'src'
    if not base.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=folder))
        _make(new)
        new.rename(base)
    manifests = {
        cipher: json.loads((base / cipher / 'hime.json').read_text())
        for cipher in ('shuffle', 'mix2', 'shuffle 1', 'mix2 1')
    }
    return Base(base, json.loads((src / _ANNOTATIONS).read_text()), manifests)


def _make(folder: Path) -> None:
    names = {'a.png': (32, 32), 'ü b.png': (32, 48)}
    for seed, (name, (h, w)) in enumerate(names.items()):
        write(folder / 'src' / 'val' / name, photo(h, w, seed))
    coco = coco_file(
        names,
        [
            annotation(1, 7, [3, 5.5, 20, 10.25], segmentation=[[3, 5, 23, 5, 23, 15.5]]),
            annotation(
                2,
                8,
                [0, 0, 48, 32],
                category_id=90,
                iscrowd=1,
                segmentation=dict(counts=[32, 32 * 47], size=[32, 48]),
            ),
            annotation(
                3,
                8,
                [1, 1, 9, 9],
                segmentation=dict(counts=compress_rle([33, 9, 32 * 47 - 10]), size=[32, 48]),
            ),
        ],
    )
    for path, text in (
        (_ANNOTATIONS, json.dumps(coco)),
        (_LIST, 'a.png 0\nü b.png 1\n'),
    ):
        (folder / 'src' / path).parent.mkdir()
        (folder / 'src' / path).write_text(text, encoding='utf-8')
    for cipher, segmentation in (('shuffle', False), ('mix2', True)):
        encrypt_coco(
            str(folder / 'src'),
            str(folder / cipher),
            cipher,
            key=_KEY if cipher == 'shuffle' else None,
            segmentation=segmentation,
            progress=False,
        )
        old = shutil.copytree(folder / cipher, folder / f'{cipher} 1')
        as_version_1(old, _KEY if cipher == 'shuffle' else None)


def _each(*calls: Callable) -> bool:
    """Try all of them; whether the first one read what there is."""
    read = []
    for call in calls:
        with suppress(HimeError, OSError):
            call()
            read.append(call)
    return calls[0] in read


def _read_manifest(base: Base, folder: Path, rng: random.Random) -> bool:
    cipher = rng.choice(sorted(base.manifests))
    root = folder / 'data'
    shutil.copytree(base.folder / cipher, root)
    state = mutate_json(base.manifests[cipher], rng)
    # Anybody can give it a checksum that fits; a code takes the key.
    rows = isinstance(state, dict) and state.get('files', state.get('shards'))
    if isinstance(rows, list) and rng.randrange(8):
        state['checksum'] = checksum(state)
    (root / 'hime.json').write_bytes(json_file(state, rng))
    results = folder / 'results.json'
    results.write_text(json.dumps(_RESULTS))
    return _each(
        lambda: Manifest.load(root),
        lambda: describe_dataset(Manifest.load(root)),
        lambda: Manifest.load(root).recipe,
        lambda: _layouts(Manifest.load(root)),
        lambda: load_manifest(root).entry('val/a.png'),
        lambda: verify_dataset(str(root), progress=False),
        lambda: verify_dataset(str(root), _KEY, progress=False),
        lambda: decrypt_dataset(str(root), str(folder / 'out'), _KEY, progress=False),
        lambda: map_coco_results(
            str(results), str(folder / 'mapped.json'), str(root), key=_KEY, progress=False
        ),
        lambda: map_coco_results(
            str(results), str(folder / 'mapped2.json'), str(root), progress=False
        ),
    )


def _layouts(manifest: Manifest) -> list:
    return [manifest.overview, *map(manifest.layout, manifest.files.values())]


def _read_coco(base: Base, folder: Path, rng: random.Random) -> bool:
    src = folder / 'src'
    shutil.copytree(base.folder / 'src', src)
    (src / _ANNOTATIONS).write_bytes(json_file(mutate_json(base.coco, rng), rng))
    options = dict(segmentation=bool(rng.randrange(2)), names=rng.choice(('keep', 'ids')))
    out = str(folder / 'out')
    return _each(lambda: encrypt_coco(str(src), out, 'mix2', progress=False, **options))


def _read_key(base: Base, folder: Path, rng: random.Random) -> bool:
    path = key_file(folder / 'key')
    path.write_bytes(mutate_bytes(path.read_bytes(), rng))

    def from_fd() -> None:
        with open(path, 'rb') as file:
            Key.from_fd(file.fileno())

    return _each(lambda: Key.from_file(str(path)), from_fd)


def _read_list(base: Base, folder: Path, rng: random.Random) -> bool:
    src = folder / 'src'
    shutil.copytree(base.folder / 'src', src)
    path = src / _LIST
    path.write_bytes(mutate_bytes(path.read_bytes(), rng))
    return _each(lambda: FolderSource(LocalStore(str(src)), 'keep', [_LIST]))


def _read_results(base: Base, folder: Path, rng: random.Random) -> bool:
    results = folder / 'results.json'
    results.write_bytes(json_file(mutate_json(_RESULTS, rng), rng))

    def mapped(cipher: str, key: Key | None) -> None:
        out, data = folder / f'{cipher}.json', base.folder / cipher
        map_coco_results(str(results), str(out), str(data), key=key, progress=False)

    return _each(lambda: mapped('mix2', None), lambda: mapped('shuffle', _KEY))


READERS: dict[str, Callable[[Base, Path, random.Random], bool]] = dict(
    manifest=_read_manifest,
    coco=_read_coco,
    key=_read_key,
    list=_read_list,
    results=_read_results,
)


def check(case: int, folder: Path) -> str:
    """Read a damaged file; it stays in the folder."""
    rng = random.Random(f'texts/{case}')
    base, mine = make_base(folder), folder / 'case'
    shutil.rmtree(mine, ignore_errors=True)
    mine.mkdir()
    kind = rng.choice(sorted(READERS))
    start = time.process_time()
    # Waiting for the disk is not what is tried.
    with mock.patch.multiple(os, sync=lambda: None, fsync=lambda file: None):
        read = READERS[kind](base, mine, rng)
    assert time.process_time() - start < SECONDS, kind
    return f'{kind} read' if read else f'{kind} refused'


def steps(state: State, folder: Path) -> Iterator[None]:
    return fuzz(check, state, folder)
