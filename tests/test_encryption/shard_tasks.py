# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What workers of tests do with a shard."""

import os
import signal
import threading
import time
from pathlib import Path


def known(context, key, task):
    """The shard, which key there is, and in which process."""
    return task, None if key is None else key.id, os.getpid()


def dying(context, key, task):
    """Of a few shards ends its worker, until it is alone; of 9 always."""
    number, apart = task
    Path(context, f'{number}-{int(apart)}-{os.urandom(4).hex()}').touch()
    if number in (2, 5) and not apart or number == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return number, apart


def refusing(context, key, task):
    """Fails at one shard, and says which others were begun."""
    if task[0] == 3:
        raise OSError(28, 'No space left on device', 'place')
    Path(context, str(task[0])).touch()
    return task


def slowly(context, key, task):
    """Fails at shard 3, and takes its time for all others: a minute for the 100th."""
    if task[0] == 3:
        raise OSError(28, 'No space left on device', 'place')
    time.sleep(60 if task[0] == 100 else 0.5)
    Path(context, str(task[0])).touch()


def threads(context, key, task):
    """In which thread it is done."""
    return task[0], threading.get_ident()
