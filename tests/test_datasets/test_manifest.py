# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import copy
import errno
import hashlib
import hmac
import json
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from owner_data import named
from version_1 import write_version_1

from hime_mm.ciphers import Cipher, InvalidKey, Key
from hime_mm.datasets.entries import FileEntry
from hime_mm.datasets.manifest import Manifest, find_manifest, load_manifest
from hime_mm.datasets.stores import LocalStore
from hime_mm.datasets.writing import checksum, write_manifest, write_shard
from hime_mm.errors import ManifestError
from hime_mm.images import Recipe

KEY = Key(bytes(range(32)))


def row(path='train/a.png', shape=(32, 48), **kwargs):
    return FileEntry(
        **dict(
            dict(
                path=path,
                sha256='ab' * 32,
                size=99,
                shape=shape,
                channels=3,
                ori_shape=(70, 90),
                scale=(0.5, 0.75),
            ),
            **kwargs,
        )
    ).to_dict()


def head(cipher='mix2+shuffle', key=KEY, **kwargs):
    cipher = Cipher.build(cipher)
    return dict(
        dict(
            tool_version='0.1.0',
            kind='folder',
            mode='keyed',
            dataset_id='d',
            key_id=None if key is None else key.id,
            cipher=cipher.to_dict(),
            cipher_text=str(cipher),
            preprocess={},
            counts=dict(images=1, files=1),
        ),
        **kwargs,
    )


def write(root, rows=None, key=KEY, **kwargs):
    write_version_1(root, head(key=key, **kwargs), [row()] if rows is None else rows, key)
    return root / 'hime.json'


def rewrite(path, change, seal=False):
    state = json.loads(path.read_text())
    change(state)
    if seal:
        state['checksum'] = checksum(state)
    path.write_text(json.dumps(state))


def plain_checksum(state):
    """The checksum in the obvious way."""
    rest = {k: v for k, v in state.items() if k not in ('checksum', 'mac')}
    text = json.dumps(rest, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


names = st.text(min_size=1, max_size=9)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), names, st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=5,
)


class TestWriting:
    @settings(max_examples=50)
    @given(
        st.dictionaries(
            names.filter(
                lambda n: (
                    n not in ('shards', 'format', 'format_version', 'checksum', 'mac', 'dataset_id')
                )
            ),
            values,
            max_size=4,
        ),
        st.lists(st.dictionaries(names, values, max_size=4), max_size=3),
    )
    def test_as_json_would_write_it(self, tmp_path_factory, extra, rows):
        root = tmp_path_factory.mktemp('m')
        given_head = dict(extra, dataset_id='d')
        write_manifest(LocalStore(str(root)), copy.deepcopy(given_head), iter(rows), KEY)
        text = (root / 'hime.json').read_text()
        state = json.loads(text)
        seals = {k: state.pop(k) for k in ('checksum', 'mac')}
        assert state == dict(
            given_head, shards=rows, format='hime_mm encrypted data set', format_version=2
        )
        assert seals['checksum'] == plain_checksum(state) == checksum(state)
        expected = hmac.digest(KEY.derive('manifest', 'd'), seals['checksum'].encode(), 'sha256')
        assert seals['mac'] == expected.hex()
        # For people: a line for each shard.
        lines = text.splitlines()
        assert all(f'    {json.dumps(row)}' in [line.rstrip(',') for line in lines] for row in rows)

    def test_head_is_not_changed(self, tmp_path):
        given_head = head()
        write_manifest(LocalStore(str(tmp_path)), given_head, [], KEY)
        assert given_head == head()

    def test_without_a_key_there_is_no_mac(self, tmp_path):
        write_manifest(LocalStore(str(tmp_path)), head(key=None), [])
        state = json.loads((tmp_path / 'hime.json').read_text())
        assert 'mac' not in state and 'checksum' in state

    def test_half_a_manifest_is_none(self, tmp_path):
        write(tmp_path)
        before = (tmp_path / 'hime.json').read_bytes()

        def rows():
            yield dict(path='hime-000000.json')
            raise OSError('the disk is gone')

        with pytest.raises(OSError):
            write_manifest(LocalStore(str(tmp_path)), head(), rows(), KEY)
        assert os.listdir(tmp_path) == ['hime.json']
        assert (tmp_path / 'hime.json').read_bytes() == before

    def test_memory_does_not_grow_with_the_shards_that_are_read(self, tmp_path):
        store, num, peaks = LocalStore(str(tmp_path)), 60, []
        shards = [
            write_shard(store, n, 'd', (row(f'{n}/{i}.png') for i in range(100)), [])
            for n in range(num)
        ]
        counts = dict(images=num, files=100 * num)
        write_manifest(store, head(storage='files', counts=counts), shards, KEY)
        # One after the other, and all at once.
        for read in (iter, list):
            tracemalloc.start()
            assert sum(1 for _ in read(Manifest.load(tmp_path).entries())) == 100 * num
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[0] < peaks[1] / 4, peaks

    def test_says_nothing_of_the_key(self, tmp_path):
        write_manifest(LocalStore(str(tmp_path)), head(), [], KEY)
        data = (tmp_path / 'hime.json').read_bytes()
        assert KEY.id.encode() in data
        assert bytes(range(32)).hex().encode() not in data


