# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Keys on the command line."""

import os
from typing import Callable, Optional

import click

from hime_mm.ciphers import KEY_ENV, Key


def key_options(command: Callable) -> Callable:
    """Options that name a key; `read_key` takes them."""
    for option in reversed((
        click.option('--key', 'key_file', metavar='FILE',
                     help='Key file, as `hime keygen` writes it.'),
        click.option('--key-env', metavar='NAME',
                     help='Environment variable that holds the key.  '
                     '[default: HIME_KEY where that is set]'),
        click.option('--key-fd', type=int, metavar='N',
                     help='Open file descriptor to read the key from.'))):
        command = option(command)
    return command


def read_key(key_file: Optional[str],
             key_env: Optional[str],
             key_fd: Optional[int],
             required: bool = True) -> Optional[Key]:
    """The key that the options name.

    Raises:
        click.UsageError: If they name several, or none where one is required.
    """
    given = [value is not None for value in (key_file, key_env, key_fd)]
    if sum(given) > 1:
        raise click.UsageError('give one of --key, --key-env and --key-fd')
    if key_file is not None:
        return Key.from_file(key_file)
    if key_env is not None:
        return Key.from_env(key_env)
    if key_fd is not None:
        return Key.from_fd(key_fd)
    if KEY_ENV in os.environ:
        return Key.from_env()
    if required:
        raise click.UsageError(
            'a key is needed: --key FILE, --key-env NAME or --key-fd N, or '
            f'the environment variable {KEY_ENV}; `hime keygen` makes one')
    return None


@click.command()
@click.argument('path', default='hime.key')
def keygen(path: str) -> None:
    """Write a new key to PATH (hime.key), readable by its owner only.

    Whoever has the key can undo what a cipher can undo. Keep a copy where it
    cannot get lost, and never hand it over with the data.
    """
    key = Key.generate()
    key.save(path)
    click.echo(f'wrote {path}, key id {key.id}')
