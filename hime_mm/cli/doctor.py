# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""``hime doctor``."""

import json
import sys

import click

from hime_mm.environment import check_environment, format_report

from .group import FAILED
from .words import echo


@click.command()
@click.option('--engineer', is_flag=True, help="Fail if the engineer's side does not work, too.")
@click.option('--json', 'as_json', is_flag=True, help='The report as JSON.')
def doctor(engineer: bool, as_json: bool) -> None:
    """Say what is installed here, whether it works and what would break.

    The exit status is 0 when the owner's side works: encrypting, decrypting
    and mapping boxes. The engineer's side, training and prediction, is only
    reported, unless --engineer is given.
    """
    if sys.stderr.isatty():
        echo('Trying all imports ...', err=True)
    report = check_environment(engineer)
    text = json.dumps(report, indent=2) if as_json else format_report(report)
    echo(*text.split('\n'))
    if not report['owner'] or (engineer and not report['engineer']):
        sys.exit(FAILED)
