# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Sources of known bytes, and layouts, for the tests of the steps."""

import numpy as np

from hime_mm.ciphers import PatchLayout


class Bytes:
    """A source that gives what it was given, and nothing more."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, num: int) -> bytes:
        assert num <= len(self.data)
        data, self.data = self.data[:num], self.data[num:]
        return data


def words(*values: int) -> bytes:
    return np.array(values, '<u8').tobytes()


def layout(rows: int, cols: int, p: int) -> PatchLayout:
    return PatchLayout((rows * p, cols * p), p, (rows, cols))
