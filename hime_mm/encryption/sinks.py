# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Where the encrypted pictures of a shard go: files of their own, or a tar."""

import errno
from contextlib import ExitStack, suppress
from typing import Any, Protocol

from hime_mm.datasets.stores import Store
from hime_mm.datasets.tars import TarWriter
from hime_mm.errors import PictureError

from .job import Item, Job

#: Bytes that are kept to be put on a server at the same time.
_AT_ONCE = 32 << 20


class Sink(Protocol):
    """Takes the pictures of a shard in their order; at its end all of them are there.

    Attributes:
        tar (dict | None): What ``hime.json`` says of the tar.
    """

    tar: dict | None

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> None: ...

    def put(self, item: Item, outcome: dict, files: list[bytes]) -> dict:
        """Take what was made of a picture, and give its outcome."""

    def keep(self, item: Item, outcome: dict) -> dict:
        """Have what an earlier run made of a picture."""


class FileSink:
    """Pictures as files; see :class:`Sink`."""

    tar: dict | None = None

    def __init__(self, job: Job, out: Store) -> None:
        self._job, self._out = job, out
        self._waiting: list[tuple[str, bytes]] = []
        self._size = 0

    def __enter__(self) -> 'FileSink':
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._flush()

    def put(self, item: Item, outcome: dict, files: list[bytes]) -> dict:
        if 'error' not in outcome:
            try:
                for row, data in zip(outcome['rows'], files, strict=True):
                    self._write(row['path'], data)
            except PictureError as error:
                outcome = dict(error=str(error), source=outcome['source'])
        if 'error' in outcome:  # with what was made of it before
            for path in self._job.targets(item):
                with suppress(OSError, ValueError):  # such as a name that no file can have
                    self._out.remove(path)
        return outcome

    def keep(self, item: Item, outcome: dict) -> dict:
        return outcome

    def _write(self, path: str, data: bytes) -> None:
        """Write a picture's file; what lies in its name is no matter of the output."""
        if self._out.local is None:
            self._waiting.append((path, data))
            self._size += len(data)
            if self._size > _AT_ONCE:
                self._flush()
            return
        try:
            self._out.write(path, data, sync=False)
        except OSError as error:
            self._check_name(path, error)
            raise

    def _check_name(self, path: str, error: OSError) -> None:
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            remedy = 'rename it'
            if self._job.recipe.names != 'ids':
                remedy += ", or replace the names by ids (`names='ids'`)"
            longest = max(len(part.encode()) for part in path.split('/'))
            raise PictureError(
                f'its encrypted file cannot have that name, of {longest} bytes in a path of '
                f'{len(path.encode())} ({error.strerror}): {remedy}'
            ) from None
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP):
            raise PictureError(
                f'something else is where its encrypted file belongs ({error.strerror})'
            ) from None

    def _flush(self) -> None:
        self._out.write_many(self._waiting)
        self._waiting, self._size = [], 0


class TarSink:
    """Pictures in a tar, which is there when all of them are; see :class:`Sink`.

    Args:
        job (Job): The run.
        out (Store): The output.
        path (str): Of the tar.
        old (dict, optional): What is said of an earlier one that is whole.
    """

    tar: dict | None = None

    def __init__(self, job: Job, out: Store, path: str, old: dict | None) -> None:
        self._job, self._out, self._path, self._old = job, out, path, old

    def __enter__(self) -> 'TarSink':
        self._stack = ExitStack()
        file = self._stack.enter_context(self._out.writing(self._path, sync=False))
        self._writer = TarWriter(file)
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._writer.close()
            self.tar = dict(path=self._path, size=self._writer.size, sha256=self._writer.sha256)
        self._stack.__exit__(*error)

    def put(self, item: Item, outcome: dict, files: list[bytes]) -> dict:
        for row, data in zip(outcome.get('rows', ()), files, strict=True):
            row['offset'] = self._writer.add(row['path'], data)
        return outcome

    def keep(self, item: Item, outcome: dict) -> dict:
        assert self._old is not None or 'error' in outcome
        files = [
            self._out.read_range(self._old['path'], row['offset'], row['size'])  # type: ignore
            for row in outcome.get('rows', ())
        ]
        return self.put(item, outcome, files)
