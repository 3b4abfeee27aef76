# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Shards on this machine, on any executor, on Ray and on Dask."""

import io
import logging
import os
import pickle
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, suppress

import pytest
from encryption_parts import KEY, OTHER, folder
from owner_data import SECRET, forms_of_key, found, key_file, named, photo, tree, write
from shard_tasks import dying, known, refusing, slowly, threads

from hime_mm.ciphers import InvalidKey
from hime_mm.ciphers.reference import KeyReference
from hime_mm.encryption.engines import (
    Foreign,
    InProcess,
    Local,
    OnRay,
    choose_engine,
    run_shards,
)
from hime_mm.errors import EncryptionError, HimeError, WorkerDied


@pytest.fixture
def reference(tmp_path):
    return KeyReference.file(key_file(tmp_path / 'hime.key'))


class Pickling(Executor):
    """Does tasks as if elsewhere, and keeps all that was sent."""

    def __init__(self):
        self.sent = []

    def submit(self, fn, /, *args):
        self.sent.append(pickle.dumps((fn, args)))
        future = Future()
        try:
            function, given = pickle.loads(self.sent[-1])
            future.set_result(function(*given))
        except Exception as error:
            future.set_exception(error)
        return future


class TestKeyReference:
    def test_resolves(self, tmp_path, monkeypatch, reference):
        monkeypatch.setenv('SOME_KEY', SECRET.hex())
        for one in (reference, KeyReference.env('SOME_KEY')):
            assert one.resolve() == KEY
            again = pickle.loads(pickle.dumps(one))
            assert again == one and again.resolve() == KEY
            assert not found(forms_of_key(SECRET), [pickle.dumps(one), repr(one).encode()])
        with open(reference.name, 'rb') as file:
            assert KeyReference.fd(file.fileno()).resolve() == KEY

    def test_says_what_is_missing_and_where(self, tmp_path, monkeypatch):
        import socket

        monkeypatch.delenv('NO_KEY', raising=False)
        for one, thing in (
            (KeyReference.env('NO_KEY'), 'NO_KEY'),
            (KeyReference.file(str(tmp_path / 'none.key')), 'none.key'),
        ):
            with pytest.raises(InvalidKey, match=named(thing, socket.gethostname())):
                one.resolve()

    def test_another_key(self, reference):
        wanted = KeyReference('file', reference.name, OTHER.id)
        with pytest.raises(InvalidKey, match=named(KEY.id, OTHER.id, reference.name)):
            wanted.resolve()

    @pytest.mark.parametrize('kind, name', [('env', SECRET.hex()), ('vault', 'x')])
    def test_that_is_none(self, kind, name):
        with pytest.raises(InvalidKey) as error:
            KeyReference(kind, name)
        assert SECRET.hex() not in str(error.value)


class TestEngines:
    @pytest.mark.parametrize('num', [0, 1, 7])
    @pytest.mark.parametrize('engine', [InProcess(), Local(2), 'threads'])
    def test_each_shard_once_and_with_the_key(self, num, engine, reference):
        with ThreadPoolExecutor(2) as pool:
            engine = choose_engine(0, pool) if engine == 'threads' else engine
            got = list(run_shards(known, None, reference, iter(range(num)), engine))
        assert sorted(n for n, _ in got) == list(range(num))
        assert all((task, key) == ((n, False), KEY.id) for n, (task, key, _) in got)

    @pytest.mark.parametrize('engine', [InProcess(), Local(1)])
    def test_key_in_memory_and_none(self, engine):
        for key in (KEY, None):
            ((_, (_, key_id, _)),) = run_shards(known, None, key, [0], engine)
            assert key_id == (None if key is None else KEY.id)

    def test_few_are_handed_out_at_a_time(self, reference):
        asked = []

        def numbers():
            for i in range(100):
                asked.append(i)
                yield i

        with ThreadPoolExecutor(1) as pool:
            engine = Foreign(pool, ahead=4)
            with closing(run_shards(known, None, reference, numbers(), engine)) as results:
                for num, _ in enumerate(results, 1):
                    assert len(asked) <= num + 4

    def test_nothing_of_the_key_is_sent(self, reference):
        executor = Pickling()
        assert len(list(run_shards(known, None, reference, range(3), Foreign(executor)))) == 3
        assert len(executor.sent) == 3
        assert not found(forms_of_key(SECRET), executor.sent)
        assert found([reference.name.encode()], executor.sent)

    def test_a_key_itself_or_a_descriptor_is_not_sent(self):
        for key, thing in ((KEY, 'KeyReference'), (KeyReference.fd(0), 'descriptor')):
            with pytest.raises(EncryptionError, match=thing):
                list(run_shards(known, None, key, [0], Foreign(Pickling())))

    def test_a_worker_without_the_key(self, monkeypatch):
        monkeypatch.setenv('SOME_KEY', SECRET.hex())

        class Elsewhere(Pickling):
            def submit(self, fn, /, *args):
                with monkeypatch.context() as patch:
                    patch.delenv('SOME_KEY')
                    return super().submit(fn, *args)

        from hime_mm.encryption.engines import shards

        shards._resolved.cache_clear()
        with pytest.raises(InvalidKey, match=named('SOME_KEY', 'not set')):
            list(run_shards(known, None, KeyReference.env('SOME_KEY'), [0], Foreign(Elsewhere())))

    def test_others_are_called_off_where_one_fails(self, tmp_path):
        for engine in (InProcess(), Local(1)):
            place = tmp_path / type(engine).__name__
            place.mkdir()
            with pytest.raises(OSError, match='No space left') as error:
                list(run_shards(refusing, str(place), None, range(50), engine))
            assert error.value.filename == 'place'
            assert len(list(place.iterdir())) < 10

    def test_shards_of_dead_workers_are_done_alone(self, tmp_path):
        got = dict(run_shards(dying, str(tmp_path), None, range(8), Local(2)))
        assert set(got) == set(range(8)) and all(got[n][0] == n for n in got)
        assert got[2] == (2, True) and got[5] == (5, True)

    def test_a_shard_that_ends_two_workers(self, tmp_path):
        with pytest.raises(WorkerDied, match=named('shard 9', 'memory')):
            list(run_shards(dying, str(tmp_path), None, [0, 9], Local(1)))

    def test_what_is_at_work_ends_before_the_output_is_free(self, tmp_path):
        with ThreadPoolExecutor(2) as pool:
            with pytest.raises(OSError):
                list(run_shards(slowly, str(tmp_path), None, [0, 3], Foreign(pool)))
            assert (tmp_path / '0').exists()

    def test_processes_are_not_waited_for(self, tmp_path):
        start = time.monotonic()
        with pytest.raises(OSError):
            list(run_shards(slowly, str(tmp_path), None, [100, 3], Local(2)))
        assert time.monotonic() - start < 30 and not (tmp_path / '100').exists()

    def test_an_executor_is_left_open(self):
        with ThreadPoolExecutor(1) as pool:
            first, second = (
                list(run_shards(threads, None, None, [0], choose_engine(0, pool))) for _ in range(2)
            )
            assert first == second


