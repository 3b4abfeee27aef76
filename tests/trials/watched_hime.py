# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The command `hime`, which writes down pictures that a worker is at for too long.

The variable ``WATCH`` holds the seconds and the file to write to. Workers
import this file, too, as they do with every script that starts them.
"""

import functools
import os
import threading
import time

from hime_mm.cli import main
from hime_mm.encryption import shard, worker

_seal_item = worker.seal_item


@functools.wraps(_seal_item)
def watched(job, key, task):
    seconds, _, path = os.environ['WATCH'].partition(':')
    start, told = time.monotonic(), []

    def tell():
        told.append(True)
        with open(path, 'a') as file:
            file.write(f'{task[0].path}\n')

    # A thread, since a worker may be ended by then: told while it is at it.
    timer = threading.Timer(float(seconds), tell)
    timer.daemon = True
    timer.start()
    try:
        return _seal_item(job, key, task)
    finally:
        timer.cancel()
        timer.join()
        # It may have had no turn yet.
        if not told and time.monotonic() - start > float(seconds):
            tell()


worker.seal_item = shard.seal_item = watched

if __name__ == '__main__':
    main()
