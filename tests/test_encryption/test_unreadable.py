# Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
import errno
import os
import re
import shutil

import pytest
from encryption_parts import KEY, annotations, check_coco, coco, folder
from owner_data import edit_json, found, named, photo, tree, write
from picture_files import encoded, rotated_jpeg

from hime_mm.apis import verify_dataset
from hime_mm.datasets.manifest import Manifest
from hime_mm.errors import EncryptionError

UNREADABLE = {
    'truncated': (lambda path: path.write_bytes(path.read_bytes()[:-300]), 'truncated'),
    'empty': (lambda path: path.write_bytes(b''), 'empty'),
    'text': (lambda path: path.write_text('hello'), 'decode'),
    'missing': (lambda path: path.unlink(), os.strerror(errno.ENOENT)),
    'folder': (lambda path: (path.unlink(), path.mkdir()), 'it is a folder, not a regular file'),
    'size': (lambda path: write(path, photo(33, 48)), '33x48.*80x112'),
}


class TestUnreadable:
    @pytest.mark.parametrize(
        'name, workers',
        [*((name, 0) for name in UNREADABLE), pytest.param('truncated', 2, marks=pytest.mark.slow)],
    )
    def test_is_left_out_and_named_until_repaired(self, own_src, tmp_path, name, workers):
        break_it, reason = UNREADABLE[name]
        out = tmp_path / 'out'
        bad = own_src / 'val2017' / '000002.jpg'
        good = bad.read_bytes()
        break_it(bad)
        options = dict(workers=workers, dataset_id='d')
        summary = coco(own_src, out, **options)
        assert not summary.complete and summary.files == 3
        ((path, said),) = summary.skipped
        assert path == 'val2017/000002.jpg'
        assert re.search(reason, said)
        api = check_coco(out / 'annotations/instances_val2017.json', out / 'val2017')
        assert set(api.imgs) == {7, 9, 10}
        manifest = Manifest.load(out)
        assert manifest.state['counts']['skipped'] == 1
        assert [*manifest.skipped] == [dict(path='val2017/000002.png', reason=said)]
        assert not verify_dataset(str(out), KEY, progress=False).ok

        # The next time it is tried again, and the others stay.
        stats = {n: os.stat(out / n) for n in manifest.files}
        assert coco(own_src, out, **options).skipped == summary.skipped
        if bad.is_dir():
            bad.rmdir()
        bad.write_bytes(good)
        again = coco(own_src, out, **options)
        assert again.complete and again.reused == 3 and again.files == 4
        assert {n: os.stat(out / n) for n in stats} == stats
        coco(own_src, tmp_path / 'new')
        assert tree(out) == tree(tmp_path / 'new')
        assert not (out / '.hime-work').exists()

    @pytest.mark.parametrize('names', ['keep', 'ids'])
    @pytest.mark.parametrize(
        'name, what, workers',
        [
            ('a\0b.jpg', 'null', 0),
            ('a\0b.jpg', 'null', 1),
            ('a\ud800b.jpg', 'surrogate', 0),
            ('a\ud800b.jpg', 'surrogate', 1),
        ],
    )
    def test_name_that_no_file_can_have(self, own_src, tmp_path, name, what, workers, names):
        edit_json(
            own_src / 'annotations/instances_val2017.json',
            lambda c: c['images'][1].update(file_name=name),
        )
        for reused in (0, 3):
            summary = coco(own_src, tmp_path / 'out', names=names, workers=workers)
            ((path, reason),) = summary.skipped
            assert path == f'val2017/{name}' and summary.files == 3
            assert summary.reused == reused
            # It is handed over, so it quotes nothing of the name.
            assert what in reason
            assert not any(part in reason for part in ('\0', '\ud800', 'd800', 'b.jpg'))

    def test_all(self, own_src, tmp_path):
        for path in (own_src / 'val2017').iterdir():
            path.write_bytes(b'')
        summary = coco(own_src, tmp_path / 'out')
        assert len(summary.skipped) == 4 and summary.files == 0
        assert annotations(tmp_path / 'out')['images'] == []

    def test_too_small_or_not_dividing(self, own_src, tmp_path):
        summary = coco(own_src, tmp_path / 'out', preprocess=dict(fit='error'))
        ((path, reason),) = summary.skipped
        assert path == 'val2017/000004.jpg' and '70x101' in reason
        summary = folder(
            own_src / 'val2017', tmp_path / 'crop', 'mix2', preprocess=dict(center_crop=(80, 80))
        )
        assert [name for name, _ in summary.skipped] == ['000003.jpg', '000004.jpg']

    def test_what_the_format_or_cipher_cannot_take(self, tmp_path):
        write(tmp_path / 'src' / 'a.png', photo(32, 32, channels=1))
        write(tmp_path / 'src' / 'b.png', photo(32, 32))
        summary = folder(
            tmp_path / 'src',
            tmp_path / 'out',
            'permute_channels',
            preprocess=dict(color_type='unchanged'),
        )
        ((name, reason),) = summary.skipped
        assert name == 'a.png' and "'permute_channels'" in reason

    def test_work_folder_was_deleted(self, own_src, tmp_path):
        out = tmp_path / 'out'
        (own_src / 'val2017' / '000002.jpg').unlink()
        coco(own_src, out)
        shutil.rmtree(out / '.hime-work')
        with pytest.raises(EncryptionError, match=named(out, '3 of the 4', 'add=True')):
            coco(own_src, out)

    def test_swapped_sides_hint_at_the_orientation(self, own_src, tmp_path):
        # Its sides in the annotations are 80x112.
        (own_src / 'val2017' / '000002.jpg').write_bytes(rotated_jpeg(6, size=(80, 112)))
        summary = coco(own_src, tmp_path / 'out')
        assert 'color_ignore_orientation' in summary.skipped[0][1]
        as_stored = dict(color_type='color_ignore_orientation')
        assert coco(own_src, tmp_path / 'stored', preprocess=as_stored).complete

    def test_orientation_that_the_color_type_does_not_follow(self, own_src, tmp_path):
        (own_src / 'val2017' / '000002.jpg').write_bytes(rotated_jpeg(8, size=(112, 80)))
        summary = coco(own_src, tmp_path / 'out', preprocess=dict(color_type='unchanged'))
        assert "`color_type='color'`" in summary.skipped[0][1]
        assert coco(own_src, tmp_path / 'turned').complete

    @pytest.mark.parametrize(
        'data',
        [
            encoded('.jpg', photo(40, 56)),
            encoded('.jpg', photo(112, 80)),
            rotated_jpeg(6, size=(40, 56)),
            rotated_jpeg(3, size=(112, 80)),
        ],
        ids=['resized', 'swapped', 'resized and turned', 'swapped and mirrored'],
    )
    def test_no_advice_where_the_orientation_is_not_the_reason(self, own_src, tmp_path, data):
        (own_src / 'val2017' / '000002.jpg').write_bytes(data)
        ((_, reason),) = coco(own_src, tmp_path / 'out').skipped
        assert '80x112' in reason and 'color_type' not in reason

    def test_size_need_not_be_written(self, own_src, tmp_path):
        edit_json(
            own_src / 'annotations/instances_val2017.json',
            lambda c: [i.pop('height') for i in c['images']],
        )
        assert coco(own_src, tmp_path / 'out').complete

    def test_names_are_in_no_file_where_ids_replace_them(self, tmp_path):
        write(tmp_path / 'src' / 'Alice.png', photo(32, 32))
        write(tmp_path / 'src' / 'Bob.png', photo(32, 32)).write_bytes(b'x')
        folder(tmp_path / 'src', tmp_path / 'out', names='ids')
        contents = tree(tmp_path / 'out')
        handed = [data for name, data in contents.items() if not name.startswith('.hime-work/')]
        assert not found([b'Alice', b'Bob'], handed) and len(handed) < len(contents)
