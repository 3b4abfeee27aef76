# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from encryption_parts import KEY, coco
from owner_data import hime_env, named, tree

from hime_mm.apis import verify_dataset
from hime_mm.ciphers import InvalidKey
from hime_mm.datasets.stores import LocalStore
from hime_mm.encryption import finish, shard


class TestInterrupted:
    @pytest.mark.parametrize('every, least', [(8, 3), pytest.param(1, 40, marks=pytest.mark.slow)])
    @pytest.mark.parametrize('kind', ['coco', 'folder'])
    def test_killed_before_every_call(self, coco_src, tmp_path, every, least, kind):
        script = Path(__file__).parents[1] / 'kill_points.py'
        done = subprocess.run(
            [sys.executable, script, coco_src, tmp_path / 'out', str(every), kind],
            capture_output=True,
            text=True,
            env=hime_env(),
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        points = json.loads(done.stdout)
        assert [p for p in points if p['wrong']] == []
        calls = {p['call'] for p in points}
        assert {'mkstemp', 'replace', 'chmod', 'unlink'} <= calls
        if every == 1:
            assert {'fsync', 'sync', 'rmdir'} <= calls
        assert len(points) > least and max(p['done'] for p in points) == 8

    def test_full_disk(self, coco_src, tmp_path, monkeypatch):
        # With a real file system and several processes: tests/test_cli/test_stopped.py.
        out = tmp_path / 'out'
        fdopen, left = os.fdopen, [0]

        class Full(io.BytesIO):
            def __init__(self, fd):
                os.close(fd)
                super().__init__()

            def write(self, data):
                raise OSError(errno.ENOSPC, 'No space left on device')

        def filling(fd, mode='r', *args, **kwargs):
            if mode == 'wb':
                left[0] -= 1
                if not left[0]:
                    return Full(fd)
            return fdopen(fd, mode, *args, **kwargs)

        monkeypatch.setattr(os, 'fdopen', filling)
        # The plan, pictures, the shard's manifest and record, annotations and manifest.
        for number in count(1):
            left[0] = number
            try:
                coco(coco_src, out)
                if left[0] > 0:
                    break
            except OSError as error:
                assert error.errno == errno.ENOSPC
            assert not [n for n in tree(out) if n.endswith('.part')]
            left[0] = 0
            assert coco(coco_src, out).complete
            assert verify_dataset(str(out), KEY, progress=False).ok
            reference = tree(out)
            shutil.rmtree(out)
        assert number > 10
        assert tree(out) == reference

    def test_error_says_where_and_how_far_it_came(self, coco_src, tmp_path, monkeypatch):
        out = tmp_path / 'out'
        calls = []

        def full(store, path, data, sync=True):
            calls.append(path)
            if path.endswith('000002.png'):
                raise OSError(errno.ENOSPC, 'No space left on device')
            real(store, path, data, sync)

        real = LocalStore.write
        monkeypatch.setattr(LocalStore, 'write', full)
        with pytest.raises(OSError, match=named(out, '1 of 4')) as error:
            coco(coco_src, out, shard_size=1)
        assert error.value.errno == errno.ENOSPC

    def test_what_is_missing_does_not_count_as_finished(self, own_src, tmp_path, monkeypatch):
        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, 'No space left on device')

        out, last = tmp_path / 'out', sorted((own_src / 'val2017').iterdir())[-1]
        last.write_bytes(b'')
        with monkeypatch.context() as patch:
            patch.setattr(finish, 'write_manifest', full)
            with pytest.raises(OSError, match=named('3 of 4')):  # just found
                coco(own_src, out, shard_size=1)
        (out / 'val2017' / '000003.png').unlink()
        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, 'write', full)
            with pytest.raises(OSError, match=named('2 of 4')):  # known from before
                coco(own_src, out, shard_size=1)

    def test_full_while_a_record_is_written(self, coco_src, tmp_path, monkeypatch):
        out = tmp_path / 'out'

        def full(store, plan, number, *args):
            if number == 2:
                raise OSError(errno.ENOSPC, 'No space left on device')
            real(store, plan, number, *args)

        real = shard.write_record
        with monkeypatch.context() as patch:
            patch.setattr(shard, 'write_record', full)
            with pytest.raises(OSError, match=named(out, '2 of 4')) as error:
                coco(coco_src, out, shard_size=1)
            assert error.value.errno == errno.ENOSPC
        assert coco(coco_src, out, shard_size=1).reused == 2
        coco(coco_src, tmp_path / 'new', shard_size=1)
        assert tree(out) == tree(tmp_path / 'new')

    def test_file_that_was_changed_meanwhile_is_done_again(self, own_src, tmp_path):
        out = tmp_path / 'out'
        (own_src / 'val2017' / '000004.jpg').rename(own_src / 'away')
        coco(own_src, out)
        (own_src / 'away').rename(own_src / 'val2017' / '000004.jpg')
        first = out / 'val2017/000001.png'
        data = bytearray(first.read_bytes())
        data[200] ^= 1
        first.write_bytes(data)
        (out / 'val2017/000002.png').unlink()
        (out / 'val2017/.hime-abc.part').write_bytes(b'half')
        assert coco(own_src, out).reused == 1
        coco(own_src, tmp_path / 'new')
        assert tree(out) == tree(tmp_path / 'new')

    def test_one_way_keeps_what_was_finished(self, own_src, tmp_path):
        out = tmp_path / 'out'
        (own_src / 'val2017' / '000003.jpg').rename(own_src / 'away')
        options = dict(key=None, one_way=True, dataset_id=None)
        first = coco(own_src, out, **options)
        before = {n: d for n, d in tree(out).items() if n.endswith('.png')}
        (own_src / 'away').rename(own_src / 'val2017' / '000003.jpg')
        again = coco(own_src, out, **options)
        assert again.complete and again.dataset_id == first.dataset_id
        after = tree(out)
        assert {n: after[n] for n in before} == before
        assert verify_dataset(str(out), progress=False).ok

    def test_goes_on_with_other_workers_from_elsewhere(self, own_src, tmp_path, monkeypatch):
        out = tmp_path / 'out'
        (own_src / 'val2017' / '000003.jpg').rename(own_src / 'away')
        coco(own_src, out, workers=2)
        (own_src / 'away').rename(own_src / 'val2017' / '000003.jpg')
        out.rename(tmp_path / 'moved')
        monkeypatch.chdir(tmp_path)
        assert coco('own', 'moved', workers=0).reused == 3
        coco(own_src, out)
        assert tree(out) == tree(tmp_path / 'moved')

    def test_no_key_at_the_second_time(self, own_src, tmp_path):
        (own_src / 'val2017' / '000003.jpg').unlink()
        coco(own_src, tmp_path / 'out', 'mix2')
        with pytest.raises(InvalidKey, match=KEY.id):
            coco(own_src, tmp_path / 'out', 'mix2', key=None)
