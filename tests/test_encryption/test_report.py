# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
"""Nothing is left out in silence."""

import csv
import json
import os

import numpy as np
import pytest
from encryption_parts import coco, folder
from hypothesis import given
from hypothesis import strategies as st
from owner_data import edit_json, found, named, photo, tree, write

from hime_mm.datasets.manifest import Manifest
from hime_mm.encryption import worker
from hime_mm.encryption.walk import Tree
from hime_mm.errors import EncryptionError

PICTURE = photo(16, 16)


def link(path, target):
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target)


#: What is put into a folder of pictures, and what is left out of that.
OTHERS = {
    'text': (lambda src: (src / 'labels.csv').write_text('x'), 'labels.csv', 'extension'),
    'gif': (lambda src: (src / 'a.GIF').write_bytes(b'GIF89a'), 'a.GIF', '.jpg'),
    'no extension': (lambda src: (src / 'LICENSE').write_text('x'), 'LICENSE', 'extension'),
    'archive': (lambda src: (src / 'a.jpg.zip').write_bytes(b'PK'), 'a.jpg.zip', 'extension'),
    'hidden picture': (lambda src: write(src / '.a.jpg', PICTURE), '.a.jpg', 'hidden file'),
    'of a Mac': (lambda src: (src / '._b.jpg').write_bytes(b'x'), '._b.jpg', 'hidden file'),
    'hidden folder': (lambda src: write(src / '.b' / 'a.jpg', PICTURE), '.b', 'hidden folder'),
    'link back': (lambda src: link(src / 'up', '..'), 'up', 'leads back'),
    'link to itself': (lambda src: link(src / 'self', 'self'), 'self', 'extension'),
    'fifo': (lambda src: os.mkfifo(src / 'pipe'), 'pipe', 'extension'),
    'not UTF-8': (
        lambda src: open(os.fsencode(src) + b'/\xff.txt', 'w').close(),
        '\udcff.txt',
        'extension',
    ),
}


def rows(report):
    with open(report, newline='', encoding='utf-8') as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == ['path', 'file', 'status', 'reason']
        return [tuple(row.values()) for row in reader]


class TestLeftOut:
    @pytest.mark.parametrize('what', OTHERS)
    @pytest.mark.parametrize('function', [folder, coco])
    def test_is_named(self, own_src, tmp_path, what, function):
        make, path, reason = OTHERS[what]
        src, inside = own_src / 'val2017', ''
        make(src)
        if function is coco:
            src, inside = own_src, 'val2017/'
        out, report = tmp_path / 'out', tmp_path / 'report.csv'
        with pytest.raises(EncryptionError, match=named(1, inside + path, reason, 'strict=True')):
            function(src, out, strict=True)
        assert not out.exists()
        summary = function(src, out, report=str(report))
        ((left, why),) = summary.left_out
        assert left == inside + path and reason in why and summary.complete
        assert Manifest.load(out).state['counts']['left_out'] == 1
        shown = left.replace('\udcff', '\\udcff')
        assert (shown, '', 'left out', why) in rows(report)
        # It is no part of what is handed over.
        assert not [name for name in tree(out) if name.endswith(path)]
        # Nor is it forgotten when there is nothing left to do.
        assert function(src, out).left_out == summary.left_out

    @pytest.mark.parametrize('function', [folder, coco])
    def test_strict_lets_pass_what_is_complete(self, own_src, tmp_path, function):
        src = own_src / 'val2017' if function is folder else own_src
        assert function(src, tmp_path / 'out', strict=True).left_out == []

    @pytest.mark.parametrize('path', ['val.txt', '.val.txt', 'meta/val.txt', '.a/.b/val.txt'])
    def test_of_a_list_and_its_folder(self, own_src, tmp_path, path):
        (own_src / 'val2017' / path).parent.mkdir(parents=True, exist_ok=True)
        (own_src / 'val2017' / path).write_text('000001.jpg 1\n')
        assert folder(own_src / 'val2017', tmp_path / 'out', lists=[path], strict=True).complete

    @pytest.mark.parametrize(
        'path, left',
        [
            ('val2017/new.jpg', True),
            ('val2017/deep/new.PNG', True),
            ('val2017/000001.png', True),
            ('other/new.jpg', False),  # no folder of images
            ('new.jpg', False),
        ],
    )
    def test_pictures_that_no_annotation_file_lists(self, own_src, tmp_path, path, left):
        write(own_src / path, PICTURE)
        summary = coco(own_src, tmp_path / 'out')
        assert summary.left_out == ([(path, 'no annotation file lists it')] if left else [])

    def test_of_one_annotation_file_another_may_list(self, own_src, tmp_path):
        ann = own_src / 'annotations' / 'instances_val2017.json'
        half = json.loads(ann.read_text())
        half['images'] = half['images'][:2]
        ids = [image['id'] for image in half['images']]
        half['annotations'] = [a for a in half['annotations'] if a['image_id'] in ids]
        (own_src / 'half.json').write_text(json.dumps(half))
        options = dict(annotations=['half.json'], images=['val2017'])
        assert len(coco(own_src, tmp_path / 'half', **options).left_out) == 2
        options = dict(
            annotations=['half.json', str(ann.relative_to(own_src))], images=['val2017'] * 2
        )
        assert coco(own_src, tmp_path / 'both', **options).left_out == []

    def test_images_beside_the_annotations_and_in_hidden_folders(self, own_src, tmp_path):
        (own_src / 'val2017').rename(own_src / '.val')
        edit_json(
            own_src / 'annotations/instances_val2017.json',
            lambda c: [i.update(file_name=f'.val/{i["file_name"]}') for i in c['images']],
        )
        (own_src / 'notes.txt').write_text('x')
        summary = coco(own_src, tmp_path / 'out', images=['.'])
        assert summary.complete
        assert [path for path, _ in summary.left_out] == ['notes.txt']

    @given(st.data())
    def test_or_a_picture_is_everything(self, tmp_path_factory, data):
        """Of any tree, every file and folder is walked, or left out with all that it holds."""
        src = tmp_path_factory.mktemp('tree')
        name = st.text('a.Bé', min_size=1, max_size=3).filter(lambda n: n.strip('.'))
        paths = data.draw(
            st.lists(st.lists(name, min_size=1, max_size=3).map('/'.join), max_size=8)
        )
        for path in paths:
            try:
                (src / path).parent.mkdir(parents=True, exist_ok=True)
                (src / path).touch()
            except OSError:  # a file is there in place of a folder
                continue
        walked = Tree(str(src))
        left = [path for path, _ in walked.left_out]
        assert len({*walked.files, *left}) == len(walked.files) + len(left)
        for path in src.rglob('*'):
            path = path.relative_to(src)
            if (src / path).is_file():
                parts = [str(path), *map(str, path.parents)]
                assert (str(path) in walked.files) + sum(part in left for part in parts) == 1


