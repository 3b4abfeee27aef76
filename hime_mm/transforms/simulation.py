# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Draws of a simulation: they repeat by run, and never within one."""

import os
from multiprocessing.context import get_spawning_popen

import numpy as np
from mmengine.dist import get_rank, is_distributed
from mmengine.logging import MessageHub
from torch.utils.data import get_worker_info


def _progress() -> tuple[int, int, int]:
    """Rank, epoch and iteration of the run, as far as this process knows them."""
    # A worker that is not forked has no process group.
    rank = get_rank() if is_distributed() else int(os.environ.get('RANK') or 0)
    hub = MessageHub.get_current_instance()
    return rank, int(hub.get_info('epoch', 0)), int(hub.get_info('iter', 0))


class Simulated:
    """Base class of transforms whose draws hide something, and can be repeated.

    NumPy's global state alone does not do: MMEngine's loaders seed it with the
    same number in the new workers of every epoch, and each resumed run starts
    with it. So it is one of several things that a draw is derived from.
    """

    #: Where the process stood that this object was sent from.
    _sent_from = (0, 0, 0)

    def __getstate__(self) -> dict:
        # Nothing else tells workers that are not forked; copies stay as they are.
        started = {} if get_spawning_popen() is None else dict(_sent_from=_progress())
        return {**vars(self), **started}

    def _simulated_rng(self) -> np.random.Generator:
        """A generator for one image.

        It follows from NumPy's global state, which goes on by it; from the
        loader's worker and its seed, which PyTorch draws anew for every
        epoch; and from the rank, the epoch and the iteration of the run.
        """
        worker = get_worker_info()
        words = [
            *np.frombuffer(np.random.bytes(16), np.uint32),
            *np.maximum(_progress(), self._sent_from),
            *((0, 0) if worker is None else (worker.id + 1, worker.seed)),
        ]
        return np.random.default_rng(words)
