# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Files that somebody or something has damaged."""

import copy
import json
import random
import zlib
from contextlib import suppress
from typing import Any

from picture_files import png_of, png_parts

#: Values that a file may hold in place of what it should.
ODD = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
    float('inf'),
    float('nan'),
    '',
    'x',
    '0',
    'ü',
    'a\0b',
    '\ud800',
    '../x',
    '/x',
    '.',
    'x' * 5000,
    [],
    {},
    [[]],
    [None],
    {'x': 1},
    [0, 0, 0, 0],
    [1e9, 1e9, -1e9, 1e9],
    # Run lengths and sizes of a mask for which no machine has the memory.
    [10**13],
    [2**70],
    [2**62, 2**62],
    [1.5, 2.5],
    [10**7, 10**7],
    [2**31, 2**31],
    {'size': [10**7, 10**7], 'counts': [10**14]},
    {'size': [2**20, 2**20], 'counts': [2**40]},
    {'size': [1, 1], 'counts': None},
    'o' * 100_000 + '0',
    'oooooooooooooo0',
    '\x1b[2J\u202e',
)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Damage a file in one to sixteen places, or cut off its end."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(out) + 1)
        size = rng.choice((1, 1, 2, 4, 32))
        how = rng.randrange(8)
        if how == 0:
            del out[at:]
        elif how == 1:
            del out[at : at + size]
        elif how == 2:
            out[at:at] = rng.randbytes(size)
        elif how == 3:
            out[at:at] = out[at : at + 16 * size]
        elif how == 4:
            out[at : at + size] = rng.choice((b'\0', b'\xff', b'\x7f', b'\x80')) * size
        elif how == 5:
            out[at : at + 1] = bytes(b ^ (1 << rng.randrange(8)) for b in out[at : at + 1])
        else:
            out[at : at + size] = rng.randbytes(size)
    return bytes(out)


def mutate_png(data: bytes, rng: random.Random) -> bytes:
    """Damage what is in a chunk, or within its compression; checksums fit."""
    chunks = png_parts(data)
    i = rng.randrange(len(chunks))
    name, content = chunks[i]
    if rng.randrange(16) == 0:
        chunks.insert(rng.randrange(len(chunks)), (name, content))
    head = 4 if name == b'fdAT' else 0
    try:
        raw = zlib.decompress(content[head:]) if rng.randrange(4) else b''
    except zlib.error:  # other chunks, or a part of what was compressed
        raw = b''
    if raw:
        chunks[i] = (name, content[:head] + zlib.compress(mutate_bytes(raw, rng)))
    else:
        chunks[i] = (name, mutate_bytes(content, rng))
    return png_of(*chunks)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """All containers of a JSON value, each with all of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found.append((value, key))
        if isinstance(inner, (dict, list)):
            found += _places(inner)
    return found


def mutate_json(value: Any, rng: random.Random) -> Any:
    """Change one to three places of a JSON value."""
    root = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(root)
        container, key = rng.choice(places)
        how = rng.randrange(8)
        if how == 0 and container is not root:
            del container[key]
        elif how == 1 and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif how == 2:
            other, there = rng.choice(places)
            container[key] = copy.deepcopy(other[there])
        elif how == 3 and isinstance(container[key], (int, float)):
            with suppress(OverflowError):  # 10**400 + 0.5
                container[key] += rng.choice((-1, 1, 0.5, 1000))
        else:
            container[key] = copy.deepcopy(rng.choice(ODD))
    return root[0]


def json_file(value: Any, rng: random.Random) -> bytes:
    """A JSON file of a value, in rare cases damaged as a file."""
    data = json.dumps(value).encode()
    return mutate_bytes(data, rng) if rng.randrange(16) == 0 else data
