# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A folder of a server, of a bucket or in an archive, by way of fsspec."""

import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from hime_mm.errors import StoreError

from .base import Entry

T = TypeVar('T')
#: Seconds between the tries of what may pass, such as a timeout, and after which none begins.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
LONGEST = 20.0
#: Of requests to S3. What is tried again is decided here, not in three libraries at once.
_S3 = dict(connect_timeout=5, read_timeout=15, retries=dict(total_max_attempts=1))
#: Requests at the same time.
REQUESTS = 32
_READ_ONLY = ('zip', 'tar', 'libarchive', 'http', 'https', 'git', 'github', 'data')
#: They have no folders that would have to be made.
_OBJECTS = ('s3', 's3a', 'gs', 'gcs', 'abfs', 'abfss', 'az', 'adl', 'oss', 'oci', 'memory')
#: They fetch what other files name, or run commands.
_REFUSED = ('reference', 'kerchunk', 'generic')
#: What does not pass by waiting.
_LASTING = (
    FileNotFoundError,
    PermissionError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
)
_PASSING = re.compile('Timeout|Connection|Incomplete|HTTPClientError|Payload|Disconnected')


def hide_secrets(text: str) -> str:
    """A text without the user and password of its URLs."""
    return re.sub(r'://[^/\s]*@', '://***@', text)


