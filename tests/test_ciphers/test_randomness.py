# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import io
import math
import os
from collections import Counter
from itertools import permutations

import loops
import numpy as np
import pytest

from hime_mm.ciphers import Key, draw_permutation
from hime_mm.ciphers.randomness import (
    _normal_table,
    draw_bytes,
    draw_codes,
    draw_noise,
    draw_permutations,
)

RNGS = {
    'os': lambda: None,
    'generator': lambda: np.random.default_rng(0),
    'legacy': lambda: np.random.RandomState(0),
    'global': lambda: np.random,
    'key': lambda: Key(bytes(32)).image_rng('a', 'b').stream('c', 0, 'image'),
}
# Those that give the same in every run, so that no run is unlucky.
FIXED = ('generator', 'legacy', 'key')


def words(*values: int, dtype: str = '<u8') -> bytes:
    return np.array(values, dtype).tobytes()


def chi_square(counts, expected: float) -> float:
    return sum((count - expected) ** 2 / expected for count in counts)


@pytest.mark.parametrize('rng', RNGS)
@pytest.mark.parametrize('num', [1, 2, 3, 17, 4150])
def test_is_a_permutation(rng, num):
    perm = draw_permutation(num, RNGS[rng]())
    assert perm.dtype == np.int64
    assert sorted(perm.tolist()) == list(range(num))


def test_os_draws_differ():
    # Two of 50! draws are never equal.
    draws = [tuple(draw_permutation(50)) for _ in range(20)]
    assert len(set(draws)) == 20


def test_os_draws_ignore_the_seed():
    np.random.seed(0)
    first = draw_permutation(50)
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    assert (draw_permutation(50) != first).any()
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_seeded_draws_repeat():
    for make in (np.random.default_rng, np.random.RandomState):
        first = draw_permutation(50, make(3))
        np.testing.assert_array_equal(draw_permutation(50, make(3)), first)
        assert (draw_permutation(50, make(4)) != first).any()


@pytest.mark.parametrize('rng', RNGS)
@pytest.mark.parametrize('num', [0, 1, 7, 1000])
def test_bytes(rng, num):
    data = draw_bytes(num, RNGS[rng]())
    assert isinstance(data, bytes)
    assert len(data) == num


def test_bytes_of_the_operating_system(monkeypatch):
    monkeypatch.setattr(os, 'urandom', lambda num: b'\7' * num)
    assert draw_bytes(3) == b'\7\7\7'
    assert draw_codes(2, 8).tolist() == [7, 7]


@pytest.mark.parametrize('rng', FIXED)
def test_bytes_are_uniform(rng):
    data = draw_bytes(1 << 18, RNGS[rng]())
    # 255 degrees of freedom: one uniform sample in 10^6 exceeds 373.
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    assert chi_square(counts, 1 << 10) < 373


@pytest.mark.parametrize('rng', FIXED)
def test_permutations_are_uniform(rng):
    rng = RNGS[rng]()
    counts = Counter(map(tuple, draw_permutations(7200, 4, rng).tolist()))
    # 23 degrees of freedom: one uniform sample in 10^8 exceeds 83.
    assert chi_square([counts[perm] for perm in permutations(range(4))], 300) < 83


@pytest.mark.parametrize('rng', FIXED)
def test_long_permutations_are_uniform(rng):
    """Where each of many items goes, coarsely."""
    perms = draw_permutations(2000, 64, RNGS[rng]())
    # 64 · 64 cells, with as many degrees of freedom less the margins.
    counts = np.stack([np.bincount(perms[:, slot], minlength=64) for slot in range(64)])
    assert counts.sum() == 2000 * 64
    statistic = chi_square(counts.ravel(), 2000 / 64)
    dof = 63 * 63
    assert abs(statistic - dof) < 5 * math.sqrt(2 * dof)


def test_permutation_is_the_order_of_words():
    # The first entry is the index of the smallest word.
    rng = io.BytesIO(words(30, 10, 40, 20) + b'rest')
    assert draw_permutation(4, rng).tolist() == [1, 3, 0, 2]
    assert rng.read() == b'rest'
    # Little-endian: the last byte counts most.
    low, high = bytes([9] + [0] * 7), bytes([0] * 7 + [1])
    assert draw_permutation(2, io.BytesIO(low + high)).tolist() == [0, 1]
    assert draw_permutation(2, io.BytesIO(high + low)).tolist() == [1, 0]


def test_all_bits_count():
    # Words above 2^63 are larger, not negative, and none is rounded.
    rng = io.BytesIO(words(2**64 - 1, 5, 2**63, 2**63 - 1, 2**64 - 2, 2**63 + 1))
    assert draw_permutation(6, rng).tolist() == [1, 3, 2, 5, 4, 0]


