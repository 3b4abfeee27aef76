# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hime_mm.ciphers import invert_permutation
from hime_mm.ciphers.permutation import check_permutation
from hime_mm.errors import CipherError


@given(num=st.integers(1, 50), seed=st.integers(0, 99))
def test_invert_permutation(num, seed):
    perm = np.random.default_rng(seed).permutation(num)
    inverse = invert_permutation(perm)
    assert inverse.dtype == np.int64
    assert all(perm[inverse[patch]] == patch for patch in range(num))


@given(num=st.integers(1, 20), seed=st.integers(0, 99), data=st.data())
def test_check_permutation(num, seed, data):
    perm = np.random.default_rng(seed).permutation(num)
    checked = check_permutation(perm, num)
    assert checked.dtype == np.int64
    np.testing.assert_array_equal(checked, perm)
    where = data.draw(st.integers(0, num - 1))
    perm[where] = data.draw(st.integers(-num - 1, 2 * num).filter(lambda x: x != perm[where]))
    with pytest.raises(CipherError, match=f'permutation.* 0 to {num - 1} '):
        check_permutation(perm, num)
