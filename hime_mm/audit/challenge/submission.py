# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""What was handed in to a challenge, by a stranger: nothing of it is trusted."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from hime_mm.errors import AuditError, HimeError
from hime_mm.images.codec import decode_image, read_bytes
from hime_mm.images.files import check_regular, read_json

#: Where each patch goes, beside the pictures of a data set; and how it was found out, in words.
ARRANGEMENTS, METHOD = 'arrangements.json', 'method.txt'
#: Bytes of a method that are read, and that a list of arrangements may have.
_MOST_METHOD, _MOST_ARRANGEMENTS = 10_000, 1 << 28
_PNG = b'\x89PNG\r\n\x1a\n'


class Submission:
    """A folder that was handed in.

    Args:
        root (str): The folder.
        names (Mapping[str, Mapping]): File names of the encrypted pictures,
            by the folder of their data set.

    Raises:
        AuditError: If it holds a link, or something that has no place in it.
    """

    def __init__(self, root: str, names: Mapping[str, Mapping[str, Any]]) -> None:
        self.root = root
        if not os.path.isdir(root):
            raise AuditError(f'there is no folder {root}: name the one that was handed in')
        wanted = {METHOD}
        for folder, pictures in names.items():
            wanted |= {
                folder,
                f'{folder}/{ARRANGEMENTS}',
                *(f'{folder}/{name}' for name in pictures),
            }
        for inside, folders, files in os.walk(root):
            for name in (*folders, *files):
                place = os.path.join(inside, name)
                if os.path.islink(place):
                    raise AuditError(f'{place} is a link: hand in the file itself')
                if os.path.relpath(place, root).replace(os.sep, '/') not in wanted:
                    raise AuditError(
                        f'{place} has no place in a submission: hand in CIPHER/NAME.png for '
                        f'pictures of the challenge, CIPHER/{ARRANGEMENTS} and {METHOD}'
                    )

    @property
    def method(self) -> str | None:
        """str | None: How it was done, in the words of whoever did it."""
        place = os.path.join(self.root, METHOD)
        if not os.path.lexists(place):
            return None
        check_regular(place)
        with open(place, 'rb') as file:
            return file.read(_MOST_METHOD).decode(errors='replace')

    def picture(self, folder: str, name: str, shape: tuple[int, int]) -> np.ndarray | None:
        """A reconstruction, uint8 of shape (H, W, 3), BGR; None where there is none.

        Raises:
            AuditError: If it is no PNG file of this height and width.
        """
        place = os.path.join(self.root, folder, name)
        if not os.path.lexists(place):
            return None
        try:
            size, most = os.path.getsize(place), 16 * shape[0] * shape[1] + 65536
            if size > most:
                raise AuditError(f'has {size} bytes, and so few pixels need {most} at most')
            data = read_bytes(place)
            if data[:8] != _PNG:
                raise AuditError('is no PNG file')
            # Asked before it is decoded: what is too large is not unpacked.
            found = (int.from_bytes(data[20:24], 'big'), int.from_bytes(data[16:20], 'big'))
            if found != shape:
                raise AuditError('is {}x{} (height x width), not {}x{}'.format(*found, *shape))
            img = decode_image(data)
        except (HimeError, OSError) as error:
            text = str(error) if isinstance(error, AuditError) else f'cannot be read: {error}'
            raise AuditError(f'{place} {text}: hand in a PNG file of the original size') from None
        if img.shape != (*shape, 3):
            raise AuditError(f'{place} has the shape {img.shape}: hand in the original size')
        return img

    def arrangements(self, folder: str, slots: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Where the patch in each slot goes, by name; int64 of shape (n, ), slots row by row.

        Args:
            folder (str): Of the data set.
            slots (Mapping[str, int]): How many each of its pictures has.

        Raises:
            AuditError: If one is not a list of all slots, each once.
        """
        place = os.path.join(self.root, folder, ARRANGEMENTS)
        if not os.path.lexists(place):
            return {}
        if os.path.getsize(place) > _MOST_ARRANGEMENTS:
            raise AuditError(f'{place} has more than {_MOST_ARRANGEMENTS} bytes: hand in less')
        state = read_json(place, 'arrangements', AuditError, unique=True)
        if not isinstance(state, dict):
            raise AuditError(f'{place} holds no object: hand in a list of slots for each name')
        for name, order in state.items():
            if name not in slots:
                raise AuditError(
                    f'{place}: no picture of {folder} is called {name!r:.80}: take the names of '
                    'the encrypted files'
                )
            if fault := _fault(order, slots[name]):
                raise AuditError(
                    f'{place}: {name} {fault}: hand in the numbers from 0 to {slots[name] - 1}, '
                    'each once'
                )
        return {name: np.array(order, np.int64) for name, order in state.items()}


def _fault(order: Any, slots: int) -> str:
    """What is wrong with an arrangement; empty if nothing is."""
    if not isinstance(order, list):
        return f'is {order!r:.80}, no list'
    if len(order) != slots:
        return f'has {len(order)} numbers for {slots} slots'
    seen: set[int] = set()
    for slot in order:
        if type(slot) is not int or not 0 <= slot < slots:
            return f'has {slot!r:.80}, which is no slot'
        if slot in seen:
            return f'has {slot} twice'
        seen.add(slot)
    return ''