class FsspecStore:
    """A place that fsspec knows; see :class:`~.base.Store`.

    What times out or breaks off is tried again for about half a minute, and never taken for a
    file that is not there.

    Args:
        url (str): Such as ``s3://bucket/data`` or ``zip://folder::/data/pictures.zip``.

    Raises:
        StoreError: If the scheme is unknown, or what it needs is not installed.
    """

    local = None

    def __init__(self, url: str) -> None:
        self.url = url
        self._shown = hide_secrets(url)
        first = re.split('::|://', url, maxsplit=1)[0]
        schemes = re.findall(r'(?:^|::)([a-z][a-z0-9+.-]*)(?=://|::|$)', url.lower())
        self._schemes = {first.lower(), *schemes}
        for scheme in self._schemes.intersection(_REFUSED):
            raise StoreError(f'{self._shown}: {scheme!r} reads what the URL does not name')
        self._writable = first not in _READ_ONLY
        self._objects = first in _OBJECTS
        self._quoted = first in ('http', 'https')
        self._fs: Any = None
        self._process: int | None = None
        self._connect()

    def __reduce__(self) -> tuple:
        return FsspecStore, (self.url,)

    def __repr__(self) -> str:
        return f'FsspecStore({self._shown!r})'

    def _connect(self) -> Any:
        """The file system, one for each process."""
        if self._process == os.getpid():
            return self._fs
        try:
            import fsspec.core
        except ImportError:
            raise StoreError(
                f"{self._shown} needs fsspec: `pip install 'hime-mm[stores]'`"
            ) from None
        try:
            self._fs, root = fsspec.core.url_to_fs(self.url, **self._options())
        except ImportError as error:
            raise StoreError(
                f"{self._shown}: {error}: `pip install 'hime-mm[stores]'` brings s3fs, others "
                '(gcsfs for gs) are installed by their names'
            ) from None
        except OSError as error:  # such as an archive that is not there
            raise self._named(error, '') from None
        except Exception as error:
            raise StoreError(hide_secrets(f'{self._shown}: {error}')) from None
        if type(self._fs).__name__ == 'S3FileSystem':
            self._fs.retries = 1  # of an instance with options of ours
        self._root = root.rstrip('/') if root.strip('/') else ''
        self._process = os.getpid()
        return self._fs

    def _options(self) -> dict[str, dict]:
        """What the file systems of the URL are made with, by scheme."""
        from fsspec.config import conf

        options = {}
        for scheme in ('s3', 's3a'):
            if scheme in self._schemes:
                set_by_user = conf.get('s3', {}).get('config_kwargs', {})
                options[scheme] = dict(config_kwargs={**_S3, **set_by_user})
        return options

    def place(self, path: str) -> str:
        if not path:
            return self._shown
        folder, mark, chain = self._shown.partition('::')
        if '://' not in folder and mark:  # such as simplecache::s3://bucket
            return f'{self._shown.rstrip("/")}/{path}'
        between = '' if folder.endswith('/') else '/'
        return f'{folder}{between}{path}{mark}{chain}'

    def _full(self, path: str) -> str:
        if self._quoted:
            path = quote(path)
        return '/'.join(part for part in (self._root, path) if part)

    def read(self, path: str) -> bytes:
        return self._try(path, lambda fs, full: fs.cat_file(full))

    def read_many(self, paths: Sequence[str]) -> Iterator[bytes | OSError]:
        def read(path: str) -> bytes | OSError:
            try:
                return self.read(path)
            except OSError as error:
                return error

        yield from self._each(read, paths)

    def read_range(self, path: str, start: int, size: int) -> bytes:
        if not size:
            return b''
        return self._try(path, lambda fs, full: fs.cat_file(full, start=start, end=start + size))

    def open(self, path: str) -> BinaryIO:
        return self._try(path, lambda fs, full: fs.open(full, 'rb'))

    def write(self, path: str, data: bytes, sync: bool = True) -> None:
        self._put(path, len(data), lambda fs, full: fs.pipe_file(full, data))

    def write_many(self, files: Sequence[tuple[str, bytes]]) -> None:
        for _ in self._each(lambda one: self.write(*one), files):
            pass

    @contextmanager
    def writing(self, path: str, sync: bool = True) -> Iterator[BinaryIO]:
        self._check_writable(path)
        folder = tempfile.mkdtemp(prefix='hime-')
        try:
            spool = os.path.join(folder, 'file')
            with open(spool, 'wb') as file:
                yield file
            self._put(path, os.path.getsize(spool), lambda fs, full: fs.put_file(spool, full))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def size(self, path: str) -> int | None:
        def ask(fs: Any, full: str) -> int | None:
            fs.invalidate_cache()
            info = fs.info(full)
            return info['size'] if info['type'] == 'file' else None

        try:
            return self._try(path, ask)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_whole(self, path: str, size: int, sha256: str) -> bool:
        return self.size(path) == size

    def stamp(self, path: str) -> list[int] | None:
        return None

    def remove(self, path: str) -> None:
        self._check_writable(path)
        with suppress(FileNotFoundError):
            self._try(path, lambda fs, full: fs.rm_file(full))

    def remove_tree(self, path: str) -> None:
        self._check_writable(path)

        def find(fs: Any, full: str) -> list[str]:
            fs.invalidate_cache()
            return list(fs.find(full))

        def remove(full: str) -> None:
            with suppress(FileNotFoundError):
                self._try(path, lambda fs, _: fs.rm_file(full))

        with suppress(FileNotFoundError):
            for _ in self._each(remove, self._try(path, find)):
                pass
        if not self._objects or self._fs.protocol == 'memory':
            with suppress(Exception):
                self._fs.rm(self._full(path), recursive=True)

    def list(self, folder: str = '') -> Iterator[Entry]:
        def ask(fs: Any, full: str) -> list[dict]:
            fs.invalidate_cache()
            return fs.ls(full, detail=True)

        full = self._full(folder).strip('/')
        for info in self._try(folder, ask):
            name = info['name'].strip('/')
            if name == full:
                if info['type'] == 'file' and info['size']:
                    raise NotADirectoryError(
                        errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.place(folder)
                    )
                continue  # a marker of the folder itself
            yield Entry(name.rpartition('/')[2], info['type'] == 'directory')

    def make_folder(self, path: str) -> None:
        if not self._objects:
            self._check_writable(path)
            self._try(path, lambda fs, full: fs.makedirs(full, exist_ok=True))

    def sync(self) -> None:
        """Nothing: what was written is there."""

    def _each(self, function: Callable[[Any], T], values: Iterable[Any]) -> Iterator[T]:
        if not self._connect().async_impl:
            yield from map(function, values)
            return
        with ThreadPoolExecutor(REQUESTS) as pool:
            yield from pool.map(function, values)

    def _put(self, path: str, size: int, put: Callable[[Any, str], Any]) -> None:
        """Write a file and see that the place has all of it."""
        self._check_writable(path)
        folder = path.rpartition('/')[0]
        if not self._objects:
            self.make_folder(folder)
        for wait in (*WAITS, None):
            self._try(path, put)
            found = self.size(path)
            if found == size:
                return
            if wait is not None:
                time.sleep(wait)
        raise OSError(
            errno.EIO,
            f'the store took the file and lost it: {size} bytes were written, '
            + ('nothing is there' if found is None else f'{found} are there'),
            self.place(path),
        )

    def _check_writable(self, path: str) -> None:
        if not self._writable:
            raise OSError(errno.EROFS, 'such places are only read', self.place(path))

    def _try(self, path: str, action: Callable[[Any, str], Any]) -> Any:
        fs = self._connect()
        begin = time.monotonic()
        for wait in (*WAITS, None):
            try:
                return action(fs, self._full(path))
            except Exception as error:
                late = time.monotonic() - begin > LONGEST
                if wait is None or late or not _passes(error):
                    raise self._named(error, path) from None
                time.sleep(wait)
        raise AssertionError

    def _named(self, error: Exception, path: str) -> OSError:
        """An error of whatever library, with the place and without secrets."""
        place = self.place(path)
        text = hide_secrets(str(error) or type(error).__name__)
        if 'Credentials' in type(error).__name__:
            return PermissionError(errno.EACCES, text, place)
        if isinstance(error, _LASTING):
            number = error.errno or _NUMBERS[next(k for k in _NUMBERS if isinstance(error, k))]
            kind = os.strerror(number)
            return OSError(number, kind if isinstance(error, FileNotFoundError) else text, place)
        if not isinstance(error, OSError):
            text = f'{type(error).__name__}: {text}'
        return OSError(getattr(error, 'errno', None) or errno.EIO, text, place)


_NUMBERS = {
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
    FileExistsError: errno.EEXIST,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
}


def _passes(error: Exception) -> bool:
    """Whether it may be otherwise in a moment."""
    if isinstance(error, OSError):
        return not isinstance(error, _LASTING)
    return bool(_PASSING.search(type(error).__name__)) or isinstance(error, EOFError)
