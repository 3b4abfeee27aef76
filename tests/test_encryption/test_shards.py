# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""A data set in shards: planned once, done by whoever, finished once."""

import json
import os
import shutil
import tarfile

import pytest
from encryption_parts import KEY, OTHER, annotations, coco, folder
from hypothesis import given
from hypothesis import strategies as st
from owner_data import edit_json, named, photo, tree, write

from hime_mm.apis import (
    encrypt_shards,
    finish_dataset,
    plan_coco,
    plan_folder,
    verify_dataset,
)
from hime_mm.ciphers import InvalidKey
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.stores import LocalStore
from hime_mm.encryption import finish, lock, shard, worker
from hime_mm.encryption.plan import shard_size_for
from hime_mm.errors import EncryptionError, PictureError

QUIET = dict(progress=False)
ONE_WAY = dict(key=None, one_way=True, dataset_id=None)


def plan(src, out, function=plan_folder, **options):
    options = dict(dict(key=KEY, dataset_id='d', shard_size=2, progress=False), **options)
    return function(str(src), str(out), 'shuffle', **options)


def run(out, part=(1, 1), key=KEY, **options):
    return encrypt_shards(str(out), shards=part, key=key, progress=False, **options)


def close(out, key=KEY):
    return finish_dataset(str(out), key=key, progress=False)


def ok(out, key=KEY):
    return verify_dataset(str(out), key, progress=False).ok