@pytest.fixture
def pictures(tmp_path):
    for i in range(6):
        write(tmp_path / 'src' / f'{i}.png', photo(32, 48, i))
    folder(tmp_path / 'src', tmp_path / 'one', shard_size=2)
    return tmp_path / 'src'


@pytest.mark.slow
class TestRay:
    @pytest.fixture(scope='class', autouse=True)
    @classmethod
    def cluster(cls):
        ray = pytest.importorskip('ray')
        yield ray
        ray.shutdown()

    def test_writes_the_same(self, pictures, tmp_path, reference, capfd):
        folder(pictures, tmp_path / 'out', key=reference, engine=OnRay('local'), shard_size=2)
        assert tree(tmp_path / 'out') == tree(tmp_path / 'one')
        assert not found(forms_of_key(SECRET), [text.encode() for text in capfd.readouterr()])

    def test_a_worker_without_the_key(self, pictures, tmp_path, monkeypatch, cluster):
        cluster.init(address='local', num_cpus=1, include_dashboard=False, log_to_driver=False)
        try:
            monkeypatch.setenv('LATE_KEY', SECRET.hex())  # the cluster began without it
            with pytest.raises(InvalidKey, match=named('LATE_KEY', 'not set')) as error:
                folder(
                    pictures,
                    tmp_path / 'out',
                    key=KeyReference.env('LATE_KEY'),
                    engine=OnRay('auto'),
                )
            assert not found(forms_of_key(SECRET), [str(error.value).encode()])
            assert not (tmp_path / 'out' / 'hime.json').exists()
            # It goes on where the others can find it.
            key = KeyReference.file(key_file(tmp_path / 'other.key'))
            assert folder(pictures, tmp_path / 'out', key=key, engine=OnRay('auto')).complete
        finally:
            cluster.shutdown()

    def test_dead_workers(self, tmp_path, cluster, monkeypatch):
        monkeypatch.setenv('PYTHONPATH', os.pathsep.join(sys.path))  # of these tests
        got = dict(run_shards(dying, str(tmp_path), None, range(4), OnRay('local')))
        assert got[2] == (2, True) and set(got) == set(range(4))
        # Ray itself has tried it more than once before.
        assert len(list(tmp_path.glob('2-0-*'))) > 1

    def test_nodes_that_lack_the_package(self, tmp_path, cluster):
        with pytest.raises(EncryptionError, match=named('shard_tasks', 'every node')):
            list(run_shards(dying, str(tmp_path), None, [0], OnRay('local')))

    def test_no_cluster(self):
        with pytest.raises(EncryptionError, match=named('cluster', '127.0.0.1:1')):
            list(run_shards(known, None, None, [0], OnRay('127.0.0.1:1')))


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(HimeError, match=named('hime-mm[ray]')):
        list(run_shards(known, None, None, [0], OnRay('local')))


@pytest.mark.slow
def test_dask(pictures, tmp_path, reference):
    distributed = pytest.importorskip('distributed')
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger('distributed').addHandler(handler)
    try:
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            executor = client.get_executor(pure=False)
            folder(pictures, tmp_path / 'out', key=reference, engine=executor, shard_size=2)
            scheduler = client.run_on_scheduler(lambda dask_scheduler: repr(vars(dask_scheduler)))
    finally:
        logging.getLogger('distributed').removeHandler(handler)
    assert tree(tmp_path / 'out') == tree(tmp_path / 'one')
    assert not found(forms_of_key(SECRET), [log.getvalue().encode(), scheduler.encode()])


def test_engines_write_the_same(pictures, tmp_path, reference):
    with ThreadPoolExecutor(2) as pool:
        folder(pictures, tmp_path / 'out', key=reference, engine=pool, shard_size=2)
    with suppress(OSError):
        reference.resolve()
    assert tree(tmp_path / 'out') == tree(tmp_path / 'one')
