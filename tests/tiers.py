# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Which cases of a test are run for each change."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def trials_but(is_kept: Callable[[Any], bool], cases: Iterable[Any]) -> list:
    """Parameters of which those that are not kept are left to `make trials`."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if is_kept(case) else pytest.mark.trial,
        )
        for case in cases
    ]
