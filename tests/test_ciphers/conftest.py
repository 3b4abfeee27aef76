# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import pytest
from key_parts import SECRET

from hime_mm.ciphers import Key


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / 'owner.key'
    Key(SECRET).save(str(path))
    return path
