# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Draws that follow from the run's seed, the epoch and the process."""

import random
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hime_mm.engine import EpochSeedHook
from hime_mm.engine.hooks import epoch_seed


@pytest.fixture
def draw(monkeypatch):
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def drawn(seed, epoch, rank=0):
        monkeypatch.setattr(epoch_seed, 'get_rank', lambda: rank)
        EpochSeedHook().before_train_epoch(SimpleNamespace(seed=seed, epoch=epoch))
        return random.random(), np.random.random(), torch.rand(1).item()

    yield drawn
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def test_repeats_where_all_three_are_the_same(draw):
    assert draw(0, 3, 1) == draw(0, 3, 1)


def test_no_two_share_draws(draw):
    """Neither the epochs of runs whose seeds follow each other, nor those of several processes."""
    every = [draw(*one) for one in product(range(3), repeat=3)]
    assert all(len(set(values)) == 27 for values in zip(*every, strict=True))
