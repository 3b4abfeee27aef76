# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""The command, run in this process."""

from click.testing import CliRunner
from owner_data import SECRET

from hime_mm.ciphers import Key
from hime_mm.cli import main

KEY = Key(SECRET)
ANN = 'annotations/instances_val2017.json'


def invoke(*args, status=0, env=None):
    """Run a command in this process, which is faster; its output."""
    result = CliRunner(env=dict({'HIME_KEY': None}, **(env or {}))).invoke(
        main, list(map(str, args))
    )
    assert result.exit_code == status, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output
