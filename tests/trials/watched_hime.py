# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The command `hime`, which writes down pictures that a worker is at for too long.

The variable ``WATCH`` holds the seconds and the file to write to. Workers
import this file, too, as they do with every script that starts them.
"""

import functools
import os
import threading

from hime_mm.cli import main
from hime_mm.encryption import run, worker

_encrypt_item = worker.encrypt_item


def _write_down(path):
    with open(os.environ['WATCH'].partition(':')[2], 'a') as file:
        file.write(f'{path}\n')


@functools.wraps(_encrypt_item)
def watched(job, key, task):
    # A thread, since a worker may be ended by then: told while it is at it.
    timer = threading.Timer(
        float(os.environ['WATCH'].partition(':')[0]), _write_down, (task[0].path,)
    )
    timer.daemon = True
    timer.start()
    try:
        return _encrypt_item(job, key, task)
    finally:
        timer.cancel()


worker.encrypt_item = run.encrypt_item = watched

if __name__ == '__main__':
    main()