class TestReport:
    @pytest.mark.parametrize('workers, views', [(1, 1), (2, 2)])
    def test_has_a_row_for_every_file(self, own_src, tmp_path, workers, views):
        src, report = own_src / 'val2017', tmp_path / 'report.csv'
        (src / '000002.jpg').write_bytes(b'')
        write(src / '.hid.jpg', PICTURE)
        (src / 'val.txt').write_text('000001.jpg 1\n')
        (src / 'a,"b\n.csv').write_text('x')
        options = dict(lists=['val.txt'], views=views, workers=workers, report=str(report))
        summary = folder(src, tmp_path / 'out', **options)
        files = {
            f'00000{i}': [f'00000{i}{v}.png' for v in ('_v0', '_v1')[:views]] for i in range(1, 5)
        }
        if views == 1:
            files = {stem: [f'{stem}.png'] for stem in files}
        done = [
            (f'{stem}.jpg', name, 'encrypted', '')
            for stem in ('000001', '000003', '000004')
            for name in files[stem]
        ]
        assert sorted(rows(report)) == sorted(
            [
                *done,
                ('000002.jpg', '', 'missing', summary.skipped[0][1]),
                ('val.txt', 'val.txt', 'rewritten', ''),
                *((path, '', 'left out', why) for path, why in summary.left_out),
            ]
        )
        assert {path for path, *_ in rows(report)} == {path.name for path in src.iterdir()}
        # It is written anew when the run goes on.
        write(src / '000002.jpg', photo(64, 64))
        assert folder(src, tmp_path / 'out', **options).complete
        assert 'missing' not in {status for *_, status, _ in rows(report)}
        assert len(rows(report)) == len(done) // 3 * 4 + 3

    def test_has_what_a_decoder_said(self, own_src, tmp_path, monkeypatch):
        report = tmp_path / 'report.csv'
        said = iter(['', '', 'Corrupt data:\n3 extraneous bytes', ''])
        monkeypatch.setattr(worker, 'take_said', lambda: next(said))
        summary = folder(own_src / 'val2017', tmp_path / 'out', report=str(report))
        assert summary.warnings == [('000003.jpg', 'Corrupt data:\n3 extraneous bytes')]
        assert [row for row in rows(report) if row[2] != 'encrypted'] == [
            ('000003.jpg', '', 'warning', 'Corrupt data:\n3 extraneous bytes')
        ]

    def test_of_coco(self, own_src, tmp_path):
        report = tmp_path / 'report.csv'
        (own_src / 'val2017' / '000002.jpg').unlink()
        coco(own_src, tmp_path / 'out', names='ids', report=str(report))
        assert [row[:3] for row in rows(report)] == [
            ('val2017/000001.jpg', 'val2017/000000000007.png', 'encrypted'),
            ('val2017/000002.jpg', '', 'missing'),
            ('val2017/000003.jpg', 'val2017/000000000009.png', 'encrypted'),
            ('val2017/000004.jpg', 'val2017/000000000010.png', 'encrypted'),
            ('annotations/instances_val2017.json',) * 2 + ('rewritten',),
        ]
        # What it says is in no file that is handed over.
        handed = {path: data for path, data in tree(tmp_path / 'out').items() if 'work' not in path}
        assert not found([b'000002.jpg', b'report.csv'], handed.values())

    @pytest.mark.parametrize('name', ['a\0b.jpg', 'a\ud800b.jpg', 'a\nb.jpg'])
    def test_names_that_no_file_or_text_can_have(self, own_src, tmp_path, name):
        edit_json(
            own_src / 'annotations/instances_val2017.json',
            lambda c: c['images'][1].update(file_name=name),
        )
        report = tmp_path / 'report.csv'
        coco(own_src, tmp_path / 'out', report=str(report))
        text = report.read_text()
        assert 'missing' in text and text.encode()

    @pytest.mark.parametrize(
        'place', ['out/report.csv', 'out', 'link/report.csv', 'out/deep/report.csv', 'out/../out/r']
    )
    def test_is_not_handed_over(self, own_src, tmp_path, place):
        (tmp_path / 'out').mkdir()
        (tmp_path / 'link').symlink_to('out')
        report = str(tmp_path / place)
        with pytest.raises(EncryptionError, match=named(report)):
            coco(own_src, tmp_path / 'out', report=report)
        assert tree(tmp_path / 'out') == {}
        assert coco(own_src, tmp_path / 'out').complete
        before = tree(tmp_path / 'out')
        with pytest.raises(EncryptionError, match=named(report)):
            coco(own_src, tmp_path / 'out', report=report)
        assert tree(tmp_path / 'out') == before

    @pytest.mark.parametrize('options', [{}, dict(names='ids'), dict(key=None, one_way=True)])
    def test_stays_as_it_is_once_all_is_finished(self, own_src, tmp_path, monkeypatch, options):
        """What was noticed and said cannot be found again."""
        src, report = own_src / 'val2017', tmp_path / 'report.csv'
        write(src / 'dark.png', np.full((16, 16), 99, np.uint16))
        folder(src, tmp_path / 'out', report=str(report), **options)
        before = report.read_bytes()
        assert b',dark\n' in before
        assert folder(src, tmp_path / 'out', report=str(report), **options).finished_before
        assert report.read_bytes() == before

    def test_replaces_nothing_but_its_own(self, own_src, tmp_path):
        out, report = tmp_path / 'out', tmp_path / 'report.csv'
        for content in ('my thesis', 'path,file,status,reason\n', ''):
            report.write_text(content)
            with pytest.raises(EncryptionError, match=named(report)):
                coco(own_src, out, report=str(report))
            assert report.read_text() == content and not out.exists()
        report.unlink()
        report.symlink_to('nowhere')
        with pytest.raises(EncryptionError, match=named(report)):
            coco(own_src, out, report=str(report))
        report.unlink()
        coco(own_src, out, report=str(report))
        for content in ('my thesis', ''):
            report.write_text(content)
            with pytest.raises(EncryptionError, match=named(report)):
                coco(own_src, out, report=str(report))
            assert report.read_text() == content

    @pytest.mark.parametrize(
        'place', ['none/report.csv', 'a file/report.csv', '', 'reports/', '/proc/report.csv']
    )
    def test_place_that_takes_no_file(self, own_src, tmp_path, monkeypatch, place):
        """That is said before the pictures are encrypted."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / 'a file').touch()
        (tmp_path / 'reports').mkdir()
        with pytest.raises(EncryptionError, match=named('report', place)):
            coco(own_src, tmp_path / 'out', report=place)
        assert not (tmp_path / 'out').exists()

    def test_cannot_be_written(self, own_src, tmp_path, monkeypatch):
        """There is no manifest then, since random names would be lost."""
        out, report = tmp_path / 'out', tmp_path / 'reports' / 'report.csv'
        report.parent.mkdir()
        options = dict(names='ids', key=None, one_way=True, report=str(report))

        def full(*args, **kwargs):
            raise OSError(28, 'No space left on device')

        with monkeypatch.context() as patch:
            patch.setattr('hime_mm.encryption.report._rows', full)
            with pytest.raises(OSError, match=named('4 of 4', report)):
                folder(own_src / 'val2017', out, **options)
        assert not (out / 'hime.json').exists()
        assert folder(own_src / 'val2017', out, **options).reused == 4
        assert {file for _, file, *_ in rows(report)} == set(Manifest.load(out).files)
