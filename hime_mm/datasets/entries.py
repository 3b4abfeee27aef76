# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What a manifest says of each encrypted file."""

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

#: A digest as it is written.
SHA256 = re.compile('[0-9a-f]{64}')


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says of one encrypted image.

    Args:
        path (str): Relative to the manifest, with forward slashes. Also the
            image id that keys are derived for.
        sha256 (str): Of the file, in hexadecimal.
        size (int): Of the file in bytes.
        shape (tuple[int, int]): Height and width of the encrypted image.
        channels (int): Number of channels; 1 is stored as grayscale.
        ori_shape (tuple[int, int]): Height and width of the original in
            pixels.
        scale (tuple[float, float]): Encrypted pixels per original pixel,
            (x, y).
        shard (int, optional): Number of the shard that lists it. Never written. Defaults to
            None.
        offset (int, optional): Where it begins in the shard's tar. Defaults to None, a file of
            its own.
    """

    path: str
    sha256: str
    size: int
    shape: tuple[int, int]
    channels: int
    ori_shape: tuple[int, int]
    scale: tuple[float, float]
    shard: int | None = None
    offset: int | None = None

    def to_dict(self) -> dict:
        """As plain lists, strings and numbers."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if name != 'shard' and not (name == 'offset' and value is None)
        }

    @classmethod
    def from_dict(cls, state: dict) -> 'FileEntry':
        """The inverse of :meth:`to_dict`.

        Raises:
            LookupError, TypeError, ValueError, OverflowError: If something in
                it is not what it has to be.
        """
        (h, w), (ori_h, ori_w), (x, y) = (state[name] for name in ('shape', 'ori_shape', 'scale'))
        entry = cls(
            str(state['path']),
            str(state['sha256']),
            int(state['size']),
            (int(h), int(w)),
            int(state['channels']),
            (int(ori_h), int(ori_w)),
            (float(x), float(y)),
            offset=None if state.get('offset') is None else int(state['offset']),
        )
        sides = (*entry.shape, entry.channels)
        if not (
            isinstance(state['path'], str)
            and SHA256.fullmatch(entry.sha256)
            and 0 <= entry.size < 2**63
            and (entry.offset is None or 0 <= entry.offset < 2**63)
            and all(0 < side < 2**31 for side in sides)
            and all(0 <= side < 2**31 for side in entry.ori_shape)
            and all(0 < factor < math.inf for factor in entry.scale)
        ):
            raise TypeError('a path, digest, size, side or scale is none')
        return entry


class CompactFiles:
    """The files of a manifest in about 100 bytes each.

    Every worker of every data loader keeps the manifest. Python objects of
    ImageNet's 1.3 million files would take 1.7 GB in each of them; what is in
    these arrays stays shared after a fork.

    Args:
        entries (Iterable[:class:`FileEntry`]): All files.
    """

    _ROW = np.dtype(
        [
            ('name', 'S16'),
            ('sha256', 'V32'),
            ('size', '<i8'),
            ('shape', '<i4', 2),
            ('channels', '<i4'),
            ('ori_shape', '<i4', 2),
            ('scale', '<f8', 2),
            ('shard', '<i4'),
            ('offset', '<i8'),
        ]
    )

    def __init__(self, entries: Iterable[FileEntry]) -> None:
        rows = np.fromiter(
            (
                (
                    self._hash(entry.path),
                    bytes.fromhex(entry.sha256),
                    entry.size,
                    entry.shape,
                    entry.channels,
                    entry.ori_shape,
                    entry.scale,
                    -1 if entry.shard is None else entry.shard,
                    -1 if entry.offset is None else entry.offset,
                )
                for entry in entries
            ),
            self._ROW,
        )
        self._rows = rows[np.argsort(rows['name'])]
        self._names = self._rows['name'].copy()

    @staticmethod
    def _hash(path: str) -> bytes:
        data = path.encode('utf-8', 'surrogatepass')
        return hashlib.blake2b(data, digest_size=16).digest()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, path: str) -> FileEntry | None:
        """The entry of a path relative to the manifest, None if there is none."""
        name = np.array(self._hash(path), 'S16')
        index = int(np.searchsorted(self._names, name))
        if index == len(self) or self._names[index] != name:
            return None
        row = self._rows[index]
        values = {name: row[name].tolist() for name in row.dtype.names[2:]}
        values.update(path=path, sha256=row['sha256'].tobytes().hex())
        shard, offset = (None if n < 0 else n for n in (values['shard'], values['offset']))
        return replace(FileEntry.from_dict(dict(values, offset=offset)), shard=shard)
