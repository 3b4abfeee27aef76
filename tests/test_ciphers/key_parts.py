# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A key, and the search for it in what is shown."""

import base64
import traceback

from hypothesis import strategies as st

# Bytes that do not come up by chance.
SECRET = bytes.fromhex('c0ffee00d15ea5e0b16b00b5deadbeeffeedfacecafed00d8badf00dabad1dea')
HEX = SECRET.hex()
LINE = f'hime-key-v1:{HEX}\n'
SECRETS = st.binary(min_size=32, max_size=32)


def assert_hidden(text: str, secret: bytes = SECRET) -> None:
    """No part of the key is in a text, in any form one would write it."""
    text = text.lower()
    for start in range(0, 24, 4):
        part = secret[start : start + 8]
        forms = [
            part.hex(),
            repr(part)[2:-1],
            part.decode('latin-1'),
            str(int.from_bytes(part, 'big')),
            str(int.from_bytes(part, 'little')),
            str(list(part))[1:-1],
        ]
        forms += [base64.b64encode(secret[start + i : start + i + 9]).decode() for i in range(3)]
        for form in forms:
            assert form.lower() not in text


def assert_hidden_in_error(error: BaseException, secret: bytes = SECRET) -> None:
    """Nor is it in an error, or in one that led to it."""
    assert_hidden(''.join(traceback.format_exception(error)), secret)
    while error is not None:
        assert_hidden(f'{error} {error!r} {error.args} {vars(error)}', secret)
        following = error.__cause__ or error.__context__
        if error.__cause__ is not None and error.__context__ is not None:
            assert_hidden(repr(error.__context__), secret)
        error = following