class TestReading:
    def test_content(self, tmp_path):
        rows = [row(), row('train/ü b.png', channels=1)]
        path = write(tmp_path, rows, preprocess=dict(fit='pad'))
        for place in (tmp_path, path, str(path)):
            manifest = Manifest.load(place)
            assert manifest.cipher == Cipher('mix2+shuffle')
            assert manifest.dataset_id == 'd'
            assert manifest.key_id == KEY.id
            assert manifest.preprocess == dict(fit='pad')
            assert not manifest.cropped
            assert manifest.root == tmp_path
            assert [e.to_dict() for e in manifest.files.values()] == rows
            assert manifest.state['kind'] == 'folder'
            assert 'files' not in manifest.state

    def test_entry_survives_json(self):
        entry = FileEntry.from_dict(row())
        assert FileEntry.from_dict(json.loads(json.dumps(entry.to_dict()))) == entry

    @pytest.mark.parametrize(
        'preprocess', [dict(augment=dict(flip=0.5)), dict(center_crop=[64, 48])]
    )
    def test_cropped(self, preprocess, tmp_path):
        write(tmp_path, preprocess=preprocess)
        manifest = Manifest.load(tmp_path)
        assert manifest.cropped
        entry = next(iter(manifest.files.values()))
        for layout in (
            manifest.layout(entry),
            manifest.secret_layout(entry, KEY),
            manifest.overview,
        ):
            assert layout.cropped

    @pytest.mark.parametrize(
        'change, reason',
        [
            (lambda s: s.update(format_version=3), r'version 3\b.*versions \(1, 2\).*0\.1\.0'),
            (lambda s: s.pop('format_version'), 'version None'),
            (lambda s: s.update(format='zip'), 'no manifest'),
            (lambda s: s.pop('format'), 'no manifest'),
            (lambda s: s.update(dataset_id='e'), 'checksum'),
            (lambda s: s.update(new=1), 'checksum'),
            (lambda s: s.pop('checksum'), 'checksum'),
            (lambda s: s['files'][0].update(size=98), 'checksum'),
            (lambda s: s['files'].append(row('b')), 'checksum'),
            (lambda s: s.pop('files'), 'damaged|checksum'),
            (lambda s: s.update(files=5), 'damaged|checksum'),
        ],
    )
    def test_changed(self, tmp_path, change, reason):
        path = write(tmp_path)
        rewrite(path, change)
        with pytest.raises(ManifestError, match=reason) as error:
            Manifest.load(tmp_path)
        assert str(path) in str(error.value)

    def test_nested_too_deeply(self, tmp_path):
        # Deeper than what JSON is read, but not than what it is written: made here.
        state = json.loads(write(tmp_path).read_text())
        for _ in range(10_000):
            state['preprocess'] = dict(x=state['preprocess'])
        with pytest.raises(ManifestError, match='deep'):
            Manifest(state, tmp_path)

    @pytest.mark.parametrize(
        'change',
        [
            lambda s: s.pop('cipher'),
            lambda s: s['files'][0].pop('size'),
            lambda s: s.update(cipher='magic'),
            lambda s: s.update(files=[5]),
            lambda s: s.update(files=5),
            lambda s: s.pop('files'),
            lambda s: s['files'][0].update(shape=[1]),
            lambda s: s['cipher'].update(version=99),
            lambda s: s.pop('key_id'),
            lambda s: s.pop('dataset_id'),
            lambda s: s.update(dataset_id=5),
            lambda s: s.update(dataset_id='a\ud800b'),
            lambda s: s.update(key_id=5),
            lambda s: s.update(preprocess=5),
            lambda s: s.update(preprocess=None),
            lambda s: s.update(views='2'),
            lambda s: s.update(counts=[]),
            lambda s: s['counts'].update(images='1'),
            lambda s: s['counts'].update(images=10**400),
            lambda s: s.update(clipped=dict(center=5)),
            lambda s: s.update(clipped=dict(center=[1, 2, 3])),
            lambda s: s.update(clipped=dict(center=[1, 'x'])),
            lambda s: s.update(skipped=5),
            lambda s: s.update(skipped=['x']),
            lambda s: s.update(skipped=[dict(reason='x')]),
            lambda s: s.update(annotations=[5]),
            lambda s: s.update(annotations=[dict(path=5)]),
            lambda s: s.update(annotations=[dict(path='a\0b')]),
            lambda s: s.update(annotations=[dict(path='a\ud800b')]),
            lambda s: s.update(annotations=[dict(path='a', sha256=5)]),
            lambda s: s['files'][0].update(path=5),
            lambda s: s['files'][0].update(sha256='xy' * 32),
            lambda s: s['files'][0].update(size=2**63),
            lambda s: s['files'][0].update(size=-1),
            lambda s: s['files'][0].update(shape=[float('inf'), 1]),
            lambda s: s['files'][0].update(ori_shape=[-1, 1]),
            lambda s: s['files'][0].update(ori_shape=[2**31, 1]),
            lambda s: s['files'][0].update(scale=[0, 1]),
            lambda s: s['files'][0].update(scale=[float('nan'), 1]),
            lambda s: s['files'][0].update(scale=[10**400, 1]),
        ],
    )
    def test_damaged_with_a_right_checksum(self, tmp_path, change):
        path = write(tmp_path)
        rewrite(path, change)
        state = json.loads(path.read_text())
        state['checksum'] = plain_checksum(state)
        path.write_text(json.dumps(state))
        with pytest.raises(ManifestError, match=named(path, 'damaged')):
            Manifest.load(tmp_path)

    @pytest.mark.parametrize(
        'change',
        [
            # What later releases may add, and what earlier ones wrote.
            lambda s: s['counts'].update(classes={'cat': 1}),
            lambda s: s['counts'].update(mean=3.5),
            lambda s: s.update(skipped=None, annotations=None),
            lambda s: s['files'][0].update(ori_shape=[0, 1]),
        ],
    )
    def test_what_readers_may_ignore(self, tmp_path, change):
        path = write(tmp_path)
        rewrite(path, change)
        state = json.loads(path.read_text())
        state['checksum'] = plain_checksum(state)
        path.write_text(json.dumps(state))
        manifest = Manifest.load(tmp_path)
        assert not manifest.skipped and not manifest.annotations

    @pytest.mark.parametrize(
        'settings, thing',
        [(dict(preprocess=dict(mirror=1)), 'mirror'), (dict(names='titles'), 'titles')],
    )
    def test_settings_of_a_later_release(self, tmp_path, settings, thing):
        """It is read; only how its pictures were made is not known."""
        path = write(tmp_path, **{**Recipe.build('mix2').to_dict(), **settings})
        manifest = Manifest.load(tmp_path)
        assert list(manifest.files) == ['train/a.png']
        with pytest.raises(ManifestError, match=named(path, thing)):
            _ = manifest.recipe

    @pytest.mark.parametrize('content', [b'', b'{', b'\xff', b'[]', b'7'])
    def test_no_manifest(self, tmp_path, content):
        (tmp_path / 'hime.json').write_bytes(content)
        with pytest.raises(ManifestError, match=named(tmp_path / 'hime.json')):
            Manifest.load(tmp_path)

    def test_missing(self, tmp_path):
        for place in (tmp_path, tmp_path / 'none' / 'hime.json'):
            with pytest.raises(ManifestError, match=named('hime.json', os.strerror(errno.ENOENT))):
                Manifest.load(place)

    def test_layout_does_not_matter_for_the_seals(self, tmp_path):
        path = write(tmp_path)
        state = json.loads(path.read_text())
        path.write_text(json.dumps(dict(sorted(state.items())[::-1]), indent=7))
        Manifest.load(tmp_path).check_key(KEY)


