# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What is done with an encrypted data set: decrypt, verify, info."""

import json
import sys
from typing import Any, Optional

import click

from hime_mm.datasets.manifest import Manifest
from hime_mm.encryption.decrypt import decrypt_dataset
from hime_mm.encryption.describe import describe_dataset
from hime_mm.encryption.verify import verify_dataset

from .group import FAILED
from .keys import key_options, read_key
from .options import available_cpus, show_problems, work_options


@click.command()
@click.argument('data', type=click.Path(exists=True))
@click.argument('out', type=click.Path())
@key_options
@click.option('--partial', is_flag=True,
              help='Where a step deletes data, undo those after it.')
@work_options
def decrypt(data: str, out: str, key_file: Any, key_env: Any, key_fd: Any,
            partial: bool, workers: Optional[int], quiet: bool) -> None:
    """Undo the encryption of DATA into OUT, where its cipher allows."""
    report = decrypt_dataset(
        data, out, read_key(key_file, key_env, key_fd, required=False),
        partial, workers or available_cpus(), not quiet)
    click.echo(f'{report.files - len(report.problems)} of {report.files} '
               f'files decrypted to {out}')
    show_problems(report.problems, 'missing')
    if not report.ok:
        sys.exit(FAILED)


@click.command()
@click.argument('data', type=click.Path(exists=True))
@key_options
@work_options
def verify(data: str, key_file: Any, key_env: Any, key_fd: Any,
           workers: Optional[int], quiet: bool) -> None:
    """Compare all files of DATA with its manifest.

    With the key the manifest itself is authenticated; without it, only
    changes by accident are found there.
    """
    key = read_key(key_file, key_env, key_fd, required=False)
    if (key_file, key_env, key_fd) == (None, None, None):
        if Manifest.load(data).key_id is None:
            key = None  # that of the environment belongs to other data
    report = verify_dataset(data, key, workers or available_cpus(),
                            not quiet)
    for note in report.notes:
        click.echo(note)
    show_problems(report.problems, 'wrong')
    if not report.ok:
        click.echo(f'hime: {len(report.problems)} problems in {data}',
                   err=True)
        sys.exit(FAILED)
    click.echo(f'{report.files} files are as they were written; manifest ' +
               ('authenticated with the key' if report.authenticated else
                'unchanged by accident, but not authenticated: no key'))


@click.command()
@click.argument('data', type=click.Path(exists=True))
@click.option('--json', 'as_json', is_flag=True,
              help='The manifest without its list of files, as JSON.')
def info(data: str, as_json: bool) -> None:
    """Say what DATA is, what it leaves readable and how to train on it."""
    manifest = Manifest.load(data)
    click.echo(
        json.dumps(manifest.state, indent=2) if as_json else
        describe_dataset(manifest))
