# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The command `hime`, which says at its end how much memory it took, without its workers."""

import re
import resource
import sys
from pathlib import Path

from hime_mm.cli import main


def peak() -> int:
    """Bytes of this process, since it began with this program."""
    status = Path('/proc/self/status')
    if status.exists():
        return int(re.search(r'VmHWM:\s*(\d+) kB', status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == '__main__':
    try:
        main()
    finally:
        print(f'at most {peak()} bytes', file=sys.stderr)
