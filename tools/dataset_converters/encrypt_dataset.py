# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Encrypt a data set: `hime encrypt` for a checkout that is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hime_mm.cli.encrypt import encrypt  # noqa: E402

if __name__ == '__main__':
    encrypt(prog_name='encrypt_dataset.py')
