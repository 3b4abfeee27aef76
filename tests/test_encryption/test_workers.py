# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import multiprocessing
import os
import shutil
import threading
from contextlib import closing

import pytest
from encryption_parts import coco
from owner_data import named, tree

from hime_mm.datasets.stores import LocalStore
from hime_mm.encryption import driver, finish, worker
from hime_mm.encryption.engines import run_tasks
from hime_mm.encryption.lock import locked
from hime_mm.errors import EncryptionError


class TestAtTheSameMoment:
    def test_second_is_refused(self, coco_src, tmp_path, monkeypatch):
        out = tmp_path / 'out'
        inside, go_on = threading.Event(), threading.Event()
        write = finish.write_manifest

        def waiting(*args):
            inside.set()
            assert go_on.wait(20)
            write(*args)

        monkeypatch.setattr(finish, 'write_manifest', waiting)
        first = threading.Thread(target=coco, args=(coco_src, out))
        first.start()
        assert inside.wait(20)
        before = tree(out)
        for cipher in ('shuffle', 'center+shuffle'):
            with pytest.raises(EncryptionError, match=named('process', out)):
                coco(coco_src, out, cipher)
        assert tree(out) == before
        go_on.set()
        first.join()
        monkeypatch.undo()
        coco(coco_src, tmp_path / 'new')
        assert tree(out) == tree(tmp_path / 'new')

    @pytest.mark.parametrize('cipher', ['shuffle', 'center+shuffle'])
    def test_first_ends_just_before_the_lock(self, coco_src, tmp_path, monkeypatch, cipher):
        out = tmp_path / 'out'

        def late(*args):
            monkeypatch.setattr(driver, 'locked', locked)
            coco(coco_src, out)
            return locked(*args)

        monkeypatch.setattr(driver, 'locked', late)
        if cipher == 'shuffle':
            assert coco(coco_src, out).reused == 4
        else:
            with pytest.raises(EncryptionError, match=named(out)):
                coco(coco_src, out, cipher)
        coco(coco_src, tmp_path / 'new')
        assert tree(out) == tree(tmp_path / 'new')
        assert not (out / '.hime-work').exists()

    def test_lock_of_a_deleted_folder_is_none(self, tmp_path, monkeypatch):
        import fcntl

        work, flock, times = tmp_path / '.hime-work', fcntl.flock, []

        def late(file, how):
            times.append(1)
            if len(times) == 1:
                shutil.rmtree(work)
            return flock(file, how)

        monkeypatch.setattr(fcntl, 'flock', late)
        store = LocalStore(str(tmp_path))
        with locked(store):
            assert len(times) == 2 and os.listdir(work / 'locks') == ['1-of-1']
            with pytest.raises(EncryptionError, match=named('process', tmp_path)), locked(store):
                pass


class TestWorkers:
    def test_error_of_a_bug_is_not_hidden(self):
        for workers in (0, 2):
            with pytest.raises(TypeError, match='pow'):
                list(run_tasks(pow, 1, None, [1, 2], workers))

    @pytest.mark.parametrize('bug', [ZeroDivisionError, ValueError])
    def test_bug_is_no_reason_to_leave_a_picture_out(self, coco_src, tmp_path, monkeypatch, bug):
        def broken(*args):
            raise bug('not the picture')

        monkeypatch.setattr(worker, 'seal', broken)
        with pytest.raises(bug, match='^not the picture$') as error:
            coco(coco_src, tmp_path / 'out', workers=0)
        assert type(error.value) is bug
        assert not (tmp_path / 'out' / 'hime.json').exists()

    def test_every_task_once_in_any_order(self):
        for workers in (0, 1, 2):
            got = sorted(run_tasks(slice, 3, None, iter(range(40)), workers))
            assert [(i, s.step) for i, s in got] == [(i, i) for i in range(40)]

    def test_tasks_are_read_as_they_are_needed(self):
        asked = []

        def tasks():
            for i in range(100):
                asked.append(i)
                yield i

        with closing(run_tasks(slice, 3, None, tasks(), 2)) as outcomes:
            next(outcomes)
            assert len(asked) <= 9
        # Nobody works on once the lock is given back.
        assert not multiprocessing.active_children()
