# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from step_helpers import Bytes, layout, words

from hime_mm.ciphers import Drop
from hime_mm.ciphers.steps import drop_patches


@pytest.mark.parametrize(
    'percent, num, dropped',
    [
        (50, 12, 6),
        (50, 13, 6),
        (33, 12, 3),
        (34, 12, 4),
        (1, 99, 0),
        (1, 100, 1),
        (99, 1, 0),
        (99, 100, 99),
        (99, 2, 1),
        # In floating point, 0.29 · 100 is a little less than 29.
        (29, 100, 29),
    ],
)
def test_drop_rounds_down(percent, num, dropped):
    step = Drop(percent)
    flags = step.draw(layout(1, num, 4), (3,), None)
    assert flags.dtype == bool and flags.shape == (num,)
    assert flags.sum() == dropped


def test_drop_takes_the_first_of_a_permutation():
    # The order of these words: 4, 2, 0, 1, 3.
    source = Bytes(words(30, 40, 20, 50, 10) + b'rest')
    flags = Drop(50).draw(layout(1, 5, 4), (), source)
    assert flags.tolist() == [False, False, True, False, True]
    assert source.data == b'rest'


def test_drop_by_hand():
    img = np.arange(6, dtype=np.uint8).reshape(2, 3)
    flags = np.array([0, 1, 0, 1, 1, 0], bool)
    expected = [[0, 128, 2], [128, 128, 5]]
    assert drop_patches(img, flags, 1).tolist() == expected
    # Flags read from elsewhere are no indices.
    for kind in (list, lambda x: x.astype(int), lambda x: x.astype(np.uint8)):
        assert drop_patches(img, kind(flags), 1).tolist() == expected
