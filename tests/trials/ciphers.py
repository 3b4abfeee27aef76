# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Random ciphers, sizes, pixel types, keys: against loops over pixels; undone; boxes there and back

The bodies of properties of tests/test_ciphers/test_cipher_properties.py, which
the fast tier tries with some hundred examples.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from .fuzzing import fuzz
from .state import ROOT, State

sys.path.append(str(ROOT / 'tests' / 'test_ciphers'))

import test_cipher_properties as properties  # noqa: E402

CASES = 100_000
UNIT = 'cases'
#: Enough for the longest example.
_BYTES = 1024

_LOOPS = properties.test_encrypt_is_the_loops.hypothesis.fuzz_one_input
#: Of each case one of these, too.
_OTHERS = [
    prop.hypothesis.fuzz_one_input
    for prop in (
        properties.test_decrypt_is_the_inverse,
        properties.test_partial_decrypt,
        properties.test_boxes_return,
    )
]


def check(case: int, folder: Path) -> str:
    """Try properties with the examples that some random bytes stand for."""
    rng = random.Random(f'ciphers/{case}')
    for prop in (_LOOPS, _OTHERS[case % len(_OTHERS)]):
        if prop(rng.randbytes(_BYTES)) is None:
            raise RuntimeError('these bytes are no example')
    return 'as expected'


def steps(state: State, folder: Path) -> Iterator[None]:
    return fuzz(check, state, folder)