class TestEntry:
    def test_by_any_name_of_the_file(self, tmp_path, monkeypatch):
        root = tmp_path / 'real'
        root.mkdir()
        write(root, [row('train/a.png'), row('ü b.png')])
        (root / 'train').mkdir()
        (root / 'train' / 'a.png').write_bytes(b'')
        (tmp_path / 'link').symlink_to(root)
        monkeypatch.chdir(tmp_path)
        for place in ('real', str(root), 'link', 'real/../link'):
            manifest = Manifest.load(place)
            for path in (
                'train/a.png',
                'real/train/a.png',
                str(root / 'train' / 'a.png'),
                'link/train/a.png',
                'real/train/../train/a.png',
                str(tmp_path / 'link' / 'train' / 'a.png'),
            ):
                assert manifest.entry(path).path == 'train/a.png', path
            assert manifest.entry('ü b.png').path == 'ü b.png'

    def test_what_the_folder_holds(self, tmp_path, monkeypatch):
        root = tmp_path / 'real'
        root.mkdir()
        write(root)
        (tmp_path / 'link').symlink_to(root)
        monkeypatch.chdir(tmp_path)
        for place in ('real', str(root), 'link', 'real/../link'):
            manifest = Manifest.load(place)
            for path in ('real/a.json', 'link/sub/a.json', str(root / 'a.json')):
                assert manifest.holds(path), path
            for path in ('a.json', 'real.json', 'real_plain/a.json', 'real/../a.json'):
                assert not manifest.holds(path), path

    def test_foreign_file(self, tmp_path):
        write(tmp_path)
        for path in ('a.png', 'train/b.png', '/train/a.png', '../a.png'):
            with pytest.raises(ManifestError, match=named(path, tmp_path / 'hime.json')):
                Manifest.load(tmp_path).entry(path)

    @pytest.mark.parametrize(
        'cipher, side', [('mix2+shuffle', 8), ('shuffle', 16), ('erode2+shuffle', 12), ('mix2', 8)]
    )
    @pytest.mark.parametrize('channels', [1, 3])
    def test_layout_and_draw(self, tmp_path, cipher, side, channels):
        shape = (3 * side, 4 * side)
        write(tmp_path, [row(shape=shape, channels=channels)], cipher=cipher)
        manifest = Manifest.load(tmp_path)
        entry = manifest.entry('train/a.png')
        public = manifest.layout(entry)
        assert public.shape == shape and public.grid == (3, 4)
        assert public.ori_shape == (70, 90) and public.scale == (0.5, 0.75)
        assert public.permutation is None
        assert public.shuffled == ('shuffle' in cipher)

        rng = KEY.image_rng('d', 'train/a.png')
        plain = (48, 64) if channels == 1 else (48, 64, 3)
        drawn = Cipher(cipher).draw(plain, rng)
        for one, other in zip(manifest.draw(entry, KEY), drawn, strict=True):
            np.testing.assert_array_equal(one, other)
        secret = manifest.secret_layout(entry, KEY)
        if 'shuffle' in cipher:
            np.testing.assert_array_equal(secret.permutation, drawn[-1])
        assert secret.ori_shape == (70, 90) and secret.scale == (0.5, 0.75)
        assert secret.public().to_dict() == public.to_dict()


