# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""How checkpoints are loaded."""

import os


def force_safe_loading() -> None:
    """Keep every checkpoint of this process from executing code.

    MMEngine loads a checkpoint as plain data first and, where that fails,
    again as a pickle that may run anything; this stops the second try.
    """
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
