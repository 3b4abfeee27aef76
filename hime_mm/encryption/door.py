# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a run refuses before it begins."""

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hime_mm.ciphers import Key
from hime_mm.ciphers.keys import looks_like_key
from hime_mm.datasets.stores import Store, open_store
from hime_mm.datasets.writing import FORMAT_NAME, MANIFEST_NAME
from hime_mm.errors import EncryptionError, InvalidKey
from hime_mm.images import Recipe

from .catalog import packed, unpacked
from .job import Job
from .lock import WORK_NAME
from .walk import lies_in

if TYPE_CHECKING:
    from .cataloged import Cataloged

#: What a run writes at the root beside pictures and texts.
_OWN = re.compile(r'hime(-\d{6,})?\.json|hime-\d{6,}\.tar|' + re.escape(WORK_NAME))


def make_job(src: str, out: str, recipe: Recipe, key: Key | None, dataset_id: str | None) -> Job:
    """What is asked for, where nothing speaks against it.

    Raises:
        HimeError: If something does.
    """
    recipe.check(key)
    if dataset_id is not None and looks_like_key(dataset_id):
        raise InvalidKey(
            'a key was given as the id of the data set, which '
            'is handed over: make a new key if others may have '
            'seen this one'
        )
    try:
        (dataset_id or '').encode()
    except UnicodeEncodeError:
        raise EncryptionError(
            'the id of the data set is not UTF-8: choose another one as `dataset_id`'
        ) from None
    source, store = open_store(src), open_store(out)
    if source.local is not None and not os.path.isdir(source.local):
        raise EncryptionError(f'there is no folder {source.place("")}')
    if _lie_in_each_other(source, store):
        raise EncryptionError(
            f'{store.place("")} and {source.place("")} lie in each other: the plain pictures must '
            'not be handed over with the encrypted ones'
        )
    return Job(src, out, recipe, dataset_id or '')


def _lie_in_each_other(one: Store, other: Store) -> bool:
    if one.local is not None and other.local is not None:
        real, real_other = os.path.realpath(one.local), os.path.realpath(other.local)
        return lies_in(real, real_other) or lies_in(real_other, real)
    urls = [store.url.rstrip('/') + '/' for store in (one, other)]
    return urls[0].startswith(urls[1]) or urls[1].startswith(urls[0])


def check_source(source: 'Cataloged', job: Job, strict: bool, begun: bool) -> None:
    """Refuse a source that cannot be encrypted into the output.

    Args:
        source (Cataloged): The source.
        job (Job): The run.
        strict (bool): Whether nothing may be left out.
        begun (bool): Whether there is something in the output already.

    Raises:
        EncryptionError: If it is encrypted already, none of its pictures is
            there, two of its files would become one, or the output lies among
            its pictures.
    """
    if strict and source.num_left_out:
        path, reason = next(source.left_out())
        raise EncryptionError(
            f'{source.num_left_out} files or folders would be left out, first {path}: {reason}. '
            'Move them elsewhere, or do without `strict=True`'
        )
    _check_places(open_store(job.out), source)
    # What an earlier run has finished stays, even if the plain pictures are gone.
    if not begun:
        source.check_pictures()
    _check_targets(job, source)


def _check_places(out: Store, source: 'Cataloged') -> None:
    """Refuse pictures that are encrypted already, and an output among them."""
    if source.store.local is None:
        if is_encrypted(source.store):
            raise _encrypted(source.store.place(''))
        return
    real = None if out.local is None else os.path.realpath(out.local)
    asked: set[str] = set()
    for folder in sorted(source.real | source.linked):
        if real is not None and (
            lies_in(folder, real) or (folder in source.real and lies_in(real, folder))
        ):
            raise EncryptionError(
                f'{out.url} and {folder}, which pictures of the source lie in, lie in each other: '
                'the plain pictures must not be handed over with the encrypted ones'
            )
        while folder not in asked:
            asked.add(folder)
            if is_encrypted(open_store(folder)):
                raise _encrypted(folder)
            folder = os.path.dirname(folder)


def _encrypted(folder: str) -> EncryptionError:
    return EncryptionError(
        f'{folder} is an encrypted data set: give the folder of the plain pictures'
    )


def is_encrypted(store: Store) -> bool:
    """Whether a folder is an encrypted data set, perhaps an unfinished one."""
    if store.local is not None and os.path.isdir(store.place(WORK_NAME)):
        return True
    try:
        return store.size(MANIFEST_NAME) is not None and FORMAT_NAME.encode() in store.read(
            MANIFEST_NAME
        )
    except OSError:
        return False


def _check_targets(job: Job, source: 'Cataloged') -> None:
    """Refuse two things that would be written to one place, naming both.

    The case of letters does not count: some file systems do not tell the difference. Names that
    are made for the run come later, and fall together with nothing.
    """
    if not source.renames:
        _check_pairs(job, source)
    views = range(job.recipe.views)
    endings = [(f'_v{n}' if len(views) > 1 else '') + f'.{job.recipe.fmt}' for n in views]
    for folder, what in _folders(source):
        if _OWN.fullmatch(folder.lower()):
            raise EncryptionError(
                f'{what} would lie in {folder}, which a run writes itself: rename that folder'
            )
        for ending in endings:
            # A picture's file in the place of a folder.
            found = folder.lower().endswith(ending) and source.catalog.first(
                'SELECT path FROM items WHERE low = ? ORDER BY n',
                packed(folder.lower().removesuffix(ending)),
            )
            if found and not source.renames:
                raise EncryptionError(
                    f'{unpacked(found[0])} would become the file {folder}, but '
                    + (
                        f'{what} lies in a folder of that name: rename one of them'
                        if what != folder
                        else 'there is a folder of that name: rename one of them'
                    )
                )
    for text in source.texts:
        if _OWN.fullmatch(text['path'].lower()):
            raise EncryptionError(
                f'the manifest and {text["path"]} would both become {text["path"]}: rename one of '
                'them'
            )


def _check_pairs(job: Job, source: 'Cataloged') -> None:
    catalog = source.catalog
    catalog.run('CREATE INDEX IF NOT EXISTS low_of ON items (low)')
    low = catalog.first('SELECT low FROM items GROUP BY low HAVING count(*) > 1 ORDER BY min(n)')
    if low is None:
        return
    first, second = catalog.run(
        'SELECT path, target FROM items WHERE low = ? ORDER BY n LIMIT 2', low[0]
    )
    target = f'{unpacked(second[1])}.{job.recipe.fmt}'
    raise EncryptionError(
        f'{unpacked(first[0])} and {unpacked(second[0])} would both become {target}: '
        + (
            'give their images different ids in the annotation files, '
            "or keep the names (`names='keep'`)"
            if job.recipe.names == 'ids'
            else "rename one of them, or replace the names by ids (`names='ids'`)"
        )
    )


def _folders(source: 'Cataloged') -> Iterator[tuple[str, str]]:
    """Folders of the output, and what lies in each: the folder itself where it may be nothing."""
    yield from source.catalog.parents('target')
    for text in source.texts:
        inside = text['path'].rpartition('/')[0]
        while inside:
            yield inside, text['path']
            inside = inside.rpartition('/')[0]
    yield from ((folder, folder) for folder in source.folders)
