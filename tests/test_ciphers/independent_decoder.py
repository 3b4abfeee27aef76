# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Undoes the cipher 'shuffle' with docs/format.md and nothing else."""

import hmac
import struct

QUARTERS = ['048c', '159d', '26ae', '37bf', '05af', '16bc', '278d', '349e']


def hkdf(key, info, length=32, salt=bytes(32)):
    prk, block, out = hmac.digest(salt, key, 'sha256'), b'', b''
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(prk, block + info + bytes([number]), 'sha256')
        out += block
    return out[:length]


def sub_key(key, label, *names, length=32):
    info = b'hime_mm/1/' + label.encode() + b'\0'
    for name in map(str.encode, names):
        info += struct.pack('>I', len(name)) + name
    return hkdf(key, info, length)


def chacha20(key, number, size):
    out = b''
    for counter in range(-(-size // 64)):
        tail = (number << 32 | counter).to_bytes(16, 'little')
        start = struct.unpack('<16I', b'expand 32-byte k' + key + tail)
        x = list(start)
        for a, b, c, d in ([int(i, 16) for i in q] for q in QUARTERS * 10):
            for turn in 16, 12, 8, 7:
                x[a] = (x[a] + x[b]) % 2**32
                x[d] = ((x[d] ^ x[a]) * (2**32 + 1) >> 32 - turn) % 2**32
                a, b, c, d = c, d, a, b
        out += struct.pack('<16I', *[sum(i) % 2**32 for i in zip(x, start, strict=True)])
    return out[:size]


def permutation(stream, num):
    return sorted(range(num), key=lambda i: stream[8 * i : 8 * i + 8][::-1])


def decrypt(key, dataset, image, data, cols, pixel_bytes, patch):
    run = patch * pixel_bytes
    runs = [data[i : i + run] for i in range(0, len(data), run)]
    plain, num = list(runs), len(runs) // patch
    key = sub_key(key, 'image', dataset, f'shuffle/{patch}', image)
    for slot, p in enumerate(permutation(chacha20(key, 0, 8 * num), num)):
        to, at = (i // cols * cols * patch + i % cols for i in (p, slot))
        plain[to : to + cols * patch : cols] = runs[at : at + cols * patch : cols]
    return b''.join(plain)
