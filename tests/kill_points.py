# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Encrypt a data set, killed before calls that change the disk.

Before every one of them, or every n-th: ``kill_points.py SRC OUT [N [KIND]]``. Of the kind
``folder`` the files get new names, and a report is written beside OUT.

A process of its own, which never uses OpenCV itself, so that it can be forked.
Prints a JSON list: for each such call its name and what was wrong.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from owner_data import tree

from hime_mm.apis import encrypt_coco, encrypt_folder
from hime_mm.ciphers import Key

CALLS = (
    (os, 'replace'),
    (os, 'fsync'),
    (os, 'sync'),
    (os, 'chmod'),
    (os, 'unlink'),
    (os, 'rmdir'),
    (tempfile, 'mkstemp'),
)


def kill_before(number, told):
    """Let this process be killed before its n-th call, and say which."""
    left = [number]

    def count(name):
        left[0] -= 1
        if not left[0]:
            os.write(told, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(module, name):
        call = getattr(module, name)

        def wrapper(*args, **kwargs):
            count(name)
            if name != 'sync':  # which waits for all others' files, too
                return call(*args, **kwargs)

        setattr(module, name, wrapper)

    for module, name in CALLS:
        counted(module, name)


def folders(out):
    """``{path: None}`` of all folders but that of the work."""
    return {
        f'{path.relative_to(out)}/': None
        for path in out.rglob('*')
        if path.is_dir() and path.name != '.hime-work'
    }


def run(src, out, kind, number=0):
    """Encrypt in a process of its own; where it was killed, if it was."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            kill_before(number, write)
            options = dict(
                key=Key(bytes(32)), dataset_id='d', views=2, progress=False, shard_size=1
            )
            if kind == 'coco':
                summary = encrypt_coco(src, out, 'shuffle', **options)
            else:
                options.update(names='ids', report=f'{out}.csv')
                summary = encrypt_folder(src, out, 'shuffle', **options)
            status = not summary.complete
        finally:
            os._exit(status)
    os.close(write)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(read) as file:
        call = file.read()
    if not call and status:
        raise SystemExit(f'failed with the status {status}')
    return call


def main(src, out, every=1, kind='coco'):
    out, report = Path(out), Path(f'{out}.csv')
    run(src, out, kind)
    reference, number, points = {**tree(out), **folders(out)}, 1, []
    reported = report.read_bytes() if kind == 'folder' else None
    while True:
        shutil.rmtree(out)
        report.unlink(missing_ok=True)
        call = run(src, out, kind, number)
        if not call:
            break
        there = tree(out)
        wrong = [
            name
            for name, data in there.items()
            if not name.startswith('.hime-work/')
            and not name.endswith('.part')
            and reference.get(name) != data
        ]
        # What has a record stays as it is.
        done = [
            row['path']
            for name, data in there.items()
            if name.startswith('.hime-work/shards/') and not name.endswith('.part')
            for line in data.splitlines()[1:]
            for row in json.loads(line)['rows']
        ]
        if 'hime.json' in there:
            if kind == 'folder' and not report.exists():
                wrong.append('no report')
            done = [n for n in there if n.endswith('.png')]
        before = {name: os.stat(out / name) for name in done}
        if run(src, out, kind):
            wrong.append('killed again')
        for name, old in before.items():
            new = os.stat(out / name)
            if (old.st_ino, old.st_mtime_ns) != (new.st_ino, new.st_mtime_ns):
                wrong.append(f'{name} was done again')
        if {**tree(out), **folders(out)} != reference or (out / '.hime-work').exists():
            wrong.append('resumed: other bytes')
        if kind == 'folder' and report.read_bytes() != reported:
            wrong.append('resumed: another report')
        points.append(dict(call=call, done=len(done), wrong=wrong))
        number += int(every)
    print(json.dumps(points))


if __name__ == '__main__':
    main(*sys.argv[1:])
