# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Tasks that end their process, for workers to import."""

import os
import signal
import time

from hime_mm.images import guard


def loop():
    guard._SECONDS = 0.1
    with guard.guarded(0, 0):
        while True:
            pass


def wait():
    guard._SECONDS, guard._PATIENCE = 0.1, 1
    with guard.guarded(0, 0):
        time.sleep(60)


WAYS = {
    'exit': lambda: os._exit(0),
    'crash': lambda: os.kill(os.getpid(), signal.SIGSEGV),
    'abort': os.abort,
    'kill': lambda: os.kill(os.getpid(), signal.SIGKILL),
    'loop': loop,
    'wait': wait,
}


def work(culprits, key, task):
    """Twice the task, or the end in its way; a path is that of a mark to end only once."""
    way, mark = culprits.get(task, (None, None))
    if way is not None and not (mark and os.path.exists(mark)):
        if mark:
            open(mark, 'w').close()
        WAYS[way]()
    return 2 * task
