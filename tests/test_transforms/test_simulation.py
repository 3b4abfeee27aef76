# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""`randomness='numpy'`: it repeats by run, and never within one."""

import copy
import os
import pickle
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.logging import MessageHub
from simulation_parts import SEED, Drawn, assert_distinct, both, epochs

from hime_mm.transforms import simulation

KINDS = ['Encrypt', 'PatchReshuffle']
places = st.fixed_dictionaries(
    dict(
        rank=st.integers(0, 999),
        epoch=st.integers(0, 2**40),
        iter=st.integers(0, 2**40),
        worker=st.none() | st.tuples(st.integers(0, 99), st.integers(0, 2**63)),
    )
)


def draw(transform, place, num=2):
    """What some images are encrypted with there, NumPy being seeded as everywhere."""
    worker = place['worker']
    info = None if worker is None else SimpleNamespace(id=worker[0], seed=worker[1])
    hub = MessageHub.get_instance('place')
    hub.update_info_dict({key: place[key] for key in ('epoch', 'iter')})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MessageHub, 'get_current_instance', lambda: hub)
        patch.setattr(simulation, 'get_worker_info', lambda: info)
        patch.setenv('RANK', str(place['rank']))
        np.random.seed(SEED)
        return np.stack([transform[i] for i in range(num)])


OTHER = dict(
    rank=lambda one: one['rank'] + 1,
    epoch=lambda one: one['epoch'] + 1,
    iter=lambda one: one['iter'] + 1,
    worker=lambda one: (0, 0) if one['worker'] is None else None,
    id=lambda one: (one['worker'][0] + 1, one['worker'][1]),
    seed=lambda one: (one['worker'][0], one['worker'][1] + 1),
)


@pytest.mark.slow
@given(places)
@pytest.mark.parametrize('kind', KINDS)
def test_each_place_of_a_run_draws_anew(kind, place):
    """Wherever one thing alone is another one."""
    where = [place]
    for name, change in OTHER.items():
        if name in place:
            where.append({**place, name: change(place)})
        elif place['worker'] is not None:
            where.append({**place, 'worker': change(place)})
    transform = Drawn(kind)
    drawn = [draw(transform, one) for one in where]
    assert_distinct(*drawn)
    for one, rows in zip(where, drawn, strict=True):
        np.testing.assert_array_equal(rows, draw(Drawn(kind), one))


@given(places)
def test_copies_draw_the_same(place):
    drawn = Drawn()
    for other in (copy.copy(drawn), copy.deepcopy(drawn), pickle.loads(pickle.dumps(drawn))):
        np.testing.assert_array_equal(draw(other, place), draw(drawn, place))


def test_the_process_group_tells_the_rank(monkeypatch):
    drawn = []
    monkeypatch.setattr(simulation, 'is_distributed', lambda: True)
    for rank in range(3):
        monkeypatch.setattr(simulation, 'get_rank', lambda rank=rank: rank)
        drawn.append(epochs(both(), num_workers=0))
    assert_distinct(*drawn)


@pytest.mark.parametrize('host', [True, False])
@pytest.mark.parametrize('persistent', [False, True, None])
def test_workers_epochs_and_ranks(monkeypatch, host, persistent):
    """None: without workers. Without the host's seeding, it is PyTorch's."""
    options = dict(host=host, persistent_workers=bool(persistent))
    if persistent is None:
        options['num_workers'] = 0
    runs = []
    for rank in (0, 1):
        monkeypatch.setenv('RANK', str(rank))
        runs.append(epochs(both(), **options))
    assert_distinct(*runs)
    np.testing.assert_array_equal(epochs(both(), **options), runs[1])


@pytest.mark.parametrize('num_workers', [0, 2])
def test_resumed(num_workers):
    assert_distinct(
        epochs(both(), num_workers=num_workers),
        epochs(both(), which=(2,), num_workers=num_workers),
    )


@pytest.mark.slow
def test_workers_that_are_not_forked(monkeypatch):
    """They know neither the process group nor where the run stands."""
    options = dict(multiprocessing_context='spawn', num_workers=1)
    runs = []
    for rank, which in ((0, (0, 1)), (0, (0, 1)), (1, (0,)), (0, (2,))):
        monkeypatch.setattr(simulation, 'is_distributed', lambda: True)
        monkeypatch.setattr(simulation, 'get_rank', lambda rank=rank: rank)
        runs.append(epochs(both(), which, **options))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert_distinct(*runs[1:])


@pytest.mark.slow
def test_real_runs_of_two_ranks(tmp_path):
    """MMEngine's runner: 2 ranks x 2 workers x 2 epochs, once more, and resumed."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    script = os.path.join(os.path.dirname(__file__), 'simulation_parts.py')
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(tmp_path)],
            env=dict(
                os.environ,
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE='2',
                MASTER_ADDR='127.0.0.1',
                MASTER_PORT=str(port),
                OMP_NUM_THREADS='1',
            ),
        )
        for rank in (0, 1)
    ]
    assert [process.wait(300) for process in ranks] == [0, 0]
    runs = [np.load(tmp_path / f'{rank}.npz') for rank in (0, 1)]
    for run in runs:
        assert run['first'].shape == (8, 64) and run['resumed'].shape == (4, 64)
        np.testing.assert_array_equal(run['first'], run['again'])
    assert_distinct(*(run[name] for run in runs for name in ('first', 'resumed')))