class TestKey:
    def test_right(self, tmp_path):
        write(tmp_path)
        Manifest.load(tmp_path).check_key(KEY)

    def test_wrong(self, tmp_path):
        write(tmp_path)
        other = Key.generate()
        with pytest.raises(InvalidKey, match=named(KEY.id, other.id)):
            Manifest.load(tmp_path).check_key(other)

    def test_there_was_none(self, tmp_path):
        write(tmp_path, key=None)
        with pytest.raises(InvalidKey, match=named(tmp_path)) as error:
            Manifest.load(tmp_path).check_key(KEY)
        assert KEY.id not in str(error.value)  # it is not that another one is needed

    @pytest.mark.parametrize(
        'change',
        [
            lambda s: s['files'][0].update(ori_shape=[71, 90]),
            lambda s: s.update(dataset_id='e'),
            lambda s: s.update(tool=1),
            lambda s: s.pop('mac'),
            lambda s: s.update(mac=None),
            lambda s: s.update(mac='ü'),
            lambda s: s.update(mac='\ud800'),
            lambda s: s.update(mac='0' * 64),
        ],
    )
    def test_only_the_key_finds_a_change_on_purpose(self, tmp_path, change):
        path = write(tmp_path)
        rewrite(path, change, seal=True)
        manifest = Manifest.load(tmp_path)
        with pytest.raises(ManifestError, match=named(path, 'authentication code')):
            manifest.check_key(KEY)


class TestFinding:
    def test_nearest_above(self, tmp_path):
        inner = tmp_path / 'a' / 'b'
        (inner / 'c').mkdir(parents=True)
        outer = write(tmp_path)
        nearer = write(inner)
        assert find_manifest(tmp_path / 'a') == outer
        assert find_manifest(inner / 'c' / 'x.png') == nearer
        assert find_manifest(inner) == nearer

    def test_relative(self, tmp_path, monkeypatch):
        write(tmp_path)
        (tmp_path / 'train').mkdir()
        monkeypatch.chdir(tmp_path / 'train')
        assert find_manifest('x.png') == tmp_path / 'hime.json'

    def test_none(self, tmp_path):
        with pytest.raises(ManifestError, match=named('hime.json', tmp_path / 'x')):
            find_manifest(tmp_path / 'x' / 'y.png')

    def test_read_once_until_it_changes(self, tmp_path):
        path = write(tmp_path)
        first = load_manifest(path)
        assert load_manifest(path) is first
        write(tmp_path, [row(), row('b')])
        assert len(load_manifest(path).files) == 2
        path.unlink()
        with pytest.raises(ManifestError, match=named(path, os.strerror(errno.ENOENT))):
            load_manifest(path)
