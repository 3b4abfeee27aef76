# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Two runs are kept from doing the same shards."""

import json
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from hime_mm.datasets.stores import LocalStore, Store
from hime_mm.errors import EncryptionError

#: Folder of an unfinished data set that says what is done.
WORK_NAME = '.hime-work'
#: Seconds between two signs of life of a run that writes to a server, and until it is given up.
_BEAT, _DEAD = 20.0, 120.0

#: The i-th of n parts of the shards, counted from 0: those k with k % n == i.
Part = tuple[int, int]
ALL: Part = (0, 1)


@contextmanager
def locked(store: Store, part: Part = ALL, work: str = WORK_NAME) -> Iterator[None]:
    """Keep a second run out of the same shards of an output.

    Where the output is a folder, the operating system knows which runs are alive. On a server a
    run leaves a sign of life every 20 seconds, and counts as gone 2 minutes after the last.

    Args:
        store (Store): The output.
        part (Part): What this run does of it. Defaults to all.
        work (str): The folder that the locks are kept in. Defaults to that of
            an unfinished data set.

    Raises:
        EncryptionError: If another run is at work on one of them.
    """
    name, locks = f'{part[0] + 1}-of-{part[1]}', f'{work}/locks'
    kept = _held if isinstance(store, LocalStore) else _beating
    with kept(store, f'{locks}/{name}'):
        for entry in store.list(locks):
            other = _part_of(entry.name)
            if entry.name != name and other is not None and _overlap(part, other):
                _refuse_living(store, f'{locks}/{entry.name}')
        yield


def _part_of(name: str) -> Part | None:
    first, mark, num = name.partition('-of-')
    if not mark or not first.isdecimal() or not num.isdecimal():
        return None
    return int(first) - 1, int(num)


def _overlap(one: Part, other: Part) -> bool:
    """Whether a shard belongs to both: by the Chinese remainder theorem."""
    return (one[0] - other[0]) % math.gcd(one[1], other[1]) == 0


def _refusal(store: Store, who: str = '') -> EncryptionError:
    return EncryptionError(
        f'another process is writing to {store.place("")} at the moment{who}: wait until it has '
        'ended'
    )


def _refuse_living(store: Store, path: str) -> None:
    if isinstance(store, LocalStore):
        file = _lock(store, path)
        if file is None:
            raise _refusal(store)
        file.close()
        return
    if (who := _living(store, path)) is not None:
        raise _refusal(store, who)


# --- A folder -------------------------------------------------------------------------------------


@contextmanager
def _held(store: Any, path: str) -> Iterator[None]:
    while True:
        file = _lock(store, path)
        if file is None:
            raise _refusal(store)
        with file:
            # The lock of a file that a run which ended has deleted is none.
            if _is_same_file(file.fileno(), store.place(path)):
                yield
                return


def _lock(store: LocalStore, path: str) -> BinaryIO | None:
    """The locked file, None where another process holds it."""
    while True:
        store.make_folder(path.rpartition('/')[0])
        try:
            file = open(store.place(path), 'ab')  # noqa: SIM115
        except FileNotFoundError:
            continue  # a run that ended has just deleted the folder
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows: two runs would do the same work
            pass
        except BlockingIOError:
            file.close()
            return None
        return file


def _is_same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


# --- A server -------------------------------------------------------------------------------------


@contextmanager
def _beating(store: Store, path: str) -> Iterator[None]:
    if (who := _living(store, path)) is not None:
        raise _refusal(store, who)
    token = secrets.token_hex(8)

    def beat() -> None:
        sign = dict(token=token, host=socket.gethostname(), pid=os.getpid(), time=time.time())
        store.write(path, json.dumps(sign).encode())

    beat()
    # Of two that began in the same moment, the later one stays.
    if _read_sign(store, path).get('token') != token:
        raise _refusal(store)
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(_BEAT):
            with suppress(OSError):  # the next one may come through
                beat()

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            store.remove(path)


def _read_sign(store: Store, path: str) -> dict:
    try:
        sign = json.loads(store.read(path))
    except (OSError, ValueError):
        return {}
    return sign if isinstance(sign, dict) else {}


def _living(store: Store, path: str) -> str | None:
    """Who left a sign of life that is fresh, None if nobody did."""
    sign = _read_sign(store, path)
    try:
        age = time.time() - float(sign['time'])
    except (KeyError, TypeError, ValueError):
        return None
    if age > _DEAD:
        return None
    return (
        f' (process {sign.get("pid")} of {sign.get("host")}, heard {max(age, 0):.0f} s ago; one '
        f'that was killed is given up after {_DEAD:.0f} s)'
    )