def stamps(out):
    return {
        path.relative_to(out).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in out.rglob('*')
        if path.is_file() and '.hime-work' not in path.parts
    }


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Seven pictures of two classes, and a class without any. Read only."""
    src = tmp_path_factory.mktemp('pictures') / 'src'
    for i in range(7):
        write(src / 'ab'[i % 2] / f'{i}.png', photo(32, 48, i))
    (src / 'c').mkdir()
    (src / 'val.txt').write_text(''.join(f'{"ab"[i % 2]}/{i}.png {i}\n' for i in (5, 0, 3)))
    return src


@pytest.fixture
def own(pictures, tmp_path):
    return shutil.copytree(pictures, tmp_path / 'own')


STORAGES = pytest.mark.parametrize('storage', ['files', 'tar'])


class TestParts:
    @STORAGES
    @pytest.mark.parametrize('parts', [1, 2, 3, 5])
    def test_give_what_one_run_gives(self, pictures, tmp_path, storage, parts):
        options = dict(storage=storage, shard_size=2, lists=['val.txt'])
        folder(pictures, tmp_path / 'one', **options)
        out = tmp_path / 'out'
        assert plan(pictures, out, **options).images == 7
        for i in reversed(range(parts)):
            run(out, (i + 1, parts), workers=int(i == 0))
        assert close(out).complete
        assert tree(out) == tree(tmp_path / 'one') and ok(out)
        assert not (out / '.hime-work').exists()
        names = {name for name in tree(out) if name.startswith('hime')}
        tars = {f'hime-00000{i}.tar' for i in range(4)} if storage == 'tar' else set()
        assert names == {'hime.json', *(f'hime-00000{i}.json' for i in range(4)), *tars}

    def test_of_coco(self, coco_src, tmp_path):
        coco(coco_src, tmp_path / 'one', shard_size=3, views=2)
        out = tmp_path / 'out'
        plan(coco_src, out, plan_coco, shard_size=3, views=2)
        assert [run(out, (i, 2)).images for i in (1, 2)] == [3, 1]
        assert close(out).files == 8
        assert tree(out) == tree(tmp_path / 'one')

    def test_size_of_a_shard_changes_no_picture(self, pictures, tmp_path):
        folder(pictures, tmp_path / 'one')
        folder(pictures, tmp_path / 'two', shard_size=3, workers=2)
        one, two = (
            {n: d for n, d in tree(tmp_path / o).items() if 'hime' not in n} for o in ('one', 'two')
        )
        assert one == two
        entries = [[*Manifest.load(tmp_path / o).entries()] for o in ('one', 'two')]
        assert [e.path for e in entries[0]] == [e.path for e in entries[1]]

    @given(st.integers(1, 10**9))
    def test_automatic_size_depends_on_the_number_alone(self, images):
        size = shard_size_for(images)
        assert 16 <= size <= 1000
        assert size == 1000 or size == 16 or -(-images // size) <= 64

    def test_twice_is_once(self, pictures, tmp_path):
        out = tmp_path / 'out'
        plan(pictures, out)
        run(out)
        before = tree(out)
        shutil.rmtree(out / '.hime-work' / 'shards')
        done = run(out)
        assert done.reused == 0 and tree(out) == before
        done = run(out)
        assert done.reused == done.images == 7

    def test_one_way_keeps_what_is_committed(self, pictures, tmp_path):
        out = tmp_path / 'out'
        plan(pictures, out, **ONE_WAY)
        run(out, key=None)
        before = tree(out)
        (out / '.hime-work' / 'shards' / '000001.jsonl').unlink()
        assert run(out, key=None).reused == 5
        after = tree(out)
        changed = {name for name in before if before[name] != after[name] and '.hime' not in name}
        (first, second) = load_plan_items(out, 1)
        assert changed == {f'{first}.png', f'{second}.png', 'hime-000001.json'}
        close(out, None)
        assert ok(out, None)

    @pytest.mark.parametrize('part', [(0, 1), (2, 1), (0, 0), (-1, 3), (4, 3)])
    def test_that_there_are_none_of(self, pictures, tmp_path, part):
        plan(pictures, tmp_path / 'out')
        with pytest.raises(EncryptionError, match=named(f'{part[0]}/{part[1]}')):
            run(tmp_path / 'out', part)

    def test_finish_names_what_is_not_done(self, pictures, tmp_path):
        out = tmp_path / 'out'
        plan(pictures, out)
        run(out, (1, 2))
        with pytest.raises(EncryptionError, match=named('2 of 4', '1, 3', out)):
            close(out)
        assert not (out / 'hime.json').exists()

    def test_without_a_plan(self, pictures, tmp_path):
        folder(pictures, tmp_path / 'done')
        for out in (tmp_path / 'none', tmp_path / 'done'):
            for function in (run, close):
                with pytest.raises(EncryptionError, match=named(out, 'plan')):
                    function(out)
        assert not (tmp_path / 'none').exists() and ok(tmp_path / 'done')

    def test_plan_is_not_handed_over(self, pictures, tmp_path):
        out = tmp_path / 'out'
        plan(pictures, out)
        run(out)
        shutil.copytree(pictures, tmp_path / 'src')
        report = verify_dataset
        close(out)
        assert report(str(out), KEY, progress=False).ok

    @pytest.mark.parametrize('key', [None, OTHER])
    def test_of_another_key(self, pictures, tmp_path, key):
        out = tmp_path / 'out'
        plan(pictures, out)
        before = tree(out)
        for function in (run, close):
            with pytest.raises(InvalidKey, match=named(KEY.id)):
                function(out, key=key)
        assert tree(out) == before

    def test_a_whole_run_goes_on_with_a_plan(self, pictures, tmp_path):
        out = tmp_path / 'out'
        plan(pictures, out)
        run(out, (1, 2))
        summary = folder(pictures, out)
        assert summary.complete and summary.reused == 4
        folder(pictures, tmp_path / 'one', shard_size=2)
        assert tree(out) == tree(tmp_path / 'one')


def load_plan_items(out, number):
    lines = (out / '.hime-work' / 'items' / f'{number:06d}.jsonl').read_text().splitlines()
    return [json.loads(line)[1] for line in lines]


class TestNothingOfAnotherPlanIsTrusted:
    def test_record(self, pictures, tmp_path):
        for name in ('one', 'two'):
            plan(pictures, tmp_path / name, dataset_id=name)
            run(tmp_path / name)
        place = '.hime-work/shards/000001.jsonl'
        shutil.copy(tmp_path / 'one' / place, tmp_path / 'two' / place)
        for function in (run, close):
            with pytest.raises(EncryptionError, match=named('000001.jsonl', 'another plan')):
                function(tmp_path / 'two')
        (tmp_path / 'two' / place).unlink()
        run(tmp_path / 'two')
        close(tmp_path / 'two')
        assert ok(tmp_path / 'two')

    def test_record_of_another_shard(self, pictures, tmp_path):
        out = tmp_path / 'out'
        plan(pictures, out)
        run(out)
        shards = out / '.hime-work' / 'shards'
        shutil.copy(shards / '000001.jsonl', shards / '000002.jsonl')
        with pytest.raises(EncryptionError, match=named('000002.jsonl')):
            close(out)

    @pytest.mark.parametrize(
        'name, text',
        [
            ('plan.json', '{'),
            ('plan.json', '[]'),
            ('plan.json', '{"head": {}}'),
            ('items/000001.jsonl', ''),
            ('items/000001.jsonl', '["a", "b"'),
            ('items/000001.jsonl', None),
        ],
    )
    def test_damaged(self, pictures, tmp_path, name, text):
        out = tmp_path / 'out'
        plan(pictures, out)
        place = out / '.hime-work' / name
        place.unlink() if text is None else place.write_text(text)
        with pytest.raises(EncryptionError, match=named(name.rpartition('/')[2])):
            run(out)

    @STORAGES
    @pytest.mark.parametrize('keep', [0, 1, 60, -60, -2])
    def test_record_that_a_power_cut_left_is_none(self, pictures, tmp_path, keep, storage):
        out = tmp_path / 'out'
        plan(pictures, out, storage=storage)
        done = run(out).images
        place = out / '.hime-work' / 'shards' / '000001.jsonl'
        whole = place.read_bytes()
        for text in (whole[:keep], whole[:keep] + b'\n', whole[: whole[:-1].rindex(b'\n') + 1]):
            place.write_bytes(text)
            assert run(out).reused == done - 2
            assert place.read_bytes() == whole
        close(out)
        assert ok(out)

    def test_what_a_power_cut_left_is_not_merged(self, coco_src, tmp_path):
        out = tmp_path / 'out'
        plan(coco_src, out, plan_coco)
        run(out)
        for name in ('.hime-work/shards/000001.jsonl', 'hime-000001.json'):
            for keep in (0, -2):
                whole = (out / name).read_bytes()
                (out / name).write_bytes(whole[:keep])
                with pytest.raises(EncryptionError, match='not done|000001.jsonl is damaged'):
                    close(out)
                assert not (out / 'hime.json').exists()
                (out / name).write_bytes(whole)
        close(out)
        assert ok(out)

    def test_plan_that_was_cut_short_is_none(self, pictures, tmp_path, monkeypatch):
        out = tmp_path / 'out'

        def full(*args, **kwargs):
            raise OSError(28, 'No space left on device')

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, 'write', full)
            with pytest.raises(OSError):
                plan(pictures, out)
        assert not (out / '.hime-work').exists()
        folder(pictures, out)
        assert ok(out)

    def test_planned_anew_meanwhile(self, pictures, tmp_path):
        """Workers of a run refuse the shards of another one."""
        out = tmp_path / 'out'
        plan(pictures, out)
        assignment = shard.Assignment(str(pictures), str(out), 'another')
        with pytest.raises(EncryptionError, match=named('plan.json')):
            shard.encrypt_shard(assignment, KEY, (0, False))


class TestLeftOut:
    @STORAGES
    def test_is_tried_again_when_asked_or_changed(self, own, tmp_path, monkeypatch, storage):
        out, names = tmp_path / 'out', []

        def failing(img, recipe, source, boxes):
            names.append(source.image_id)
            if source.image_id == 'a/2.png':
                raise PictureError('no')
            return real(img, recipe, source, boxes)

        real = worker.seal
        options = dict(storage=storage, shard_size=2)
        monkeypatch.setattr(worker, 'seal', failing)
        assert folder(own, out, **options).skipped == [('a/2.png', 'no')]
        names.clear()
        before = stamps(out)
        assert folder(own, out, **options).skipped == [('a/2.png', 'no')]
        assert names == []
        assert stamps(out).keys() == before.keys()
        assert not folder(own, out, retry_failed=True, **options).complete
        assert names == ['a/2.png']
        monkeypatch.undo()
        os.utime(own / 'a' / '2.png', (1, 1))
        again = folder(own, out, **options)
        assert again.complete and again.reused == 6
        folder(own, tmp_path / 'new', **options)
        assert tree(out) == tree(tmp_path / 'new')

    @STORAGES
    def test_the_others_keep_their_bytes(self, own, tmp_path, storage):
        """One-way: they could not be made again."""
        out, bad = tmp_path / 'out', own / 'a' / '2.png'
        good = bad.read_bytes()
        bad.write_bytes(b'')
        options = dict(ONE_WAY, storage=storage, shard_size=4)
        folder(own, out, **options)
        manifest = Manifest.load(out)
        before = {entry.path: manifest.read_picture(entry) for entry in manifest.entries()}
        bad.write_bytes(good)
        assert folder(own, out, **options).complete
        manifest = Manifest.load(out)
        after = {entry.path: manifest.read_picture(entry) for entry in manifest.entries()}
        assert len(after) == 7 and {**after, **before} == after and ok(out, None)

    def test_in_a_part(self, own, tmp_path):
        out = tmp_path / 'out'
        (own / 'a' / '2.png').write_bytes(b'')
        plan(own, out)
        summaries = [run(out, (i, 2)) for i in (1, 2)]
        assert [path for s in summaries for path, _ in s.skipped] == ['a/2.png']
        assert [s.complete for s in summaries].count(False) == 1
        assert not close(out).complete and (out / '.hime-work').exists()


class TestAdd:
    @STORAGES
    @pytest.mark.parametrize('names', ['keep', 'ids'])
    def test_touches_nothing_else(self, own, tmp_path, storage, names):
        out = tmp_path / 'out'
        options = dict(storage=storage, names=names, shard_size=2, lists=['val.txt'])
        folder(own, out, **options)
        before, contents = stamps(out), tree(out)
        write(own / 'a' / '00.png', photo(32, 48, 20))  # the first of all
        write(own / 'c' / 'new.png', photo(48, 48, 21))
        write(own / 'd' / 'x.png', photo(48, 48, 22))
        with (own / 'val.txt').open('a') as file:
            file.write('c/new.png 9\n')
        with pytest.raises(EncryptionError, match=named('7 of the 10', 'add=True')):
            folder(own, out, **options)
        assert stamps(out) == before
        summary = folder(own, out, add=True, **options)
        assert summary.added == 3 and summary.complete and ok(out)
        after = stamps(out)
        rewritten = {'hime.json', 'val.txt'}
        assert {n: after[n] for n in before if n not in rewritten} == {
            n: s for n, s in before.items() if n not in rewritten
        }
        manifest = Manifest.load(out)
        assert manifest.state['counts']['files'] == len(manifest.files) == 10
        assert manifest.classes == {'.': ['a', 'b', 'c', 'd']}
        assert (out / 'val.txt').read_bytes().startswith(contents['val.txt'])
        assert (out / 'val.txt').read_text().count('\n') == 4
        # Every picture is what a run over all of them gives.
        folder(own, tmp_path / 'all', **options)
        whole = Manifest.load(tmp_path / 'all')
        assert {e.path: e.sha256 for e in manifest.entries()} == {
            e.path: e.sha256 for e in whole.entries()
        }
        again = folder(own, out, add=True, **options)
        assert again.finished_before and stamps(out) == after

    def test_to_coco(self, own_src, tmp_path):
        out, path = tmp_path / 'out', own_src / 'annotations' / 'instances_val2017.json'
        coco(own_src, tmp_path / 'all')
        text = path.read_text()

        def shorten(content):
            content['images'] = content['images'][1:3]
            ids = {image['id'] for image in content['images']}
            content['annotations'] = [a for a in content['annotations'] if a['image_id'] in ids]

        edit_json(path, shorten)
        coco(own_src, out)
        few = annotations(out)
        path.write_text(text)
        assert coco(own_src, out, add=True).added == 2 and ok(out)
        got, expected = annotations(out), annotations(tmp_path / 'all')
        assert got['images'][:2] == few['images']
        assert got['annotations'][: len(few['annotations'])] == few['annotations']
        for name in ('images', 'annotations'):
            assert sorted(got[name], key=lambda one: one['id']) == sorted(
                expected[name], key=lambda one: one['id']
            )

    @pytest.mark.parametrize('stage', ['encrypt_shard', 'write_texts', 'write_manifest'])
    def test_killed(self, own, tmp_path, monkeypatch, stage):
        out = tmp_path / 'out'
        options = dict(lists=['val.txt'], shard_size=2)
        folder(own, out, **options)
        write(own / 'c' / 'new.png', photo(48, 48, 21))
        with (own / 'val.txt').open('a') as file:
            file.write('c/new.png 9\n')

        def dies(*args, **kwargs):
            if stage == 'write_texts':
                real(*args, **kwargs)
            raise KeyboardInterrupt

        place = 'hime_mm.encryption.driver' if stage == 'encrypt_shard' else finish.__name__
        real = getattr(finish, stage, None)
        with monkeypatch.context() as patch:
            patch.setattr(f'{place}.{stage}', dies)
            with pytest.raises(KeyboardInterrupt):
                folder(own, out, add=True, **options)
        assert folder(own, out, add=True, **options).added == 1
        assert ok(out) and (out / 'val.txt').read_text().count('\n') == 4

    def test_random_names_do_not_tell_what_is_new(self, own, tmp_path):
        out = tmp_path / 'out'
        options = dict(ONE_WAY, names='ids')
        folder(own, out, **options)
        write(own / 'c' / 'new.png', photo(48, 48, 21))
        with pytest.raises(EncryptionError, match=named(out)):
            folder(own, out, add=True, **options)

    def test_other_settings_or_a_source_that_lost_some(self, own, tmp_path):
        out = tmp_path / 'out'
        folder(own, out)
        before = tree(out)
        write(own / 'c' / 'new.png', photo(48, 48, 21))
        for options in (dict(key=OTHER), dict(views=2), dict(storage='tar'), dict(dataset_id='e')):
            with pytest.raises((EncryptionError, InvalidKey), match=named(out)):
                folder(own, out, add=True, **options)
        (own / 'a' / '2.png').unlink()
        with pytest.raises(EncryptionError, match=named(out)):
            folder(own, out, add=True)
        assert tree(out) == before


class TestAtTheSameTime:
    @given(
        st.tuples(st.integers(0, 5), st.integers(1, 6)).filter(lambda p: p[0] < p[1]),
        st.tuples(st.integers(0, 5), st.integers(1, 6)).filter(lambda p: p[0] < p[1]),
    )
    def test_parts_overlap_where_they_share_a_shard(self, one, other):
        shards = [set(range(200)[i::n]) for i, n in (one, other)]
        assert lock._overlap(one, other) == bool(shards[0] & shards[1])

    def test_a_part_keeps_out_what_overlaps(self, pictures, tmp_path):
        out = tmp_path / 'out'
        plan(pictures, out)
        with lock.locked(LocalStore(str(out)), (0, 2)):
            for function in (
                lambda: run(out, (1, 2)),
                lambda: run(out, (1, 3)),
                lambda: run(out),
                lambda: close(out),
                lambda: folder(pictures, out),
                lambda: plan(pictures, out),
            ):
                with pytest.raises(EncryptionError, match=named('another process', out)):
                    function()
            assert run(out, (2, 2)).images == 3
        run(out)
        close(out)
        assert ok(out)


class TestTar:
    def test_holds_the_same_pictures(self, coco_src, tmp_path):
        coco(coco_src, tmp_path / 'files')
        coco(coco_src, tmp_path / 'tars', storage='tar', workers=1)
        files, manifest = tree(tmp_path / 'files'), Manifest.load(tmp_path / 'tars')
        assert manifest.storage == 'tar'
        for entry in manifest.entries():
            assert manifest.read_picture(entry) == files[entry.path]
        with tarfile.open(tmp_path / 'tars' / 'hime-000000.tar') as tar:
            assert [m.name for m in tar] == [e.path for e in manifest.entries()]
            assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {
                (0, 0, 0, '', '', 0o644)
            }
        ann = 'annotations/instances_val2017.json'
        assert tree(tmp_path / 'tars')[ann] == files[ann]
        assert not (tmp_path / 'tars' / 'val2017').exists()

    def test_that_was_damaged_is_made_again(self, pictures, tmp_path):
        out = tmp_path / 'out'
        plan(pictures, out, storage='tar')
        run(out)
        before = tree(out)
        data = bytearray((out / 'hime-000001.tar').read_bytes())
        data[700] ^= 1
        (out / 'hime-000001.tar').write_bytes(data)
        (out / 'hime-000002.tar').unlink()
        (out / 'hime-000003.json').unlink()
        assert run(out).reused == 3
        assert tree(out) == before
