# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Keys on the command line."""

import os
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import click

from hime_mm.ciphers import KEY_ENV, Key
from hime_mm.ciphers.reference import KeyLike, KeyReference
from hime_mm.datasets.manifest import Manifest

from .words import echo


class KeyPlace(NamedTuple):
    """Where the options say that the key is."""

    file: str | None
    env: str | None
    fd: int | None

    @property
    def named(self) -> bool:
        """bool: Whether the options say so, and not only the environment."""
        return self != (None, None, None)

    def read(self, required: bool = False) -> Key | None:
        """The key; a usage error where several are named, or none that is required."""
        self._check_one()
        if self.file is not None:
            return Key.from_file(self.file)
        if self.env is not None:
            return Key.from_env(self.env)
        if self.fd is not None:
            return Key.from_fd(self.fd)
        if KEY_ENV in os.environ:
            return Key.from_env()
        if required:
            raise click.UsageError(
                'a key is needed: --key FILE, --key-env NAME or --key-fd N, or '
                f'the environment variable {KEY_ENV}; `hime keygen` makes one'
            )
        return None

    def reference(self) -> KeyReference | None:
        """Where workers elsewhere find the key; a usage error where they cannot."""
        self._check_one()
        if self.fd is not None:
            raise click.UsageError(
                'the descriptor of --key-fd is open in this process only, and workers of --ray '
                'are others: give --key FILE or --key-env NAME, which each of them has'
            )
        if self.file is not None:
            # They are in other folders.
            return KeyReference.file(os.path.abspath(self.file))
        if self.env is not None:
            return KeyReference.env(self.env)
        return KeyReference.env() if KEY_ENV in os.environ else None

    def given(self, elsewhere: bool) -> KeyLike:
        """The key, or where it is for those who work elsewhere."""
        return self.reference() if elsewhere else self.read()

    def _check_one(self) -> None:
        if sum(place is not None for place in self) > 1:
            raise click.UsageError('give one of --key, --key-env and --key-fd')

    def read_for(self, manifest: Manifest) -> Key | None:
        """The key if boxes of a data set need it to come back, or if it is named."""
        # Another data set's key in the environment is no error where none counts.
        if manifest.overview.needs_key or self.named:
            return self.read(manifest.key_id is not None)
        return None


def key_options(command: Callable) -> Callable:
    """Options that name a key; the command gets them as a :class:`KeyPlace`, ``key``."""

    @click.option('--key', 'key_file', metavar='FILE', help='Key file, as `hime keygen` writes it.')
    @click.option(
        '--key-env',
        metavar='NAME',
        help='Environment variable that holds the key.  [default: HIME_KEY where that is set]',
    )
    @click.option(
        '--key-fd', type=int, metavar='N', help='Open file descriptor to read the key from.'
    )
    @wraps(command)
    def with_key(
        key_file: str | None, key_env: str | None, key_fd: int | None, **options: Any
    ) -> Any:
        return command(key=KeyPlace(key_file, key_env, key_fd), **options)

    return with_key


@click.command()
@click.argument('path', default='hime.key')
def keygen(path: str) -> None:
    """Write a new key to PATH (hime.key), readable by its owner only.

    Whoever has the key can undo what a cipher can undo. Keep a copy where it
    cannot get lost, and never hand it over with the data.
    """
    key = Key.generate()
    key.save(path)
    echo(f'wrote {path}, key id {key.id}')
