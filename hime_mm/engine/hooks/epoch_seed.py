# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Draws that a resumed run repeats."""

import numpy as np
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner, set_random_seed

from hime_mm.registry import HOOKS


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Let what is drawn in an epoch follow from the run's seed and the epoch.

    A run that is resumed has the losses that it would have had: MMEngine
    restores its seed, but not how far its random numbers have come. In each
    process of a distributed run they are others. Trainings that count
    iterations have one epoch, whose draws a resumed run repeats. The order of the pictures
    needs ``randomness=dict(seed=...)`` in the config: without it the sampler
    of a resumed run has a seed of its own.

    It holds for what the main process draws, such as drop path, and the
    augmentations where ``num_workers=0``. Workers that are not persistent
    start from the same seeds in every epoch, resumed or not, so that they
    repeat their draws.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed Python, NumPy and torch."""
        entropy = [runner.seed, runner.epoch, get_rank()]
        set_random_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
