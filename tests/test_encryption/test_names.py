# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Names that tell nothing of the originals'."""

import csv
import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest
from encryption_parts import KEY, OTHER, folder
from hypothesis import given
from hypothesis import strategies as st
from owner_data import ROOT, found, named, photo, tree, write

from hime_mm.ciphers import Key
from hime_mm.datasets import originals
from hime_mm.datasets.manifest import Manifest
from hime_mm.datasets.originals import name_secret
from hime_mm.encryption import driver
from hime_mm.encryption.job import Item
from hime_mm.encryption.names import draw_secret, renamed
from hime_mm.errors import EncryptionError

PATHS = st.lists(
    st.builds(
        '{}{}.jpg'.format, st.sampled_from(['', 'a/', 'B/c/']), st.text('abcé\udcff1', max_size=4)
    ),
    unique=True,
    min_size=1,
    max_size=9,
)
ONE_WAY = dict(key=None, one_way=True)
KEYLESS = dict(key=None, cipher='mix2')


def names(paths, key=KEY, dataset_id='d'):
    items = renamed([Item(path, '') for path in paths], name_secret(key, dataset_id))
    found = {item.path: item.target for item in items}
    return {path: found[path] for path in paths}


def pictures(out):
    return {path for path in tree(out) if path.endswith('.png')}


class TestNames:
    def test_are_those_of_the_format(self):
        # By hand: docs/format.md has the same example.
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.hmac import HMAC
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        secret, path = bytes(range(32)), 'train/Zürich 01.png'
        info = b'hime_mm/1/name\0' + b'\0\0\0\x09demo/2024'
        code = HMAC(HKDF(SHA256(), 32, None, info).derive(secret), SHA256())
        code.update(path.encode())
        expected = f'train/{code.finalize().hex()[:16]}'
        assert names([path], Key(secret), 'demo/2024') == {path: expected}
        assert f'`{expected}.png`' in (ROOT / 'docs' / 'format.md').read_text()

    @given(PATHS, PATHS)
    def test_do_not_depend_on_other_files(self, paths, others):
        alone, together = names(paths), names({*paths, *others})
        assert alone.items() <= together.items()
        assert alone == {path: target for p in paths for path, target in names([p]).items()}
        assert len(set(together.values())) == len(together)
        for path, target in together.items():
            assert re.fullmatch('[0-9a-f]{16}', os.path.basename(target))
            assert os.path.dirname(target) == os.path.dirname(path)

    @given(PATHS)
    def test_differ_between_data_sets_and_keys(self, paths):
        all_names = [
            os.path.basename(target)
            for key, dataset_id in ((KEY, 'd'), (KEY, 'e'), (OTHER, 'd'), (KEY, ''))
            for target in names(paths, key, dataset_id).values()
        ]
        assert len(set(all_names)) == len(all_names)

    def test_have_no_order(self):
        paths = [f'{number:05}.jpg' for number in range(4000)]
        order = list(names(paths).values())
        rises = sum(a < b for a, b in zip(order, order[1:], strict=False))
        assert abs(rises - 2000) < 150  # 8 standard deviations
        # Nor does a name start with what its path starts with.
        assert len({target[:3] for target in order}) > 2000

    @pytest.mark.parametrize(
        'path', ['a.jpg', 'a.png', 'A.jpg', 'b/a.jpg', 'a.jpg\udcff', ' a.jpg']
    )
    def test_differ_for_every_path(self, path):
        other = names([path])[path]
        assert other != names(['x.jpg'])['x.jpg']
        assert os.path.basename(other) not in {
            os.path.basename(target)
            for p, target in names(
                ['a.jpg', 'a.png', 'A.jpg', 'b/a.jpg', 'a.jpg\udcff', ' a.jpg']
            ).items()
            if p != path
        }

    def test_that_fall_together_are_refused(self, monkeypatch):
        monkeypatch.setattr(originals, '_DIGITS', 1)
        with pytest.raises(EncryptionError, match='one name'):
            names([f'{number}.jpg' for number in range(17)])


