# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Where a key is, for whoever works for its owner elsewhere."""

import socket
from dataclasses import dataclass

from hime_mm.errors import InvalidKey

from .keys import KEY_ENV, Key, _check_place


@dataclass(frozen=True)
class KeyReference:
    """Where a key is; it holds none, and may be sent, logged and pickled.

    Args:
        kind (str): ``'env'``, ``'file'`` or ``'fd'``.
        name (str): Name of the environment variable, path of the file, or
            number of the open descriptor.
        key_id (str, optional): Id of the key that is expected there. Defaults
            to None, any.

    Raises:
        InvalidKey: If the kind is unknown, or a key itself was given.
    """

    kind: str
    name: str
    key_id: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ('env', 'file', 'fd'):
            raise InvalidKey(f"a key is referred to by 'env', 'file' or 'fd', not {self.kind!r}")
        _check_place(self.name, 'the name of its place')

    @classmethod
    def env(cls, name: str = KEY_ENV) -> 'KeyReference':
        """To an environment variable of each worker."""
        return cls('env', name)

    @classmethod
    def file(cls, path: str) -> 'KeyReference':
        """To a file that each worker can read, and nobody but its owner."""
        return cls('file', str(path))

    @classmethod
    def fd(cls, number: int) -> 'KeyReference':
        """To an open descriptor of this process, which no other process has."""
        return cls('fd', str(number))

    def resolve(self) -> Key:
        """The key.

        Raises:
            InvalidKey: If there is none here, or another one.
        """
        try:
            if self.kind == 'env':
                key = Key.from_env(self.name)
            elif self.kind == 'file':
                key = Key.from_file(self.name)
            else:
                key = Key.from_fd(int(self.name))
        except InvalidKey as error:
            raise InvalidKey(f'{error} (on {socket.gethostname()})') from None
        if self.key_id not in (None, key.id):
            raise InvalidKey(
                f'{self.where} of {socket.gethostname()} holds the key {key.id}, and the run has '
                f'the key {self.key_id}: give all workers the same key'
            )
        return key

    @property
    def where(self) -> str:
        """str: The place, in words."""
        what = dict(env='the environment variable', file='the file', fd='the descriptor')
        return f'{what[self.kind]} {self.name}'


KeyLike = Key | KeyReference | None


def resolve(key: KeyLike) -> Key | None:
    """The key itself, wherever it is."""
    return key.resolve() if isinstance(key, KeyReference) else key