def test_equal_words_keep_their_order():
    num = 200
    rng = io.BytesIO(words(*[5] * num))
    assert draw_permutation(num, rng).tolist() == list(range(num))
    rng = io.BytesIO(words(9, 2, 9, 2, 9))
    assert draw_permutation(5, rng).tolist() == [1, 3, 0, 2, 4]
    # Long enough for sorts that keep the order of a few.
    values = np.random.default_rng(0).integers(0, 3, 5000).tolist()
    assert draw_permutation(5000, io.BytesIO(words(*values))).tolist() == sorted(
        range(5000), key=values.__getitem__
    )


def test_permutations_follow_each_other():
    data = np.random.default_rng(0).bytes(8 * 15)
    perms = draw_permutations(3, 5, io.BytesIO(data))
    assert perms.shape == (3, 5) and perms.dtype == np.int64
    stream = io.BytesIO(data)
    for perm in perms:
        np.testing.assert_array_equal(draw_permutation(5, stream), perm)


@pytest.mark.parametrize('bits', [1, 2, 3, 8])
def test_codes(bits):
    rng = io.BytesIO(bytes(range(256)) + b'rest')
    codes = draw_codes(256, bits, rng)
    assert codes.dtype == np.uint8
    assert codes.tolist() == [byte % 2**bits for byte in range(256)]
    assert rng.read() == b'rest'


@pytest.mark.parametrize('rng', FIXED)
def test_codes_are_uniform(rng):
    counts = np.bincount(draw_codes(8000, 3, RNGS[rng]()), minlength=8)
    # 7 degrees of freedom: one uniform sample in 10^6 exceeds 40.
    assert chi_square(counts, 1000) < 40


# The table of normal noise.


def quantile(share: float) -> float:
    """Where the normal distribution reaches a share below one half."""
    low, high = -6.0, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        if math.erfc(-middle / math.sqrt(2)) / 2 < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@pytest.mark.parametrize('std', [1, 25, 255])
def test_table_is_the_quantile(std):
    table = _normal_table(std)
    assert table.shape == (65536,) and table.dtype == np.int16
    for word in [*range(50), *range(50, 1 << 15, 331), (1 << 15) - 1]:
        value = std * quantile((2 * word + 1) / 131072)
        assert table[word] == -math.floor(-value + 0.5)
        assert abs(table[word] - value) <= 0.5
        assert table[65535 - word] == -table[word]


@pytest.mark.parametrize('std', [1, 2, 25, 31, 59, 255])
def test_whole_table(std):
    """Beside the cumulative distribution. At 31 and 59 a quantile comes
    nearest to a half, so that rounding depends most on its accuracy."""
    assert _normal_table(std).tolist() == [loops.noise_of(word, std) for word in range(65536)]


@pytest.mark.parametrize('std', [1, 5, 25, 100, 255])
def test_table_statistics(std):
    table = _normal_table(std).astype(np.int64)
    np.testing.assert_array_equal(table, -table[::-1])
    assert table.sum() == 0
    assert (np.diff(table) >= 0).all()
    # Rounding to whole numbers adds a variance of 1/12.
    assert abs(table.std() / math.sqrt(std**2 + 1 / 12) - 1) < 2e-3
    # Normal, not merely of this width.
    assert abs((table**4).mean() / table.std() ** 4 - 3) < 0.1
    assert 4.3 * std - 0.5 <= table.max() < 4.33 * std + 0.5


def test_noise():
    rng = io.BytesIO(words(0, 65535, 32768, 32767, 1, 256, dtype='<u2') + b'rest')
    noise = draw_noise((2, 3), 255, rng)
    assert noise.dtype == np.int16
    table = _normal_table(255)
    assert noise.tolist() == [[table[0], table[65535], 0], [0, table[1], table[256]]]
    assert table[0] < table[1] < table[256] < 0
    assert rng.read() == b'rest'
    # The caller's own, not the table.
    noise[...] = 0
    assert (_normal_table(255) == table).all() and table[0] == -1103


@pytest.mark.parametrize('rng', FIXED)
def test_noise_is_normal(rng):
    noise = draw_noise((200, 100, 3), 25, RNGS[rng]()) / 25
    num = noise.size
    assert abs(noise.mean()) < 5 / math.sqrt(num)
    assert abs(noise.std() - 1) < 5 / math.sqrt(2 * num) + 1e-3
    # Neighbours and channels have nothing to do with each other.
    for a, b in (
        (noise[1:], noise[:-1]),
        (noise[:, 1:], noise[:, :-1]),
        (noise[..., 1:], noise[..., :-1]),
    ):
        assert abs((a * b).mean()) < 5 / math.sqrt(a.size)