@pytest.fixture
def src(tmp_path):
    src = tmp_path / 'src'
    for i, name in enumerate(
        ('Alice.jpg', 'n1/Bob.jpg', 'n1/Carol.png', 'n1/Dan.bmp', 'n2/Eve.tif')
    ):
        write(src / name, photo(32, 32, i))
    (src / 'n1.txt').write_text('Dan.bmp 1\nBob.jpg 0\n')
    return src


def break_one(src):
    (src / 'n1/Carol.png').rename(src.parent / 'away')
    (src / 'n1/Carol.png').write_bytes(b'no picture')


def repair(src):
    (src.parent / 'away').rename(src / 'n1/Carol.png')


class TestRuns:
    @pytest.mark.parametrize('how', [{}, ONE_WAY, KEYLESS])
    @pytest.mark.parametrize('views', [1, 2])
    def test_go_on_with_the_same_names(self, src, tmp_path, how, views):
        out = tmp_path / 'out'
        if how == KEYLESS and views == 2:
            how = dict(how, preprocess=dict(augment=dict(flip=0.5)), one_way=True)
        options = dict(how, names='ids', lists=['n1.txt'], views=views, dataset_id=None)
        break_one(src)
        first = folder(src, out, **options)
        assert len(first.skipped) == 1
        before = pictures(out)
        missing = Manifest.load(out).skipped[0]['path']
        repair(src)
        second = folder(src, out, workers=2 if how == {} and views == 2 else 1, **options)
        assert second.complete and second.reused == 4
        after = pictures(out)
        assert before < after and missing in after and len(after) == 5 * views
        assert {re.sub(r'[0-9a-f]{16}(_v\d)?\.png$', '', path) for path in after} == {
            '',
            'n1/',
            'n2/',
        }
        # The list follows, in the order of the new names.
        lines = [line.split() for line in (out / 'n1.txt').read_text().splitlines()]
        assert lines == sorted(lines)
        assert sorted(label for _, label in lines) == ['0'] * views + ['1'] * views
        assert {f'n1/{name}' for name, _ in lines} < after
        # Nothing is left that tells which is which.
        plain = [b'Alice', b'Bob', b'Carol', b'Dan', b'Eve']
        assert not found(plain, tree(out).values()) and not (out / '.hime-work').exists()
        # And it is found to be finished.
        third = folder(src, out, **options)
        assert third.finished_before and pictures(out) == after

    @pytest.mark.parametrize('how', [{}, ONE_WAY])
    def test_nothing_tells_the_order_of_the_plain_names(self, tmp_path, how):
        src, out, report = tmp_path / 'src', tmp_path / 'out', tmp_path / 'report.csv'
        plain = [f'{number:02d}.png' for number in range(12)]
        for i, name in enumerate(plain):
            write(src / name, photo(16, 16, i))
        labels = {name: str(i) for i, name in enumerate(plain)}
        (src / 'all.txt').write_text(''.join(f'{n} {label}\n' for n, label in labels.items()))
        folder(src, out, names='ids', lists=['all.txt'], report=str(report), **how)
        new = sorted(pictures(out))
        assert list(Manifest.load(out).files) == new
        times = [(out / name).stat().st_mtime_ns for name in new]
        assert times == sorted(times)
        lines = dict(line.split() for line in (out / 'all.txt').read_text().splitlines())
        assert list(lines) == new
        # And labels stay with their pictures.
        with open(report, newline='') as file:
            rows = [row for row in csv.DictReader(file) if row['status'] == 'encrypted']
        assert {row['path']: lines[row['file']] for row in rows} == labels

    def test_of_a_key_are_the_same_again(self, src, tmp_path):
        folder(src, tmp_path / '1', names='ids')
        folder(src, tmp_path / '2', names='ids', workers=2)
        write(src / 'n1' / 'Aaron.jpg', photo(32, 32, 9))
        folder(src, tmp_path / '3', names='ids')
        folder(src, tmp_path / '4', names='ids', dataset_id='e')
        assert pictures(tmp_path / '1') == pictures(tmp_path / '2') < pictures(tmp_path / '3')
        assert not pictures(tmp_path / '4') & pictures(tmp_path / '3')

    @pytest.mark.parametrize('how', [ONE_WAY, KEYLESS])
    def test_are_random_without_a_key(self, src, tmp_path, how):
        runs = [tmp_path / '1', tmp_path / '2']
        for out in runs:
            folder(src, out, names='ids', **how)
        assert not pictures(runs[0]) & pictures(runs[1])
        # Not even whoever knows path and id can tell them.
        for path in ('Alice.jpg', 'n1/Bob.jpg'):
            for text in (path, f'd{path}', f'd/{path}'):
                digits = hashlib.sha256(text.encode()).hexdigest()[:16].encode()
                assert not found([digits], ['\n'.join(map(str, pictures(runs[0]))).encode()])

    def test_what_random_ones_were_made_with_is_kept_nowhere(self, src, tmp_path, monkeypatch):
        out, drawn = tmp_path / 'out', []

        def draw():
            drawn.append(draw_secret())
            return drawn[-1]

        monkeypatch.setattr(driver, 'draw_secret', draw)
        break_one(src)
        folder(src, out, names='ids', **ONE_WAY)
        (secret,) = drawn
        before = pictures(out)
        assert not found([secret.encode(), bytes.fromhex(secret)], tree(out).values())
        repair(src)
        folder(src, out, names='ids', **ONE_WAY)
        assert before < pictures(out)
        assert not found([secret.encode(), bytes.fromhex(secret)], tree(out).values())

    @pytest.mark.parametrize('how', [{}, ONE_WAY])
    @pytest.mark.parametrize('change', ['moved', 'more', 'fewer'])
    def test_other_pictures_are_another_data_set(self, src, tmp_path, how, change):
        out = tmp_path / 'out'
        folder(src, out, names='ids', **how)
        if change == 'moved':
            (src / 'n1/Bob.jpg').rename(src / 'n2/Bob.jpg')
        elif change == 'more':
            write(src / 'n2' / 'Zoe.jpg', photo(32, 32))
        else:
            (src / 'n1/Bob.jpg').unlink()
        (src / 'n1.txt').unlink()
        more = change == 'more' and not how
        with pytest.raises(EncryptionError, match=named(out, '5 of the 6' if more else 'another')):
            folder(src, out, names='ids', **how)

    @pytest.mark.parametrize('how', [{}, ONE_WAY])
    @pytest.mark.parametrize('views', [1, 2])
    def test_work_folder_was_deleted(self, src, tmp_path, how, views):
        break_one(src)
        folder(src, tmp_path / 'out', names='ids', views=views, **how)
        shutil.rmtree(tmp_path / 'out' / '.hime-work')
        with pytest.raises(EncryptionError, match=named('4 of the 5', 'random' if how else 'add=')):
            folder(src, tmp_path / 'out', names='ids', views=views, **how)

    def test_report_leads_back(self, src, tmp_path):
        out, report = tmp_path / 'out', tmp_path / 'report.csv'
        folder(src, out, names='ids', report=str(report), **ONE_WAY)
        with open(report, newline='') as file:
            rows = {row['path']: row['file'] for row in csv.DictReader(file) if row['file']}
        assert set(rows.values()) == pictures(out) and len(rows) == 5
        assert {Path(path).parent for path in rows} == {Path(path).parent for path in rows.values()}
        # Once it is gone, nothing does.
        written = report.read_bytes()
        assert folder(src, out, names='ids', report=str(report), **ONE_WAY).finished_before
        assert report.read_bytes() == written
        report.unlink()
        with pytest.raises(EncryptionError, match=named(out, 'random')):
            folder(src, out, names='ids', report=str(report), **ONE_WAY)

    def test_report_of_a_finished_data_set_with_a_key(self, src, tmp_path):
        out = tmp_path / 'out'
        folder(src, out, names='ids', report=str(tmp_path / '1.csv'))
        folder(src, out, names='ids', report=str(tmp_path / '2.csv'))
        assert (tmp_path / '1.csv').read_bytes() == (tmp_path / '2.csv').read_bytes()
